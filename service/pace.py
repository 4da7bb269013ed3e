"""How long and how much memory work takes, measured by workers, for the estimates of `validate_only`.

A worker times a few clusters when it has loaded its potential, and every shard it runs (calibration.py). Each sample is
the work done and the seconds it took; a fit of three rates (per system and step, per atom and step, per edge and step)
foretells the rest. No torch: the API reads it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from redis import Redis

from equipot.pairs import count_neighbours
from equipot.params import AnyParams, MDParams, RelaxParams
from equipot.structure import Structure

MOST_SAMPLES = 64
TYPICAL_RELAX_STEPS = 60.0  #: until a relaxation was seen


@dataclass(frozen=True)
class Work:
    """Evaluations of systems: their number, and their atoms and edges summed over them."""

    n_evaluations: float
    n_atoms: float
    n_edges: float

    def plus(self, other: Work) -> Work:
        return Work(
            self.n_evaluations + other.n_evaluations, self.n_atoms + other.n_atoms, self.n_edges + other.n_edges
        )

    def times(self, factor: float) -> Work:
        return Work(self.n_evaluations * factor, self.n_atoms * factor, self.n_edges * factor)


@dataclass(frozen=True)
class Sample:
    """What was done, and the seconds it took; `n_bytes` at most for `peak_edges` edges at once."""

    work: Work
    seconds: float
    n_bytes: float = 0.0
    peak_edges: float = 0.0


class Pace:
    """The samples of every potential, in Redis."""

    def __init__(self, redis: Redis) -> None:
        self._redis: Any = redis

    def note(self, model_sha256: str, dtype: str, device: str, sample: Sample) -> None:
        """Keep a sample; the oldest goes."""
        key = _key(model_sha256, dtype, device)
        pipeline = self._redis.pipeline()
        pipeline.lpush(key, json.dumps(asdict(sample)))
        pipeline.ltrim(key, 0, MOST_SAMPLES - 1)
        pipeline.sadd("equipot:pace", key)
        pipeline.execute()

    def note_relaxation(self, model_sha256: str, mean_steps: float) -> None:
        """Keep how many steps the systems of a relaxation took."""
        key = f"equipot:pace:relax:{model_sha256}"
        self._redis.lpush(key, mean_steps)
        self._redis.ltrim(key, 0, MOST_SAMPLES - 1)

    def samples(self, model_sha256: str, dtype: str, device: str) -> tuple[list[Sample], str]:
        """Samples of this potential, or of the nearest one that was measured, and which of the two they are."""
        exact = _key(model_sha256, dtype, device)
        known = sorted(self._redis.smembers("equipot:pace"), key=lambda key: _distance(key, exact))
        for key in known:
            if device == "auto" or key.endswith(f":{device}"):
                found = [_sample(json.loads(text)) for text in self._redis.lrange(key, 0, -1)]
                if found:
                    return found, "this potential" if key.split(":")[2] == model_sha256 else "another potential"
        return [], "nothing yet"

    def typical_relax_steps(self, model_sha256: str) -> float:
        """The geometric mean of what relaxations took."""
        seen = [float(text) for text in self._redis.lrange(f"equipot:pace:relax:{model_sha256}", 0, -1)]
        return float(np.exp(np.mean(np.log(np.maximum(seen, 1.0))))) if seen else TYPICAL_RELAX_STEPS


@dataclass(frozen=True)
class Estimate:
    """What a job would take. Seconds and memory are None until something was measured."""

    n_atoms: int
    n_edges: int
    seconds: float | None
    seconds_at_most: float | None
    seconds_per_step: float | None
    memory_bytes: int | None
    measured_on: str


def estimate(
    pace: Pace,
    structures: Sequence[Structure],
    params: AnyParams,
    *,
    cutoff_ang: float,
    model_sha256: str,
    dtype: str,
    device: str,
) -> Estimate:
    """Atoms, edges, seconds of running and bytes of a job, from what workers have measured.

    A relaxation is taken to need as many steps as earlier ones did; `seconds_at_most` is for `max_steps` of all.
    """
    edges = [count_neighbours(s.positions_ang, s.cell_ang, s.pbc, cutoff_ang) for s in structures]
    n_atoms, n_edges = sum(s.n_atoms for s in structures), sum(edges)
    samples, measured_on = pace.samples(model_sha256, dtype, device)
    once = Work(len(structures), n_atoms, n_edges)
    per_step = _seconds(samples, once)
    likely, most = _n_evaluations(pace, params, model_sha256)
    return Estimate(
        n_atoms=n_atoms,
        n_edges=n_edges,
        seconds=_significant(per_step, likely),
        seconds_at_most=_significant(per_step, most),
        seconds_per_step=_significant(per_step, 1),
        memory_bytes=_memory(samples, max(edges, default=0)),
        measured_on=measured_on,
    )


def _n_evaluations(pace: Pace, params: AnyParams, model_sha256: str) -> tuple[float, float]:
    """How often each system is evaluated: probably, and at most."""
    if isinstance(params, MDParams):
        return (params.n_steps or 0) + 1, (params.n_steps or 0) + 1
    if isinstance(params, RelaxParams):
        return min(pace.typical_relax_steps(model_sha256), params.max_steps) + 1, params.max_steps + 1
    return 1, 1


def _seconds(samples: Sequence[Sample], work: Work) -> float | None:
    """The seconds for this work, by rates that are never negative."""
    if not samples:
        return None
    from scipy.optimize import nnls

    table = np.array([[s.work.n_evaluations, s.work.n_atoms, s.work.n_edges] for s in samples])
    took = np.array([max(s.seconds, 1e-6) for s in samples])
    rates, _ = nnls(table / took[:, None], np.ones(len(samples)))  # relative errors count
    return float(np.dot(rates, [work.n_evaluations, work.n_atoms, work.n_edges]))


def _memory(samples: Sequence[Sample], largest_edges: int) -> int | None:
    """Bytes at the peak for the largest system, by the most that was measured per edge."""
    rates = [s.n_bytes / s.peak_edges for s in samples if s.n_bytes and s.peak_edges]
    return int(float(np.median(rates)) * largest_edges) if rates else None


def _significant(seconds: float | None, factor: float) -> float | None:
    return None if seconds is None else float(f"{seconds * factor:.3g}")


def _sample(data: Mapping[str, Any]) -> Sample:
    return Sample(Work(**data["work"]), data["seconds"], data["n_bytes"], data["peak_edges"])


def _key(model_sha256: str, dtype: str, device: str) -> str:
    return f"equipot:pace:{model_sha256}:{dtype}:{device}"


def _distance(key: str, exact: str) -> tuple[int, int, str]:
    """Nearest first: the same potential, then the same precision."""
    mine, theirs = exact.split(":"), key.split(":")
    return int(mine[2] != theirs[2]), int(mine[3] != theirs[3]), key

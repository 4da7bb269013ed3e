"""The worker's side of estimates: how fast a potential is, timed when it is loaded and with every run."""

from __future__ import annotations

import time

import numpy as np

from equipot.cards import find_model
from equipot.pairs import count_neighbours
from equipot.service.pace import Pace, Sample, Work
from equipot.simulation.admission import HostMemory
from equipot.simulation.providers import ForceProvider, System
from equipot.simulation.run import Run
from equipot.structure import Structure, structure_from_json

SIDES = (2, 4, 7)  #: of the cubes of atoms that are timed first
SPACING_ANG = 2.2
WARMING_UP, TIMED = 1, 2  #: evaluations of each
MOST_COUNTED = 16  #: systems of a run whose edges are counted
LEAST_SECONDS = 0.01  #: of a run whose time says anything
LEAST_MEMORY_BYTES = 1e6


def calibrate(pace: Pace, provider: ForceProvider, dtype: str, device: str) -> None:
    """Time cubes of atoms of the first element the potential knows, the largest of them for memory too."""
    identity = provider.identity
    cutoff_ang = find_model(identity["model"])[1].cutoff_ang
    for side in SIDES:
        structure = _cube(side, identity["elements"][0])
        system = System.of(structure, key=object())
        n_edges = count_neighbours(structure.positions_ang, None, structure.pbc, cutoff_ang)
        memory = HostMemory()
        try:
            for _ in range(WARMING_UP):
                provider.evaluate([system])
            begun = time.perf_counter()
            with memory.measured() as peak:
                for _ in range(TIMED):
                    provider.evaluate([system])
            took_s = time.perf_counter() - begun
        finally:
            provider.forget(system.key)
        n_bytes = peak.n_bytes or 0.0
        work = Work(1, structure.n_atoms, n_edges).times(TIMED)
        known = n_bytes > LEAST_MEMORY_BYTES
        sample = Sample(work, took_s, n_bytes if known else 0.0, n_edges if known else 0.0)
        pace.note(identity["sha256"], dtype, device, sample)


def note_run(pace: Pace, run: Run, busy_s: float, dtype: str, device: str) -> None:
    """Keep how long a run took that was computed from its beginning to its end."""
    steps = {result["system_idx"]: int(result["n_steps"] or 0) for result in run.results}
    model = run.request.provider
    cutoff_ang = find_model(model["model"])[1].cutoff_ang
    counted = [idx for idx in steps if isinstance(run.request.structures[idx - run.request.system_offset], Structure)]
    work = Work(0, 0, 0)
    for idx in counted[:MOST_COUNTED]:
        structure = run.request.structure(idx)
        n_edges = count_neighbours(structure.positions_ang, structure.cell_ang, structure.pbc, cutoff_ang)
        work = work.plus(Work(1, structure.n_atoms, n_edges).times(steps[idx] + 1))
    if not work.n_evaluations or busy_s < LEAST_SECONDS:
        return
    work = work.times(len(counted) / min(len(counted), MOST_COUNTED))
    pace.note(model["sha256"], dtype, device, Sample(work, busy_s))
    if run.request.kind == "relax":
        pace.note_relaxation(model["sha256"], float(np.mean([steps[idx] for idx in counted])))


def _cube(side: int, symbol: str) -> Structure:
    places = np.stack(np.meshgrid(*[np.arange(side)] * 3, indexing="ij"), -1).reshape(-1, 3) * SPACING_ANG
    jitter = 0.1 * np.sin(np.arange(places.size)).reshape(-1, 3)
    return structure_from_json({"symbols": [symbol] * len(places), "positions": (places + jitter).tolist()})

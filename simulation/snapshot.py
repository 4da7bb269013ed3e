"""Moving systems as named float64 tensors and JSON, and back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict
from typing import Any

import numpy as np

from equipot.errors import NotResumableError
from equipot.params import Guards
from equipot.simulation.engine import Moving, Watch
from equipot.simulation.motions.base import Motion, State
from equipot.simulation.providers import Evaluation
from equipot.structure import Structure


def take(systems: Iterable[Moving]) -> tuple[list[dict[str, Any]], dict[str, np.ndarray]]:
    """The JSON part and the tensors of every system; tensors are called `IDX/NAME`. Nothing is copied."""
    entries, tensors = [], {}
    for system in systems:
        state = system.state
        entries.append(
            {
                "idx": system.idx,
                "motion": system.motion.name,
                "motion_version": system.motion.format_version,
                "step": state.step,
                "watch": asdict(system.watch),
            }
        )
        for name, value in _tensors(state):
            tensors[f"{system.idx}/{name}"] = np.asarray(value, dtype=np.float64)
    return entries, tensors


def restore(
    entries: Iterable[Mapping[str, Any]],
    tensors: Mapping[str, np.ndarray],
    structure_of: Callable[[int], Structure],
    motion_of: Callable[[int], Motion],
    guards: Guards,
) -> list[Moving]:
    """The systems as they were. Raises NotResumableError if a motion has changed what it remembers."""
    own: dict[int, dict[str, np.ndarray]] = {}
    for name, value in tensors.items():
        idx, _, rest = name.partition("/")
        own.setdefault(int(idx), {})[rest] = value
    systems = []
    for entry in entries:
        idx = entry["idx"]
        motion = motion_of(idx)
        if (motion.name, motion.format_version) != (entry["motion"], entry["motion_version"]):
            raise NotResumableError(
                f"The checkpoint holds {entry['motion']} version {entry['motion_version']}; "
                f"this version of equipot has {motion.name} version {motion.format_version}.",
                hint="Resume with the version of equipot that began the run.",
            )
        watch: dict[str, Any] = {n: tuple(v) if isinstance(v, list) else v for n, v in entry["watch"].items()}
        structure = structure_of(idx)
        state = _state(entry["step"], own[idx], structure.cell_ang)
        systems.append(Moving(idx, structure, motion, state, guards, Watch(**watch)))
    return systems


def _tensors(state: State) -> Iterator[tuple[str, Any]]:
    yield "positions_ang", state.positions_ang
    if state.cell_ang is not None:
        yield "cell_ang", state.cell_ang
    if state.velocities_ang_per_fs is not None:
        yield "velocities_ang_per_fs", state.velocities_ang_per_fs
    for name, value in state.tensors.items():
        yield f"motion/{name}", value
    evaluation = state.evaluation
    if evaluation is not None:
        yield "evaluation/energy_ev", evaluation.energy_ev
        yield "evaluation/forces_ev_per_ang", evaluation.forces_ev_per_ang
        for name in ("energies_ev", "stress_ev_per_ang3", "domain_distance", "uncertainty_ev_per_ang"):
            value = getattr(evaluation, name)
            if value is not None:
                yield f"evaluation/{name}", value


def _state(step: int, tensors: Mapping[str, np.ndarray], start_cell_ang: np.ndarray | None) -> State:
    """A checkpoint without a cell is from a version in which no cell moved."""
    evaluation = None
    if "evaluation/energy_ev" in tensors:
        distance = tensors.get("evaluation/domain_distance")
        error = tensors.get("evaluation/uncertainty_ev_per_ang")
        evaluation = Evaluation(
            energy_ev=float(tensors["evaluation/energy_ev"]),
            forces_ev_per_ang=tensors["evaluation/forces_ev_per_ang"],
            energies_ev=tensors.get("evaluation/energies_ev"),
            stress_ev_per_ang3=tensors.get("evaluation/stress_ev_per_ang3"),
            domain_distance=None if distance is None else float(distance),
            uncertainty_ev_per_ang=None if error is None else float(error),
        )
    return State(
        step=step,
        positions_ang=tensors["positions_ang"],
        cell_ang=tensors.get("cell_ang", start_cell_ang),
        velocities_ang_per_fs=tensors.get("velocities_ang_per_fs"),
        tensors={name.removeprefix("motion/"): v for name, v in tensors.items() if name.startswith("motion/")},
        evaluation=evaluation,
    )

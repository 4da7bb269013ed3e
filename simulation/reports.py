"""What is told of a system: its frames and its result."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from math import isfinite
from typing import Any

import numpy as np

from equipot.errors import EquipotError
from equipot.simulation.engine import Moving, Watch, outside_domain
from equipot.simulation.motions.base import Bodies
from equipot.simulation.motions.descent import Descent
from equipot.simulation.request import RunRequest
from equipot.simulation.trajectory import Frame
from equipot.simulation.verdicts import Outcome, SystemResult, Verdict
from equipot.units import ASE_TIME_FS


def frame_of(system: Moving) -> Frame:
    """The frame of an evaluated system."""
    state, structure = system.state, system.structure
    evaluation, velocities = state.evaluation, state.velocities_ang_per_fs
    assert evaluation is not None
    momenta = None if velocities is None else Bodies.of(structure).masses_u * velocities * ASE_TIME_FS
    return Frame(
        system=system.idx,
        step=state.step,
        time_fs=system.motion.time_fs(state),
        structure=structure.moved_to(state.positions_ang, velocities, state.cell_ang),
        momenta=momenta,
        energy_ev=evaluation.energy_ev,
        forces_ev_per_ang=evaluation.forces_ev_per_ang,
        stress_ev_per_ang3=evaluation.stress_ev_per_ang3,
    )


def result_of(system: Moving, verdict: Verdict, request: RunRequest, differences: Sequence[str]) -> SystemResult:
    """The result of a system that has ended, from its last good state."""
    state, evaluation, motion = system.state, system.state.evaluation, system.motion
    has = evaluation is not None
    observed = motion.observables(state) if has else {}
    return replace(
        _without_numbers(system.idx, verdict, request),
        n_steps=state.step,
        time_fs=motion.time_fs(state),
        energy_ev=evaluation.energy_ev if evaluation else None,
        energies_ev=listed(evaluation.energies_ev) if evaluation else None,
        forces_ev_per_ang=listed(evaluation.forces_ev_per_ang) if evaluation else None,
        stress_ev_per_ang3=listed(evaluation.stress_ev_per_ang3) if evaluation else None,
        fmax_ev_per_ang=finite(motion.fmax_ev_per_ang(state)) if has else None,
        temperature_k=finite(motion.temperature_k(state)),
        volume_ang3=finite(observed.get("volume_ang3")),
        pressure_gpa=finite(observed.get("pressure_gpa")),
        generalised_force_ev_per_ang=observed.get("generalised_force_ev_per_ang"),
        cell_force_ev_per_ang=observed.get("cell_force_ev_per_ang"),
        enthalpy_ev=observed.get("enthalpy_ev"),
        space_group=motion.space_group(state) if isinstance(motion, Descent) else None,
        domain_distance=system.watch.domain_distance,
        uncertainty_ev_per_ang=system.watch.uncertainty_ev_per_ang,
        structure=system.structure.moved_to(state.positions_ang, state.velocities_ang_per_fs, state.cell_ang).to_json(),
        warnings=[*request.start_warnings(system.idx), *_watch_warnings(system.watch), *_resume_warnings(differences)],
        bitwise=not differences,
    )


def thermo_row(system: Moving) -> dict[str, Any]:
    """The row of the thermo table for an evaluated system; a number that is not finite is None."""
    state, motion = system.state, system.motion
    row = {"system": system.idx, "step": state.step, "time_fs": motion.time_fs(state)}
    for name, value in motion.observables(state).items():
        row[name] = finite(value)
    return row


def finite(value: Any) -> Any:
    """The value; None if it is a float that is not finite."""
    return None if isinstance(value, float) and not isfinite(value) else value


def rejected_result(idx: int, error: EquipotError, request: RunRequest) -> SystemResult:
    """The result of a structure that cannot be computed."""
    return _without_numbers(idx, Verdict(Outcome.REJECTED, "a structure the potential can compute", error), request)


def _without_numbers(idx: int, verdict: Verdict, request: RunRequest) -> SystemResult:
    provider = request.provider
    return SystemResult(
        system_idx=idx,
        outcome=str(verdict.outcome),
        converged=verdict.outcome == Outcome.CONVERGED if request.kind == "relax" else None,
        criterion=verdict.criterion,
        reason=verdict.reason.as_problem() if verdict.reason else None,
        guard=asdict(verdict.guard) if verdict.guard else None,
        n_steps=0,
        time_fs=None,
        energy_ev=None,
        energies_ev=None,
        forces_ev_per_ang=None,
        stress_ev_per_ang3=None,
        fmax_ev_per_ang=None,
        temperature_k=None,
        domain_distance=None,
        structure=None,
        seed=request.seed(idx),
        model=provider["model"],
        model_sha256=provider["sha256"],
        level_of_theory=provider["level_of_theory"],
        dtype=provider["dtype"],
        device=provider["device"],
    )


def _watch_warnings(watch: Watch) -> list[str]:
    warnings = list(watch.warned)
    if watch.domain_step is not None:
        assert watch.domain_distance is not None
        warnings.append(outside_domain(watch.domain_distance, watch.domain_step))
    return warnings


def _resume_warnings(differences: Sequence[str]) -> list[str]:
    if not differences:
        return []
    return [f"Resumed under other conditions ({'; '.join(differences)}): last digits may differ from one single run."]


def listed(array: np.ndarray | None) -> Any:
    """Nested lists for JSON; None for what is missing or not finite."""
    return None if array is None or not np.isfinite(array).all() else array.tolist()

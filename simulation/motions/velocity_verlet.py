"""Velocity Verlet: dynamics at constant energy (Swope, Andersen, Berens, Wilson, J. Chem. Phys. 76, 637, 1982)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

import numpy as np

from equipot.params import MDParams
from equipot.simulation.motions.base import Bodies, State, largest_norm, volume_ang3
from equipot.simulation.motions.velocities import (
    degrees_of_freedom,
    kinetic_energy_ev,
    start_velocities_ang_per_fs,
    temperature_k,
)
from equipot.simulation.verdicts import Outcome, Verdict
from equipot.structure import Structure
from equipot.units import ANG_PER_FS2_PER_EV_PER_ANG_U, GPA_PER_EV_PER_ANG3


class VelocityVerlet:
    """Constant energy: half a kick, a drift, and half a kick with the new forces. Conserves the total energy."""

    name: ClassVar[str] = "velocity_verlet"
    format_version: ClassVar[int] = 1
    keeps_momentum: ClassVar[bool] = True  #: a system that starts without drift or rotation never gets any

    def __init__(self, structure: Structure, params: MDParams, seed: int) -> None:
        assert params.timestep_fs is not None, "the parameters must be resolved"
        assert params.n_steps is not None, "the parameters must be resolved"
        self._structure = structure
        self._params = params
        self._seed = seed
        self._bodies = Bodies.of(structure)
        self._timestep_fs = params.timestep_fs
        self._n_steps = params.n_steps
        self._n_degrees = degrees_of_freedom(
            self._bodies, structure.positions_ang, self._start_velocities(), self.keeps_momentum
        )
        self._acceleration = ANG_PER_FS2_PER_EV_PER_ANG_U / self._bodies.masses_u * self._bodies.free  # Å/fs² per eV/Å
        self._half_kick = 0.5 * self._timestep_fs * ANG_PER_FS2_PER_EV_PER_ANG_U / self._bodies.masses_u
        self._half_kick = self._half_kick * self._bodies.free  # (n_atoms, 1), Å/fs per eV/Å

    def start(self) -> State:
        return State(0, self._structure.positions_ang, self._structure.cell_ang, self._start_velocities())

    def move(self, state: State) -> State:
        assert state.velocities_ang_per_fs is not None
        velocities = state.velocities_ang_per_fs + self._half_kick * state.forces_ev_per_ang
        positions = state.positions_ang + self._timestep_fs * velocities
        return replace(
            state,
            step=state.step + 1,
            positions_ang=positions,
            velocities_ang_per_fs=velocities,
            evaluation=None,
        )

    def settle(self, moved: State) -> State:
        assert moved.velocities_ang_per_fs is not None
        velocities = moved.velocities_ang_per_fs + self._half_kick * moved.forces_ev_per_ang
        return replace(moved, velocities_ang_per_fs=velocities)

    def verdict(self, state: State) -> Verdict | None:
        if state.step < self._n_steps:
            return None
        return Verdict(Outcome.COMPLETED, f"{self._n_steps} steps of {self._timestep_fs:g} fs")

    def time_fs(self, state: State) -> float | None:
        return state.step * self._timestep_fs

    def fmax_ev_per_ang(self, state: State) -> float:
        return largest_norm(state.forces_ev_per_ang * self._bodies.free)

    def kinetic_ev(self, state: State) -> float:
        assert state.velocities_ang_per_fs is not None
        return kinetic_energy_ev(self._bodies.masses_u, state.velocities_ang_per_fs)

    def temperature_k(self, state: State) -> float | None:
        return temperature_k(self.kinetic_ev(state), self._n_degrees)

    def conserved_ev(self, state: State) -> float | None:
        assert state.evaluation is not None
        return state.evaluation.energy_ev + self.kinetic_ev(state)

    def observables(self, state: State) -> dict[str, Any]:
        """Energies, temperature and largest force; volume and pressure if the system has them; targets on a ramp."""
        assert state.evaluation is not None
        kinetic = self.kinetic_ev(state)
        return {
            "energy_ev": state.evaluation.energy_ev,
            "kinetic_ev": kinetic,
            "temperature_k": temperature_k(kinetic, self._n_degrees),
            "fmax_ev_per_ang": self.fmax_ev_per_ang(state),
            "conserved_ev": self.conserved_ev(state),
            **_cell_observables(state, kinetic, all(self._structure.pbc)),
            **self._ramp_targets(state),
        }

    def _start_velocities(self) -> np.ndarray:
        return start_velocities_ang_per_fs(self._structure, self._bodies, self._params, self._seed)

    def _target_k(self, step: float) -> float:
        """What the thermostat aims at, at a step; halves of steps count too."""
        return self._params.temperature_at_k(step * self._timestep_fs)

    def _ramp_targets(self, state: State) -> dict[str, float]:
        targets, time_fs = {}, state.step * self._timestep_fs
        if isinstance(self._params.temperature_k, list):
            targets["target_temperature_k"] = self._params.temperature_at_k(time_fs)
        if self._params.barostat is not None and isinstance(self._params.barostat.pressure_gpa, list):
            targets["target_pressure_gpa"] = self._params.pressure_at_gpa(time_fs)
        return targets


def _cell_observables(state: State, kinetic_ev: float, is_crystal: bool) -> dict[str, float | None]:
    """Volume, and the pressure of motion and virial if the provider gives a stress, of a fully periodic system."""
    if not is_crystal or state.cell_ang is None:
        return {}
    volume = volume_ang3(state.cell_ang)
    assert state.evaluation is not None
    stress = state.evaluation.stress_ev_per_ang3
    if stress is None:
        return {"volume_ang3": volume}
    pressure = 2.0 * kinetic_ev / (3.0 * volume) - float(stress[:3].sum()) / 3.0
    return {"volume_ang3": volume, "pressure_gpa": pressure * GPA_PER_EV_PER_ANG3 if np.isfinite(pressure) else None}

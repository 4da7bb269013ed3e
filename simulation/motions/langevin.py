"""Langevin dynamics in the BAOAB splitting (Leimkuhler and Matthews, J. Chem. Phys. 138, 174102, 2013)."""

from __future__ import annotations

from dataclasses import replace
from math import exp, sqrt
from typing import ClassVar

import numpy as np

from equipot.params import LangevinThermostat, MDParams
from equipot.simulation.motions.base import State
from equipot.simulation.motions.noise import Stream, normals
from equipot.simulation.motions.velocities import kinetic_energy_ev, thermal_speeds_ang_per_fs
from equipot.simulation.motions.velocity_verlet import VelocityVerlet
from equipot.structure import Structure


class Langevin(VelocityVerlet):
    """Constant temperature: half a kick (B), half a drift (A), friction and noise (O), A, and B with the new forces.

    Tensors: heat_ev, what the bath has put in since step 0. Conserved is the total energy less this heat.
    """

    name: ClassVar[str] = "langevin_baoab"
    format_version: ClassVar[int] = 1

    def __init__(self, structure: Structure, params: MDParams, seed: int) -> None:
        super().__init__(structure, params, seed)
        thermostat = params.thermostat
        assert isinstance(thermostat, LangevinThermostat), "the parameters must be resolved"
        kept = exp(-thermostat.friction_per_fs * self._timestep_fs)
        self._kept = kept
        thermal = thermal_speeds_ang_per_fs(params.temperature_at_k(0.0), self._bodies.masses_u)
        self._kick_from_bath = sqrt(1.0 - kept * kept) * thermal * self._bodies.free  # (n_atoms, 1), Å/fs

    def start(self) -> State:
        return replace(super().start(), tensors={"heat_ev": np.float64(0.0)})

    def move(self, state: State) -> State:
        assert state.velocities_ang_per_fs is not None
        masses, half = self._bodies.masses_u, 0.5 * self._timestep_fs
        before = state.velocities_ang_per_fs + self._half_kick * state.forces_ev_per_ang
        middle = state.positions_ang + half * before
        noise = normals(self._seed, Stream.LANGEVIN, state.step, len(masses))
        after = self._kept * before + self._kick_from_bath * noise
        heat = kinetic_energy_ev(masses, after) - kinetic_energy_ev(masses, before)
        return replace(
            state,
            step=state.step + 1,
            positions_ang=middle + half * after,
            velocities_ang_per_fs=after,
            tensors={"heat_ev": np.float64(state.tensors["heat_ev"] + heat)},
            evaluation=None,
        )

    def conserved_ev(self, state: State) -> float | None:
        total = super().conserved_ev(state)
        assert total is not None
        return total - float(state.tensors["heat_ev"])

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

    On a ramp the noise has the temperature of the middle of the step. Tensors: heat_ev, what the bath has put in
    since step 0. Conserved, on a ramp too, is the total energy less this heat.
    """

    name: ClassVar[str] = "langevin_baoab"
    format_version: ClassVar[int] = 1
    keeps_momentum: ClassVar[bool] = False

    def __init__(self, structure: Structure, params: MDParams, seed: int) -> None:
        super().__init__(structure, params, seed)
        thermostat = params.thermostat
        assert isinstance(thermostat, LangevinThermostat), "the parameters must be resolved"
        self._friction = Friction(thermostat.friction_per_fs, self._timestep_fs)

    def start(self) -> State:
        return replace(super().start(), tensors={"heat_ev": np.float64(0.0)})

    def move(self, state: State) -> State:
        assert state.velocities_ang_per_fs is not None
        masses, half = self._bodies.masses_u, 0.5 * self._timestep_fs
        before = state.velocities_ang_per_fs + self._half_kick * state.forces_ev_per_ang
        middle = state.positions_ang + half * before
        thermal = thermal_speeds_ang_per_fs(self._target_k(state.step + 0.5), masses)
        noise = normals(self._seed, Stream.LANGEVIN, state.step, len(masses))
        after = self._friction.kept * before + self._friction.drawn * thermal * self._bodies.free * noise
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


class Friction:
    """The exact solution of friction and noise over a time: a velocity keeps `kept` and gets `drawn` thermal ones."""

    def __init__(self, friction_per_fs: float, time_fs: float) -> None:
        self.kept = exp(-friction_per_fs * time_fs)
        self.drawn = sqrt(1.0 - self.kept * self.kept)

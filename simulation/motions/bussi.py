"""Stochastic velocity rescaling (Bussi, Donadio, Parrinello, J. Chem. Phys. 126, 014101, 2007)."""

from __future__ import annotations

from dataclasses import replace
from math import copysign, exp, sqrt
from typing import ClassVar

import numpy as np

from equipot.params import BussiThermostat, MDParams
from equipot.simulation.motions.base import State
from equipot.simulation.motions.noise import Stream, normals
from equipot.simulation.motions.velocity_verlet import VelocityVerlet
from equipot.structure import Structure
from equipot.units import KB_EV_PER_K


class Bussi(VelocityVerlet):
    """Constant temperature: all velocities are scaled by one random factor, then a step of velocity Verlet.

    On a ramp the factor has the temperature of the middle of the step. Tensors: heat_ev, what the bath has put in
    since step 0. Conserved, on a ramp too, is the total energy less this heat.
    """

    name: ClassVar[str] = "bussi"
    format_version: ClassVar[int] = 1

    def __init__(self, structure: Structure, params: MDParams, seed: int) -> None:
        super().__init__(structure, params, seed)
        assert isinstance(params.thermostat, BussiThermostat)
        self._kept = exp(-self._timestep_fs / params.thermostat.tau_fs)

    def start(self) -> State:
        return replace(super().start(), tensors={"heat_ev": np.float64(0.0)})

    def move(self, state: State) -> State:
        kinetic, kt = self.kinetic_ev(state), KB_EV_PER_K * self._target_k(state.step + 0.5)
        scale = rescaling(2.0 * kinetic, kt, self._kept, squared_noise(self._seed, state.step, self._n_degrees))
        assert state.velocities_ang_per_fs is not None
        heat = (scale * scale - 1.0) * kinetic
        scaled = replace(
            state,
            velocities_ang_per_fs=scale * state.velocities_ang_per_fs,
            tensors={"heat_ev": np.float64(state.tensors["heat_ev"] + heat)},
        )
        return super().move(scaled)

    def conserved_ev(self, state: State) -> float | None:
        total = super().conserved_ev(state)
        assert total is not None
        return total - float(state.tensors["heat_ev"])


def squared_noise(seed: int, step: int, n_degrees: int) -> tuple[float, float]:
    """A standard normal, and the sum of the squares of n_degrees - 1 others: chi² without a rejection method, so that
    it is a function of seed and step alone."""
    if n_degrees == 0:
        return 0.0, 0.0
    noise = normals(seed, Stream.THERMOSTAT, step, -(-n_degrees // 3)).ravel()[:n_degrees]
    return float(noise[0]), float((noise[1:] * noise[1:]).sum())


def rescaling(twice_kinetic_ev: float, kt_ev: float, kept: float, noise: tuple[float, float]) -> float:
    """The factor for all velocities, equations A7 and A8; 1 for a system at rest, which has no direction to move in.

    `kept` is exp(-time/tau).
    """
    if not twice_kinetic_ev > 0.0:
        return 1.0
    first, others = noise
    drawn = (1.0 - kept) * kt_ev / twice_kinetic_ev
    along = sqrt(kept) + first * sqrt(drawn)
    return copysign(sqrt(along * along + drawn * others), along)

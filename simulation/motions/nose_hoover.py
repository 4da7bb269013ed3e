"""Dynamics at constant temperature under a Nosé-Hoover chain, deterministic and time-reversible."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import numpy as np

from equipot.params import MDParams, NoseHooverThermostat
from equipot.simulation.motions.base import State, Tensors
from equipot.simulation.motions.chain import NoseHooverChain
from equipot.simulation.motions.velocity_verlet import VelocityVerlet
from equipot.structure import Structure
from equipot.units import KB_EV_PER_K


class NoseHoover(VelocityVerlet):
    """Constant temperature: half a step of the chain, velocity Verlet, half a step of the chain.

    Tensors: chain_rates_per_fs (chain_length,), and chain_ev, the energy the chain has taken since step 0. Conserved,
    on a ramp too, is the total energy with that of the chain.
    """

    name: ClassVar[str] = "nose_hoover_chain"
    format_version: ClassVar[int] = 1

    def __init__(self, structure: Structure, params: MDParams, seed: int) -> None:
        super().__init__(structure, params, seed)
        thermostat = params.thermostat
        assert isinstance(thermostat, NoseHooverThermostat)
        kt, length = KB_EV_PER_K * params.highest_temperature_k, thermostat.chain_length
        self._chain = NoseHooverChain(self._n_degrees, self._n_degrees, kt, thermostat.tdamp_fs, length)

    def start(self) -> State:
        tensors: Tensors = {"chain_rates_per_fs": self._chain.at_rest(), "chain_ev": np.float64(0.0)}
        return replace(super().start(), tensors=tensors)

    def move(self, state: State) -> State:
        return super().move(self._turned(state))

    def settle(self, moved: State) -> State:
        return self._turned(super().settle(moved))

    def conserved_ev(self, state: State) -> float | None:
        total = super().conserved_ev(state)
        assert total is not None
        return total + float(state.tensors["chain_ev"])

    def _turned(self, state: State) -> State:
        """The state after half a step of the chain."""
        rates = np.asarray(state.tensors["chain_rates_per_fs"])
        kt = KB_EV_PER_K * self._target_k(state.step)
        turn = self._chain.turn(2.0 * self.kinetic_ev(state), rates, kt, 0.5 * self._timestep_fs)
        assert state.velocities_ang_per_fs is not None
        return replace(
            state,
            velocities_ang_per_fs=turn.scale * state.velocities_ang_per_fs,
            tensors={
                "chain_rates_per_fs": turn.rates_per_fs,
                "chain_ev": np.float64(state.tensors["chain_ev"] + turn.taken_ev),
            },
        )

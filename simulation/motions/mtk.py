"""Dynamics at constant pressure and temperature, with the barostat of Martyna, Tobias and Klein.

The step is that of their paper (J. Chem. Phys. 101, 4177, 1994); what holds the temperature is one of three
thermostats, which acts on atoms and cell alike.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from math import exp
from typing import ClassVar

import numpy as np

from equipot.errors import InvalidParameterError
from equipot.params import BussiThermostat, LangevinThermostat, MDParams, NoseHooverThermostat
from equipot.simulation.motions.base import State, Tensors, volume_ang3
from equipot.simulation.motions.bussi import rescaling, squared_noise
from equipot.simulation.motions.chain import NoseHooverChain
from equipot.simulation.motions.langevin import Friction
from equipot.simulation.motions.noise import Stream, normals
from equipot.simulation.motions.strain import FlexibleStrain, Flow, IsotropicStrain, Strain
from equipot.simulation.motions.velocities import kinetic_energy_ev, thermal_speeds_ang_per_fs
from equipot.simulation.motions.velocity_verlet import VelocityVerlet
from equipot.simulation.verdicts import Outcome, Verdict
from equipot.structure import Structure
from equipot.units import GPA_PER_EV_PER_ANG3, KB_EV_PER_K


@dataclass(frozen=True, eq=False)
class Momenta:
    """What a thermostat acts on: velocities (n_atoms, 3) Å/fs, the cell's strain rate 1/fs, and its own memory."""

    velocities: np.ndarray
    cell_rate: np.ndarray
    bath: Tensors


class MartynaTobiasKlein(VelocityVerlet):
    """Constant pressure: velocity Verlet for atoms and cell together. The thermostats are subclasses.

    Tensors: cell_rate_per_fs, () if isotropic, else (3, 3); ramp_work_ev, what a changing external pressure has done,
    the sum of V dP; and those of the thermostat. Conserved, on ramps too, is the energy of atoms and cell plus P V,
    less the work of the ramp, less the heat from the bath.
    """

    def __init__(self, structure: Structure, params: MDParams, seed: int) -> None:
        super().__init__(structure, params, seed)
        assert params.barostat is not None, "the parameters must be resolved"
        self._pdamp_fs = params.barostat.pdamp_fs
        self._highest_kt_ev = KB_EV_PER_K * params.highest_temperature_k
        kind = IsotropicStrain if params.barostat.isotropic else FlexibleStrain
        self._strain: Strain = kind(self._n_degrees, self._highest_kt_ev, self._pdamp_fs)
        self._cell_friction = Friction(1.0 / self._pdamp_fs, self._timestep_fs)

    def start(self) -> State:
        tensors = {"cell_rate_per_fs": self._strain.at_rest(), "ramp_work_ev": np.float64(0.0), **self._bath_at_start()}
        return replace(super().start(), tensors=tensors)

    def move(self, state: State) -> State:
        momenta = self._pulled(self._first(_momenta(state), state.step), state)
        flow = self._strain.flow(momenta.cell_rate)
        momenta = self._kicked(momenta, flow, state)
        positions, cell, momenta = self._drifted(state, momenta, flow)
        time_fs = state.step * self._timestep_fs
        change = self._pressure_ev_per_ang3(time_fs + self._timestep_fs) - self._pressure_ev_per_ang3(time_fs)
        work = 0.5 * (_volume_ang3(state) + volume_ang3(cell)) * change if change else 0.0
        moved = replace(state, step=state.step + 1, positions_ang=positions, cell_ang=cell, evaluation=None)
        return _with(moved, momenta, np.float64(state.tensors["ramp_work_ev"] + work))

    def settle(self, moved: State) -> State:
        momenta = _momenta(moved)
        momenta = self._kicked(momenta, self._strain.flow(momenta.cell_rate), moved)
        momenta = self._pulled(momenta, moved)
        return _with(moved, self._last(momenta, moved.step), moved.tensors["ramp_work_ev"])

    def verdict(self, state: State) -> Verdict | None:
        assert state.evaluation is not None
        if state.evaluation.stress_ev_per_ang3 is None:
            problem = InvalidParameterError(
                "npt needs the stress, and this model gives none.",
                pointer="/params/ensemble",
                hint="Choose a model with stress (`equipot models` says which), or ensemble nvt.",
            )
            return Verdict(Outcome.FAILED, "a model that gives the stress", problem)
        return super().verdict(state)

    def conserved_ev(self, state: State) -> float | None:
        total = super().conserved_ev(state)
        assert total is not None
        external = self._pressure_ev_per_ang3(state.step * self._timestep_fs) * _volume_ang3(state)
        return (
            total
            + external
            + self.cell_kinetic_ev(state)
            - float(state.tensors["ramp_work_ev"])
            - self._heat_ev(state.tensors)
        )

    def cell_kinetic_ev(self, state: State) -> float:
        """The kinetic energy of the cell: kT/2 for each way in which it may change."""
        return 0.5 * self._strain.twice_kinetic_ev(np.asarray(state.tensors["cell_rate_per_fs"]))

    def _bath_at_start(self) -> Tensors:
        """What the thermostat remembers, at step 0."""
        return {"heat_ev": np.float64(0.0)}

    def _heat_ev(self, tensors: Tensors) -> float:
        """What the thermostat has put in since step 0."""
        return float(tensors["heat_ev"])

    def _first(self, momenta: Momenta, step: int) -> Momenta:
        """What the thermostat does at the beginning of a step."""
        return momenta

    def _last(self, momenta: Momenta, step: int) -> Momenta:
        """What it does at the end of the step that led to this one."""
        return momenta

    def _drifted(self, state: State, momenta: Momenta, flow: Flow) -> tuple[np.ndarray, np.ndarray, Momenta]:
        """Positions and cell a step later, and the momenta if they change on the way."""
        assert state.cell_ang is not None
        positions = flow.drifted(state.positions_ang, momenta.velocities, self._timestep_fs)
        return positions, flow.carried(state.cell_ang, self._timestep_fs), momenta

    def _pressure_ev_per_ang3(self, time_fs: float) -> float:
        return self._params.pressure_at_gpa(time_fs) / GPA_PER_EV_PER_ANG3

    def _pulled(self, momenta: Momenta, state: State) -> Momenta:
        """Half a step of the pressure on the cell."""
        assert state.evaluation is not None
        stress, volume = state.evaluation.stress_ev_per_ang3, _volume_ang3(state)
        virial = np.full(6, np.nan) if stress is None else volume * stress
        external = volume * self._pressure_ev_per_ang3(state.step * self._timestep_fs)
        half = 0.5 * self._timestep_fs
        rate = self._strain.pulled(momenta.cell_rate, self._bodies.masses_u, momenta.velocities, virial, external, half)
        return replace(momenta, cell_rate=rate)

    def _kicked(self, momenta: Momenta, flow: Flow, state: State) -> Momenta:
        """Half a step of the forces on the atoms."""
        acceleration = self._acceleration * state.forces_ev_per_ang
        return replace(momenta, velocities=flow.kicked(momenta.velocities, acceleration, 0.5 * self._timestep_fs))

    def _twice_kinetic_ev(self, momenta: Momenta) -> float:
        """Of atoms and cell together."""
        atoms = 2.0 * kinetic_energy_ev(self._bodies.masses_u, momenta.velocities)
        return atoms + self._strain.twice_kinetic_ev(momenta.cell_rate)


class NoseHooverMTK(MartynaTobiasKlein):
    """With a Nosé-Hoover chain for the atoms and one for the cell.

    Tensors: chain_rates_per_fs and cell_chain_rates_per_fs (chain_length,), and chains_ev, the energy both have taken.
    """

    name: ClassVar[str] = "mtk_nose_hoover"
    format_version: ClassVar[int] = 1

    def __init__(self, structure: Structure, params: MDParams, seed: int) -> None:
        super().__init__(structure, params, seed)
        thermostat, n, strain, kt = params.thermostat, self._n_degrees, self._strain, self._highest_kt_ev
        assert isinstance(thermostat, NoseHooverThermostat)
        length = thermostat.chain_length
        self._chain = NoseHooverChain(n, n, kt, thermostat.tdamp_fs, length)
        self._cell_chain = NoseHooverChain(strain.n_degrees, strain.first_chain_mass, kt, self._pdamp_fs, length)

    def _bath_at_start(self) -> Tensors:
        rest = self._chain.at_rest()
        return {"chain_rates_per_fs": rest, "cell_chain_rates_per_fs": rest, "chains_ev": np.float64(0.0)}

    def _heat_ev(self, tensors: Tensors) -> float:
        return -float(tensors["chains_ev"])

    def _first(self, momenta: Momenta, step: int) -> Momenta:
        return self._turned(momenta, KB_EV_PER_K * self._target_k(step))

    def _last(self, momenta: Momenta, step: int) -> Momenta:
        return self._turned(momenta, KB_EV_PER_K * self._target_k(step))

    def _turned(self, momenta: Momenta, kt_ev: float) -> Momenta:
        """The momenta after half a step of both chains."""
        bath, half = momenta.bath, 0.5 * self._timestep_fs
        rates, cell_rates = np.asarray(bath["chain_rates_per_fs"]), np.asarray(bath["cell_chain_rates_per_fs"])
        atoms = 2.0 * kinetic_energy_ev(self._bodies.masses_u, momenta.velocities)
        turn = self._chain.turn(atoms, rates, kt_ev, half)
        cell_turn = self._cell_chain.turn(self._strain.twice_kinetic_ev(momenta.cell_rate), cell_rates, kt_ev, half)
        return Momenta(
            velocities=turn.scale * momenta.velocities,
            cell_rate=np.asarray(cell_turn.scale * momenta.cell_rate),
            bath={
                "chain_rates_per_fs": turn.rates_per_fs,
                "cell_chain_rates_per_fs": cell_turn.rates_per_fs,
                "chains_ev": np.float64(bath["chains_ev"] + turn.taken_ev + cell_turn.taken_ev),
            },
        )


class StochasticMTK(MartynaTobiasKlein, ABC):
    """With a random thermostat in the middle of the step, and friction and noise on the cell at 1/pdamp.

    In the middle (BAOAB), because there the places of a stiff vibration are exact at any step and its kinetic energy is
    low by (ω dt)²/4; at the beginning of the step the places are wide by as much. The cell is that vibration: that of
    a crystal swings so fast that it matters. Tensors: heat_ev, what the bath has put in.
    """

    def _drifted(self, state: State, momenta: Momenta, flow: Flow) -> tuple[np.ndarray, np.ndarray, Momenta]:
        assert state.cell_ang is not None
        half = 0.5 * self._timestep_fs
        positions = flow.drifted(state.positions_ang, momenta.velocities, half)
        cell = flow.carried(state.cell_ang, half)
        momenta = self._stirred(momenta, state.step)
        flow = self._strain.flow(momenta.cell_rate)
        return flow.drifted(positions, momenta.velocities, half), flow.carried(cell, half), momenta

    def _stirred(self, before: Momenta, step: int) -> Momenta:
        """The momenta after a step of the bath, with what that took from it."""
        target_k = self._target_k(step + 0.5)
        thermal = self._strain.thermal_rate(KB_EV_PER_K * target_k, self._seed, step)
        cell_rate = np.asarray(self._cell_friction.kept * before.cell_rate + self._cell_friction.drawn * thermal)
        after = Momenta(self._stirred_atoms(before.velocities, target_k, step), cell_rate, before.bath)
        heat = 0.5 * (self._twice_kinetic_ev(after) - self._twice_kinetic_ev(before))
        return replace(after, bath={"heat_ev": np.float64(before.bath["heat_ev"] + heat)})

    @abstractmethod
    def _stirred_atoms(self, velocities: np.ndarray, target_k: float, step: int) -> np.ndarray:
        """The velocities after a step of the bath."""


class LangevinMTK(StochasticMTK):
    """With friction and noise on every atom."""

    name: ClassVar[str] = "mtk_langevin"
    format_version: ClassVar[int] = 1
    keeps_momentum: ClassVar[bool] = False

    def __init__(self, structure: Structure, params: MDParams, seed: int) -> None:
        super().__init__(structure, params, seed)
        assert isinstance(params.thermostat, LangevinThermostat)
        self._friction = Friction(params.thermostat.friction_per_fs, self._timestep_fs)

    def _stirred_atoms(self, velocities: np.ndarray, target_k: float, step: int) -> np.ndarray:
        masses = self._bodies.masses_u
        thermal = thermal_speeds_ang_per_fs(target_k, masses)
        noise = normals(self._seed, Stream.LANGEVIN, step, len(masses))
        return np.asarray(self._friction.kept * velocities + self._friction.drawn * thermal * noise)


class BussiMTK(StochasticMTK):
    """With one random factor for the velocities of all atoms.

    Bussi, Zykova-Timan and Parrinello (J. Chem. Phys. 130, 074101, 2009) rescale atoms and cell by one factor; that
    leaves the cell ringing for as long as the atoms do not damp it.
    """

    name: ClassVar[str] = "mtk_bussi"
    format_version: ClassVar[int] = 1

    def __init__(self, structure: Structure, params: MDParams, seed: int) -> None:
        super().__init__(structure, params, seed)
        assert isinstance(params.thermostat, BussiThermostat)
        self._kept = exp(-self._timestep_fs / params.thermostat.tau_fs)

    def _stirred_atoms(self, velocities: np.ndarray, target_k: float, step: int) -> np.ndarray:
        twice_kinetic = 2.0 * kinetic_energy_ev(self._bodies.masses_u, velocities)
        noise = squared_noise(self._seed, step, self._n_degrees)
        return np.asarray(rescaling(twice_kinetic, KB_EV_PER_K * target_k, self._kept, noise) * velocities)


def _volume_ang3(state: State) -> float:
    assert state.cell_ang is not None, "npt was refused without a cell"
    return volume_ang3(state.cell_ang)


def _momenta(state: State) -> Momenta:
    assert state.velocities_ang_per_fs is not None
    return Momenta(state.velocities_ang_per_fs, np.asarray(state.tensors["cell_rate_per_fs"]), state.tensors)


def _with(state: State, momenta: Momenta, ramp_work_ev: np.ndarray | np.float64) -> State:
    """The state with these momenta."""
    tensors = {**momenta.bath, "cell_rate_per_fs": momenta.cell_rate, "ramp_work_ev": ramp_work_ev}
    return replace(state, velocities_ang_per_fs=momenta.velocities, tensors=tensors)

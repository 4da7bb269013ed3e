"""What every relaxation and every dynamics has in common: a state, and how it goes to the next one.

A step is `move` (new positions), one evaluation of forces, and `settle` (what can only be done with the new forces).
States are frozen and arrays are never written to after they are made, so the state before a failed step is still there,
and a checkpoint needs no copy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import sqrt
from typing import Any, ClassVar, Protocol

import numpy as np
from ase.data import atomic_masses

from equipot.simulation.providers import Evaluation
from equipot.simulation.verdicts import Verdict
from equipot.structure import Structure

Tensors = Mapping[str, np.ndarray | np.float64]


@dataclass(frozen=True, eq=False)
class State:
    """One system at one step.

    positions_ang (n_atoms, 3); cell_ang (3, 3), the cell as it is now, or None; velocities_ang_per_fs (n_atoms, 3) or
    None in a relaxation; `tensors` are what the motion itself has to remember, float64, by name. `evaluation` is None
    until forces at these positions are known.
    """

    step: int
    positions_ang: np.ndarray
    cell_ang: np.ndarray | None
    velocities_ang_per_fs: np.ndarray | None = None
    tensors: Tensors = field(default_factory=dict)
    evaluation: Evaluation | None = None

    @property
    def forces_ev_per_ang(self) -> np.ndarray:
        """The forces (n_atoms, 3); only for a state that has been evaluated."""
        assert self.evaluation is not None
        return self.evaluation.forces_ev_per_ang

    def evaluated(self, evaluation: Evaluation) -> State:
        """The same state with its forces."""
        return State(self.step, self.positions_ang, self.cell_ang, self.velocities_ang_per_fs, self.tensors, evaluation)


class Motion(Protocol):
    """How one system moves. It holds parameters only; all that changes is in the state."""

    name: ClassVar[str]
    format_version: ClassVar[int]  #: of `tensors`, kept in checkpoints

    def start(self) -> State:
        """The state at step 0, not yet evaluated."""

    def move(self, state: State) -> State:
        """The next step's positions, from an evaluated state."""

    def settle(self, moved: State) -> State:
        """The moved state, now evaluated, made complete."""

    def verdict(self, state: State) -> Verdict | None:
        """The end of the run if this is it; asked at step 0 too."""

    def time_fs(self, state: State) -> float | None:
        """Simulated time, None in a relaxation."""

    def fmax_ev_per_ang(self, state: State) -> float:
        """The largest force on a free atom."""

    def temperature_k(self, state: State) -> float | None:
        """Kinetic temperature, None where nothing has a velocity."""

    def conserved_ev(self, state: State) -> float | None:
        """The quantity that stays constant but for the error of the integrator, None in a relaxation."""

    def observables(self, state: State) -> dict[str, Any]:
        """A row of the thermo table, without system, step and time."""


class Timeless:
    """What relaxations and single points have in common: forces, but neither time nor velocities."""

    _bodies: Bodies

    def time_fs(self, state: State) -> float | None:
        return None

    def fmax_ev_per_ang(self, state: State) -> float:
        return largest_norm(state.forces_ev_per_ang * self._bodies.free)

    def temperature_k(self, state: State) -> float | None:
        return None

    def conserved_ev(self, state: State) -> float | None:
        return None

    def observables(self, state: State) -> dict[str, Any]:
        assert state.evaluation is not None
        return {"energy_ev": state.evaluation.energy_ev, "fmax_ev_per_ang": self.fmax_ev_per_ang(state)}


@dataclass(frozen=True, eq=False)
class Bodies:
    """The parts of a structure that a motion needs: masses (n_atoms, 1) in u and free (n_atoms, 1), 1.0 or 0.0."""

    masses_u: np.ndarray
    free: np.ndarray
    is_periodic: bool

    @classmethod
    def of(cls, structure: Structure) -> Bodies:
        """The masses a structure gives, else the standard ones."""
        masses = structure.masses_u if structure.masses_u is not None else atomic_masses[structure.numbers]
        free = np.ones((structure.n_atoms, 1))
        free[list(structure.fixed_atoms)] = 0.0
        return cls(np.array(masses, dtype=np.float64)[:, None], free, structure.is_periodic)

    @property
    def n_free(self) -> int:
        return int(self.free.sum())

    @property
    def all_free(self) -> bool:
        return self.n_free == len(self.free)


def largest_norm(rows: np.ndarray) -> float:
    """The largest norm of a row (n, 3); 0 of none. The reductions are what `sum` and `max` call, in half the time."""
    return sqrt(np.maximum.reduce(np.add.reduce(rows * rows, axis=1), initial=0.0))


def dot(a: np.ndarray, b: np.ndarray) -> float:
    """Sum of products, without BLAS: its threads would decide the last bit."""
    return float(np.add.reduce(a * b, axis=None))


def volume_ang3(cell_ang: np.ndarray) -> float:
    """The volume of a cell (3, 3)."""
    (ax, ay, az), (bx, by, bz), (cx, cy, cz) = cell_ang.tolist()
    return abs(ax * (by * cz - bz * cy) + ay * (bz * cx - bx * cz) + az * (bx * cy - by * cx))  # type: ignore[no-any-return]

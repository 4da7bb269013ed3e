"""In which coordinates a system relaxes: here those of its atoms in a cell that stays."""

from __future__ import annotations

from typing import Any

import numpy as np

from equipot.simulation.motions.base import Bodies, State
from equipot.simulation.motions.symmetry import Symmetry
from equipot.structure import Structure


class Coordinates:
    """The places of the atoms, (n_rows, 3) in Å, and the forces on them.

    With a symmetry, forces are averaged over its operations and the atoms start where it wants them exactly.
    """

    moves_cell = False

    def __init__(self, structure: Structure, bodies: Bodies, symmetry: Symmetry | None) -> None:
        self._free = bodies.free
        self._symmetry = symmetry
        self.start_positions_ang = symmetry.positions_ang if symmetry else structure.positions_ang
        self.start_cell_ang = symmetry.cell_ang if symmetry else structure.cell_ang

    @property
    def n_rows(self) -> int:
        return len(self._free)

    def atom_forces(self, state: State) -> np.ndarray:
        """The forces (n_atoms, 3) on the atoms, eV/Å, 0 on fixed ones."""
        raw = state.forces_ev_per_ang
        forces: np.ndarray = (raw if self._symmetry is None else self._symmetry.of_vectors(raw)) * self._free
        return forces

    def places(self, state: State) -> np.ndarray:
        """The coordinates (n_rows, 3) of a state, Å."""
        return state.positions_ang

    def forces(self, state: State) -> np.ndarray:
        """The generalised forces (n_rows, 3) along them, eV/Å."""
        return self.atom_forces(state)

    def after(self, state: State, step: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """Positions and cell after a step (n_rows, 3); not finite if it cannot be taken."""
        return state.positions_ang + step, state.cell_ang

    def observables(self, state: State) -> dict[str, Any]:
        """What there is to tell beside energy and forces."""
        return {}


def times(rows: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """rows (n, 3) @ matrix (3, 3), without BLAS: its threads would decide the last bit."""
    result: np.ndarray = rows[:, :1] * matrix[0] + rows[:, 1:2] * matrix[1] + rows[:, 2:] * matrix[2]
    return result

"""What every relaxation has in common: coordinates, generalised forces, a criterion, and what is told of each step."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, NamedTuple

import numpy as np

from equipot.errors import EquipotError
from equipot.params import RelaxParams
from equipot.simulation.motions.base import Bodies, State, Tensors, Timeless, largest_norm
from equipot.simulation.motions.coordinates import Coordinates
from equipot.simulation.motions.moving_cell import AtomsAndCell, FrechetCell
from equipot.simulation.motions.symmetry import Symmetry, space_group
from equipot.simulation.verdicts import Outcome, Verdict
from equipot.structure import Structure


class Descent(Timeless, ABC):
    """Downhill in the coordinates the parameters ask for; the optimizers say how far and where to."""

    def __init__(self, structure: Structure, params: RelaxParams) -> None:
        self._structure = structure
        self._bodies = Bodies.of(structure)
        self._params = params
        self._problem: EquipotError | None = None  # found before the first step, told after it
        symmetry = None
        if params.fix_symmetry:
            try:
                symmetry = Symmetry.of(structure, params.symmetry_tolerance_ang)
            except EquipotError as error:
                self._problem = error
        self._coordinates = _coordinates(structure, self._bodies, params, symmetry)
        self._known: _Known | None = None

    @abstractmethod
    def _first_tensors(self, n_rows: int) -> Tensors:
        """What the optimizer remembers before its first step in coordinates of shape (n_rows, 3)."""

    @abstractmethod
    def _step(self, state: State, places: np.ndarray, forces: np.ndarray) -> tuple[np.ndarray, Tensors]:
        """The step (n_rows, 3) from generalised places and forces of that shape, and what is to be remembered."""

    def start(self) -> State:
        coordinates = self._coordinates
        return State(
            0,
            coordinates.start_positions_ang,
            coordinates.start_cell_ang,
            tensors=self._first_tensors(coordinates.n_rows),
        )

    def move(self, state: State) -> State:
        step, tensors = self._step(state, self._coordinates.places(state), self._forces(state))
        positions, cell = self._coordinates.after(state, step)
        return State(state.step + 1, positions, cell, tensors=tensors)

    def settle(self, moved: State) -> State:
        return moved

    def fmax_ev_per_ang(self, state: State) -> float:
        if not self._coordinates.moves_cell:
            return self.generalised_force_ev_per_ang(state)
        return largest_norm(self._coordinates.atom_forces(state))

    def generalised_force_ev_per_ang(self, state: State) -> float:
        """The largest row of the generalised forces on atoms and cell, eV/Å: what convergence is judged by, as in ASE.

        Without a cell filter it is the largest force on a free atom.
        """
        return self._known_of(state).largest_ev_per_ang

    def verdict(self, state: State) -> Verdict | None:
        problem = self._problem
        if problem is None and self._coordinates.moves_cell and not _has_stress(state):
            problem = EquipotError(
                f"The potential gives no stress, and cell_filter {self._params.cell_filter} needs it.",
                pointer="/params/cell_filter",
                hint="Relax with cell_filter none, or with a potential that gives stresses.",
            )
        if problem is not None:
            return Verdict(Outcome.FAILED, self._criterion, problem)
        if self.generalised_force_ev_per_ang(state) < self._params.fmax_ev_per_ang:
            return Verdict(Outcome.CONVERGED, self._criterion)
        return Verdict(Outcome.MAX_STEPS, self._criterion) if state.step >= self._params.max_steps else None

    def observables(self, state: State) -> dict[str, Any]:
        row = super().observables(state)
        if self._coordinates.moves_cell and _has_stress(state):
            row["generalised_force_ev_per_ang"] = self.generalised_force_ev_per_ang(state)
            row["cell_force_ev_per_ang"] = largest_norm(self._forces(state)[self._structure.n_atoms :])
        return {**row, **self._coordinates.observables(state)}

    def space_group(self, state: State) -> str | None:
        """The space group now, as in "Fm-3m (225)", if it was to be kept."""
        if not self._params.fix_symmetry or self._problem is not None:
            return None
        now = self._structure.moved_to(state.positions_ang, cell_ang=state.cell_ang)
        return space_group(now, self._params.symmetry_tolerance_ang)

    @property
    def _criterion(self) -> str:
        limit = f"{self._params.fmax_ev_per_ang:g} eV/Å"
        if not self._coordinates.moves_cell:
            return f"largest force on a free atom < {limit}"
        return f"largest generalised force on atoms and cell (cell_filter {self._params.cell_filter}) < {limit}"

    def _forces(self, state: State) -> np.ndarray:
        """Generalised forces (n_rows, 3)."""
        return self._known_of(state).forces_ev_per_ang

    def _known_of(self, state: State) -> _Known:
        """What is asked for several times at every step."""
        if self._known is None or self._known.state is not state:
            forces = self._coordinates.forces(state)
            self._known = _Known(state, forces, largest_norm(forces))
        return self._known


class _Known(NamedTuple):
    """The generalised forces of a state, and the largest."""

    state: State
    forces_ev_per_ang: np.ndarray
    largest_ev_per_ang: float


def _coordinates(structure: Structure, bodies: Bodies, params: RelaxParams, symmetry: Symmetry | None) -> Coordinates:
    if params.cell_filter == "none":
        return Coordinates(structure, bodies, symmetry)
    return (FrechetCell if params.cell_filter == "frechet" else AtomsAndCell)(structure, bodies, symmetry, params)


def _has_stress(state: State) -> bool:
    return state.evaluation is not None and state.evaluation.stress_ev_per_ang3 is not None

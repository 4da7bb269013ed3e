"""Atoms and cell relaxed together: the coordinates of ASE's UnitCellFilter and FrechetCellFilter.

With F the deformation gradient (cell = start cell Fᵀ, row vectors), the coordinates are the places of the atoms in the
undeformed cell, x F⁻ᵀ, and three rows for the cell, scaled by the number of atoms n: n F (Tadmor, Smith, Bernstein,
Kaxiras, Phys. Rev. B 59, 235, 1999) or n log F. In these the forces are exact derivatives of the enthalpy E + p V.
Fixed atoms keep their place in the undeformed cell: they follow the cell, and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.linalg import expm

from equipot.params import RelaxParams
from equipot.simulation.motions.base import Bodies, State, dot
from equipot.simulation.motions.coordinates import Coordinates, times
from equipot.simulation.motions.symmetry import Symmetry
from equipot.structure import Structure
from equipot.units import GPA_PER_EV_PER_ANG3
from equipot.voigt import symmetric_matrix

ONE = np.eye(3)
LARGEST_STRETCH = 10.0  # of any length in the cell, or its inverse: beyond, the cell has exploded or collapsed
LARGEST_LOGARITHM = 100.0
SAME_VOLUME = 1e-14


class AtomsAndCell(Coordinates):
    """Unit-cell coordinates: the deformation gradient itself."""

    moves_cell = True

    def __init__(self, structure: Structure, bodies: Bodies, symmetry: Symmetry | None, params: RelaxParams) -> None:
        super().__init__(structure, bodies, symmetry)
        assert self.start_cell_ang is not None, "a moving cell has been checked for"
        self._start_cell_ang = self.start_cell_ang
        self._n_atoms = structure.n_atoms
        self._pressure_ev_per_ang3 = params.pressure_gpa / GPA_PER_EV_PER_ANG3
        self._constant_volume = params.constant_volume
        self._allowed = allowed_strains(params, symmetry)

    @property
    def n_rows(self) -> int:
        return self._n_atoms + 3

    def places(self, state: State) -> np.ndarray:
        deformation = self._deformation(state)
        atoms = times(state.positions_ang, np.linalg.inv(deformation).T)
        atoms = np.where(self._free > 0.0, atoms, self.start_positions_ang)
        return np.concatenate([atoms, self._n_atoms * self._from_deformation(deformation)])

    def forces(self, state: State) -> np.ndarray:
        deformation = self._deformation(state)
        inverse = np.linalg.inv(deformation).T
        pull = self._pull_back(deformation, self._allowed(self._virial_ev(state) @ inverse))
        if self._constant_volume:
            growth = self._pull_back(deformation, self._allowed(inverse))
            pull = pull - growth * (dot(pull, growth) / (dot(growth, growth) or 1.0))
        return np.concatenate([times(self.atom_forces(state), deformation), pull / self._n_atoms])

    def after(self, state: State, step: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        new = self.places(state) + step
        deformation = self._allowed_deformation(new[self._n_atoms :] / self._n_atoms)
        if deformation is None:
            return np.full_like(state.positions_ang, np.nan), np.full((3, 3), np.nan)
        return times(new[: self._n_atoms], deformation.T), self._start_cell_ang @ deformation.T

    def observables(self, state: State) -> dict[str, Any]:
        assert state.evaluation is not None
        stress = state.evaluation.stress_ev_per_ang3
        volume = self._volume_ang3(state)
        told: dict[str, Any] = {"volume_ang3": volume}
        if stress is not None:
            told["pressure_gpa"] = float(-stress[:3].sum() / 3.0) * GPA_PER_EV_PER_ANG3
        told["enthalpy_ev"] = state.evaluation.energy_ev + self._pressure_ev_per_ang3 * volume
        return told

    def _from_deformation(self, deformation: np.ndarray) -> np.ndarray:
        """The coordinates (3, 3) of the cell, without their factor."""
        return deformation

    def _to_deformation(self, cell_rows: np.ndarray) -> np.ndarray:
        return cell_rows

    def _pull_back(self, deformation: np.ndarray, gradient: np.ndarray) -> np.ndarray:
        """A gradient with respect to the deformation as one with respect to the coordinates of the cell."""
        return gradient

    def _deformation(self, state: State) -> np.ndarray:
        assert state.cell_ang is not None
        return np.linalg.solve(self._start_cell_ang, state.cell_ang).T

    def _volume_ang3(self, state: State) -> float:
        assert state.cell_ang is not None
        return float(abs(np.linalg.det(state.cell_ang)))

    def _virial_ev(self, state: State) -> np.ndarray:
        """-d(E + p V)/dstrain, (3, 3), eV."""
        assert state.evaluation is not None
        assert state.evaluation.stress_ev_per_ang3 is not None, "the verdict ends a system without stress"
        stress = symmetric_matrix(state.evaluation.stress_ev_per_ang3)
        virial: np.ndarray = -self._volume_ang3(state) * (stress + self._pressure_ev_per_ang3 * ONE)
        return virial

    def _allowed_deformation(self, cell_rows: np.ndarray) -> np.ndarray | None:
        """The deformation nearest to these coordinates that the parameters allow; None if no cell is left."""
        if not np.isfinite(cell_rows).all() or np.abs(cell_rows).max() > LARGEST_LOGARITHM:
            return None
        deformation = ONE + self._allowed(self._to_deformation(cell_rows) - ONE)
        if self._constant_volume:
            deformation = self._with_volume_one(deformation)
        stretches = np.linalg.svd(deformation, compute_uv=False)
        sound = (
            np.linalg.det(deformation) > 0.0
            and stretches[0] < LARGEST_STRETCH
            and stretches[-1] * LARGEST_STRETCH > 1.0
        )
        return deformation if sound else None

    def _with_volume_one(self, deformation: np.ndarray) -> np.ndarray:
        """Brought back to determinant 1 along the allowed part of its gradient, by Newton's method."""
        for _ in range(20):
            volume = float(np.linalg.det(deformation))
            if not volume > 0.0 or abs(volume - 1.0) < SAME_VOLUME:
                break
            inverse = np.linalg.inv(deformation).T
            growth = self._allowed(inverse)
            slope = volume * dot(inverse, growth)
            if slope == 0.0:
                break
            deformation = deformation + (1.0 - volume) / slope * growth
        return deformation


class FrechetCell(AtomsAndCell):
    """Frechet coordinates: the logarithm of the deformation gradient, so that no step turns the cell inside out."""

    def _from_deformation(self, deformation: np.ndarray) -> np.ndarray:
        return logarithm(deformation)

    def _to_deformation(self, cell_rows: np.ndarray) -> np.ndarray:
        deformation: np.ndarray = expm(cell_rows)
        return deformation

    def _pull_back(self, deformation: np.ndarray, gradient: np.ndarray) -> np.ndarray:
        """The derivative of the exponential is L(U, dU), and its adjoint L(Uᵀ, ·), read off exp([[A, E], [0, A]])."""
        block = np.zeros((6, 6))
        block[:3, :3] = block[3:, 3:] = logarithm(deformation).T
        block[:3, 3:] = gradient
        if not np.isfinite(block).all():
            return np.full((3, 3), np.nan)
        along: np.ndarray = expm(block)[:3, 3:]
        return along


def allowed_strains(params: RelaxParams, symmetry: Symmetry | None) -> Callable[[np.ndarray], np.ndarray]:
    """The projection of a (3, 3) change of the deformation on those that the parameters allow."""
    projections: list[Callable[[np.ndarray], np.ndarray]] = []
    if params.hydrostatic:
        return lambda strain: ONE * (np.trace(strain) / 3.0)
    if params.cell_mask is not None:
        mask = symmetric_matrix(params.cell_mask).astype(np.float64)
        projections.append(lambda strain: strain * mask)
    if symmetry is not None:
        projections.append(symmetry.of_strain)
    if len(projections) < 2:
        return projections[0] if projections else lambda strain: strain
    both = _intersection(*projections)
    return lambda strain: (both @ strain.ravel()).reshape(3, 3)


def _intersection(one: Callable[[np.ndarray], np.ndarray], other: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """The orthogonal projection (9, 9) on what two orthogonal projections of (3, 3) both leave as it is."""
    basis = np.eye(9).reshape(9, 3, 3)
    both = np.array([(one(unit) + other(unit)).ravel() for unit in basis])
    values, vectors = np.linalg.eigh(0.5 * (both + both.T))
    kept = vectors[:, values > 2.0 - 1e-9]
    projection: np.ndarray = kept @ kept.T
    return projection


def logarithm(matrix: np.ndarray) -> np.ndarray:
    """The principal logarithm of a (3, 3) matrix with positive determinant; NaN where there is none.

    Inverse scaling and squaring with Denman-Beavers square roots, then log X = 2 artanh((X - 1)(X + 1)⁻¹) (Higham,
    Functions of Matrices, SIAM 2008, chapters 6 and 11); exact to rounding, and a hundred times faster than the
    general Schur method for the near-identity matrices met here.
    """
    n_roots = 0
    root = matrix
    while not np.abs(root - ONE).max() < 0.2:
        if n_roots == 12 or not np.isfinite(root).all():
            return np.full((3, 3), np.nan)
        root = _square_root(root)
        n_roots += 1
    ratio = np.linalg.solve((root + ONE).T, (root - ONE).T).T
    square, term, total = ratio @ ratio, ratio, ratio
    for odd in range(3, 60, 2):
        term = term @ square
        total = total + term / odd
        if np.abs(term).max() < 1e-18:
            break
    return float(2 ** (n_roots + 1)) * total


def _square_root(matrix: np.ndarray) -> np.ndarray:
    root, inverse = matrix, ONE
    for _ in range(60):
        if np.linalg.det(root) == 0.0 or np.linalg.det(inverse) == 0.0:
            break
        better: np.ndarray = 0.5 * (root + np.linalg.inv(inverse))
        inverse = 0.5 * (inverse + np.linalg.inv(root))
        if np.abs(better - root).max() < 1e-15 * np.abs(better).max():
            return better
        root = better
    return root

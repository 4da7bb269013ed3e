"""The space group of a crystal, kept while it relaxes.

Forces and strains are averaged over the operations of the group that spglib finds (Togo, Shinohara, Tanaka, Sci.
Technol. Adv. Mater. Methods 4, 2384822, 2024), and the atoms are put exactly where it wants them before the first
step. Fixed atoms count as another kind of atom, so that no operation maps them on free ones.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from equipot.errors import EquipotError
from equipot.structure import Structure

FIXED = 1000  # added to the atomic number of a fixed atom
MOST_PAIRS_AT_ONCE = 2_000_000


@dataclass(frozen=True, eq=False)
class Symmetry:
    """A space group and the structure at its exact places.

    rotations (n, 3, 3): the Cartesian point group. Atom i is `images[i]` (3, 3) times the first atom of its orbit,
    `first[i]` of the list of those atoms; `site` (n_orbits, 3, 3) averages over what leaves such an atom in place.
    """

    positions_ang: np.ndarray
    cell_ang: np.ndarray
    rotations: np.ndarray
    images: np.ndarray
    first: np.ndarray
    site: np.ndarray

    @classmethod
    def of(cls, structure: Structure, tolerance_ang: float) -> Self:
        """The space group of a structure, and the structure at the places it wants.

        Raises EquipotError if none can be found at this tolerance.
        """
        found = _dataset(structure, tolerance_ang)
        turns = np.array(found.rotations, dtype=np.float64)
        cell, rotations = _exact_cell(structure, turns)
        orbits = _Orbits.of(structure, turns, np.array(found.translations), tolerance_ang)
        images = rotations[orbits.operation_to]
        site = np.array([rotations[stays].mean(axis=0) for stays in orbits.stabilisers])
        group = np.unique(np.array(found.rotations), axis=0, return_index=True)[1]
        return cls(orbits.places @ cell, cell, rotations[group], images, orbits.first, site)

    def of_vectors(self, vectors: np.ndarray) -> np.ndarray:
        """The part of vectors on the atoms (n_atoms, 3) that the whole group leaves as it is."""
        back = (self.images * vectors[:, :, None]).sum(axis=1)  # the inverse of a rotation is its transpose
        sums = np.zeros((len(self.site), 3))
        np.add.at(sums, self.first, back)
        mean = sums / np.bincount(self.first)[:, None]
        kept = (self.site * mean[:, None, :]).sum(axis=2)
        there: np.ndarray = (self.images * kept[self.first][:, None, :]).sum(axis=2)
        return there

    def of_strain(self, strain: np.ndarray) -> np.ndarray:
        """The part of a tensor (3, 3) that the point group leaves as it is."""
        average: np.ndarray = (self.rotations @ strain @ self.rotations.transpose(0, 2, 1)).mean(axis=0)
        return average


def space_group(structure: Structure, tolerance_ang: float) -> str | None:
    """The international symbol and number, as in "Fm-3m (225)"; None if there is none at this tolerance."""
    try:
        found = _dataset(structure, tolerance_ang)
    except EquipotError:
        return None
    return f"{found.international} ({found.number})"


def _dataset(structure: Structure, tolerance_ang: float) -> Any:
    import spglib

    assert structure.cell_ang is not None, "a periodic cell has been checked for"
    kinds = structure.numbers.copy()
    kinds[list(structure.fixed_atoms)] += FIXED
    crystal: Any = (structure.cell_ang, structure.positions_ang @ np.linalg.inv(structure.cell_ang), kinds)
    found, reason = None, ""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of how spglib tells of errors; both ways are handled
        try:
            found = spglib.get_symmetry_dataset(crystal, symprec=tolerance_ang)
        except spglib.SpglibError as error:
            reason = f": {error}"
    if found is None:
        raise EquipotError(
            f"No space group can be found at a tolerance of {tolerance_ang:g} Å{reason}.",
            pointer="/params/symmetry_tolerance_ang",
            hint="Try another tolerance, or relax without fix_symmetry.",
        )
    return found


def _exact_cell(structure: Structure, turns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The cell, stretched as little as makes every operation a rotation, and the Cartesian rotations (n, 3, 3).

    With M the mean of RᵀR over the (almost orthogonal) R of the group, S = M^½ makes every S R S⁻¹ orthogonal.
    """
    assert structure.cell_ang is not None
    axes = structure.cell_ang.T
    almost = axes @ turns @ np.linalg.inv(axes)
    values, vectors = np.linalg.eigh((almost.transpose(0, 2, 1) @ almost).mean(axis=0))
    stretch = (vectors * np.sqrt(values)) @ vectors.T
    return structure.cell_ang @ stretch, stretch @ almost @ np.linalg.inv(stretch)


@dataclass(frozen=True, eq=False)
class _Orbits:
    """Which atoms are images of one another.

    places (n_atoms, 3): exact fractional coordinates; operation_to (n_atoms,): an operation that takes the first atom
    of the orbit there; first (n_atoms,): the orbit; stabilisers: per orbit, the operations that leave its first atom.
    """

    places: np.ndarray
    operation_to: np.ndarray
    first: np.ndarray
    stabilisers: list[np.ndarray]

    @classmethod
    def of(cls, structure: Structure, turns: np.ndarray, shifts: np.ndarray, tolerance_ang: float) -> Self:
        assert structure.cell_ang is not None
        given = structure.positions_ang @ np.linalg.inv(structure.cell_ang)
        places, first = given.copy(), np.full(len(given), -1)
        operation_to = np.zeros(len(given), dtype=np.int64)
        stabilisers: list[np.ndarray] = []
        for atom in range(len(given)):
            if first[atom] >= 0:
                continue
            images = turns @ given[atom] + shifts
            nearest, away = _nearest(images, given, structure.cell_ang)
            members, operations = np.unique(nearest, return_index=True)
            off_ang = np.sqrt(((away @ structure.cell_ang) ** 2).sum(axis=1)).max()
            if off_ang > 10.0 * tolerance_ang or (first[members] >= 0).any() or atom not in members:
                raise EquipotError(
                    f"The symmetry at a tolerance of {tolerance_ang:g} Å is not that of these atoms.",
                    pointer="/params/symmetry_tolerance_ang",
                    hint="Try a smaller tolerance, or relax without fix_symmetry.",
                )
            centre = given[atom] + np.einsum("nij,nj->ni", np.linalg.inv(turns), away).mean(axis=0)
            exact = turns[operations] @ centre + shifts[operations]
            places[members] = exact + np.round(given[members] - exact)
            first[members], operation_to[members] = len(stabilisers), operations
            stabilisers.append(np.flatnonzero(nearest == atom))
        return cls(places, operation_to, first, stabilisers)


def _nearest(images: np.ndarray, places: np.ndarray, cell_ang: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each image (n, 3) the nearest place (m, 3), modulo the lattice: its index and the way there, fractional."""
    n_at_once = max(1, MOST_PAIRS_AT_ONCE // len(places))
    nearest, away = [], []
    for start in range(0, len(images), n_at_once):
        ways = places[None] - images[start : start + n_at_once, None]
        ways -= np.round(ways)
        index = ((ways @ cell_ang) ** 2).sum(axis=2).argmin(axis=1)
        nearest.append(index)
        away.append(ways[np.arange(len(index)), index])
    return np.concatenate(nearest), np.concatenate(away)

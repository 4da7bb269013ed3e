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
MOST_OFF = 10.0  # tolerances between an atom and its image: spglib's own measure is a little different


@dataclass(frozen=True, eq=False)
class Symmetry:
    """A space group and the structure at its exact places.

    rotations (n, 3, 3): the Cartesian point group. Atom i is an image, turned by `images[i]` (3, 3), of the first atom
    of its orbit, which is number `orbit[i]`; `site` (n_orbits, 3, 3) averages over what leaves such an atom in place.
    """

    positions_ang: np.ndarray
    cell_ang: np.ndarray
    rotations: np.ndarray
    images: np.ndarray
    orbit: np.ndarray
    site: np.ndarray

    @classmethod
    def of(cls, structure: Structure, tolerance_ang: float) -> Self:
        """The space group of a structure, and the structure at the places it wants.

        It is that of the primitive cell: a supercell, whatever its shape, is kept as symmetric as the crystal is.
        Raises EquipotError if none can be found at this tolerance.
        """
        primitive = _Primitive.of(structure, tolerance_ang)
        found = _dataset(primitive.lattice_ang, primitive.places, primitive.kinds, tolerance_ang)
        turns = np.array(found.rotations, dtype=np.float64)
        stretch, rotations = _exact_lattice(primitive.lattice_ang, turns)
        orbits = _Orbits.of(primitive, turns, np.array(found.translations), tolerance_ang)
        images = rotations[orbits.operation_to]
        site = np.array([rotations[stays].mean(axis=0) for stays in orbits.stabilisers])
        copies = primitive.copies
        exact = orbits.places[copies]
        places = exact + np.round(primitive.places_of_copies - exact)
        positions = places @ primitive.lattice_ang @ stretch
        cell = structure.cell_ang @ stretch
        return cls(positions, cell, rotations, images[copies], orbits.orbit[copies], site)

    def of_vectors(self, vectors: np.ndarray) -> np.ndarray:
        """The part of vectors on the atoms (n_atoms, 3) that the whole group leaves as it is."""
        back = (self.images * vectors[:, :, None]).sum(axis=1)  # the inverse of a rotation is its transpose
        sums = np.zeros((len(self.site), 3))
        np.add.at(sums, self.orbit, back)
        mean = sums / np.bincount(self.orbit)[:, None]
        kept = (self.site * mean[:, None, :]).sum(axis=2)
        there: np.ndarray = (self.images * kept[self.orbit][:, None, :]).sum(axis=2)
        return there

    def of_strain(self, strain: np.ndarray) -> np.ndarray:
        """The part of a tensor (3, 3) that the point group leaves as it is."""
        average: np.ndarray = (self.rotations @ strain @ self.rotations.transpose(0, 2, 1)).mean(axis=0)
        return average


def space_group(structure: Structure, tolerance_ang: float) -> str | None:
    """The international symbol and number, as in "Fm-3m (225)"; None if there is none at this tolerance."""
    try:
        found = _dataset_of(structure, tolerance_ang)
    except EquipotError:
        return None
    return f"{found.international} ({found.number})"


@dataclass(frozen=True, eq=False)
class _Primitive:
    """The primitive cell of a structure, in its orientation: fractional places and kinds of its atoms.

    copies (n_atoms,): which of them each atom of the structure is; places_of_copies (n_atoms, 3), in the same lattice.
    """

    lattice_ang: np.ndarray
    places: np.ndarray
    kinds: np.ndarray
    copies: np.ndarray
    places_of_copies: np.ndarray

    @classmethod
    def of(cls, structure: Structure, tolerance_ang: float) -> Self:
        assert structure.cell_ang is not None
        found = _dataset_of(structure, tolerance_ang)
        multiple = np.round(structure.cell_ang @ np.linalg.inv(found.primitive_lattice))
        lattice = np.linalg.inv(multiple) @ structure.cell_ang
        given = structure.positions_ang @ np.linalg.inv(lattice)
        _, first, copies = np.unique(found.mapping_to_primitive, return_index=True, return_inverse=True)
        away = given - given[first][copies]
        away -= np.round(away)
        sums = np.zeros((len(first), 3))
        np.add.at(sums, copies, away)
        places = given[first] + sums / np.bincount(copies)[:, None]
        return cls(lattice, places, _kinds(structure)[first], copies, given)


@dataclass(frozen=True, eq=False)
class _Orbits:
    """Which atoms of a primitive cell are images of one another.

    places (n, 3): exact fractional coordinates; operation_to (n,): an operation that takes the first atom of the orbit
    there; orbit (n,): its number; stabilisers: per orbit, the operations that leave its first atom where it is.
    """

    places: np.ndarray
    operation_to: np.ndarray
    orbit: np.ndarray
    stabilisers: list[np.ndarray]

    @classmethod
    def of(cls, cell: _Primitive, turns: np.ndarray, shifts: np.ndarray, tolerance_ang: float) -> Self:
        given = cell.places
        places, orbit = given.copy(), np.full(len(given), -1)
        operation_to = np.zeros(len(given), dtype=np.int64)
        stabilisers: list[np.ndarray] = []
        for atom in range(len(given)):
            if orbit[atom] >= 0:
                continue
            nearest, away = _nearest(turns @ given[atom] + shifts, given, cell.lattice_ang)
            members, operations = np.unique(nearest, return_index=True)
            off_ang = np.sqrt(((away @ cell.lattice_ang) ** 2).sum(axis=1)).max()
            if off_ang > MOST_OFF * tolerance_ang or (orbit[members] >= 0).any() or atom not in members:
                raise EquipotError(
                    f"The symmetry at a tolerance of {tolerance_ang:g} Å is not that of these atoms.",
                    pointer="/params/symmetry_tolerance_ang",
                    hint="Try a smaller tolerance, or relax without fix_symmetry.",
                )
            back = (np.linalg.inv(turns) * away[:, None, :]).sum(axis=2)
            exact = turns[operations] @ (given[atom] + back.mean(axis=0)) + shifts[operations]
            places[members] = exact + np.round(given[members] - exact)
            orbit[members], operation_to[members] = len(stabilisers), operations
            stabilisers.append(np.flatnonzero(nearest == atom))
        return cls(places, operation_to, orbit, stabilisers)


def _nearest(images: np.ndarray, places: np.ndarray, lattice_ang: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each image (n, 3) the nearest place (m, 3), modulo the lattice: its index and the way there, fractional."""
    ways = places[None] - images[:, None]
    ways -= np.round(ways)
    index = ((ways @ lattice_ang) ** 2).sum(axis=2).argmin(axis=1)
    return index, ways[np.arange(len(index)), index]


def _exact_lattice(lattice_ang: np.ndarray, turns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The smallest stretch (3, 3) that makes every operation a rotation, and these Cartesian rotations (n, 3, 3).

    With M the mean of RᵀR over the (almost orthogonal) R of the group, S = M^½ makes every S R S⁻¹ orthogonal.
    """
    axes = lattice_ang.T
    almost = axes @ turns @ np.linalg.inv(axes)
    values, vectors = np.linalg.eigh((almost.transpose(0, 2, 1) @ almost).mean(axis=0))
    stretch = (vectors * np.sqrt(values)) @ vectors.T
    return stretch, stretch @ almost @ np.linalg.inv(stretch)


def _kinds(structure: Structure) -> np.ndarray:
    kinds = structure.numbers.copy()
    kinds[list(structure.fixed_atoms)] += FIXED
    return kinds


def _dataset_of(structure: Structure, tolerance_ang: float) -> Any:
    assert structure.cell_ang is not None, "a periodic cell has been checked for"
    places = structure.positions_ang @ np.linalg.inv(structure.cell_ang)
    return _dataset(structure.cell_ang, places, _kinds(structure), tolerance_ang)


def _dataset(cell_ang: Any, places: Any, kinds: Any, tolerance_ang: float) -> Any:
    """What spglib finds. Raises EquipotError if it finds nothing."""
    import spglib

    found, reason = None, ""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of how spglib tells of errors; both ways are handled
        try:
            found = spglib.get_symmetry_dataset((cell_ang, places, kinds), symprec=tolerance_ang)
        except spglib.SpglibError as error:
            reason = f": {error}"
    if found is None:
        raise EquipotError(
            f"No space group can be found at a tolerance of {tolerance_ang:g} Å{reason}.",
            pointer="/params/symmetry_tolerance_ang",
            hint="Try another tolerance, or relax without fix_symmetry.",
        )
    return found

"""What looks wrong in a structure although it can be computed: atoms that overlap, hydrogens that are missing."""

from __future__ import annotations

import numpy as np

from equipot.elements import COVALENT_RADII_ANG, SYMBOLS
from equipot.pairs import neighbour_vectors
from equipot.structure import Structure

#: two atoms closer than this part of the sum of their covalent radii are held apart by the pair repulsion alone
OVERLAP = 0.6
BOND = 1.2
ORGANIC = (6, 7, 8, 9, 15, 16, 17, 35)
DOUBLE_BOND_ANG = 1.28  # shorter bonds of a carbon with one neighbour need no hydrogen (CO, cyanide)
LINEAR_DEG = 150.0
PLANAR_DEG = 345.0


def implausibilities(structure: Structure, *, hydrogens_expected: bool) -> list[str]:
    """Remarks on a structure that passed `check_structure`; hydrogens are looked for only where one may miss them."""
    first, second, vectors = _bonds(structure)
    lengths = np.linalg.norm(vectors, axis=1)
    radii = COVALENT_RADII_ANG[structure.numbers]
    remarks = _overlaps(structure, first, second, lengths, radii[first] + radii[second])
    if hydrogens_expected and 1 not in structure.numbers:
        remarks += _bare_carbons(structure, first, second, vectors, lengths)
    return remarks


def _bonds(structure: Structure) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    radii = COVALENT_RADII_ANG[structure.numbers]
    longest_ang = float(2 * BOND * radii.max())
    first, second, vectors = neighbour_vectors(structure.positions_ang, structure.cell_ang, structure.pbc, longest_ang)
    near = np.linalg.norm(vectors, axis=1) < BOND * (radii[first] + radii[second])
    return first[near], second[near], vectors[near]


def _overlaps(
    structure: Structure, first: np.ndarray, second: np.ndarray, lengths: np.ndarray, bond_lengths: np.ndarray
) -> list[str]:
    if not len(lengths):
        return []
    closest = int(np.argmin(lengths / bond_lengths))
    if lengths[closest] >= OVERLAP * bond_lengths[closest]:
        return []
    i, j = sorted((int(first[closest]), int(second[closest])))
    return [
        f"Atoms {i} ({SYMBOLS[structure.numbers[i]]}) and {j} ({SYMBOLS[structure.numbers[j]]}) are only "
        f"{lengths[closest]:.2f} Å apart; a bond would be about {bond_lengths[closest]:.2f} Å."
    ]


def _bare_carbons(
    structure: Structure, first: np.ndarray, second: np.ndarray, vectors: np.ndarray, lengths: np.ndarray
) -> list[str]:
    """A remark when carbon is bonded as in organic matter in a structure that has no hydrogen."""
    neighbours = structure.numbers[second]
    n_with_room, n_organic = 0, 0
    for atom in np.flatnonzero(structure.numbers == 6):
        mine = first == atom
        if not np.isin(neighbours[mine], ORGANIC).all():
            continue
        n_with_room += _has_room(vectors[mine], lengths[mine])
        n_organic += bool(np.any(neighbours[mine] == 6) and np.any(neighbours[mine] != 6))
    if n_with_room:
        return [f"There is no hydrogen, but {n_with_room} carbon atoms are bonded as if some were missing."]
    if n_organic:
        return ["There is no hydrogen, though carbon is bonded as in organic molecules: check that none was left out."]
    return []


def _has_room(vectors: np.ndarray, lengths: np.ndarray) -> bool:
    """Whether bonds (n_bonds, 3) of a carbon look like those of CH3, CH2 or CH without the hydrogen."""
    if len(vectors) == 1:
        return bool(lengths[0] > DOUBLE_BOND_ANG)
    if len(vectors) not in (2, 3):
        return False
    unit = vectors / lengths[:, None]
    pairs = [(0, 1)] if len(vectors) == 2 else [(0, 1), (0, 2), (1, 2)]
    angles = [np.degrees(np.arccos(np.clip(unit[a] @ unit[b], -1, 1))) for a, b in pairs]
    return bool(angles[0] < LINEAR_DEG) if len(vectors) == 2 else bool(sum(angles) < PLANAR_DEG)

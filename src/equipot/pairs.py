"""Distances between atoms and periodic images, for checks and estimates. numpy and scipy; no torch.

The potential's own neighbour search is `equipot.models.neighbours`; its library loads torch, which the API must not.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

MOST_SHIFTS = 2_000_000  # images of the cell within reach; beyond, the cell is far too small for the distance


@dataclass(frozen=True)
class Pair:
    """Two atoms (the same index twice: an atom and its own image) and how far apart they are."""

    first: int
    second: int
    distance_ang: float


def closest_pair(
    positions_ang: np.ndarray, cell_ang: np.ndarray | None, pbc: tuple[bool, bool, bool], within_ang: float
) -> Pair | None:
    """The closest two of the atoms (n_atoms, 3) and their images, or None if none are closer than `within_ang`."""
    lattice = _reduced(cell_ang, pbc)
    shortest_ang = float(np.linalg.norm(lattice, axis=1).min(initial=np.inf))
    reach_ang = min(within_ang, shortest_ang)  # an atom and its own image are this close
    home, everything, owners = _with_images(positions_ang, lattice, reach_ang)
    distances, places = _tree(everything).query(home, k=2, distance_upper_bound=reach_ang)
    distances[places == np.arange(len(home))[:, None]] = np.inf  # itself
    first, which = np.unravel_index(np.argmin(distances), distances.shape)
    if not np.isfinite(distances[first, which]):
        return Pair(0, 0, shortest_ang) if shortest_ang < within_ang else None
    return Pair(int(first), int(owners[places[first, which]]), float(distances[first, which]))


def count_neighbours(
    positions_ang: np.ndarray, cell_ang: np.ndarray | None, pbc: tuple[bool, bool, bool], cutoff_ang: float
) -> int:
    """Neighbours within `cutoff_ang`, summed over the atoms (n_atoms, 3): every pair counts twice."""
    home, everything, _ = _with_images(positions_ang, _reduced(cell_ang, pbc), cutoff_ang)
    return int(_tree(home).count_neighbors(_tree(everything), cutoff_ang)) - len(home)


def neighbour_vectors(
    positions_ang: np.ndarray, cell_ang: np.ndarray | None, pbc: tuple[bool, bool, bool], cutoff_ang: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Every neighbour within `cutoff_ang`: its atom (n_pairs,), itself (n_pairs,), and the way there (n_pairs, 3)."""
    home, everything, owners = _with_images(positions_ang, _reduced(cell_ang, pbc), cutoff_ang)
    found = _tree(everything).query_ball_point(home, cutoff_ang)
    first = np.repeat(np.arange(len(home)), [len(places) for places in found])
    places = np.concatenate([np.asarray(each, dtype=np.int64) for each in found])
    first, places = first[places != first], places[places != first]
    return first, owners[places], everything[places] - home[first]


def _reduced(cell_ang: np.ndarray | None, pbc: tuple[bool, bool, bool]) -> np.ndarray:
    """Short vectors (n_periodic, 3) that span the same lattice as the periodic ones of the cell."""
    if cell_ang is None:
        return np.zeros((0, 3))
    lattice = np.array(cell_ang, dtype=np.float64)[list(pbc)]
    for _ in range(100):
        before = lattice.copy()
        for i, j in product(range(len(lattice)), repeat=2):
            if i != j:
                lattice[i] -= np.round(lattice[i] @ lattice[j] / (lattice[j] @ lattice[j])) * lattice[j]
        if np.array_equal(before, lattice):
            break
    return lattice


def _with_images(
    positions_ang: np.ndarray, lattice: np.ndarray, reach_ang: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Atoms in the home cell, the same followed by all images within reach of that cell, and whose images they are."""
    owners = np.arange(len(positions_ang))
    if not len(lattice):
        return positions_ang, positions_ang, owners
    inverse = np.linalg.pinv(lattice)  # (3, n_periodic)
    fractional = positions_ang @ inverse
    fractional -= np.floor(fractional)
    home = positions_ang - np.floor(positions_ang @ inverse) @ lattice
    reach = reach_ang * np.linalg.norm(inverse, axis=0)  # in units of the distance between two faces
    largest = np.ceil(reach).astype(int)
    if np.prod(2.0 * largest + 1) > MOST_SHIFTS:
        raise ValueError("the cell is too small for this distance")
    points, whose = [home], [owners]
    for shift in product(*(range(-n, n + 1) for n in largest)):
        if any(shift):
            moved = fractional + shift
            near = np.all((moved >= -reach) & (moved <= 1 + reach), axis=1)
            points.append(home[near] + np.array(shift) @ lattice)
            whose.append(owners[near])
    return home, np.concatenate(points), np.concatenate(whose)


def _tree(points_ang: np.ndarray) -> Any:
    """For the search of neighbours of points (n, 3)."""
    from scipy.spatial import cKDTree  # a quarter of a second, which a starting API has no use for

    return cKDTree(points_ang, balanced_tree=False)

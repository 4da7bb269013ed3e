"""The distances of the checks are those of the neighbour search the potential uses."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from vesin import NeighborList

from equipot.pairs import closest_pair, count_neighbours

DISTANCE_ROUNDING_ANG = 1e-9


@pytest.mark.parametrize("seed", range(60))
def test_any_cell_gives_the_pairs_of_the_neighbour_search(seed: int) -> None:
    rng = np.random.default_rng(seed)
    cell = np.diag(rng.uniform(2, 8, 3)) + rng.normal(size=(3, 3))
    pbc = (bool(rng.integers(2)), bool(rng.integers(2)), bool(rng.integers(2)))
    positions = rng.uniform(-10, 20, (rng.integers(1, 30), 3))  # many lie outside the cell
    cutoff_ang = float(rng.uniform(0.3, 5))
    box = cell if any(pbc) else np.zeros((3, 3))
    search = NeighborList(cutoff=cutoff_ang, full_list=True, n_threads=1)
    (distances,) = search.compute(points=positions, box=box, periodic=np.array(pbc), quantities="d")

    assert count_neighbours(positions, cell, pbc, cutoff_ang) == len(distances)
    pair = closest_pair(positions, cell, pbc, cutoff_ang)
    if len(distances) == 0:
        assert pair is None
    else:
        assert pair is not None
        assert pair.distance_ang == pytest.approx(distances.min(), abs=DISTANCE_ROUNDING_ANG)


def test_an_atom_is_close_to_its_own_image_in_a_cell_of_almost_nothing() -> None:
    pair = closest_pair(np.zeros((1, 3)), np.eye(3) * 1e-7, (True, True, True), 0.3)
    assert pair is not None
    assert (pair.first, pair.second) == (0, 0)


def test_a_cell_skewed_by_thousands_of_lattice_vectors_is_searched_like_the_short_one() -> None:
    short = np.eye(3) * 3.0
    skewed = np.array([[1, 0, 0], [3000, 1, 0], [0, 2000, 1]]) @ short
    assert count_neighbours(np.zeros((1, 3)), skewed, (True, True, True), 3.1) == 6


def test_ten_thousand_atoms_on_one_place_are_told_without_listing_every_pair() -> None:
    pair = closest_pair(np.zeros((10_000, 3)), None, (False, False, False), 0.3)
    assert pair is not None
    assert pair.distance_ang == 0.0


def test_checking_a_structure_loads_neither_torch_nor_ase() -> None:
    code = "import sys, equipot.structure; print(sorted({'torch', 'ase'} & set(sys.modules)))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"

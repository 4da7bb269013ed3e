"""The neighbour list is complete, symmetric, and forgets what came before."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from equipot.models.graph import AtomGraph, batch_graphs
from equipot.models.neighbours import MOST_ROWS, NeighbourSearch
from equipot.structure import Structure
from tests.models.conftest import ALL_KINDS, ethanol, slab, triclinic_crystal

CUTOFF_ANG = 4.0


def brute_force(structure: Structure, cutoff_ang: float) -> set[tuple[int, int, tuple[float, ...]]]:
    """Every bond by trying all images: (i, j, vector rounded to 1e-9 Å)."""
    cell = np.zeros((3, 3)) if structure.cell_ang is None else structure.cell_ang
    spread = np.linalg.norm(np.ptp(structure.positions_ang, axis=0)) + cutoff_ang
    ranges = []
    for axis in range(3):
        n = 0
        if structure.pbc[axis]:
            others = np.cross(cell[(axis + 1) % 3], cell[(axis + 2) % 3])
            n = int(np.ceil(spread * np.linalg.norm(others) / abs(np.linalg.det(cell))))
        ranges.append(np.arange(-n, n + 1))
    shifts = np.stack(np.meshgrid(*ranges, indexing="ij"), axis=-1).reshape(-1, 3) @ cell
    found = set()
    for i, at in enumerate(structure.positions_ang):
        for j, other in enumerate(structure.positions_ang):
            for vector in other - at + shifts:
                if 1e-9 < np.linalg.norm(vector) < cutoff_ang:
                    found.add((i, j, tuple(np.round(vector, 9) + 0.0)))
    return found


def bonds(graph: AtomGraph) -> set[tuple[int, int, tuple[float, ...]]]:
    rows, slots = np.nonzero(graph.mask)
    return {
        (int(i), int(graph.neighbours[i, k]), tuple(np.round(graph.vectors_ang[i, k], 9) + 0.0))
        for i, k in zip(rows, slots, strict=True)
    }


def of(search: NeighbourSearch, structure: Structure) -> AtomGraph:
    return search.graph(structure.numbers, structure.positions_ang, structure.cell_ang, structure.pbc)


def same(a: AtomGraph, b: AtomGraph) -> bool:
    names = ("numbers", "vectors_ang", "neighbours", "mask", "reverse", "system_idx")
    return all(np.array_equal(getattr(a, name), getattr(b, name)) for name in names)


@pytest.mark.parametrize("make", ALL_KINDS)
def test_the_list_holds_every_bond_and_no_other(make: type) -> None:
    structure = make()
    assert bonds(of(NeighbourSearch(CUTOFF_ANG), structure)) == brute_force(structure, CUTOFF_ANG)


@pytest.mark.parametrize("make", ALL_KINDS)
def test_the_reverse_of_a_bond_points_back(make: type) -> None:
    graph = of(NeighbourSearch(CUTOFF_ANG), make())
    vectors, mask = graph.vectors_ang.reshape(-1, 3), graph.mask.ravel()
    assert np.array_equal(graph.reverse[graph.reverse], np.arange(len(graph.reverse)))
    assert np.array_equal(vectors[graph.reverse][mask], -vectors[mask])
    own = np.repeat(np.arange(graph.n_atoms), graph.mask.shape[1])
    assert np.array_equal(graph.neighbours.ravel()[graph.reverse][mask], own[mask])


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(ALL_KINDS), st.lists(st.floats(0.01, 0.4), min_size=1, max_size=6), st.integers(0, 2**31))
def test_history_leaves_no_trace(make: type, moves_ang: list[float], seed: int) -> None:
    """After any walk the kept list gives the very graph that a fresh search gives, bit for bit."""
    rng, structure, search = np.random.default_rng(seed), make(), NeighbourSearch(CUTOFF_ANG, skin_ang=0.6)
    for move in moves_ang:
        structure = structure.moved_to(structure.positions_ang + move * rng.uniform(-1, 1, (structure.n_atoms, 3)))
        assert same(of(search, structure), of(NeighbourSearch(CUTOFF_ANG, skin_ang=0.0), structure))


def test_small_moves_do_not_search_again() -> None:
    structure, search = slab(), NeighbourSearch(CUTOFF_ANG, skin_ang=0.5)
    for step in range(5):
        of(search, structure.moved_to(structure.positions_ang + 0.01 * step))
    assert search.n_searches == 1
    of(search, structure.moved_to(structure.positions_ang + 0.5))
    assert search.n_searches == 2


def test_rows_are_laid_out_anew_only_when_a_pair_crosses_the_cutoff() -> None:
    search, structure = NeighbourSearch(CUTOFF_ANG), ethanol(0)
    first = of(search, structure)
    again = of(search, structure.moved_to(structure.positions_ang + 0.01))
    assert again.layout is first.layout
    assert first.layout.once("name", list) is again.layout.once("name", list)
    stretched = structure.moved_to(structure.positions_ang * (1.0 + 0.1 / CUTOFF_ANG))
    other = of(search, stretched)
    assert search.n_searches == 1
    assert other.n_edges < first.n_edges
    assert other.layout is not first.layout
    fresh = of(NeighbourSearch(CUTOFF_ANG), stretched)
    assert np.array_equal(other.neighbours, fresh.neighbours)
    assert np.array_equal(other.reverse, fresh.reverse)


def test_an_atom_alone_has_no_bonds() -> None:
    graph = of(NeighbourSearch(CUTOFF_ANG), Structure(np.array([6]), np.zeros((1, 3))))
    assert graph.n_edges == 0
    assert graph.mask.shape == (1, 1)


def test_graphs_side_by_side_keep_their_bonds() -> None:
    graphs = [of(NeighbourSearch(CUTOFF_ANG), make()) for make in (ethanol, triclinic_crystal, slab)]
    batch = batch_graphs(graphs)
    assert batch.n_edges == sum(graph.n_edges for graph in graphs)
    assert batch.n_systems == 3
    start = 0
    for system, graph in enumerate(graphs):
        rows = slice(start, start + graph.n_atoms)
        assert np.all(batch.system_idx[rows] == system)
        inside = batch.neighbours[rows][batch.mask[rows]]
        assert inside.min() >= start
        assert inside.max() < start + graph.n_atoms
        start += graph.n_atoms
    vectors = batch.vectors_ang.reshape(-1, 3)
    assert np.array_equal(vectors[batch.reverse][batch.mask.ravel()], -vectors[batch.mask.ravel()])


def test_a_few_rows_are_kept_and_no_more() -> None:
    rng, structure = np.random.default_rng(0), ethanol(0)
    search = NeighbourSearch(3.0, skin_ang=2.0)
    for _ in range(200):
        of(search, structure.moved_to(structure.positions_ang + rng.normal(scale=0.1, size=(structure.n_atoms, 3))))
    assert search.n_searches == 1
    assert len(search._rows_before) == MOST_ROWS

"""Compiled code beside the network says what numpy and torch say: vectors bit by bit, lengths up to rounding."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch._inductor.config
from hypothesis import given, settings
from hypothesis import strategies as st

from equipot.models import code_cache, kernels
from equipot.models.graph import AtomGraph
from equipot.models.kernels import Kernels, compiled_kernels
from equipot.models.neighbours import MOST_ROWS, NeighbourSearch
from equipot.models.reliability import ByElement, Maps
from equipot.structure import Structure
from tests.models.conftest import ALL_KINDS, ethanol, triclinic_crystal
from tests.models.test_neighbours import CUTOFF_ANG, of, same


@pytest.fixture(scope="module")
def compiled(compiler: None) -> Kernels:
    found = compiled_kernels()
    assert found is not None
    return found


def by_numpy(structure: Structure) -> AtomGraph:
    """A fresh search without compiled code."""
    return of(NeighbourSearch(CUTOFF_ANG, skin_ang=0.0), structure)


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(ALL_KINDS), st.lists(st.floats(0.0, 0.3), min_size=2, max_size=8), st.integers(0, 2**31))
def test_wherever_atoms_go_the_graph_is_that_of_numpy(
    compiled: Kernels, make: type, moves_ang: list[float], seed: int
) -> None:
    rng, structure = np.random.default_rng(seed), make()
    double = NeighbourSearch(CUTOFF_ANG, skin_ang=0.6, kernels=compiled)
    single = NeighbourSearch(CUTOFF_ANG, skin_ang=0.6, kernels=compiled, dtype=np.float32)
    for move in moves_ang:
        structure = structure.moved_to(structure.positions_ang + move * rng.uniform(-1, 1, (structure.n_atoms, 3)))
        expected, got, rounded = by_numpy(structure), of(double, structure), of(single, structure)
        assert same(got, expected)
        assert rounded.vectors_ang.dtype == np.float32
        assert np.array_equal(rounded.vectors_ang, expected.vectors_ang.astype(np.float32))


def test_other_atoms_another_cell_or_other_periods_are_searched_anew(compiled: Kernels) -> None:
    crystal = triclinic_crystal()
    assert crystal.cell_ang is not None
    search = NeighbourSearch(CUTOFF_ANG, kernels=compiled)
    wider = crystal.moved_to(crystal.positions_ang, cell_ang=1.01 * crystal.cell_ang)
    other_periods = replace(crystal, pbc=(True, True, False))
    for structure in (crystal, wider, ethanol(0), crystal, other_periods):
        n_before = search.n_searches
        assert same(of(search, structure), by_numpy(structure))
        assert search.n_searches == n_before + 1


def test_pairs_that_come_and_go_find_their_rows_again(compiled: Kernels) -> None:
    structure = Structure(np.array([6, 6, 8]), np.array([[0.0, 0, 0], [CUTOFF_ANG - 0.05, 0, 0], [0, 1.2, 0]]))
    search = NeighbourSearch(CUTOFF_ANG, kernels=compiled)
    apart = structure.positions_ang.copy()
    apart[1, 0] += 0.1
    near, far = structure, structure.moved_to(apart)
    layouts = [of(search, each).layout for each in (near, far, near, far)]
    assert search.n_searches == 1
    assert layouts[0] is layouts[2]
    assert layouts[1] is layouts[3]
    assert layouts[0] is not layouts[1]


def test_a_few_rows_are_kept_and_no_more(compiled: Kernels) -> None:
    rng, structure = np.random.default_rng(0), ethanol(0)
    search = NeighbourSearch(3.0, skin_ang=2.0, kernels=compiled)
    for _ in range(200):
        of(search, structure.moved_to(structure.positions_ang + rng.normal(scale=0.1, size=(structure.n_atoms, 3))))
    assert search.n_searches == 1
    assert len(search._rows_before) == MOST_ROWS


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("n_atoms", "n_in", "n_out"), [(1, 7, 5), (6, 64, 64), (23, 129, 129), (50, 20, 100)])
def test_lengths_are_those_of_torch(compiled: Kernels, dtype: torch.dtype, n_atoms: int, n_in: int, n_out: int) -> None:
    random = torch.Generator().manual_seed(0)
    vectors = torch.randn(n_atoms, 2 * n_in, dtype=dtype, generator=random)[:, ::2]
    origins = torch.randn(4, n_in, dtype=dtype, generator=random)
    maps = Maps(torch.randn(4, n_in, n_out, dtype=dtype, generator=random))
    species = np.random.default_rng(0).integers(0, 4, n_atoms)
    cpu = torch.device("cpu")
    plain, fast = ByElement.of(species, cpu), ByElement.of(species, cpu, compiled)
    tolerance = 1e-5 if dtype is torch.float32 else 1e-13
    for shift in (origins, None):
        expected = plain.lengths(vectors, shift, maps)
        assert expected.min() > 0
        torch.testing.assert_close(fast.lengths(vectors, shift, maps), expected, rtol=tolerance, atol=0)
        by_hand = vectors if shift is None else vectors - shift[species]
        by_hand = torch.einsum("ai,aio->ao", by_hand.double(), maps.plain[species].double()).norm(dim=1)
        torch.testing.assert_close(expected.double(), by_hand, rtol=tolerance, atol=0)


def test_without_a_compiler_there_are_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(code_cache.CACHE_VARIABLE, str(tmp_path))
    kernels._kernels.cache_clear()
    with torch._inductor.config.patch({"cpp.cxx": ("/nowhere/c++",)}):
        assert compiled_kernels() is None

"""Compiled code beside the network says what torch says, up to rounding."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch._inductor.config

from equipot.models import code_cache, kernels
from equipot.models.kernels import Kernels, compiled_kernels
from equipot.models.reliability import ByElement, Maps


@pytest.fixture(scope="module")
def compiled(compiler: None) -> Kernels:
    found = compiled_kernels()
    assert found is not None
    return found


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

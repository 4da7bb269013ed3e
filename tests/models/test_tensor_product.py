"""Every factorisation is the same operator, as far as it has its paths, and it is equivariant."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from equipot.errors import InvalidParameterError
from equipot.models.decomposition import EXACT_RANKS, component_normalised, decompose, tdn_rank
from equipot.models.spherical import coupling, n_harmonics
from equipot.models.tensor_product import (
    CP_FILE,
    CP_FILE_SHA256,
    FACTORISATIONS,
    PolynomialProduct,
    TensorProduct,
    vector_factors,
)
from tests.models.test_spherical import wigner

EXACT = 1e-11  # relative; the promise is 1e-10
DEGREES = [(1, 1, 1), (2, 1, 3), (3, 3, 2), (2, 3, 1), (3, 3, 0), (0, 2, 2)]
HIGH_DEGREES = [(3, 3, 6), (5, 2, 4), (6, 6, 6)]
CASES = [(name, degrees) for name in FACTORISATIONS for degrees in DEGREES] + [
    (name, degrees) for name in FACTORISATIONS if name != "cp" for degrees in HIGH_DEGREES
]


def random_features(l_max: int, seed: int) -> torch.Tensor:
    return torch.tensor(np.random.default_rng(seed).normal(size=(n_harmonics(l_max), 5, 3)))


def turn(matrix: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    n = len(x)
    return torch.einsum("ab,bnc->anc", matrix[:n, :n], x)


def dense(x: torch.Tensor, y: torch.Tensor, l3_max: int, *, odd: bool) -> torch.Tensor:
    l1_max, l2_max = (round(len(features) ** 0.5) - 1 for features in (x, y))
    return torch.einsum("abc,ank,bnk->cnk", torch.tensor(coupling(l1_max, l2_max, l3_max, odd=odd)), x, y)


def relative(error: torch.Tensor, of: torch.Tensor) -> float:
    return float(error.norm() / of.norm())


def exact_square(x: torch.Tensor) -> torch.Tensor:
    return dense(x, x, 6, odd=False)


@pytest.mark.parametrize(("factorisation", "degrees"), CASES)
def test_a_factorised_product_equals_the_dense_one(factorisation: str, degrees: tuple[int, int, int]) -> None:
    x, y = random_features(degrees[0], 1), random_features(degrees[1], 2)
    expected = dense(x, y, degrees[2], odd=factorisation != "gaunt")
    assert relative(TensorProduct(factorisation, *degrees)(x, y) - expected, expected) < EXACT


@pytest.mark.parametrize("factorisation", FACTORISATIONS)
def test_a_product_turns_with_its_factors(factorisation: str) -> None:
    product = TensorProduct(factorisation, 2, 3, 3)
    d = torch.tensor(wigner(3, Rotation.random(rng=np.random.default_rng(0)).as_matrix()))
    x, y = random_features(2, 1), random_features(3, 2)
    expected = turn(d, product(x, y))
    assert relative(product(turn(d, x), turn(d, y)) - expected, expected) < EXACT


@pytest.mark.parametrize("factorisation", FACTORISATIONS)
def test_inversion_exchanges_a_product_with_its_mirror_image(factorisation: str) -> None:
    """B(x, y) inverted is B with its arguments exchanged; half the sum of both is a true tensor, Gaunt's product."""
    product = TensorProduct(factorisation, 3, 3, 3)
    mirror = torch.tensor(wigner(3, -np.eye(3)))
    x, y = random_features(3, 1), random_features(3, 2)
    here, there = product(x, y), product(y, x)
    assert relative(product(turn(mirror, x), turn(mirror, y)) - turn(mirror, there), here) < EXACT
    assert relative(0.5 * (here + there) - dense(x, y, 3, odd=False), here) < EXACT
    pseudo = relative(0.5 * (here - there), here)
    assert pseudo < EXACT if factorisation == "gaunt" else pseudo > 0.2


@pytest.mark.parametrize("factorisation", FACTORISATIONS)
def test_the_derivatives_of_a_product_are_exact(factorisation: str) -> None:
    product = TensorProduct(factorisation, 2, 1, 2)
    x = random_features(2, 1)[:, :2, :1].clone().requires_grad_(True)
    y = random_features(1, 2)[:, :2, :1].clone().requires_grad_(True)
    assert torch.autograd.gradcheck(product, (x, y))
    assert torch.autograd.gradgradcheck(product, (x, y))


@pytest.mark.parametrize("factorisation", FACTORISATIONS)
def test_float32_is_good_to_its_own_rounding(factorisation: str) -> None:
    x, y = random_features(3, 1), random_features(3, 2)
    product = TensorProduct(factorisation, 3, 3, 3)
    expected = product(x, y)
    rounded = product.float()(x.float(), y.float())
    assert rounded.dtype == torch.float32
    assert relative(rounded.double() - expected, expected) < 2e-6


def test_a_decomposition_has_fewer_rows_than_the_grid() -> None:
    for l_max, rank in EXACT_RANKS.items():
        assert TensorProduct("cp", l_max, l_max, l_max).rank == rank < vector_factors(l_max, l_max, l_max).rank


@pytest.mark.parametrize(("l_max", "error"), [(1, 3.3e-2), (2, 1.8e-2), (3, 3.0e-2)])
def test_the_rank_of_tensor_decomposition_networks_is_a_few_per_cent_wrong_and_not_equivariant(
    l_max: int, error: float
) -> None:
    product = TensorProduct("tdn", l_max, l_max, l_max)
    assert product.rank == tdn_rank(l_max) == 7 * l_max**2
    tensor = torch.tensor(coupling(l_max, l_max, l_max, odd=True))
    factors = torch.einsum("ra,rb,rc->abc", product.u, product.v, product.w)
    assert relative(factors - tensor, tensor) == pytest.approx(error, rel=0.05)
    d = torch.tensor(wigner(l_max, Rotation.random(rng=np.random.default_rng(0)).as_matrix()))
    x, y = random_features(l_max, 1), random_features(l_max, 2)
    here, there = turn(d, product(x, y)), product(turn(d, x), turn(d, y))
    assert 0.3 * error < relative(there - here, here) < 3 * error


def test_decomposing_again_finds_the_exact_rank() -> None:
    found = decompose(coupling(1, 1, 1, odd=True), EXACT_RANKS[1])
    assert found.relative_error < 1e-13
    assert found.cancellation < 20
    assert decompose(coupling(1, 1, 1, odd=True), EXACT_RANKS[1] - 1, n_sweeps=1000).relative_error > 1e-2


def test_paths_of_equal_norm_lose_more_below_the_exact_rank() -> None:
    """The tensor of arXiv 2507.01131 for l_max = 1: exact at rank 9, and at its 7 l_max² = 7 far from it."""
    assert decompose(component_normalised(1), 9).relative_error < 1e-13
    assert decompose(component_normalised(1), 7, n_sweeps=1000).relative_error > 0.1


def test_the_stored_factors_are_the_ones_that_were_tested() -> None:
    assert hashlib.sha256(CP_FILE.read_bytes()).hexdigest() == CP_FILE_SHA256


def test_gaunts_polynomial_is_made_of_exact_powers_of_a_function() -> None:
    x = random_features(3, 1)
    coefficients = torch.tensor(np.random.default_rng(3).normal(size=(5, 3, 3)))
    square = exact_square(x)
    powers = torch.stack([x[:9], square[:9], dense(square, x, 2, odd=False)])
    expected = torch.einsum("npc,panc->anc", coefficients, powers)
    assert relative(PolynomialProduct("gaunt", 3, 2)(x, coefficients) - expected, expected) < EXACT


@pytest.mark.parametrize("factorisation", [name for name in FACTORISATIONS if name != "gaunt"])
def test_the_other_polynomials_have_gaunts_square_and_a_cube_with_a_pseudo_part(factorisation: str) -> None:
    x = random_features(3, 1)
    coefficients = torch.tensor(np.random.default_rng(3).normal(size=(5, 3, 3)))
    square = exact_square(x)[:16]
    powers = torch.stack([x[:9], square[:9], dense(square, x, 2, odd=True)])
    expected = torch.einsum("npc,panc->anc", coefficients, powers)
    polynomial = PolynomialProduct(factorisation, 3, 2)
    assert polynomial.is_chiral
    assert relative(polynomial(x, coefficients) - expected, expected) < EXACT
    pseudo = dense(square, x, 2, odd=True) - dense(square, x, 2, odd=False)
    assert float(pseudo[0].abs().max()) < 1e-14 * float(expected.norm()), "no pseudo-scalar at the third power"
    assert relative(pseudo, expected) > 0.01


@pytest.mark.parametrize("name", ["tdn", "gaunt_fourier"])
def test_no_potential_is_built_of_an_approximate_or_unknown_product(name: str) -> None:
    with pytest.raises(InvalidParameterError, match="gaunt, cg, cp, vector"):
        PolynomialProduct(name, 2, 2)


def test_a_degree_without_a_decomposition_is_refused_with_a_way_out() -> None:
    with pytest.raises(InvalidParameterError, match="'vector' or 'cg'"):
        TensorProduct("cp", 4, 4, 4)

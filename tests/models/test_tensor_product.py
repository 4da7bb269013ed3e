"""Every factorisation is the same operator, and it is equivariant."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from equipot.models.spherical import gaunt_coefficients, n_harmonics
from equipot.models.tensor_product import FACTORISATIONS, PolynomialProduct, TensorProduct
from tests.models.test_spherical import wigner

DEGREES = [(1, 1, 1), (2, 1, 3), (3, 3, 2), (2, 3, 4)]


def random_features(l_max: int, seed: int) -> torch.Tensor:
    return torch.tensor(np.random.default_rng(seed).normal(size=(n_harmonics(l_max), 5, 3)))


def turn(matrix: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return torch.einsum("ab,bnc->anc", matrix, x)


@pytest.mark.parametrize("factorisation", FACTORISATIONS)
@pytest.mark.parametrize("degrees", DEGREES)
def test_a_factorised_product_equals_the_dense_one(factorisation: str, degrees: tuple[int, int, int]) -> None:
    x, y = random_features(degrees[0], 1), random_features(degrees[1], 2)
    dense = torch.einsum("abc,ank,bnk->cnk", torch.tensor(gaunt_coefficients(*degrees)), x, y)
    assert (TensorProduct(factorisation, *degrees)(x, y) - dense).abs().max() < 1e-12


@pytest.mark.parametrize("factorisation", FACTORISATIONS)
@pytest.mark.parametrize("inversion", [1.0, -1.0])
def test_a_product_turns_with_its_factors(factorisation: str, inversion: float) -> None:
    product = TensorProduct(factorisation, 2, 3, 3)
    d = torch.tensor(wigner(3, inversion * Rotation.random(rng=np.random.default_rng(0)).as_matrix()))
    x, y = random_features(2, 1), random_features(3, 2)
    turned = product(turn(d[:9, :9], x), turn(d, y))
    assert (turned - turn(d, product(x, y))).abs().max() < 1e-11


def test_the_polynomial_on_the_grid_equals_repeated_exact_products() -> None:
    x = random_features(3, 1)
    coefficients = torch.tensor(np.random.default_rng(3).normal(size=(5, 3, 3)))
    on_grid = PolynomialProduct("gaunt", 3, 2)(x, coefficients)
    exact = PolynomialProduct("cg", 3, 2)(x, coefficients)
    assert (on_grid - exact).abs().max() < 1e-11 * exact.abs().max()

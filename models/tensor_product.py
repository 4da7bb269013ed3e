"""The tensor product as one factorised operator, z = Wᵀ[(U x) ∘ (V y)], its factors chosen by name.

    gaunt  rows are quadrature points of the sphere: to the grid, multiply, back (Luo, Chen, Krishnapriyan,
           arXiv 2401.10216, in the grid form of arXiv 2506.13523). Exact, because the rule is exact.
    cg     rows are the pairs of components that couple; W holds their coefficients. The exact sparse product,
           the reference the others are tested against.

Both give the same operator here: the even paths with Gaunt's path weights, the ones a true tensor can take.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from equipot.models.spherical import gaunt_coefficients, quadrature, real_harmonics


@dataclass(frozen=True)
class Factors:
    """U (n_rows, (l1_max+1)²), V (n_rows, (l2_max+1)²) and W (n_rows, (l3_max+1)²), float64."""

    u: np.ndarray
    v: np.ndarray
    w: np.ndarray


def gaunt_factors(l1_max: int, l2_max: int, l3_max: int) -> Factors:
    """Harmonics at the points of a rule exact to l1_max + l2_max + l3_max."""
    points, weights = quadrature(l1_max + l2_max + l3_max)
    return Factors(
        real_harmonics(l1_max, points),
        real_harmonics(l2_max, points),
        weights[:, None] * real_harmonics(l3_max, points),
    )


def cg_factors(l1_max: int, l2_max: int, l3_max: int) -> Factors:
    """One row for each pair of components with a non-zero coefficient."""
    g = gaunt_coefficients(l1_max, l2_max, l3_max)
    first, second = np.nonzero(np.any(np.abs(g) > 1e-14, axis=2))
    return Factors(np.eye(g.shape[0])[first], np.eye(g.shape[1])[second], g[first, second])


FACTORISATIONS: dict[str, Callable[[int, int, int], Factors]] = {"gaunt": gaunt_factors, "cg": cg_factors}


def _apply(matrix: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """A matrix on the components, (d_out, d_in) and (d_in, n, c) -> (d_out, n, c), as one product."""
    return (matrix @ x.reshape(len(x), -1)).view(len(matrix), *x.shape[1:])


class TensorProduct(torch.nn.Module):
    """z = Wᵀ[(U x) ∘ (V y)] for every atom and channel: x (d1, n, c), y (d2, n, c) -> z (d3, n, c)."""

    def __init__(self, factorisation: str, l1_max: int, l2_max: int, l3_max: int) -> None:
        super().__init__()
        factors = FACTORISATIONS[factorisation](l1_max, l2_max, l3_max)
        for name in ("u", "v", "w"):
            self.register_buffer(name, torch.tensor(getattr(factors, name)), persistent=False)
        self.u: torch.Tensor
        self.v: torch.Tensor
        self.w: torch.Tensor

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """The product of x and y, channel by channel."""
        return _apply(self.w.T, _apply(self.u, x) * _apply(self.v, y))


class PolynomialProduct(torch.nn.Module):
    """Σ_ν c_ν x^ν, the powers of a function on the sphere up to ν = 3, by repeated tensor products.

    x ((l_max+1)², n, c) holds the function of each atom and channel, the coefficients (n, 3, c) weigh its powers; the
    result ((l_out+1)², n, c) is exact. With `gaunt` all products share one grid and the
    polynomial is taken point by point.
    """

    def __init__(self, factorisation: str, l_max: int, l_out: int) -> None:
        super().__init__()
        self.factorisation = factorisation
        self.n_out = (l_out + 1) ** 2
        if factorisation == "gaunt":
            points, weights = quadrature(3 * l_max + l_out)
            self.register_buffer("to_grid", torch.tensor(real_harmonics(l_max, points)), persistent=False)
            from_grid = (weights[:, None] * real_harmonics(l_out, points)).T.copy()
            self.register_buffer("from_grid", torch.tensor(from_grid), persistent=False)
            self.to_grid: torch.Tensor
            self.from_grid: torch.Tensor
        else:
            self.square = TensorProduct(factorisation, l_max, l_max, 2 * l_max)
            self.cube = TensorProduct(factorisation, 2 * l_max, l_max, l_out)

    def forward(self, x: torch.Tensor, coefficients: torch.Tensor) -> torch.Tensor:
        """Project c_1 f + c_2 f² + c_3 f³ onto the harmonics up to l_out."""
        c1, c2, c3 = (coefficients[:, power] for power in range(3))
        if self.factorisation == "gaunt":
            f = _apply(self.to_grid, x)
            return _apply(self.from_grid, f * (c1 + f * (c2 + f * c3)))
        square: torch.Tensor = self.square(x, x)
        cube: torch.Tensor = self.cube(square, x)
        n = self.n_out
        return c1 * x[:n] + c2 * square[:n] + c3 * cube

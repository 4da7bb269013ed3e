"""The tensor product as one factorised operator, z = Wᵀ[(U x) ∘ (V y)], its factors chosen by name.

All of them factorise the same tensor (`spherical.coupling`), so they can be exchanged under the same weights:

    cg      rows are the pairs of components that couple, W holds their Clebsch-Gordan coefficients: the reference
    cp      the fewest rows that are exact, a canonical polyadic decomposition found numerically (`decomposition`;
            tensor decomposition networks, arXiv 2507.01131)
    vector  rows are points of the sphere, three for each: the functions multiply, their tangent fields are crossed
            (vector signals, arXiv 2506.13523)
    gaunt   rows are points of the sphere: the functions multiply (arXiv 2401.10216, in the grid form of 2506.13523).
            The even paths of the others, those with l1 + l2 + l3 even; the odd ones, antisymmetric as the cross
            product is, are not there.
    tdn     cp with the 7 l_max² rows of arXiv 2507.01131: a few per cent wrong, and that much not equivariant.
            For comparison only; no potential can be built of it.

Every path has a fixed weight, and what is learned is one number for each channel (path-weight sharing).

Parity. An even path takes two true tensors to a true one; an odd path takes them to a pseudo-tensor, of which
inversion changes the sign once more. With B = E + O, the even and the odd paths, a feature x = t + p of both kinds
is multiplied by B and its mirror image t - p by E - O, that is by B with its arguments exchanged. Half the sum of
both is the true part, half the difference the pseudo part.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load_file

from equipot.errors import InvalidParameterError
from equipot.models.spherical import coupling, n_harmonics, quadrature, real_harmonics, tangent_harmonics

CP_FILE = Path(__file__).parent / "cp_factors.safetensors"
CP_FILE_SHA256 = "96054b21e3989a3747d87bdf39d63c468b84885ca61c7db503b87d11bfecd177"


@dataclass(frozen=True)
class Factors:
    """U (n_terms, n_rows, (l1_max+1)²), V (n_terms, n_rows, (l2_max+1)²), W (n_rows, (l3_max+1)²), float64.

    z = Wᵀ Σ_t (U_t x) ∘ (V_t y): terms with the same W, such as the components of a vector at one point, are added
    before W is applied.
    """

    u: np.ndarray
    v: np.ndarray
    w: np.ndarray

    @property
    def rank(self) -> int:
        """Number of scalar products for each channel."""
        return len(self.u) * len(self.w)


def gaunt_factors(l1_max: int, l2_max: int, l3_max: int) -> Factors:
    """Harmonics at the points of a rule exact to l1_max + l2_max + l3_max."""
    points, weights = quadrature(l1_max + l2_max + l3_max)
    return Factors(
        real_harmonics(l1_max, points)[None],
        real_harmonics(l2_max, points)[None],
        weights[:, None] * real_harmonics(l3_max, points),
    )


def vector_factors(l1_max: int, l2_max: int, l3_max: int) -> Factors:
    """f g + r̂·(F × G) at the points of the same rule; F and G are the tangent fields of f and g.

    In a frame with a × b = r̂ the second part is F_a G_b - F_b G_a.
    """
    points, weights = quadrature(l1_max + l2_max + l3_max)
    helper = np.eye(3)[np.abs(points).argmin(axis=1)]
    a = np.cross(helper, points)
    a /= np.linalg.norm(a, axis=1, keepdims=True)
    b = np.cross(points, a)
    f, g = real_harmonics(l1_max, points), real_harmonics(l2_max, points)
    f_a, f_b = (np.einsum("nx,nxd->nd", axis, tangent_harmonics(l1_max, points)) for axis in (a, b))
    g_a, g_b = (np.einsum("nx,nxd->nd", axis, tangent_harmonics(l2_max, points)) for axis in (a, b))
    w = weights[:, None] * real_harmonics(l3_max, points)
    return Factors(np.stack([f, f_a, -f_b]), np.stack([g, g_b, g_a]), w)


def sparse_factors(tensor: np.ndarray) -> Factors:
    """The factors of any tensor: one row for each pair of components with a coefficient that is not zero."""
    first, second = np.nonzero(np.any(np.abs(tensor) > 1e-14, axis=2))
    u, v = np.eye(tensor.shape[0])[first], np.eye(tensor.shape[1])[second]
    return Factors(u[None], v[None], tensor[first, second])


def cg_factors(l1_max: int, l2_max: int, l3_max: int) -> Factors:
    """The exact product of all paths, from Clebsch-Gordan coefficients."""
    return sparse_factors(coupling(l1_max, l2_max, l3_max, odd=True))


@cache
def _stored_factors() -> dict[str, np.ndarray]:
    arrays: dict[str, np.ndarray] = load_file(CP_FILE)
    return arrays


def _read_factors(name: str, *degrees: int) -> Factors:
    """What the file has for the largest degree, cut down to the components that are there."""
    arrays = _stored_factors()
    l_max = max(1, *degrees)
    if f"{name}_{l_max}_u" not in arrays:
        raise InvalidParameterError(
            f"There is no decomposition '{name}' for l_max = {l_max}.",
            pointer="/network/factorisation",
            hint="Use 'vector' or 'cg', which are the same product for every l_max.",
        )
    u, v, w = (
        arrays[f"{name}_{l_max}_{letter}"][:, : n_harmonics(degree)]
        for letter, degree in zip("uvw", degrees, strict=True)
    )
    return Factors(u[None], v[None], w)


def cp_factors(l1_max: int, l2_max: int, l3_max: int) -> Factors:
    """The exact decomposition of lowest known rank: 8, 32 and 98 for l_max = 1, 2 and 3."""
    return _read_factors("cp", l1_max, l2_max, l3_max)


def tdn_factors(l1_max: int, l2_max: int, l3_max: int) -> Factors:
    """The decomposition of rank 7 l_max², not exact."""
    return _read_factors("tdn", l1_max, l2_max, l3_max)


Make = Callable[[int, int, int], Factors]
#: the exact ones: a potential may be built of any of them
FACTORISATIONS: dict[str, Make] = {
    "gaunt": gaunt_factors,
    "cg": cg_factors,
    "cp": cp_factors,
    "vector": vector_factors,
}
_EVERY: dict[str, Make] = {**FACTORISATIONS, "tdn": tdn_factors}


def _apply(matrix: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """A matrix on the components, (d_out, d_in) and (d_in, n, c) -> (d_out, n, c), as one product."""
    return (matrix @ x.reshape(len(x), -1)).view(len(matrix), *x.shape[1:])


class TensorProduct(torch.nn.Module):
    """z = Wᵀ[(U x) ∘ (V y)] for every atom and channel: x (d1, n, c), y (d2, n, c) -> z (d3, n, c)."""

    def __init__(self, factorisation: str, l1_max: int, l2_max: int, l3_max: int) -> None:
        super().__init__()
        _check(factorisation, _EVERY)
        factors = _EVERY[factorisation](l1_max, l2_max, l3_max)
        self.n_terms, self.rank = len(factors.u), factors.rank
        for name, matrix in (("u", np.concatenate(factors.u)), ("v", np.concatenate(factors.v)), ("w", factors.w)):
            self.register_buffer(name, torch.tensor(matrix), persistent=False)
        self.u: torch.Tensor
        self.v: torch.Tensor
        self.w: torch.Tensor

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """The product of x and y, channel by channel."""
        rows = _apply(self.u, x) * _apply(self.v, y)
        if self.n_terms > 1:
            rows = rows.view(self.n_terms, -1, *rows.shape[1:]).sum(0)
        return _apply(self.w.T, rows)


class _Powers(torch.autograd.Function):
    """c1 f + c2 f² + c3 f³ point by point; only f is kept for the gradient, a third of what is written else."""

    @staticmethod
    def forward(ctx: Any, f: torch.Tensor, c1: torch.Tensor, c2: torch.Tensor, c3: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(f, c1, c2, c3)
        return f * (c1 + f * (c2 + f * c3))

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        f, c1, c2, c3 = ctx.saved_tensors
        by_f = grads[0] * (c1 + f * (2.0 * c2 + f * (3.0 * c3))) if ctx.needs_input_grad[0] else None
        if not any(ctx.needs_input_grad[1:]):
            return by_f, None, None, None
        first = grads[0] * f
        second = first * f
        return by_f, first.sum(0), second.sum(0), (second * f).sum(0)


class PolynomialProduct(torch.nn.Module):
    """Σ_ν c_ν x^ν, the powers of a function on the sphere up to ν = 3, by repeated tensor products.

    x ((l_max+1)², n, c) holds the function of each atom and channel, the coefficients (n, 3, c) weigh its powers; the
    result is ((l_out+1)², n, c). With `gaunt` all products share one grid, the polynomial is taken point by point, and
    the powers are those of a function. With the others x³ = x² · x, where x² is kept up to l_max; a product of x with
    itself has no odd path, so x² is a true tensor and x³ has a pseudo part (`is_chiral`).
    """

    def __init__(self, factorisation: str, l_max: int, l_out: int) -> None:
        super().__init__()
        _check(factorisation, FACTORISATIONS)
        self.is_chiral = factorisation != "gaunt"
        self.n_out = (l_out + 1) ** 2
        if factorisation == "gaunt":
            points, weights = quadrature(3 * l_max + l_out)
            self.register_buffer("to_grid", torch.tensor(real_harmonics(l_max, points)), persistent=False)
            from_grid = (weights[:, None] * real_harmonics(l_out, points)).T.copy()
            self.register_buffer("from_grid", torch.tensor(from_grid), persistent=False)
            self.to_grid: torch.Tensor
            self.from_grid: torch.Tensor
        else:
            without_odd = "gaunt" if factorisation == "vector" else factorisation  # a third of the rows
            self.square = TensorProduct(without_odd, l_max, l_max, l_max)
            self.cube = TensorProduct(factorisation, l_max, l_max, l_out)

    def forward(self, x: torch.Tensor, coefficients: torch.Tensor) -> torch.Tensor:
        """Σ_ν c_ν x^ν up to l_out."""
        c1, c2, c3 = (coefficients[:, power] for power in range(3))
        if not self.is_chiral:
            powers: torch.Tensor = _Powers.apply(_apply(self.to_grid, x), c1, c2, c3)
            return _apply(self.from_grid, powers)
        square: torch.Tensor = self.square(x, x)
        cube: torch.Tensor = self.cube(square, x)
        n = self.n_out
        return c1 * x[:n] + c2 * square[:n] + c3 * cube


def _check(factorisation: str, known: dict[str, Make]) -> None:
    if factorisation not in known:
        raise InvalidParameterError(
            f"'{factorisation}' is not a factorisation of the tensor product that can be used here.",
            pointer="/network/factorisation",
            hint=f"One of {', '.join(known)}.",
        )

"""Real spherical harmonics, quadrature on the sphere and coupling coefficients. Conventions in one place.

Real harmonics, orthonormal on the unit sphere (∫ Y_lm Y_l'm' dΩ = δ), stacked l = 0, 1, ..., L and m = -l, ..., l:
component l² + l + m. Y_lm = √2 (-1)^m Re Y_l^m for m > 0 and √2 (-1)^m Im Y_l^|m| for m < 0, with the complex
Y_l^m of scipy (Condon-Shortley phase included), so that Y_1,(-1,0,1) ∝ (y, z, x).
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from itertools import product
from math import factorial, pi, prod, sqrt

import numpy as np
import torch
from scipy.integrate import lebedev_rule
from scipy.special import sph_harm_y

#: degrees of exactness for which scipy has a Lebedev rule
_LEBEDEV_DEGREES = (3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31, 35, 41, 47, 53)


def n_harmonics(l_max: int) -> int:
    """Number of components up to degree l_max, (l_max + 1)²."""
    return (l_max + 1) ** 2


def real_harmonics(l_max: int, directions: np.ndarray) -> np.ndarray:
    """Y_lm at unit vectors, (n, 3) -> (n, (l_max + 1)²), float64: the definition everything else must match."""
    x, y, z = directions.T
    theta, phi = np.arccos(np.clip(z, -1.0, 1.0)), np.arctan2(y, x)
    columns = []
    for degree in range(l_max + 1):
        for m in range(-degree, degree + 1):
            value = sph_harm_y(degree, abs(m), theta, phi)
            sign = sqrt(2.0) * (-1.0) ** m
            columns.append(value.real if m == 0 else sign * (value.real if m > 0 else value.imag))
    return np.stack(columns, axis=1)


@cache
def quadrature(degree: int) -> tuple[np.ndarray, np.ndarray]:
    """Points (n, 3) and weights (n,) that integrate every polynomial up to `degree` over the sphere exactly.

    Lebedev rules (Lebedev and Laikov, Doklady Mathematics 59, 477, 1999); the weights sum to 4π.
    """
    exact = next(d for d in _LEBEDEV_DEGREES if d >= degree)
    points, weights = lebedev_rule(exact)
    return points.T.copy(), weights


@cache
def rotation_generators(degree: int) -> np.ndarray:
    """Matrices N (3, 2l + 1, 2l + 1) with (r × ∇)_a Y_lm = Σ_m' N_a[m, m'] Y_lm', in the real basis; antisymmetric.

    r × ∇ = iL, and the components of L act on the complex harmonics of degree l as its ladder operators say
    (Edmonds, Angular Momentum in Quantum Mechanics, eq. 2.3.1): no derivative and no singular pole.
    """
    m = np.arange(-degree, degree)
    up = np.diag(np.sqrt(degree * (degree + 1.0) - m * (m + 1.0)), -1).astype(complex)
    down = up.T
    angular_momentum = np.stack([(up + down) / 2, (up - down) / 2j, np.diag(np.arange(-degree, degree + 1.0))])
    u = _real_from_complex(degree)
    return np.ascontiguousarray((1j * (u @ angular_momentum.transpose(0, 2, 1) @ u.conj().T)).real)


def tangent_harmonics(l_max: int, directions: np.ndarray) -> np.ndarray:
    """Φ_lm = r̂ × ∇Y_lm / √(l (l + 1)) at unit vectors, (n, 3) -> (n, 3, (l_max + 1)²), float64; Φ_00 = 0.

    The vector spherical harmonics that are tangent to the sphere, orthonormal: ∫ Φ_lm · Φ_l'm' dΩ = δ.
    """
    values = real_harmonics(l_max, directions)
    out = np.zeros((len(directions), 3, values.shape[1]))
    for degree in range(1, l_max + 1):
        block = slice(degree**2, (degree + 1) ** 2)
        turned = np.einsum("axy,ny->nax", rotation_generators(degree), values[:, block])
        out[:, :, block] = turned / sqrt(degree * (degree + 1.0))
    return out


def _monomials(l_max: int, directions: np.ndarray) -> np.ndarray:
    """All ordered products of up to l_max components, (n, 3) -> (n, 1 + 3 + 9 + ...)."""
    parts = [np.ones((len(directions), 1))]
    for _ in range(l_max):
        parts.append((parts[-1][:, :, None] * directions[:, None]).reshape(len(directions), -1))
    return np.concatenate(parts, axis=1)


@cache
def _monomial_coefficients(l_max: int) -> np.ndarray:
    """Y_lm as a homogeneous polynomial of degree l: ((l_max + 1)², 1 + 3 + 9 + ...), of least norm."""
    directions = quadrature(2 * l_max)[0]
    values, monomials = real_harmonics(l_max, directions), _monomials(l_max, directions)
    out = np.zeros((values.shape[1], monomials.shape[1]))
    start = 0
    for degree in range(l_max + 1):
        columns, rows = slice(start, start + 3**degree), slice(degree**2, (degree + 1) ** 2)
        out[rows, columns] = np.linalg.lstsq(monomials[:, columns], values[:, rows], rcond=1e-10)[0].T
        start += 3**degree
    return out


class Harmonics(torch.nn.Module):
    """Real spherical harmonics of unit vectors by their recurrences, one step of arithmetic after the other.

    Y_lm = N_lm Q_l|m|(z) Re or Im (x + iy)^|m|, where Q_lm = P_lm/(1 - z²)^(m/2) without the Condon-Shortley phase
    obeys Q_mm = (2m - 1)!! and (l - m) Q_lm = (2l - 1) z Q_(l-1)m - (l + m - 1) Q_(l-2)m (Abramowitz and Stegun 8.5.3).
    """

    def __init__(self, l_max: int) -> None:
        super().__init__()
        self.l_max = l_max
        self.register_buffer("of_monomials", torch.tensor(_monomial_coefficients(l_max)), persistent=False)
        self.of_monomials: torch.Tensor

    def forward(self, unit: torch.Tensor) -> torch.Tensor:
        """(n, 3, ...) -> (n, (l_max + 1)², ...)."""
        return self.by_monomials(unit) if unit.is_cuda else self.by_recurrence(unit)

    def by_monomials(self, unit: torch.Tensor) -> torch.Tensor:
        """The same as one product with all monomials, for devices where launches cost more than arithmetic."""
        n, _, *rest = unit.shape
        parts = [torch.ones_like(unit[:, :1])]
        for _ in range(self.l_max):
            parts.append((parts[-1].unsqueeze(2) * unit.unsqueeze(1)).flatten(1, 2))
        return (self.of_monomials @ torch.cat(parts, dim=1).flatten(2)).view(n, -1, *rest)

    def by_recurrence(self, unit: torch.Tensor) -> torch.Tensor:
        """The same, one step of arithmetic after the other."""
        x, y, z = unit.unbind(1)
        out = [torch.empty(0)] * n_harmonics(self.l_max)
        cosine, sine = torch.ones_like(x), torch.zeros_like(x)  # Re and Im of (x + iy)^m
        diagonal = 1.0
        for m in range(self.l_max + 1):
            if m > 0:
                cosine, sine = (x, y) if m == 1 else (x * cosine - y * sine, x * sine + y * cosine)
                diagonal *= 2 * m - 1
            before, q = torch.zeros_like(z), torch.full_like(z, diagonal)
            for degree in range(m, self.l_max + 1):
                if degree > m:
                    step = z * q * (2 * degree - 1)
                    before, q = q, (step if degree == m + 1 else step - before * (degree + m - 1)) / (degree - m)
                norm = sqrt((2 * degree + 1) / (4 * pi) * factorial(degree - m) / factorial(degree + m))
                if m == 0:
                    out[degree * degree + degree] = q * norm
                else:
                    scaled = q * (sqrt(2.0) * norm)
                    out[degree * degree + degree + m] = scaled * cosine
                    out[degree * degree + degree - m] = scaled * sine
        return torch.stack(out, dim=1)


def _complex_clebsch_gordan(l1: int, m1: int, l2: int, m2: int, l3: int, m3: int) -> float:
    """<l1 m1 l2 m2 | l3 m3> by Racah's formula (Edmonds, Angular Momentum in Quantum Mechanics, eq. 3.6.11)."""
    if m1 + m2 != m3 or not abs(l1 - l2) <= l3 <= l1 + l2:
        return 0.0
    f = factorial
    head = (2 * l3 + 1) * f(l3 + l1 - l2) * f(l3 - l1 + l2) * f(l1 + l2 - l3) / f(l1 + l2 + l3 + 1)
    head *= f(l3 + m3) * f(l3 - m3) * f(l1 - m1) * f(l1 + m1) * f(l2 - m2) * f(l2 + m2)
    total = 0.0
    for k in range(l1 + l2 - l3 + 1):
        arguments = (k, l1 + l2 - l3 - k, l1 - m1 - k, l2 + m2 - k, l3 - l2 + m1 + k, l3 - l1 - m2 + k)
        if min(arguments) >= 0:
            total += (-1.0) ** k / prod(f(argument) for argument in arguments)
    return sqrt(head) * total


@cache
def _real_from_complex(degree: int) -> np.ndarray:
    """Unitary matrix U with Y_real = U Y_complex, both ordered m = -l ... l."""
    u = np.zeros((2 * degree + 1, 2 * degree + 1), dtype=complex)
    u[degree, degree] = 1.0
    for m in range(1, degree + 1):
        sign = (-1.0) ** m
        u[degree + m, degree + m], u[degree + m, degree - m] = sign / sqrt(2.0), 1.0 / sqrt(2.0)
        u[degree - m, degree + m], u[degree - m, degree - m] = -1j * sign / sqrt(2.0), 1j / sqrt(2.0)
    return u


@cache
def clebsch_gordan(l1: int, l2: int, l3: int) -> np.ndarray:
    """Real coupling coefficients (2 l1 + 1, 2 l2 + 1, 2 l3 + 1) in the real basis.

    Even l1 + l2 + l3 couple true tensors; odd ones give the antisymmetric paths (the cross product for 1, 1, 1),
    whose phase is chosen so that they are real.
    """
    c = np.zeros((2 * l1 + 1, 2 * l2 + 1, 2 * l3 + 1), dtype=complex)
    for m1 in range(-l1, l1 + 1):
        for m2 in range(-l2, l2 + 1):
            if abs(m1 + m2) <= l3:
                c[l1 + m1, l2 + m2, l3 + m1 + m2] = _complex_clebsch_gordan(l1, m1, l2, m2, l3, m1 + m2)
    u1, u2, u3 = (_real_from_complex(degree) for degree in (l1, l2, l3))
    real = np.einsum("ai,bj,ck,ijk->abc", u1.conj(), u2.conj(), u3, c)
    return np.ascontiguousarray(real.real if (l1 + l2 + l3) % 2 == 0 else real.imag)


def path_weight(l1: int, l2: int, l3: int) -> float:
    """What multiplies the Clebsch-Gordan block of a path in `coupling`: never zero for |l1 - l2| <= l3 <= l1 + l2.

    √((2 l1 + 1)(2 l2 + 1) / (4π (2 l3 + 1))) times <l1 0 l2 0 | l3 0> where l1 + l2 + l3 is even (Gaunt's integral of
    three harmonics), and times <l1 1 l2 -1 | l3 0> where it is odd (harmonics of spin weight 0, 1 and -1: Goldberg
    et al., J. Math. Phys. 8, 2155, 1967, eq. 2.11 ff.).
    """
    spin = (l1 + l2 + l3) % 2
    scale = sqrt((2 * l1 + 1) * (2 * l2 + 1) / (4 * pi * (2 * l3 + 1)))
    return scale * _complex_clebsch_gordan(l1, spin, l2, -spin, l3, 0)


def paths(l1_max: int, l2_max: int, l3_max: int, *, odd: bool) -> Iterator[tuple[int, int, int]]:
    """The (l1, l2, l3) that couple; with `odd`, also those whose sum is odd (antisymmetric, as the cross product)."""
    for l1, l2 in product(range(l1_max + 1), range(l2_max + 1)):
        for l3 in range(abs(l1 - l2), min(l1 + l2, l3_max) + 1):
            if odd or (l1 + l2 + l3) % 2 == 0:
                yield l1, l2, l3


def coupling(l1_max: int, l2_max: int, l3_max: int, *, odd: bool) -> np.ndarray:
    """The tensor that couples two functions on the sphere to a third, from Clebsch-Gordan coefficients.

    Shape ((l1_max + 1)², (l2_max + 1)², (l3_max + 1)²). Its even paths are ∫ Y_1 Y_2 Y_3 dΩ, the product of the
    functions; its odd ones ∫ r̂·(Φ_1 × Φ_2) Y_3 dΩ, the cross product of their tangent fields (`tangent_harmonics`).
    """
    tensor = np.zeros((n_harmonics(l1_max), n_harmonics(l2_max), n_harmonics(l3_max)))
    for l1, l2, l3 in paths(l1_max, l2_max, l3_max, odd=odd):
        block = path_weight(l1, l2, l3) * clebsch_gordan(l1, l2, l3)
        tensor[l1 * l1 : (l1 + 1) ** 2, l2 * l2 : (l2 + 1) ** 2, l3 * l3 : (l3 + 1) ** 2] = block
    return tensor

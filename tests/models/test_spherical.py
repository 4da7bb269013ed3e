"""Harmonics, quadrature and coupling coefficients against their definitions."""

from __future__ import annotations

from math import pi

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from equipot.models.spherical import (
    Harmonics,
    clebsch_gordan,
    gaunt_coefficients,
    quadrature,
    real_harmonics,
)

ROUNDING = 1e-13


def directions(n: int = 40, seed: int = 0) -> np.ndarray:
    points = np.random.default_rng(seed).normal(size=(n, 3))
    unit: np.ndarray = points / np.linalg.norm(points, axis=1, keepdims=True)
    return unit


def wigner(l_max: int, rotation: np.ndarray) -> np.ndarray:
    """The matrix D with Y(R r) = D Y(r), from the definition, by least squares over many directions."""
    points = directions(400, seed=5)
    before, after = real_harmonics(l_max, points), real_harmonics(l_max, points @ rotation.T)
    matrix: np.ndarray = np.linalg.lstsq(before, after, rcond=None)[0].T
    return matrix


@pytest.mark.parametrize("l_max", [0, 1, 2, 3, 4])
def test_harmonics_by_tensor_powers_equal_the_definition(l_max: int) -> None:
    unit = directions()
    values = torch.cat(Harmonics(l_max).double()(torch.tensor(unit)), dim=-1).numpy()
    assert np.abs(values - real_harmonics(l_max, unit)).max() < ROUNDING


def test_the_first_harmonics_are_y_z_x() -> None:
    unit = directions()
    expected = np.sqrt(3 / (4 * pi)) * unit[:, [1, 2, 0]]
    assert np.abs(real_harmonics(1, unit)[:, 1:] - expected).max() < ROUNDING


@pytest.mark.parametrize("degree", [3, 7, 11, 14])
def test_the_quadrature_is_exact_up_to_its_degree(degree: int) -> None:
    points, weights = quadrature(degree)
    half = degree // 2
    y = real_harmonics(half, points)
    overlap = (y * weights[:, None]).T @ y
    assert np.abs(overlap - np.eye((half + 1) ** 2)).max() < 1e-12


def test_coupling_coefficients_are_equivariant_for_every_path() -> None:
    """C (D1 x)(D2 y) = ±D3 C x y under rotations and under inversion, even and odd paths alike."""
    rotation = Rotation.random(rng=np.random.default_rng(3)).as_matrix()
    d = wigner(3, rotation)
    for l1 in range(4):
        for l2 in range(4):
            for l3 in range(abs(l1 - l2), min(3, l1 + l2) + 1):
                c = clebsch_gordan(l1, l2, l3)
                d1, d2, d3 = (d[m * m : (m + 1) ** 2, m * m : (m + 1) ** 2] for m in (l1, l2, l3))
                assert np.abs(np.einsum("abc,ai,bj->ijc", c, d1, d2) - np.einsum("ijk,ck->ijc", c, d3)).max() < 1e-12
                norm = np.einsum("abc,abd->cd", c, c)
                assert np.abs(norm - np.eye(2 * l3 + 1)).max() < 1e-12, "coupled states are orthonormal"


def test_gaunt_coefficients_equal_the_integrals_they_stand_for() -> None:
    points, weights = quadrature(8)
    y2, y3 = real_harmonics(2, points), real_harmonics(3, points)
    integrals = np.einsum("r,ra,rb,rc->abc", weights, y2, y3, y3)
    assert np.abs(gaunt_coefficients(2, 3, 3) - integrals).max() < ROUNDING

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
    coupling,
    path_weight,
    paths,
    quadrature,
    real_harmonics,
    tangent_harmonics,
)

ROUNDING = 1e-13
STEP = 1e-5


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
def test_harmonics_by_recurrences_equal_the_definition(l_max: int) -> None:
    unit = directions()
    values = Harmonics(l_max)(torch.tensor(unit)).numpy()
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


def test_tangent_harmonics_are_the_turned_gradients_of_the_harmonics() -> None:
    """r̂ × ∇Y by central differences, and ∫ Φ · Φ = 1 for every component but the constant."""
    points, weights = quadrature(8)
    fields = tangent_harmonics(4, points)
    gradient = np.zeros_like(fields)
    for axis in range(3):
        ahead, behind = points.copy(), points.copy()
        ahead[:, axis] += STEP
        behind[:, axis] -= STEP
        ahead, behind = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (ahead, behind))
        gradient[:, axis] = (real_harmonics(4, ahead) - real_harmonics(4, behind)) / (2 * STEP)
    degree = np.repeat(np.arange(5), 2 * np.arange(5) + 1)
    turned = np.cross(points[:, :, None], gradient, axis=1) / np.sqrt(np.maximum(1, degree * (degree + 1)))
    assert np.abs(fields - turned).max() < 1e-7
    overlap = np.einsum("n,nax,nay->xy", weights, fields, fields)
    assert np.abs(overlap - np.diag((degree > 0).astype(float))).max() < ROUNDING


def test_even_couplings_are_integrals_of_three_harmonics_and_odd_ones_of_crossed_tangent_fields() -> None:
    points, weights = quadrature(8)
    y2, y3 = real_harmonics(2, points), real_harmonics(3, points)
    even = np.einsum("n,na,nb,nc->abc", weights, y2, y3, y3)
    crossed = np.cross(tangent_harmonics(2, points)[..., None], tangent_harmonics(3, points)[:, :, None], axis=1)
    odd = np.einsum("n,nx,nxab,nc->abc", weights, points, crossed, y3)
    assert np.abs(coupling(2, 3, 3, odd=False) - even).max() < ROUNDING
    assert np.abs(coupling(2, 3, 3, odd=True) - even - odd).max() < ROUNDING


def test_the_odd_coupling_of_two_vectors_is_their_cross_product() -> None:
    block = coupling(1, 1, 1, odd=True)[1:, 1:, 1:]  # in the order y, z, x, which is a rotation of x, y, z
    a, b = np.random.default_rng(0).normal(size=(2, 3))
    product = np.einsum("a,b,abc->c", a, b, block)
    cross = np.cross(a, b)
    assert np.abs(product - cross * (product @ cross) / (cross @ cross)).max() < ROUNDING
    assert product @ cross > 0.1 * (cross @ cross)


def test_no_path_is_without_weight() -> None:
    every = list(paths(6, 6, 6, odd=True))
    assert len(every) == 175
    assert min(abs(path_weight(*path)) for path in every) > 0.1
    assert sum((l1 + l2 + l3) % 2 for l1, l2, l3 in every) == len(every) - len(list(paths(6, 6, 6, odd=False)))


def test_exchanging_the_arguments_changes_the_sign_of_the_odd_paths_only() -> None:
    tensor, even = coupling(3, 3, 3, odd=True), coupling(3, 3, 3, odd=False)
    assert np.abs(tensor.transpose(1, 0, 2) - (2 * even - tensor)).max() < ROUNDING
    assert np.linalg.norm(tensor - even) > 0.5 * np.linalg.norm(even)

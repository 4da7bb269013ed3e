"""The noise is a function of seed, stream, step, atom and component, and it is normal."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from equipot.simulation.motions.bussi import squared_noise
from equipot.simulation.motions.noise import Stream, noise_words, normals

MASK = 2**64 - 1


def philox4x64_10(counter: list[int], key: list[int]) -> list[int]:
    """Philox4x64-10 as published (Salmon, Moraes, Dror, Shaw, SC11, 2011), in plain integers."""
    c, k = list(counter), list(key)
    for _ in range(10):
        left, right = c[0] * 0xD2E7470EE14C6C93, c[2] * 0xCA5A826395121157
        c = [(right >> 64) ^ c[1] ^ k[0], right & MASK, (left >> 64) ^ c[3] ^ k[1], left & MASK]
        k = [(k[0] + 0x9E3779B97F4A7C15) & MASK, (k[1] + 0xBB67AE8584CAA73B) & MASK]
    return c


@pytest.mark.parametrize(
    ("counter", "key", "answer"),
    [
        ([0] * 4, [0] * 2, "16554d9eca36314c db20fe9d672d0fdc d7e772cee186176b 7e68b68aec7ba23b"),
        ([MASK] * 4, [MASK] * 2, "87b092c3013fe90b 438c3c67be8d0224 9cc7d7c69cd777b6 a09caebf594f0ba0"),
        (
            [0x243F6A8885A308D3, 0x13198A2E03707344, 0xA4093822299F31D0, 0x082EFA98EC4E6C89],
            [0x452821E638D01377, 0xBE5466CF34E90C6C],
            "a528f45403e61d95 38c72dbd566e9788 a5a1610e72fd18b5 57bd43b5e52b7fe6",
        ),
    ],
)
def test_the_reference_gives_the_known_answers_of_random123(counter: list[int], key: list[int], answer: str) -> None:
    assert [f"{word:016x}" for word in philox4x64_10(counter, key)] == answer.split()


@given(
    seed=st.integers(0, 2**63 - 1),
    stream=st.sampled_from(Stream),
    step=st.integers(0, 2**63),
    n_atoms=st.integers(1, 5),
)
def test_the_integers_are_philox_with_one_counter_per_atom_and_step(
    seed: int, stream: Stream, step: int, n_atoms: int
) -> None:
    expected = [philox4x64_10([atom, step, 0, 0], [seed, int(stream)]) for atom in range(n_atoms)]
    assert noise_words(seed, stream, step, n_atoms).tolist() == expected


@given(seed=st.integers(0, 2**63 - 1), step=st.integers(0, 10**9), few=st.integers(1, 40))
def test_the_noise_of_an_atom_does_not_depend_on_how_many_others_there_are(seed: int, step: int, few: int) -> None:
    many = normals(seed, Stream.LANGEVIN, step, 64)
    assert np.array_equal(normals(seed, Stream.LANGEVIN, step, few), many[:few])


def test_the_normals_are_box_muller_of_the_integers_to_1e_14() -> None:
    for words, row in zip(noise_words(5, Stream.VELOCITIES, 3, 50), normals(5, Stream.VELOCITIES, 3, 50), strict=True):
        u = [(int(word) >> 11) / 2**53 for word in words]
        first, second = (math.sqrt(-2.0 * math.log1p(-x)) for x in (u[0], u[2]))
        angle, other = 2.0 * math.pi * u[1], 2.0 * math.pi * u[3]
        expected = [first * math.cos(angle), first * math.sin(angle), second * math.cos(other)]
        assert row == pytest.approx(expected, rel=0, abs=1e-14)


def test_the_noise_is_standard_normal_and_uncorrelated_between_streams_steps_and_components() -> None:
    one, later = normals(11, Stream.LANGEVIN, 4, 40_000), normals(11, Stream.LANGEVIN, 5, 40_000)
    other_stream, other_seed = normals(11, Stream.VELOCITIES, 4, 40_000), normals(12, Stream.LANGEVIN, 4, 40_000)
    assert stats.kstest(one.ravel(), "norm").pvalue > 1e-3
    for other in (later, other_stream, other_seed, np.roll(one, 1, axis=0), np.roll(one, 1, axis=1)):
        correlation = float((one * other).mean()) * math.sqrt(one.size)  # standard normal if independent
        assert abs(correlation) < 4.5


def test_seeds_of_63_bits_and_neighbouring_seeds_give_different_noise() -> None:
    drawn = {normals(seed, Stream.VELOCITIES, 0, 1)[0, 0] for seed in (0, 1, 2, 2**32, 2**62, 2**63 - 1)}
    assert len(drawn) == 6


@pytest.mark.parametrize("n_degrees", [1, 2, 7, 30])
def test_the_noise_of_a_rescaling_is_a_normal_and_chi_squared_of_one_degree_fewer(n_degrees: int) -> None:
    """Of other normals than the first, and of no other step: seed, step and number of degrees say it all."""
    drawn = np.array([squared_noise(3, step, n_degrees) for step in range(4000)])
    assert stats.kstest(drawn[:, 0], "norm").pvalue > 1e-3
    if n_degrees == 1:
        assert not drawn[:, 1].any()
    else:
        assert stats.kstest(drawn[:, 1], "chi2", args=(n_degrees - 1,)).pvalue > 1e-3
        assert abs(np.corrcoef(drawn[:, 0], drawn[:, 1])[0, 1]) < 4.5 / np.sqrt(4000)
    flat = normals(3, Stream.THERMOSTAT, 17, 10).ravel()[:n_degrees]
    assert squared_noise(3, 17, n_degrees) == pytest.approx((flat[0], (flat[1:] ** 2).sum()))
    assert squared_noise(3, 17, 0) == (0.0, 0.0)

"""Physical sanity of the shipped potentials: two systems far apart are two systems, crystals are as stiff as in nature
and at rest."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.sanity import CRYSTALS, additivity_error_ev, elastic_constants_gpa, lattice_constant, lowest_phonon_thz

#: elastic constants of PBE and of experiment differ by about this much themselves
ELASTIC_SHARE = 0.15


@pytest.mark.parametrize("model", ["organic", "elements"])
def test_two_systems_far_apart_have_the_sum_of_their_energies(model: str) -> None:
    assert additivity_error_ev(model) < 1e-9


@pytest.fixture(scope="module", params=["Si", "Ni", "Mo"])
def crystal(request: pytest.FixtureRequest) -> tuple[str, float]:
    symbol: str = request.param
    return symbol, lattice_constant(symbol, "elements")[1]


def test_a_relaxed_lattice_constant_is_that_of_pbe(crystal: tuple[str, Any]) -> None:
    symbol, a_ang = crystal
    assert a_ang == pytest.approx(CRYSTALS[symbol][1], rel=0.01)


def test_elastic_constants_are_those_of_experiment_and_the_crystal_is_stable(crystal: tuple[str, Any]) -> None:
    symbol, a_ang = crystal
    c11, c12, c44 = elastic_constants_gpa(symbol, a_ang, "elements")
    assert (c11, c12, c44) == pytest.approx(CRYSTALS[symbol][2], rel=ELASTIC_SHARE)
    assert c11 > abs(c12)  # Born
    assert c44 > 0


def test_no_phonon_is_imaginary(crystal: tuple[str, Any]) -> None:
    symbol, a_ang = crystal
    assert lowest_phonon_thz(symbol, a_ang, "elements", repeats=3) > 0.5

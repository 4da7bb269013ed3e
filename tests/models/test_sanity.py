"""Physical sanity of the shipped potentials: two systems far apart are two systems, crystals are as stiff as in nature
and at rest."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from benchmarks.sanity import (
    CRYSTALS,
    additivity_error_ev,
    elastic_constants_gpa,
    lattice_constant,
    lowest_phonon_thz,
    write_on_card,
)
from equipot.cards import SHIPPED_WEIGHTS, Sanity, find_model, read_card
from equipot.models.loading import load_potential

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


@pytest.mark.parametrize("model", ["organic", "elements"])
def test_the_card_says_how_the_potential_stood_the_test(model: str) -> None:
    sanity = find_model(model)[1].sanity
    assert sanity is not None
    assert not sanity.attractive_pairs
    assert sanity.additivity_error_ev < 1e-9
    assert sanity.nve_drift_ev_per_atom is not None
    assert sanity.nve_drift_ev_per_atom < 1e-3
    assert set(sanity.crystals) == (set(CRYSTALS) if model == "elements" else set())


def test_what_is_written_on_a_card_leaves_the_potential_as_it_is(tmp_path: Path) -> None:
    for suffix in (".json", ".safetensors"):
        shutil.copy(SHIPPED_WEIGHTS / f"organic-1{suffix}", tmp_path)
    path = tmp_path / "organic-1.json"
    found = Sanity(attractive_pairs=[("H", "O", 0.55)], n_pairs=10, additivity_error_ev=1e-12)
    write_on_card(str(path), found)
    assert read_card(path).sanity == found
    assert load_potential(path).card.weights_sha256 == find_model("organic-1")[1].weights_sha256

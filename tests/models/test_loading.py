"""Potentials on disk: what is written is what is read, and nothing foreign gets in."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from equipot.cards import find_model
from equipot.errors import InvalidParameterError, InvalidWeightsError, UnknownModelError
from equipot.models.loading import load_potential, save_potential
from equipot.models.potential import Potential
from tests.models.conftest import ethanol, graph_of


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """Card and weights of the tiny potential in a folder of their own."""
    card_path, _ = find_model("tiny")
    for path in (card_path, card_path.with_suffix(".safetensors")):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path / card_path.name


def test_a_saved_potential_predicts_what_it_predicted(tiny: Potential, tmp_path: Path) -> None:
    card = save_potential(tmp_path, tiny.card, tiny.network, tiny.domain)
    again = load_potential(tmp_path / f"{card.name}.json", device="cpu")
    graph = graph_of(ethanol(), tiny.cutoff_ang)
    assert again.evaluate(graph).energy_ev == tiny.evaluate(graph).energy_ev
    assert again.evaluate(graph).domain_distance == tiny.evaluate(graph).domain_distance


def test_an_alias_stands_for_the_full_name() -> None:
    assert load_potential("tiny", device="cpu").name == load_potential("tiny-1", device="cpu").name == "tiny-1"


def test_float32_agrees_with_float64_to_its_precision(tiny: Potential) -> None:
    graph = graph_of(ethanol(), tiny.cutoff_ang)
    exact, single = tiny.evaluate(graph), load_potential("tiny", device="cpu", dtype="float32").evaluate(graph)
    largest = max(1.0, float(np.abs(exact.forces_ev_per_ang).max()))
    assert np.abs(exact.forces_ev_per_ang - single.forces_ev_per_ang).max() < 1e-4 * largest
    assert single.energy_ev == pytest.approx(exact.energy_ev, abs=1e-4)


def test_an_unknown_model_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(UnknownModelError, match="Did you mean 'tiny'"):
        load_potential("tinny")


def test_an_unknown_dtype_or_device_is_refused() -> None:
    with pytest.raises(InvalidParameterError, match="float64 or float32"):
        load_potential("tiny", dtype="float16")
    with pytest.raises(InvalidParameterError, match="mps"):
        load_potential("tiny", device="mps")


def test_damaged_weights_are_refused_before_they_are_read(copy: Path) -> None:
    weights = copy.with_suffix(".safetensors")
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(InvalidWeightsError, match="damaged or foreign"):
        load_potential(copy)


def test_missing_weights_are_named(copy: Path) -> None:
    copy.with_suffix(".safetensors").unlink()
    with pytest.raises(InvalidWeightsError, match=r"tiny-1\.safetensors cannot be read"):
        load_potential(copy)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format_version": 99}, "Upgrade equipot"),
        ({"elements": 3}, "elements"),
        ({"architecture": {"elements": [1, 6], "n_channels": 10**6}}, "beyond"),
        ({"architecture": {"elements": [1, 6], "n_channels": 4}}, "do not fit"),
        ({"architecture": {"elements": [1, 6], "depth": 4}}, "do not fit"),
        ({"surprise": 1}, "surprise"),
    ],
)
def test_a_card_that_lies_is_refused(copy: Path, change: dict[str, object], message: str) -> None:
    copy.write_text(json.dumps({**json.loads(copy.read_text()), **change}))
    with pytest.raises(InvalidWeightsError, match=message):
        load_potential(copy)


def test_a_card_of_gigabytes_is_not_read(copy: Path) -> None:
    copy.write_bytes(b" " * 2_000_000)
    with pytest.raises(InvalidWeightsError, match="larger than a card"):
        load_potential(copy)

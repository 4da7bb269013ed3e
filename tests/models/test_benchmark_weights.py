"""The potentials behind the table of accuracy load like any other and are as wrong as their cards say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.io import read

from equipot import EquipotCalculator
from equipot.cards import read_card

CARDS = sorted((Path(__file__).parents[2] / "benchmarks" / "weights").glob("*.json"))
FRAMES = Path(__file__).parents[1] / "data" / "frames"


@pytest.mark.parametrize("path", CARDS, ids=lambda path: path.stem)
def test_weights_of_a_benchmark_fit_their_card_and_are_small(path: Path) -> None:
    calculator = EquipotCalculator(str(path))
    assert calculator.potential.card.name == path.stem
    assert path.with_suffix(".safetensors").stat().st_size < 2_000_000
    assert read_card(path).test_errors


@pytest.mark.parametrize("path", [path for path in CARDS if path.stem.startswith("acac")], ids=lambda path: path.stem)
@pytest.mark.parametrize(("index", "test_set"), [(0, "300 K"), (1, "600 K")])
def test_a_frame_of_a_test_set_is_predicted_as_well_as_the_card_says(path: Path, index: int, test_set: str) -> None:
    reference = read(FRAMES / "acac.extxyz", index=index)
    assert isinstance(reference, Atoms)
    (stated,) = (error for error in read_card(path).test_errors if error.test_set == test_set)
    atoms = reference.copy()
    atoms.calc = EquipotCalculator(str(path))
    error_mev = 1000 * (atoms.get_potential_energy() - reference.get_potential_energy()) / len(atoms)
    errors_mev_per_ang = 1000 * (atoms.get_forces() - reference.get_forces())
    assert abs(error_mev) < 4 * stated.energy_rmse_mev_per_atom
    # a frame far from those trained on may be three times as wrong as the rest; as good as that it must be
    assert np.sqrt((errors_mev_per_ang**2).mean()) < 3 * stated.force_rmse_mev_per_ang

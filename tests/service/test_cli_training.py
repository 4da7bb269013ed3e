"""`equipot train` and `equipot evaluate`, as a user meets them."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from ase.build import molecule
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write

from equipot.cards import read_card
from equipot.models.loading import load_potential
from equipot.models.neighbours import NeighbourSearch
from tests.service.conftest import Said

EQUIPOT = str(Path(sys.executable).with_name("equipot"))
START_S = 120.0
N_FRAMES = 12
CONFIG = """
name: water-{seed}
level_of_theory: made up
isolated_atom_energies_ev: {H: 0.0, O: 0.0}
data: {train: [water.extxyz], valid: {n_frames: 2}, tests: {again: water.extxyz}}
network: {cutoff_ang: 3.0, n_channels: 4, n_pair_channels: 2, n_message_channels: 2, l_max: 1, l_hidden: 1, n_basis: 4}
optimiser: {n_steps: 6, atoms_per_batch: 12, warmup_steps: 2, validate_every: 3}
"""


@pytest.fixture
def water(tmp_path: Path) -> Path:
    """Rattled water with the energies and forces of the tiny potential, less its free atoms."""
    tiny = load_potential("tiny", device="cpu")
    free = tiny.card.isolated_atom_energies_ev
    frames = []
    for seed in range(N_FRAMES):
        atoms = molecule("H2O")
        atoms.rattle(0.03, seed=seed)
        graph = NeighbourSearch(tiny.cutoff_ang).graph(atoms.numbers, atoms.positions, None, (False, False, False))
        prediction = tiny.evaluate(graph)
        energy = prediction.energy_ev - free["O"] - 2 * free["H"]
        atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=prediction.forces_ev_per_ang)
        atoms.info["config_type"] = "cold" if seed % 2 else "warm"
        frames.append(atoms)
    write(tmp_path / "water.extxyz", frames)
    (tmp_path / "water.yaml").write_text(CONFIG)
    return tmp_path


def test_help_says_how_to_begin_and_how_to_go_on(in_process: Callable[..., Said]) -> None:
    text = in_process("train", "--help").stdout
    assert "Example: equipot train copper.yaml" in text
    assert all(option in text for option in ("--out", "--resume", "--device", "--threads", "--stop-after-s"))
    assert "Example: equipot evaluate" in in_process("evaluate", "--help").stdout


def test_a_potential_is_trained_evaluated_and_used(in_process: Callable[..., Said], water: Path) -> None:
    done = in_process("train", "water.yaml", "--seed", "3", "--device", "cpu")
    assert done.returncode == 0, done.stderr
    assert "energy from energy, forces from forces" in done.stderr
    assert "step 6/6" in done.stderr
    assert "\x1b" not in done.stderr + done.stdout
    card = water / "runs" / "water-3" / "water-3.json"
    assert f"--model {card.relative_to(water)}" in done.stdout
    assert re.search(r"^cold +6 ", done.stdout, re.MULTILINE)
    assert read_card(card).training["configuration"]["seed"] == 3

    judged = in_process("evaluate", card, "water.extxyz", "--json", "-o", "judged")
    assert judged.returncode == 0, judged.stderr
    document = json.loads(judged.stdout)
    assert document["sha256"] == read_card(card).weights_sha256
    assert document["errors"].keys() == {"all", "cold", "warm"}
    on_card = {error.test_set: error for error in read_card(card).test_errors}["again"]
    assert document["errors"]["all"]["force_mae_mev_per_ang"] == pytest.approx(on_card.force_mae_mev_per_ang, rel=1e-3)
    assert {path.name for path in (water / "judged").iterdir()} == {"errors.txt", "errors.json", "parity-all.png"}

    used = in_process("singlepoint", "water.extxyz", "--index", "0", "--model", card)
    assert used.returncode == 0, used.stderr


def test_a_second_training_in_a_folder_needs_resume(in_process: Callable[..., Said], water: Path) -> None:
    stopped = in_process("train", "water.yaml", "--out", "run", "--stop-after-s", "0")
    assert stopped.returncode == 3, stopped.stderr
    assert "Go on with: equipot train water.yaml --out run --resume" in stopped.stderr
    refused = in_process("train", "water.yaml", "--out", "run")
    assert refused.returncode == 2
    assert "--resume goes on with it" in refused.stderr
    done = in_process("train", "water.yaml", "--out", "run", "--resume")
    assert done.returncode == 0, done.stderr
    assert "Going on from step 1." in done.stderr


def test_a_termination_writes_the_state_and_says_how_to_go_on(in_process: Callable[..., Said], water: Path) -> None:
    slow = CONFIG.replace("n_steps: 6", "n_steps: 1000000")
    (water / "water.yaml").write_text(slow)
    command = [EQUIPOT, "train", "water.yaml", "--out", "run", "--device", "cpu"]
    process = subprocess.Popen(
        command, cwd=water, stderr=subprocess.PIPE, text=True, env={**os.environ, "TERM": "dumb"}
    )
    try:
        deadline = time.monotonic() + START_S
        while not (water / "run" / "log.csv").exists():
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=START_S)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 130, said
    assert re.search(r"Stopped at step \d+; the state is written\.", said)
    assert "Traceback" not in said
    assert "--out run --resume" in said
    assert (water / "run" / "state.safetensors").exists()
    assert not list((water / "run").glob(".*.part"))


def test_bad_data_are_one_panel_and_leave_nothing_behind(in_process: Callable[..., Said], water: Path) -> None:
    text = (water / "water.extxyz").read_text().replace("energy=", "energy=nan was=", 2)
    (water / "water.extxyz").write_text(text)
    refused = in_process("train", "water.yaml")
    assert refused.returncode == 2
    assert "water.extxyz: frame 0 has an energy that is not finite" in refused.stderr
    assert "Training data cannot be used" in refused.stderr
    assert sorted(path.name for path in water.iterdir()) == ["water.extxyz", "water.yaml"]
    skipped = in_process("train", "water.yaml", "--skip-bad-frames")
    assert skipped.returncode == 0, skipped.stderr
    assert in_process("evaluate", "tiny", "water.extxyz").returncode == 2


def test_keys_and_units_of_foreign_files_are_given_as_yaml(in_process: Callable[..., Said], water: Path) -> None:
    text = (water / "water.extxyz").read_text().replace(":forces:", ":gradient:").replace(" energy=", " U=")
    (water / "water.extxyz").write_text(text)
    assert "has no energy" in in_process("evaluate", "tiny", "water.extxyz").stderr
    words = ("evaluate", "tiny", "water.extxyz", "--json", "--keys", "{energy: U, forces: gradient}")
    right = json.loads(in_process(*words).stdout)["errors"]["all"]
    reverse = json.loads(in_process(*words, "--units", "{force_sign: -1}").stdout)["errors"]["all"]
    assert right["force_mae_mev_per_ang"] < 1e-3 < 10 < reverse["force_mae_mev_per_ang"]
    wrong = in_process(*words, "--units", "{energy: furlong}")
    assert wrong.returncode == 2
    assert "no unit 'furlong'" in wrong.stderr


def test_energies_with_another_zero_are_remarked_on(in_process: Callable[..., Said], water: Path) -> None:
    """The labels here count from free atoms of energy zero, the tiny potential from its own."""
    said = in_process("evaluate", "tiny", "water.extxyz", "--by", "file")
    assert said.returncode == 0
    assert "another zero" in said.stderr
    assert np.isfinite(float(re.findall(r"water\.extxyz +12 +([\d.]+)", said.stdout)[0]))

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
from typing import NamedTuple

import numpy as np
import pytest
from ase.build import molecule
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write

from equipot.cards import read_card
from equipot.models.loading import load_potential
from equipot.models.neighbours import NeighbourSearch
from equipot.service import cli

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


class Said(NamedTuple):
    """What a command said and how it ended."""

    status: int
    out: str
    err: str


@pytest.fixture
def say(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Callable[..., Said]:
    """Run the command line in this process, in tmp_path."""

    def run(*words: str | Path) -> Said:
        monkeypatch.setattr(sys, "argv", ["equipot", *map(str, words)])
        monkeypatch.setenv("COLUMNS", "200")
        monkeypatch.chdir(tmp_path)
        status = cli._run()
        text = capsys.readouterr()
        return Said(status, text.out, text.err)

    return run


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


def test_help_says_how_to_begin_and_how_to_go_on(say: Callable[..., Said]) -> None:
    text = say("train", "--help").out
    assert "Example: equipot train copper.yaml" in text
    assert all(option in text for option in ("--out", "--resume", "--device", "--threads", "--stop-after-s"))
    assert "Example: equipot evaluate" in say("evaluate", "--help").out


def test_a_potential_is_trained_evaluated_and_used(say: Callable[..., Said], water: Path) -> None:
    done = say("train", "water.yaml", "--seed", "3", "--device", "cpu")
    assert done.status == 0, done.err
    assert "energy from energy, forces from forces" in done.err
    assert "step 6/6" in done.err
    assert "\x1b" not in done.err + done.out
    card = water / "runs" / "water-3" / "water-3.json"
    assert f"--model {card.relative_to(water)}" in done.out
    assert re.search(r"^cold +6 ", done.out, re.MULTILINE)
    assert read_card(card).training["configuration"]["seed"] == 3

    judged = say("evaluate", card, "water.extxyz", "--json", "-o", "judged")
    assert judged.status == 0, judged.err
    document = json.loads(judged.out)
    assert document["sha256"] == read_card(card).weights_sha256
    assert document["errors"].keys() == {"all", "cold", "warm"}
    on_card = {error.test_set: error for error in read_card(card).test_errors}["again"]
    assert document["errors"]["all"]["force_mae_mev_per_ang"] == pytest.approx(on_card.force_mae_mev_per_ang, rel=1e-3)
    assert {path.name for path in (water / "judged").iterdir()} == {"errors.txt", "errors.json", "parity-all.png"}

    used = say("singlepoint", "water.extxyz", "--index", "0", "--model", card)
    assert used.status == 0, used.err


def test_a_second_training_in_a_folder_needs_resume(say: Callable[..., Said], water: Path) -> None:
    stopped = say("train", "water.yaml", "--out", "run", "--stop-after-s", "0")
    assert stopped.status == 3, stopped.err
    assert "Go on with: equipot train water.yaml --out run --resume" in stopped.err
    refused = say("train", "water.yaml", "--out", "run")
    assert refused.status == 2
    assert "--resume goes on with it" in refused.err
    done = say("train", "water.yaml", "--out", "run", "--resume")
    assert done.status == 0, done.err
    assert "Going on from step 1." in done.err


def test_a_termination_writes_the_state_and_says_how_to_go_on(say: Callable[..., Said], water: Path) -> None:
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


def test_bad_data_are_one_panel_and_leave_nothing_behind(say: Callable[..., Said], water: Path) -> None:
    text = (water / "water.extxyz").read_text().replace("energy=", "energy=nan was=", 2)
    (water / "water.extxyz").write_text(text)
    refused = say("train", "water.yaml")
    assert refused.status == 2
    assert "water.extxyz: frame 0 has an energy that is not finite" in refused.err
    assert "Training data cannot be used" in refused.err
    assert sorted(path.name for path in water.iterdir()) == ["water.extxyz", "water.yaml"]
    skipped = say("train", "water.yaml", "--skip-bad-frames")
    assert skipped.status == 0, skipped.err
    assert say("evaluate", "tiny", "water.extxyz").status == 2


def test_keys_and_units_of_foreign_files_are_given_as_yaml(say: Callable[..., Said], water: Path) -> None:
    text = (water / "water.extxyz").read_text().replace(":forces:", ":gradient:").replace(" energy=", " U=")
    (water / "water.extxyz").write_text(text)
    assert "has no energy" in say("evaluate", "tiny", "water.extxyz").err
    words = ("evaluate", "tiny", "water.extxyz", "--json", "--keys", "{energy: U, forces: gradient}")
    right = json.loads(say(*words).out)["errors"]["all"]
    reverse = json.loads(say(*words, "--units", "{force_sign: -1}").out)["errors"]["all"]
    assert right["force_mae_mev_per_ang"] < 1e-3 < 10 < reverse["force_mae_mev_per_ang"]
    wrong = say(*words, "--units", "{energy: furlong}")
    assert wrong.status == 2
    assert "no unit 'furlong'" in wrong.err


def test_energies_with_another_zero_are_remarked_on(say: Callable[..., Said], water: Path) -> None:
    """The labels here count from free atoms of energy zero, the tiny potential from its own."""
    said = say("evaluate", "tiny", "water.extxyz", "--by", "file")
    assert said.status == 0
    assert "another zero" in said.err
    assert np.isfinite(float(re.findall(r"water\.extxyz +12 +([\d.]+)", said.out)[0]))

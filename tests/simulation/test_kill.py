"""Killed and resumed is never killed: the same bits, no frame twice, none missing."""

from __future__ import annotations

import multiprocessing
import random
import runpy
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from equipot.simulation.checkpoint import read_header
from equipot.simulation.segments import INDEX
from equipot.simulation.trajectory import frame_index, read_frames, read_results, read_thermo

SCRIPT = Path(__file__).parent / "killable.py"
LONGEST_S = 60.0


def process(kind: str, directory: Path) -> Any:
    """The script in a process of its own, started from a server that has its imports loaded."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["equipot.simulation.api", "ase.calculators.emt", "ase.build"])
    return context.Process(target=runpy.run_path, args=(str(SCRIPT), {"arguments": (kind, str(directory))}, "__main__"))


def kill_after(kind: str, directory: Path, n_steps: int, seconds: float) -> bool:
    """Start the script, let a checkpoint see it take this many steps, and kill it a moment later; was it running?"""
    goal = reached(directory) + n_steps
    child = process(kind, directory)
    child.start()
    deadline = time.monotonic() + LONGEST_S
    while child.is_alive() and time.monotonic() < deadline and reached(directory) < goal:
        time.sleep(0.002)
    time.sleep(seconds)
    child.kill()
    child.join()
    header = read_header(directory)
    return header is not None and not header["complete"]


def reached(directory: Path) -> int:
    """The largest step in the last checkpoint."""
    header = read_header(directory)
    return max((system["step"] for system in header["systems"]), default=0) if header else 0


def finish(kind: str, directory: Path) -> None:
    child = process(kind, directory)
    child.start()
    child.join(LONGEST_S)
    assert child.exitcode == 0


def everything(directory: Path) -> list[Any]:
    """All that can be read of a run, as bits."""
    frames = [
        (
            frame.tags,
            frame.structure.positions_ang.tobytes(),
            None if frame.structure.cell_ang is None else frame.structure.cell_ang.tobytes(),
            None if frame.momenta is None else frame.momenta.tobytes(),
            frame.energy_ev,
            frame.forces_ev_per_ang.tobytes(),
        )
        for frame in read_frames(directory)
    ]
    return [frames, list(read_thermo(directory)), sorted(read_results(directory), key=lambda r: int(r["system_idx"]))]


RELAXATIONS = ("relax", "lbfgs")
KINDS = ("nvt", "nve", "npt-nose_hoover", *RELAXATIONS)
MORE_KINDS = ("nvt-langevin", "nvt-nose_hoover", "nvt-bussi", "npt-langevin", "npt-bussi")
FOUR_KILLS = [pytest.param(kind, 4, 0, id=kind) for kind in KINDS]
TWELVE_KILLS = [
    pytest.param(kind, 12, repeat, id=f"{kind}-{repeat}", marks=pytest.mark.long)
    for kind in KINDS + MORE_KINDS
    for repeat in range(10)
]


@pytest.mark.parametrize(("kind", "n_kills", "repeat"), FOUR_KILLS + TWELVE_KILLS)
def test_a_run_killed_again_and_again_ends_bit_for_bit_where_an_undisturbed_one_does(
    kind: str, n_kills: int, repeat: int, tmp_path: Path
) -> None:
    finish(kind, tmp_path / "undisturbed")
    expected = everything(tmp_path / "undisturbed")
    chance = random.Random(f"{kind} {repeat}")
    cut = [
        kill_after(kind, tmp_path / "killed", chance.randint(1, 60 // n_kills), chance.uniform(0.0, 0.03))
        for _ in range(n_kills)
    ]
    finish(kind, tmp_path / "killed")
    assert sum(cut) > n_kills // 2, "the kills came too late to show anything"
    assert everything(tmp_path / "killed") == expected
    keys = [(ref.system, ref.step) for ref in frame_index(tmp_path / "killed")]
    assert len(keys) == len(set(keys))
    if kind not in RELAXATIONS:
        assert sorted(keys) == [(system, step) for system in range(3) for step in [*range(0, 101, 7), 100]]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_run_md_at_a_checkpoint_of_the_step_it_was_in(number: signal.Signals, tmp_path: Path) -> None:
    """The process dies of the signal, as it should, and what it had computed is not computed again."""
    child = subprocess.Popen(
        [sys.executable, str(SCRIPT), "nvt", str(tmp_path / "run"), "100000"], stderr=subprocess.PIPE
    )
    deadline = time.monotonic() + LONGEST_S
    while not frame_index_or_nothing(tmp_path / "run") and time.monotonic() < deadline:
        time.sleep(0.01)
    child.send_signal(number)
    _, errors = child.communicate(timeout=LONGEST_S)
    assert child.returncode == -number, errors.decode()
    header = read_header(tmp_path / "run")
    assert header is not None
    assert not header["complete"]
    written = (tmp_path / "run" / "segments" / "0001.index").stat().st_size / INDEX.itemsize
    assert header["segments"][0]["n_frames"] == written
    assert np.unique([entry["step"] for entry in header["systems"]]).size == 1


def frame_index_or_nothing(directory: Path) -> list[Any]:
    return frame_index(directory) if directory.exists() else []

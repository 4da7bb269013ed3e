"""`equipot export`: what a run kept, in the format somebody else reads."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ase.io
import h5py
import numpy as np
import pytest
from ase.build import molecule

from equipot import run_md
from equipot.cards import find_model
from equipot.simulation.trajectory import RunFrames, read_frames
from tests.service.conftest import Said

N_FRAMES = 5


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dynamics of two molecules with different numbers of atoms, on the tiny potential."""
    folder = tmp_path_factory.mktemp("export") / "two"
    molecules = [molecule("H2O"), molecule("CH4")]
    run_md(molecules, "tiny", output=folder, n_steps=8, save_every=2, timestep_fs=0.1, temperature_k=50, seed=[3, 4])
    return folder


def test_a_run_becomes_a_file_of_the_format_its_ending_says(
    in_process: Callable[..., Said], two: Path, tmp_path: Path
) -> None:
    for ending in ("extxyz", "traj"):
        status, out, _ = in_process("export", two, "-o", f"all.{ending}")
        assert status == 0
        assert f"{2 * N_FRAMES} frames" in out
        for atoms, frame in zip(ase.io.iread(tmp_path / f"all.{ending}"), read_frames(two), strict=True):
            assert np.array_equal(atoms.positions, frame.structure.positions_ang)
    assert in_process("export", two, "-o", "all.npz")[0] == 0
    with np.load(tmp_path / "all.npz") as arrays:
        assert arrays["system0001_positions_ang"].shape == (N_FRAMES, 5, 3)


def test_without_more_words_a_run_becomes_extxyz_named_after_it(
    in_process: Callable[..., Said], two: Path, tmp_path: Path
) -> None:
    status, out, _ = in_process("export", two, "--json")
    assert status == 0
    assert json.loads(out) == {"files": [{"file": "two.extxyz", "format": "extxyz", "n_frames": 2 * N_FRAMES}]}
    assert (tmp_path / "two.extxyz").exists()


def test_weights_and_level_of_theory_are_in_the_file(
    in_process: Callable[..., Said], two: Path, tmp_path: Path
) -> None:
    in_process("export", two, "--system", "1", "-o", "methane.h5md")
    card = find_model("tiny")[1]
    with h5py.File(tmp_path / "methane.h5md") as file:
        attributes = file["parameters/equipot"].attrs
        assert attributes["model_sha256"] == card.weights_sha256
        assert attributes["level_of_theory"] == card.level_of_theory
        assert (attributes["model"], attributes["dtype"], attributes["seed"]) == (card.name, "float64", 4)


def test_each_system_gets_an_h5md_file_of_its_own(in_process: Callable[..., Said], two: Path, tmp_path: Path) -> None:
    assert in_process("export", two, "-o", "both.h5md")[0] == 0
    shapes = {}
    for path in tmp_path.glob("*.h5md"):
        with h5py.File(path) as file:
            shapes[path.name] = file["particles/trajectory/position/value"].shape
    assert shapes == {"both-system0000.h5md": (N_FRAMES, 3, 3), "both-system0001.h5md": (N_FRAMES, 5, 3)}


def test_a_selection_of_frames_is_a_slice(in_process: Callable[..., Said], two: Path, tmp_path: Path) -> None:
    in_process("export", two, "--system", "0", "--start", "-4", "--stop", "5", "--stride", "2", "-o", "some.extxyz")
    atoms: Any = ase.io.read(tmp_path / "some.extxyz", ":")
    assert [each.info["step"] for each in atoms] == [ref.step for ref in RunFrames(two, 0).refs][-4:5:2] == [2, 6]


def test_an_exported_traj_can_be_exported_further(in_process: Callable[..., Said], two: Path, tmp_path: Path) -> None:
    in_process("export", two, "-o", "all.traj")
    assert in_process("export", "all.traj", "-o", "again.h5md", "--system", "1")[0] == 0
    in_process("export", two, "-o", "direct.h5md", "--system", "1")
    with h5py.File(tmp_path / "again.h5md") as again, h5py.File(tmp_path / "direct.h5md") as direct:
        for name in ("position", "velocity", "force"):
            there = f"particles/trajectory/{name}/value"
            assert np.array_equal(again[there][:], direct[there][:])
        for name in ("temperature", "kinetic_energy"):
            there = f"observables/{name}/value"
            assert again[there][:] == pytest.approx(direct[there][:], rel=1e-12)
        assert dict(again["parameters/equipot"].attrs) == dict(direct["parameters/equipot"].attrs)


def test_an_exported_extxyz_still_knows_its_weights_when_it_is_exported_further(
    in_process: Callable[..., Said], two: Path, tmp_path: Path
) -> None:
    in_process("export", two, "-o", "all.extxyz")
    assert in_process("export", "all.extxyz", "-o", "again.h5md", "--system", "1")[0] == 0
    in_process("export", two, "-o", "direct.h5md", "--system", "1")
    with h5py.File(tmp_path / "again.h5md") as again, h5py.File(tmp_path / "direct.h5md") as direct:
        attributes, wanted = (dict(file["parameters/equipot"].attrs) for file in (again, direct))
        assert attributes.pop("provenance") != wanted.pop("provenance")  # the parameters do not fit into a comment
        assert attributes == wanted
        there = "particles/trajectory/velocity/value"
        assert again[there][:] == pytest.approx(direct[there][:], rel=1e-14)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--system", "7"], "There are: 0, 1."),
        (["-o", "x.xtc"], "Endings: .extxyz"),
        (["--start", "99"], "No frames are left of 10"),
    ],
)
def test_what_cannot_be_exported_is_refused_with_a_reason(
    in_process: Callable[..., Said], two: Path, words: list[str], said: str
) -> None:
    status, _, err = in_process("export", two, *words)
    assert status == 2
    assert said in err


def test_a_file_is_overwritten_only_on_demand(in_process: Callable[..., Said], two: Path, tmp_path: Path) -> None:
    (tmp_path / "two.extxyz").write_text("mine")
    status, _, err = in_process("export", two)
    assert status == 2
    assert "exists already" in err
    assert (tmp_path / "two.extxyz").read_text() == "mine"
    assert in_process("export", two, "--overwrite")[0] == 0
    assert (tmp_path / "two.extxyz").read_text() != "mine"


def test_a_folder_without_a_run_is_said_so(in_process: Callable[..., Said], tmp_path: Path) -> None:
    status, _, err = in_process("export", tmp_path)
    assert status == 1
    assert "There is no run in" in err


def test_a_broken_trajectory_file_is_said_so(in_process: Callable[..., Said], tmp_path: Path) -> None:
    (tmp_path / "x.traj").write_bytes(b"- of UlmASE-Trajectory  " + bytes(10))
    status, _, err = in_process("export", "x.traj")
    assert status == 2
    assert "cannot be read" in err

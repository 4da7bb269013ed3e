"""Every script in examples/ runs, checks its own result, and is in the list of examples."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from ase.io import read

from equipot import run_md

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*.py"))
NEEDS = {"phonons": "phonopy", "torch_sim_relax": "torch_sim", "other_models": "tad_dftd3"}
NEEDS |= {"quacc_recipe": "quacc", "atomate2_recipe": "atomate2"}


@pytest.mark.parametrize("script", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_runs_and_finds_what_it_asserts(script: Path, tmp_path: Path) -> None:
    if script.stem in NEEDS and find_spec(NEEDS[script.stem]) is None:
        pytest.skip(f"{NEEDS[script.stem]} is not installed")
    run = subprocess.run([sys.executable, script], cwd=tmp_path, capture_output=True, text=True, timeout=280)
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip()


def test_the_list_of_examples_is_complete() -> None:
    listed = (EXAMPLES[0].parent / "README.md").read_text()
    assert [script.name for script in EXAMPLES if f"`{script.name}`" not in listed] == []


def test_ase_reads_every_frame_that_we_write(tmp_path: Path) -> None:
    """`ase gui RUN/segments/0001.traj` shows a run: frames with energy, forces and velocities, no calculator needed."""
    from ase.build import molecule

    run_md([molecule("H2O")], "organic", n_steps=20, save_every=10, seed=1, output=tmp_path / "run")
    (segment,) = (tmp_path / "run" / "segments").glob("*.traj")
    frames = read(segment, ":")
    assert [frame.info["step"] for frame in frames] == [0, 10, 20]
    assert all(frame.get_forces().shape == (3, 3) and frame.get_kinetic_energy() > 0 for frame in frames)


def test_ase_gui_loads_a_trajectory_of_ours(tmp_path: Path) -> None:
    """What the window does before it is drawn: its images, with energies and forces. `-t` and `-g` need no display."""
    from ase.build import molecule

    run_md([molecule("H2O")], "organic", n_steps=20, save_every=10, seed=1, output=tmp_path / "run")
    (segment,) = (tmp_path / "run" / "segments").glob("*.traj")
    words = [sys.executable, "-m", "ase", "gui", "-t", "-g", "i, e, fmax", str(segment)]
    run = subprocess.run(words, capture_output=True, text=True, timeout=120, env={"PATH": "", "MPLBACKEND": "agg"})
    assert run.returncode == 0, run.stderr
    assert len(run.stdout.strip().splitlines()) == 3

"""Any dynamics, resumed after every single step, ends in the bits of one that was never interrupted."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase.calculators.emt import EMT

from equipot.params import MDParams
from equipot.simulation.engine import Engine, Moving
from equipot.simulation.motions.dynamics import dynamics
from equipot.simulation.providers import AseProvider
from equipot.simulation.run import Run
from equipot.simulation.trajectory import read_frames, read_results, read_thermo
from equipot.structure import Structure
from tests.simulation.sampling import Argon, Provided, argon_crystal, md_params
from tests.simulation.test_dynamics_ramps import ALL

FORCES = Argon(cutoff_ang=4.0)
N_STEPS = 26  # 0.208 ps: the ramps, which end at 0.2 ps, are crossed


def everything(directory: Path) -> list[Any]:
    """All that can be read of a run, as bits."""
    frames = [
        (
            frame.tags,
            frame.structure.positions_ang.tobytes(),
            frame.structure.cell_ang.tobytes() if frame.structure.cell_ang is not None else b"",
            frame.momenta.tobytes() if frame.momenta is not None else b"",
            frame.energy_ev,
        )
        for frame in read_frames(directory)
    ]
    return [frames, list(read_thermo(directory)), list(read_results(directory))]


@pytest.mark.parametrize("name", ALL)
def test_a_run_resumed_after_every_step_is_the_uninterrupted_one(name: str, tmp_path: Path) -> None:
    structures = [argon_crystal(a_ang=5.1), argon_crystal(a_ang=5.2)]
    given = {"n_steps": N_STEPS, "timestep_fs": 8.0, "save_every": 3, "thermo_every": 1}
    params = MDParams(**{**given, "seed": [4, 5], "checkpoint_every_s": 1000.0, **ALL[name]})
    start: dict[str, Any] = {"kind": "md", "structures": structures, "params": params, "provider": Provided(FORCES)}
    with Run.start(tmp_path / "whole", **start) as run:
        assert not run.advance()
    with Run.start(tmp_path / "cut", **start) as run:
        run.advance(steps=1)
        run.checkpoint()
    n_resumed, left = 0, True
    while left:
        with Run.resume(tmp_path / "cut", Provided(FORCES)) as run:
            left = run.advance(steps=1)
            n_resumed += 1
            if left:
                run.checkpoint()
    assert n_resumed == N_STEPS
    assert everything(tmp_path / "cut") == everything(tmp_path / "whole")
    for result in read_results(tmp_path / "whole"):
        assert result["outcome"] == "completed"
        row = list(read_thermo(tmp_path / "whole", result["system_idx"]))[-1]
        assert (result["volume_ang3"], result["pressure_gpa"]) == (row["volume_ang3"], row["pressure_gpa"])


def test_dynamics_of_every_kind_side_by_side_are_each_what_they_are_alone() -> None:
    def motions() -> list[tuple[Structure, Any]]:
        structure = argon_crystal(a_ang=5.1)
        return [
            (
                structure,
                dynamics(structure, md_params(structure, n_steps=25, timestep_fs=8.0, **given), 3),
            )
            for given in ALL.values()
        ]

    crowd = Engine(Provided(FORCES))
    for idx, (structure, motion) in enumerate(motions()):
        crowd.add(Moving(idx, structure, motion, motion.start()))
    together = {}
    while crowd.systems:
        for event in crowd.step():
            together[event.system.idx] = event.system.state
    for idx, (structure, motion) in enumerate(motions()):
        alone = Engine(Provided(FORCES))
        alone.add(Moving(idx, structure, motion, motion.start()))
        while alone.systems:
            (event,) = alone.step()
        state = event.system.state
        assert np.array_equal(state.positions_ang, together[idx].positions_ang)
        assert {n: np.asarray(t).tobytes() for n, t in state.tensors.items()} == {
            n: np.asarray(t).tobytes() for n, t in together[idx].tensors.items()
        }


def test_langevin_dynamics_of_the_first_format_goes_on_to_the_same_end(data_dir: Path, tmp_path: Path) -> None:
    """Written before there were ramps, other thermostats, or cells in a checkpoint."""
    shutil.copytree(data_dir / "checkpoints" / "langevin-format-1", tmp_path / "run")
    (expected,) = json.loads((tmp_path / "run" / "expected.json").read_text())
    with Run.resume(tmp_path / "run", AseProvider(EMT())) as run:
        assert run.progress.step == 24
        while run.advance():
            pass
        (result,) = run.results
    assert (result["outcome"], result["n_steps"]) == (expected["outcome"], expected["n_steps"])
    for name in ("positions", "velocities"):  # the last bits of EMT depend on the machine
        assert np.abs(np.subtract(result["structure"][name], expected["structure"][name])).max() < 1e-9
    for name in ("energy_ev", "temperature_k"):
        assert result[name] == pytest.approx(expected[name], rel=1e-9)
    assert [frame.step for frame in read_frames(tmp_path / "run")] == list(range(0, 61, 10))
    assert [row["step"] for row in read_thermo(tmp_path / "run")] == list(range(0, 61, 5))

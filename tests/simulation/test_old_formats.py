"""A run that an older version began goes on in this one, to where the older version would have ended."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
from ase.calculators.emt import EMT

from equipot.simulation.providers import AseProvider
from equipot.simulation.run import Run
from equipot.simulation.trajectory import frame_index, read_frames, read_thermo

TOLERANCE_ANG = 1e-9  # the last bits of EMT depend on the machine


def test_a_relaxation_of_the_first_format_goes_on_to_the_same_end(data_dir: Path, tmp_path: Path) -> None:
    shutil.copytree(data_dir / "checkpoints" / "relax-format-1", tmp_path / "run")
    expected = json.loads((tmp_path / "run" / "expected.json").read_text())
    run = Run.resume(tmp_path / "run", AseProvider(EMT()))
    assert run.progress.step == 12
    with run:
        while run.advance():
            pass
        results = run.results
    for result, wanted in zip(results, expected, strict=True):
        for name in ("outcome", "n_steps"):
            assert result[name] == wanted[name]
        assert wanted["warnings"][0] in result["warnings"], "what a guard had seen before"
        assert np.abs(np.subtract(result["structure"]["positions"], wanted["positions"])).max() < TOLERANCE_ANG
        assert abs(result["energy_ev"] - wanted["energy_ev"]) < TOLERANCE_ANG
    for system, wanted in enumerate(expected):
        n_steps = wanted["n_steps"]
        steps = [ref.step for ref in frame_index(tmp_path / "run", system)]
        assert steps == [*range(0, n_steps, 5), n_steps]
        assert [frame.step for frame in read_frames(tmp_path / "run", system)] == steps
        assert [row["step"] for row in read_thermo(tmp_path / "run", system)] == list(range(n_steps + 1))

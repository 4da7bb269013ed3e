"""A dynamics that has ended can be made longer, and is then the one that was longer from the start."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from equipot.errors import JobNotFoundError, NotResumableError
from equipot.params import Guard, Guards, MDParams
from equipot.simulation.checkpoint import load_checkpoint, save_checkpoint
from equipot.simulation.extension import extend_run
from equipot.simulation.run import Run
from equipot.simulation.trajectory import read_frames, read_results, read_thermo

THERMOSTATS: dict[str, dict[str, Any]] = {
    "nve": {"ensemble": "nve"},
    "langevin": {},
    "nose_hoover": {"thermostat": {"type": "nose_hoover"}},
    "bussi": {"thermostat": {"type": "bussi"}},
}


def md(**given: Any) -> MDParams:
    chosen = {"timestep_fs": 2.0, "temperature_k": 20.0, "seed": 3, "save_every": 10, "thermo_every": 4}
    return MDParams.model_validate({**chosen, **given})


def run(directory: Path, forces: Any, params: MDParams, n_systems: int = 2) -> Path:
    structures = [forces.argon_cluster(4 + i, i) for i in range(n_systems)]
    begun = Run.start(directory, kind="md", structures=structures, params=params, provider=forces.LennardJones())
    return end(begun)


def end(begun: Run) -> Path:
    while begun.advance(steps=7):
        pass
    begun.close()
    return begun.directory


def extended(directory: Path, forces: Any, n_steps: int, params: MDParams, resume: bool = True) -> Path:
    """The run made longer, and run on if asked to."""
    longer = params.model_copy(update={"n_steps": n_steps}).resolved([np.array([18])] * 2)
    extend_run(directory, longer.model_dump(mode="json"))
    return end(Run.resume(directory, forces.LennardJones())) if resume else directory


def told(directory: Path) -> tuple[list[Any], list[Any], list[Any]]:
    """Everything a reader sees, to the last bit."""
    frames = [
        (f.system, f.step, f.time_fs, f.energy_ev, f.structure.positions_ang.tobytes(), f.forces_ev_per_ang.tobytes())
        + (() if f.momenta is None else (f.momenta.tobytes(),))
        for f in read_frames(directory)
    ]
    return frames, list(read_thermo(directory)), read_results(directory)


@pytest.mark.parametrize("kind", THERMOSTATS)
def test_a_run_made_longer_twice_is_the_longer_run_bit_by_bit(kind: str, forces: Any, tmp_path: Path) -> None:
    """27 and 41 are steps at which neither a frame nor a row is due: what is there for the end alone goes."""
    params = md(n_steps=27, **THERMOSTATS[kind])
    run(tmp_path / "short", forces, params)
    extended(tmp_path / "short", forces, 41, params)
    extended(tmp_path / "short", forces, 60, params)
    run(tmp_path / "long", forces, md(n_steps=60, **THERMOSTATS[kind]))
    assert told(tmp_path / "short") == told(tmp_path / "long")


def test_what_is_due_at_the_old_end_stays_readable_while_the_run_waits(forces: Any, tmp_path: Path) -> None:
    run(tmp_path, forces, md(n_steps=40))
    frames, rows, _ = told(tmp_path)
    extended(tmp_path, forces, 80, md(n_steps=40), resume=False)
    assert told(tmp_path) == (frames, rows, [])


def test_a_run_can_be_made_longer_again_when_the_first_try_was_cut_off(forces: Any, tmp_path: Path) -> None:
    params = md(n_steps=27)
    run(tmp_path / "short", forces, params)
    extended(tmp_path / "short", forces, 60, params, resume=False)
    extended(tmp_path / "short", forces, 60, params)
    run(tmp_path / "long", forces, md(n_steps=60))
    assert told(tmp_path / "short") == told(tmp_path / "long")


def test_a_system_that_a_guard_stopped_stays_as_it_ended(forces: Any, tmp_path: Path) -> None:
    guards = Guards(max_temperature_k=Guard(limit=1e-3))
    run(tmp_path, forces, md(n_steps=20, guards=guards))
    before = told(tmp_path)
    assert extend_run(tmp_path, md(n_steps=50, guards=guards).model_dump(mode="json")) == 0
    assert told(tmp_path) == before


def test_a_checkpoint_without_the_last_steps_is_refused(forces: Any, tmp_path: Path) -> None:
    """As version 0.1.0 wrote them."""
    run(tmp_path, forces, md(n_steps=20))
    header, _ = load_checkpoint(tmp_path) or ({}, {})
    del header["completed"]
    save_checkpoint(tmp_path, header, {})
    with pytest.raises(NotResumableError, match="older version"):
        extend_run(tmp_path, md(n_steps=50).model_dump(mode="json"))
    with pytest.raises((NotResumableError, JobNotFoundError)):
        extend_run(tmp_path / "nothing", {})

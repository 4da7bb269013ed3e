"""A run on disk: it starts, stops, goes on, is cancelled, survives damage, and says what happened."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from equipot.errors import (
    ConflictError,
    InvalidParameterError,
    InvalidStructureError,
    JobNotFoundError,
    NotResumableError,
)
from equipot.params import MDParams, RelaxParams, SinglepointParams
from equipot.simulation.checkpoint import NEWEST, PREVIOUS, load_checkpoint, read_header
from equipot.simulation.progress import Progress
from equipot.simulation.run import Run
from equipot.simulation.trajectory import frame_index, read_frames, read_request, read_results, read_thermo
from equipot.structure import Structure


def md(**given: Any) -> MDParams:
    chosen = {"n_steps": 30, "timestep_fs": 2.0, "temperature_k": 20.0, "seed": 3, "save_every": 10, "thermo_every": 5}
    return MDParams(**{**chosen, **given})


def start(directory: Path, forces: Any, params: Any = None, n_systems: int = 2, **more: Any) -> Run:
    structures = more.pop("structures", [forces.argon_cluster(4 + i, i) for i in range(n_systems)])
    params = params or md()
    kinds: dict[Any, Any] = {MDParams: "md", RelaxParams: "relax", SinglepointParams: "singlepoint"}
    provider = more.pop("provider", forces.LennardJones())
    kind = kinds[type(params)]
    return Run.start(directory, kind=kind, structures=structures, params=params, provider=provider, **more)


def finished(run: Run) -> list[dict[str, Any]]:
    while run.advance(steps=7):
        pass
    run.close()
    return run.results


def strip(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{k: v for k, v in r.items() if k not in ("warnings", "bitwise")} for r in results]


def test_md_saves_frames_thermo_and_results_at_the_steps_it_was_asked_to(forces: Any, tmp_path: Path) -> None:
    results = finished(start(tmp_path / "r", forces, md(n_steps=25)))
    assert [(r["outcome"], r["n_steps"], r["time_fs"]) for r in results] == [("completed", 25, 50.0)] * 2
    steps = [(ref.system, ref.step, ref.time_fs) for ref in frame_index(tmp_path / "r", 1)]
    assert steps == [(1, 0, 0.0), (1, 10, 20.0), (1, 20, 40.0), (1, 25, 50.0)]
    rows = list(read_thermo(tmp_path / "r", 0))
    assert [row["step"] for row in rows] == [0, 5, 10, 15, 20, 25]
    assert {"energy_ev", "kinetic_ev", "temperature_k", "fmax_ev_per_ang", "conserved_ev"} < set(rows[0])
    last = list(read_frames(tmp_path / "r", 0))[-1]
    assert last.structure.positions_ang.tolist() == results[0]["structure"]["positions"]
    assert last.forces_ev_per_ang.tolist() == results[0]["forces_ev_per_ang"]
    assert (last.energy_ev, rows[-1]["energy_ev"]) == (results[0]["energy_ev"],) * 2
    assert read_results(tmp_path / "r") == results


def test_a_relaxation_keeps_every_frame_of_a_few_systems_and_the_ends_of_many(forces: Any, tmp_path: Path) -> None:
    few = finished(start(tmp_path / "few", forces, RelaxParams(), 2))
    assert [r.step for r in frame_index(tmp_path / "few", 0)] == list(range(few[0]["n_steps"] + 1))
    many = finished(start(tmp_path / "many", forces, RelaxParams(fmax_ev_per_ang=0.002), 17))
    for system, result in enumerate(many):
        assert [r.step for r in frame_index(tmp_path / "many", system)] == [0, result["n_steps"]]
    finished(start(tmp_path / "asked", forces, RelaxParams(save_every=2, fmax_ev_per_ang=0.002), 17))
    assert [r.step for r in frame_index(tmp_path / "asked", 16)][:3] == [0, 2, 4]


def test_a_single_point_is_one_evaluation(forces: Any, tmp_path: Path) -> None:
    provider = forces.LennardJones()
    structures = [forces.argon_cluster(5)]
    (result,) = finished(start(tmp_path / "r", forces, SinglepointParams(), structures=structures, provider=provider))
    assert (result["outcome"], result["n_steps"], provider.n_calls) == ("completed", 0, 1)
    assert len(frame_index(tmp_path / "r")) == 1


def test_progress_is_the_smallest_step_of_a_system_that_has_not_ended(forces: Any, tmp_path: Path) -> None:
    seen: list[Progress] = []
    with start(tmp_path / "r", forces, RelaxParams(max_steps=40, fmax_ev_per_ang=1e-9), on_progress=seen.append) as run:
        assert run.advance(steps=6)
        assert seen[-1] == run.progress == Progress(step=5, n_steps=40, n_systems=2, n_done=0, n_max_steps=0)
        finished(run)
    assert seen[-1] == Progress(step=40, n_steps=40, n_systems=2, n_done=2, n_max_steps=2)


def test_advance_by_seconds_takes_at_least_one_step_and_no_time_decides_a_result(forces: Any, tmp_path: Path) -> None:
    with start(tmp_path / "slow", forces) as run:
        turns = 0
        while run.advance(seconds=0.0):
            turns += 1
        slow = run.results
    assert turns == 30  # 31 steps with step 0; the last one says it is done
    assert slow == finished(start(tmp_path / "fast", forces))


@pytest.mark.parametrize(
    "params", [md(), md(ensemble="nve"), RelaxParams(fmax_ev_per_ang=1e-6)], ids=["nvt", "nve", "relax"]
)
@pytest.mark.parametrize("stop_at", [0, 1, 13])
def test_a_run_stopped_at_a_checkpoint_goes_on_as_if_nothing_had_been(
    forces: Any, tmp_path: Path, params: Any, stop_at: int
) -> None:
    expected = finished(start(tmp_path / "whole", forces, params))
    run = start(tmp_path / "parts", forces, params)
    run.advance(steps=stop_at)
    run.checkpoint()
    run.advance(steps=4)  # lost: no checkpoint follows
    run.close()
    resumed = Run.resume(tmp_path / "parts", forces.LennardJones(), 2)
    assert resumed.progress.step == max(stop_at - 1, 0)
    assert finished(resumed) == expected
    for read in (read_thermo, frame_index):
        assert sorted(map(key, read(tmp_path / "parts"))) == sorted(map(key, read(tmp_path / "whole")))


def key(entry: Any) -> str:
    """What a row or frame says, without where it stands."""
    return json.dumps(entry if isinstance(entry, dict) else [entry.system, entry.step, entry.time_fs], sort_keys=True)


def test_a_run_killed_before_its_first_checkpoint_begins_anew(forces: Any, tmp_path: Path) -> None:
    expected = finished(start(tmp_path / "whole", forces))
    run = start(tmp_path / "r", forces)
    run.advance(steps=9)
    run.close()
    assert read_header(tmp_path / "r") is None
    assert not frame_index(tmp_path / "r"), "what no checkpoint vouches for is not shown"
    assert finished(Run.resume(tmp_path / "r", forces.LennardJones(), 2)) == expected


def test_a_complete_run_is_only_opened(forces: Any, tmp_path: Path) -> None:
    expected = finished(start(tmp_path / "r", forces))
    again = Run.resume(tmp_path / "r", forces.LennardJones())
    assert again.done
    assert again.results == expected
    assert not again.advance()
    assert [path.name for path in (tmp_path / "r" / "segments").glob("*.traj")] == ["0001.traj"]


def test_a_damaged_newest_checkpoint_falls_back_to_the_one_before(forces: Any, tmp_path: Path) -> None:
    expected = finished(start(tmp_path / "whole", forces))
    run = start(tmp_path / "r", forces)
    for _ in range(2):
        run.advance(steps=8)
        run.checkpoint()
    run.close()
    newest = (tmp_path / "r" / NEWEST).read_bytes()
    rng = np.random.default_rng(0)
    for trial in range(12):
        copy = tmp_path / f"copy{trial}"
        shutil.copytree(tmp_path / "r", copy)
        damaged = bytearray(newest)
        if trial < 4:
            damaged = damaged[: int(rng.integers(0, len(damaged)))]
        else:
            place = int(rng.integers(len(damaged)))
            damaged[place] ^= 0xFF
        (copy / NEWEST).write_bytes(damaged)
        resumed = Run.resume(copy, forces.LennardJones(), 2)
        assert resumed.progress.step in (7, 15), "the one before, or this one if the damage hit nothing"
        assert finished(resumed) == expected
        assert sorted(map(key, read_thermo(copy))) == sorted(map(key, read_thermo(tmp_path / "whole")))
    (tmp_path / "r" / NEWEST).write_bytes(b"")
    (tmp_path / "r" / PREVIOUS).write_bytes(b"nonsense")
    with pytest.raises(NotResumableError, match="No checkpoint in r can be read"):
        Run.resume(tmp_path / "r", forces.LennardJones(), 2)


def test_checkpoints_never_hold_pickles(forces: Any, tmp_path: Path) -> None:
    with start(tmp_path / "r", forces) as run:
        run.advance(steps=3)
        run.checkpoint()
    with np.load(tmp_path / "r" / NEWEST, allow_pickle=False) as file:
        assert {name: str(file[name].dtype) for name in file.files} == {"header": "uint8", "values": "float64"}
    found = load_checkpoint(tmp_path / "r")
    assert found is not None
    assert {"0/positions_ang", "0/velocities_ang_per_fs", "0/motion/heat_ev", "1/evaluation/energy_ev"} < set(found[1])


def test_a_checkpoint_of_a_later_format_is_refused(
    forces: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with start(tmp_path / "r", forces) as run:
        run.advance(steps=3)
        with monkeypatch.context() as patch:
            patch.setattr("equipot.simulation.checkpoint.FORMAT_VERSION", 2)
            run.checkpoint()
    with pytest.raises(NotResumableError, match="format 2"):
        Run.resume(tmp_path / "r", forces.LennardJones(), 2)


def test_an_integrator_that_remembers_other_things_refuses_old_checkpoints(
    forces: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with start(tmp_path / "r", forces) as run:
        run.advance(steps=3)
        run.checkpoint()
    monkeypatch.setattr("equipot.simulation.motions.langevin.Langevin.format_version", 2)
    with pytest.raises(NotResumableError, match="langevin_baoab version 1"):
        Run.resume(tmp_path / "r", forces.LennardJones(), 2)


def test_an_attempt_can_be_begun_once(forces: Any, tmp_path: Path) -> None:
    start(tmp_path / "r", forces).close()
    with pytest.raises(ConflictError, match="already holds a run"):
        start(tmp_path / "r", forces)
    Run.resume(tmp_path / "r", forces.LennardJones(), 2).close()
    with pytest.raises(ConflictError, match="Attempt 2"):
        Run.resume(tmp_path / "r", forces.LennardJones(), 2)
    with pytest.raises(JobNotFoundError):
        Run.resume(tmp_path / "elsewhere", forces.LennardJones(), 2)


def test_a_superseded_attempt_writes_nothing_any_more(forces: Any, tmp_path: Path) -> None:
    """A worker that was thought dead wakes up after another has taken over."""
    expected = finished(start(tmp_path / "whole", forces))
    zombie = start(tmp_path / "r", forces)
    zombie.advance(steps=5)
    zombie.checkpoint()
    heir = Run.resume(tmp_path / "r", forces.LennardJones(), 2)
    zombie.advance(steps=20)
    with pytest.raises(ConflictError, match="superseded"):
        zombie.checkpoint()
    with pytest.raises(ConflictError, match="Resume it"):
        zombie.advance(steps=1)
    assert finished(heir) == expected
    assert read_results(tmp_path / "r") == expected
    zombie.close()


def test_a_resume_never_changes_the_model(forces: Any, tmp_path: Path) -> None:
    start(tmp_path / "r", forces).close()
    with pytest.raises(NotResumableError, match="lennard-jones"):
        Run.resume(tmp_path / "r", forces.Springs(), 2)


def test_a_resume_under_other_conditions_goes_on_and_says_so(forces: Any, tmp_path: Path) -> None:
    class Elsewhere(forces.LennardJones):  # type: ignore[misc]
        @property
        def identity(self) -> dict[str, Any]:
            return {**super().identity, "pins": {"execution": "numpy", "threads": 8}}

    expected = finished(start(tmp_path / "whole", forces))
    with start(tmp_path / "r", forces) as run:
        run.advance(steps=3)
        run.checkpoint()
        assert run.bitwise
    with Run.resume(tmp_path / "r", Elsewhere(), 2) as run:
        run.advance(steps=3)
        run.checkpoint()
    resumed = Run.resume(tmp_path / "r", forces.LennardJones(), 3)
    assert not resumed.bitwise, "coming back does not make it exact again"
    results = finished(resumed)
    assert strip(results) == strip(expected)
    assert not any(r["bitwise"] for r in results)
    assert "threads: None -> 8" in results[0]["warnings"][0]


def test_a_cancelled_run_keeps_what_it_computed(forces: Any, tmp_path: Path) -> None:
    run = start(tmp_path / "r", forces)
    run.advance(steps=14)
    run.cancel()
    assert run.done
    results = run.results
    assert [(r["outcome"], r["n_steps"]) for r in results] == [("cancelled", 13)] * 2
    assert results[0]["energy_ev"] is not None
    assert [r.step for r in frame_index(tmp_path / "r", 0)] == [0, 10, 13]
    assert Run.resume(tmp_path / "r", forces.LennardJones()).results == results


@pytest.mark.parametrize("resumed", [False, True])
def test_cancelling_where_a_frame_was_just_saved_does_not_save_it_twice(
    forces: Any, tmp_path: Path, resumed: bool
) -> None:
    run = start(tmp_path / "r", forces)
    run.advance(steps=11)
    if resumed:
        run.checkpoint()
        run.close()
        run = Run.resume(tmp_path / "r", forces.LennardJones())
    run.cancel()
    assert [r.step for r in frame_index(tmp_path / "r", 0)] == [0, 10]


def test_a_system_that_has_ended_is_told_of_soon_though_others_run_on(forces: Any, tmp_path: Path) -> None:
    cluster = forces.argon_cluster(4)
    frozen = Structure(cluster.numbers, cluster.positions_ang, fixed_atoms=(0, 1, 2, 3))
    params = RelaxParams(fmax_ev_per_ang=1e-300, max_steps=1_000_000, save_every=10_000, checkpoint_every_s=1e6)
    told: list[int] = []
    with start(
        tmp_path / "r", forces, params, structures=[cluster, frozen], on_system=lambda r: told.append(r["system_idx"])
    ) as run:
        deadline = time.monotonic() + 20.0
        while not told and time.monotonic() < deadline:
            assert run.advance(seconds=0.1)
        assert told == [1]
        assert [r["system_idx"] for r in read_results(tmp_path / "r")] == [1]


def test_a_run_cancelled_before_its_first_step_has_no_numbers(forces: Any, tmp_path: Path) -> None:
    run = start(tmp_path / "r", forces)
    run.cancel()
    assert [(r["outcome"], r["energy_ev"], r["fmax_ev_per_ang"]) for r in run.results] == [
        ("cancelled", None, None)
    ] * 2


def test_bad_structures_are_rejected_or_fail_and_the_others_go_on(forces: Any, tmp_path: Path) -> None:
    structures = [
        forces.argon_cluster(4),
        Structure(np.array([18, 18]), np.array([[0.0, 0, 0], [0, 0, 0.01]])),
        InvalidStructureError("not readable", pointer="/structures/2"),
        forces.argon_cluster(4, symbol_number=2),
        forces.argon_cluster(4, symbol_number=10),
    ]
    results = finished(start(tmp_path / "r", forces, structures=structures))
    assert [r["outcome"] for r in results] == ["completed", "rejected", "rejected", "failed", "failed"]
    codes = [r["reason"] and r["reason"]["type"] for r in results]
    assert codes == [
        None,
        *(f"/problems/{c}" for c in ("atoms-too-close", "invalid-structure", "non-finite", "internal")),
    ]
    assert results[1]["reason"]["errors"][0]["pointer"] == "/structures/1/positions/1"
    assert results[0] == finished(start(tmp_path / "alone", forces, structures=structures[:1]))[0]
    assert Run.resume(tmp_path / "r", forces.LennardJones()).results == results


def test_elements_the_provider_does_not_know_are_rejected_by_name(forces: Any, tmp_path: Path) -> None:
    class Picky(forces.LennardJones):  # type: ignore[misc]
        @property
        def identity(self) -> dict[str, Any]:
            return {**super().identity, "elements": ["Ar"]}

    structures = [forces.argon_cluster(3), forces.argon_cluster(3, symbol_number=36)]
    results = finished(start(tmp_path / "r", forces, structures=structures, provider=Picky()))
    assert [r["outcome"] for r in results] == ["completed", "rejected"]
    assert "does not know Kr" in results[1]["reason"]["detail"]


def test_all_structures_rejected_is_a_complete_run(forces: Any, tmp_path: Path) -> None:
    run = start(tmp_path / "r", forces, structures=[InvalidStructureError("no")])
    assert run.done
    assert not run.advance()
    assert read_results(tmp_path / "r")[0]["outcome"] == "rejected"


def test_given_velocities_that_are_not_given_are_refused(forces: Any, tmp_path: Path) -> None:
    (result,) = finished(start(tmp_path / "r", forces, md(velocities="given"), 1))
    assert (result["outcome"], result["reason"]["errors"][0]["pointer"]) == ("rejected", "/structures/0/velocities")


def test_identical_systems_with_one_seed_are_warned_about_and_with_two_are_not(forces: Any, tmp_path: Path) -> None:
    twins = [forces.argon_cluster(4)] * 2
    seen: list[tuple[int, str]] = []
    first, second = finished(
        start(tmp_path / "r", forces, structures=twins, on_warning=lambda i, text: seen.append((i, text)))
    )
    assert not first["warnings"]
    assert "identical to system 0" in second["warnings"][0]
    assert seen == [(1, second["warnings"][0])]
    assert first["structure"] == second["structure"]
    apart = finished(start(tmp_path / "s", forces, md(seed=[1, 2]), structures=twins))
    assert not any(r["warnings"] for r in apart)
    assert apart[0]["structure"] != apart[1]["structure"]
    assert [r["seed"] for r in apart] == [1, 2]
    with pytest.raises(InvalidParameterError, match="3 entries for 2"):
        start(tmp_path / "t", forces, md(seed=[1, 2, 3]))


def test_a_shard_numbers_its_systems_through_the_job(forces: Any, tmp_path: Path) -> None:
    whole = finished(start(tmp_path / "whole", forces, md(seed=[1, 2, 3]), 3))
    structures = [forces.argon_cluster(6, 2)]
    (part,) = finished(start(tmp_path / "part", forces, md(seed=[3]), structures=structures, system_offset=2))
    assert part == whole[2]
    assert {ref.system for ref in frame_index(tmp_path / "part")} == {2}


def test_results_are_told_after_the_checkpoint_that_holds_them(forces: Any, tmp_path: Path) -> None:
    told: list[int] = []

    def on_system(result: dict[str, Any]) -> None:
        assert result in read_results(tmp_path / "r")
        told.append(result["system_idx"])

    finished(start(tmp_path / "r", forces, RelaxParams(), 3, on_system=on_system))
    assert sorted(told) == [0, 1, 2]


def test_an_error_in_a_callback_leaves_a_run_that_can_go_on(forces: Any, tmp_path: Path) -> None:
    expected = finished(start(tmp_path / "whole", forces))

    def on_frame(frame: Any) -> None:
        if frame.step == 10:
            raise ZeroDivisionError

    run = start(tmp_path / "r", forces, on_frame=on_frame)
    with pytest.raises(ZeroDivisionError):
        run.advance()
    run.checkpoint()
    run.close()
    resumed = Run.resume(tmp_path / "r", forces.LennardJones())
    assert resumed.progress.step == 10
    assert finished(resumed) == expected
    assert [r.step for r in frame_index(tmp_path / "r", 1)] == [0, 10, 20, 30]


def test_the_request_holds_all_that_was_left_to_default(forces: Any, tmp_path: Path) -> None:
    start(tmp_path / "r", forces, MDParams(duration_ps=0.01, ensemble="nvt")).close()
    params = read_request(tmp_path / "r")["params"]
    assert (params["timestep_fs"], params["n_steps"], params["save_every"]) == (2.0, 5, 100)
    assert isinstance(params["seed"], int)
    assert params["thermostat"] == {"type": "langevin", "friction_per_fs": 0.01}


def test_reading_a_run_needs_no_torch() -> None:
    code = (
        "import sys, equipot.simulation.trajectory, equipot.simulation.exports, equipot.simulation.checkpoint, "
        "equipot.simulation.verdicts; print('torch' in sys.modules, 'ase' in sys.modules)"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.split() == ["False", "False"]

"""A real worker process on a real Redis, with the tiny potential."""

from __future__ import annotations

import time
from typing import Any

from equipot.params import Guard, Guards, MDParams, RelaxParams, SinglepointParams
from equipot.simulation.trajectory import read_frames

LONG_MD = MDParams(n_steps=400, seed=11, save_every=20, thermo_every=10, checkpoint_every_s=0.2)
PROMPT_S = 10.0  # 2 on a quiet machine; without care it would be the minutes that the long job takes


def test_every_kind_of_job_is_run_to_its_end_by_one_warm_worker(one_worker: Any) -> None:
    jobs = {
        "completed": [one_worker.submit(), one_worker.submit(params=SinglepointParams())],
        "converged": [one_worker.submit(n_systems=3, params=RelaxParams(fmax_ev_per_ang=10.0))],
        "max_steps": [one_worker.submit(params=RelaxParams(fmax_ev_per_ang=1e-6, max_steps=5))],
    }
    for outcome, records in jobs.items():
        for submitted in records:
            record = one_worker.wait_until_over(submitted.id)
            assert record.state == "succeeded", (record.error, one_worker.log.read_text())
            assert record.outcomes == {outcome: record.progress.n_systems}
            assert record.attempt == 1
            assert record.started_at is not None
            assert record.finished_at is not None
            results, _ = one_worker.store.systems(record.id)
            assert [result["system_idx"] for result in results] == list(range(record.progress.n_systems))
            assert all(len(result["forces_ev_per_ang"]) == 9 for result in results)
    assert one_worker.log.read_text().count("potential loaded") == 1


def _ended(service: Any, record: Any) -> tuple[dict[str, Any], list[Any]]:
    """Result and trajectory of a job of one system."""
    [result], _ = service.store.systems(record.id)
    [directory] = service.store.shard_dirs(record.id)
    frames = [(f.step, f.structure.positions_ang.tobytes(), f.energy_ev) for f in read_frames(directory)]
    return result, frames


def test_cancel_is_prompt_and_what_was_computed_can_be_read_and_resumed(one_worker: Any) -> None:
    submitted = one_worker.submit(params=LONG_MD)
    one_worker.wait_for(lambda: one_worker.store.get(submitted.id).progress.step > 50)
    begun = time.monotonic()
    assert one_worker.store.request_cancel(submitted.id).state in ("cancelling", "cancelled")
    one_worker.wait_for(lambda: one_worker.store.get(submitted.id).is_over)
    assert time.monotonic() - begun < PROMPT_S
    record = one_worker.store.get(submitted.id)
    assert record.state == "cancelled"
    assert record.outcomes == {"cancelled": 1}
    result, frames = _ended(one_worker, record)
    assert result["outcome"] == "cancelled"
    assert result["structure"] is not None
    assert len(frames) >= 3
    assert one_worker.store.resume(record.id).state in ("queued", "starting")
    resumed = one_worker.wait_until_over(record.id)
    assert (resumed.state, resumed.attempt, resumed.outcomes) == ("succeeded", 2, {"completed": 1})
    alone = one_worker.wait_until_over(one_worker.submit(params=LONG_MD).id)
    resumed_result, resumed_frames = _ended(one_worker, resumed)
    alone_result, alone_frames = _ended(one_worker, alone)
    assert resumed_result == alone_result
    assert resumed_frames == alone_frames


def test_a_job_without_a_usable_system_says_why(one_worker: Any) -> None:
    guards = Guards(max_force_ev_per_ang=Guard(limit=1e-6))
    record = one_worker.wait_until_over(one_worker.submit(params=MDParams(n_steps=5, seed=1, guards=guards)).id)
    assert (record.state, record.outcomes) == ("failed", {"guard_stopped": 1})
    assert record.error is not None
    assert record.error["type"] == "/problems/diverged"
    assert "max_force_ev_per_ang" in record.error["detail"]


def test_a_small_job_does_not_wait_for_long_ones(one_worker: Any) -> None:
    forever = MDParams(n_steps=1_000_000, seed=1)
    long_jobs = [one_worker.submit(params=forever) for _ in range(3)]
    one_worker.wait_for(lambda: all(one_worker.store.get(job.id).progress.step > 0 for job in long_jobs))
    begun = time.monotonic()
    small = one_worker.wait_until_over(one_worker.submit(params=SinglepointParams()).id)
    assert small.state == "succeeded"
    assert time.monotonic() - begun < PROMPT_S
    for job in long_jobs:
        assert one_worker.store.get(job.id).state == "running"
        one_worker.store.request_cancel(job.id)
    begun = time.monotonic()
    for job in long_jobs:
        one_worker.wait_until_over(job.id)
    assert time.monotonic() - begun < PROMPT_S


def test_a_job_that_uses_up_its_wall_time_fails_with_timeout_and_can_be_resumed(one_worker: Any) -> None:
    record = one_worker.submit(params=MDParams(n_steps=1_000_000, seed=1, checkpoint_every_s=0.2), max_wall_time_s=1.0)
    record = one_worker.wait_until_over(record.id)
    assert record.state == "failed"
    assert record.error["type"] == "/problems/timeout"
    first = record.progress.step
    assert first > 0
    one_worker.store.resume(record.id)
    record = one_worker.wait_until_over(record.id)
    assert record.attempt == 2
    assert record.progress.step > first, "the second second did not begin where the first ended"

"""Workers and Redis that die: nothing is lost, nothing is computed twice, and no number changes."""

from __future__ import annotations

import signal
import time
from typing import Any

from equipot.params import MDParams
from equipot.simulation.trajectory import read_frames
from equipot.structure import structure_from_json

LONG_MD = MDParams(n_steps=400, seed=11, save_every=20, thermo_every=10, checkpoint_every_s=0.2)


def _ended(service: Any, record: Any) -> tuple[dict[str, Any], list[Any]]:
    """Result and trajectory of a job of one system."""
    [result], _ = service.store.systems(record.id)
    [directory] = service.store.shard_dirs(record.id)
    frames = [(f.step, f.structure.positions_ang.tobytes(), f.energy_ev) for f in read_frames(directory)]
    return result, frames


def test_a_run_whose_worker_is_killed_ends_bit_for_bit_like_one_that_was_left_alone(service: Any) -> None:
    worker = service.start_worker()
    submitted = service.submit(params=LONG_MD)
    service.wait_for(lambda: (service.store.get(submitted.id).checkpoint_step or 0) > 50)
    worker.kill()
    assert not service.store.get(submitted.id).is_over, "the run ended before the kill"
    service.start_worker()
    killed = service.wait_until_over(submitted.id)
    alone = service.wait_until_over(service.submit(params=LONG_MD).id)
    assert (killed.state, killed.attempt) == ("succeeded", 2)
    assert (alone.state, alone.attempt) == ("succeeded", 1)
    (killed_result, killed_frames), (alone_result, alone_frames) = _ended(service, killed), _ended(service, alone)
    assert killed_result == alone_result
    assert killed_frames == alone_frames
    steps = [step for step, _, _ in killed_frames]
    assert steps == list(range(0, 401, 20)), "a frame is missing or there twice"


def test_sigterm_checkpoints_and_hands_back_and_is_no_crash(service: Any) -> None:
    worker = service.start_worker()
    submitted = service.submit(params=LONG_MD)
    service.wait_for(lambda: service.store.get(submitted.id).progress.step > 50)
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(service.settings.grace_s) == 0
    record = service.store.get(submitted.id)
    assert record.state == "queued"
    assert record.checkpoint_step is not None
    assert record.checkpoint_step > 50
    assert service.store.redis.hget(f"equipot:shard:{record.id}:0", "crashes") in (None, "0")
    assert service.store.workers() == []
    service.start_worker()
    record = service.wait_until_over(record.id)
    assert (record.state, record.attempt) == ("succeeded", 2)


def test_an_idle_worker_ends_at_once_when_asked_to(service: Any) -> None:
    worker = service.start_worker()
    time.sleep(0.5)
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(service.settings.grace_s) == 0


def test_a_worker_that_was_frozen_and_wakes_after_another_took_over_changes_nothing(service: Any) -> None:
    frozen = service.start_worker()
    submitted = service.submit(params=LONG_MD)
    service.wait_for(lambda: (service.store.get(submitted.id).checkpoint_step or 0) > 50)
    frozen.send_signal(signal.SIGSTOP)
    service.wait_for(lambda: service.store.get(submitted.id).state == "queued")
    other = service.start_worker()
    record = service.wait_until_over(submitted.id)
    assert (record.state, record.attempt) == ("succeeded", 2)
    result, frames = _ended(service, record)
    frozen.send_signal(signal.SIGCONT)
    service.wait_for(lambda: len(service.store.workers()) == 2)
    service.wait_for(lambda: any(word in service.log.read_text() for word in ("given to another worker", "failed")))
    assert _ended(service, service.store.get(submitted.id)) == (result, frames)
    assert [step for step, _, _ in frames] == list(range(0, 401, 20))
    assert frozen.poll() is None
    other.terminate()
    assert other.wait(service.settings.grace_s) == 0
    record = service.wait_until_over(service.submit().id)
    assert record.worker.endswith(str(frozen.pid)), "the worker that woke does not work any more"
    assert record.state == "succeeded"


def test_a_redis_that_loses_everything_while_a_job_runs_costs_an_attempt_and_no_result(service: Any) -> None:
    service.start_worker()
    submitted = service.submit(params=LONG_MD)
    service.wait_for(lambda: (service.store.get(submitted.id).checkpoint_step or 0) > 50)
    service.store.redis.flushall()
    service.reconciler.look()
    record = service.wait_until_over(submitted.id)
    assert (record.state, record.attempt) == ("succeeded", 2)
    _, frames = _ended(service, record)
    assert [step for step, _, _ in frames] == list(range(0, 401, 20))


DIES_OF_WATER = """
import os
from equipot.simulation.native import NativeProvider
evaluate = NativeProvider.evaluate
def evaluate_unless_water(self, systems):
    if any(len(system.numbers) == 3 for system in systems):
        os.kill(os.getpid(), 9)
    return evaluate(self, systems)
NativeProvider.evaluate = evaluate_unless_water
"""


def test_a_structure_that_kills_its_worker_fails_in_the_end_and_takes_no_other_with_it(service: Any) -> None:
    water = structure_from_json({"symbols": ["O", "H", "H"], "positions": [[0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]]})
    worker = service.start_worker(DIES_OF_WATER)
    innocents = [service.submit(params=LONG_MD) for _ in range(2)]
    service.wait_for(lambda: all((service.store.get(job.id).progress.step or 0) > 0 for job in innocents))
    poisoned = service.submit(structures=[water])
    n_deaths = 0
    while not service.store.get(poisoned.id).is_over:
        service.wait_for(lambda worker=worker: worker.poll() is not None or service.store.get(poisoned.id).is_over)
        if worker.poll() is not None:
            n_deaths += 1
            assert n_deaths <= 3
            if not service.store.get(poisoned.id).is_over:
                worker = service.start_worker(DIES_OF_WATER)
    record = service.store.get(poisoned.id)
    assert record.state == "failed"
    assert record.error["type"] == "/problems/worker-lost"
    assert n_deaths == 3, "one in company, for which nobody is blamed, and two alone"
    service.start_worker(DIES_OF_WATER)
    for job in innocents:
        record = service.wait_until_over(job.id)
        assert (record.state, record.outcomes) == ("succeeded", {"completed": 1})
        assert service.store.redis.hget(f"equipot:shard:{record.id}:0", "crashes") in (None, "0")

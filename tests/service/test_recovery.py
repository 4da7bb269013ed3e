"""Workers and Redis that die: nothing is lost, nothing is computed twice, and no number changes."""

from __future__ import annotations

import signal
import time
from typing import Any

from equipot.params import MDParams
from equipot.simulation.trajectory import read_frames

LONG_MD = MDParams(n_steps=800, seed=11, save_every=20, thermo_every=10, checkpoint_every_s=0.2)


def _ended(service: Any, record: Any) -> tuple[dict[str, Any], list[Any]]:
    """Result and trajectory of a job of one system."""
    [result], _ = service.store.systems(record.id)
    [directory] = service.store.shard_dirs(record.id)
    frames = [(f.step, f.structure.positions_ang.tobytes(), f.energy_ev) for f in read_frames(directory)]
    return result, frames


def test_a_run_whose_worker_is_killed_ends_bit_for_bit_like_one_that_was_left_alone(service: Any) -> None:
    worker = service.start_worker()
    submitted = service.submit(params=LONG_MD)
    service.wait_for(lambda: (service.store.get(submitted.id).checkpoint_step or 0) > 100)
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
    assert steps == list(range(0, 801, 20)), "a frame is missing or there twice"


def test_sigterm_checkpoints_and_hands_back_and_is_no_crash(service: Any) -> None:
    worker = service.start_worker()
    submitted = service.submit(params=LONG_MD)
    service.wait_for(lambda: service.store.get(submitted.id).progress.step > 100)
    begun = time.monotonic()
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(10) == 0
    assert time.monotonic() - begun < 5
    record = service.store.get(submitted.id)
    assert record.state == "queued"
    assert record.checkpoint_step is not None
    assert record.checkpoint_step >= 100
    assert service.store.redis.hget(f"equipot:shard:{record.id}:0", "crashes") in (None, "0")
    assert service.store.workers() == []
    service.start_worker()
    record = service.wait_until_over(record.id)
    assert (record.state, record.attempt) == ("succeeded", 2)


def test_an_idle_worker_ends_at_once_when_asked_to(service: Any) -> None:
    worker = service.start_worker()
    time.sleep(0.5)
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(5) == 0

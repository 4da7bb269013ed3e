"""A storm on a whole service: everything that can die dies, and nothing is lost, doubled or changed.

`make test` has a short one, `make chaos` the long one (EQUIPOT_CHAOS_JOBS, EQUIPOT_CHAOS_SEED). Two worker processes
and a Redis are real; the reconciler of the workers finds what is lost. The random numbers have a seed, the moments at
which things die depend on the machine.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from redis.exceptions import RedisError

from equipot.cards import find_model
from equipot.errors import ConflictError
from equipot.params import MDParams
from equipot.service.redis_server import RedisServer, connect
from equipot.service.settings import Settings
from equipot.service.states import LEGAL_MOVES, JobState
from equipot.service.store import JobStore
from equipot.simulation.trajectory import read_frames
from equipot.structure import structure_from_json

WATER = {"symbols": ["O", "H", "H"], "positions": [[0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]]}
START_S = 240.0
N_KINDS = 4  # of dynamics, so that equal jobs can be compared
N_STEPS = 160
FRAME_EVERY = 20


@dataclass
class Storm:
    """The service, and what was asked of it."""

    folder: Path
    seed: int
    asked: list[str] = field(default_factory=list)
    cancelled: set[str] = field(default_factory=set)
    kind_of: dict[str, int] = field(default_factory=dict)
    done: list[str] = field(default_factory=list)  # what the storm did, for the report
    workers: list[subprocess.Popen[bytes]] = field(default_factory=list)
    n_workers: int = 2  # kept alive

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        self.server = RedisServer(self.folder).start()
        self.settings = Settings(
            data_dir=self.folder,
            redis_url=self.server.url,
            lease_s=2.0,
            beat_s=0.4,
            reconcile_s=0.5,
            max_attempts=1000,  # the storm kills without end; a poisoned job has a test of its own
            turn_s=0.3,
            preload_model="tiny",
            log_format="json",
            worker_device="cpu",
            threads_per_worker=1,
            redis_patience_s=60.0,
        )
        self.store = JobStore(connect(self.server.url, patience_s=30.0), self.folder, self.settings)

    def start_worker(self) -> None:
        with (self.folder / "workers.log").open("ab") as log:
            variables = {**os.environ, **self.settings.as_environment()}
            command = [sys.executable, "-m", "equipot.service.worker"]
            self.workers.append(subprocess.Popen(command, env=variables, stdout=log, stderr=log))

    @property
    def alive(self) -> list[subprocess.Popen[bytes]]:
        return [worker for worker in self.workers if worker.poll() is None]

    @property
    def ready(self) -> set[int]:
        """Process ids of the workers that have loaded their potential."""
        mine = {worker.pid for worker in self.alive}
        return {worker["pid"] for worker in self.store.workers() if worker["ready"]} & mine

    def submit(self) -> None:
        kind = self.random.randrange(N_KINDS)
        params = MDParams(n_steps=N_STEPS, seed=kind, save_every=FRAME_EVERY, thermo_every=40, checkpoint_every_s=0.2)
        structures = [structure_from_json(WATER)]
        record, _ = self.store.submit(
            kind="md",
            model_card=find_model("tiny")[1],
            params=params.resolved([s.numbers for s in structures]),
            structures=structures,
            request_json={"kind": kind},
            idempotency_key=f"storm-{len(self.asked)}",
        )
        self.asked.append(record.id)
        self.kind_of[record.id] = kind

    def cancel(self) -> None:
        job_id = self.random.choice(self.asked)
        try:
            self.store.request_cancel(job_id)
            self.cancelled.add(job_id)
        except ConflictError:
            pass

    def kill_a_worker(self) -> None:
        ready = [worker for worker in self.alive if worker.pid in self.ready]
        if ready:
            victim = self.random.choice(ready)
            number = self.random.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM])
            victim.send_signal(number)
            self.done.append(number.name)

    def freeze_a_worker(self) -> None:
        """Longer than its lease: another takes over, then it wakes."""
        ready = [worker for worker in self.alive if worker.pid in self.ready]
        if len(ready) > 1:
            ready[0].send_signal(signal.SIGSTOP)
            time.sleep(self.settings.lease_s + 1.0)
            ready[0].send_signal(signal.SIGCONT)
            self.done.append("froze a worker")

    def restart_redis(self) -> None:
        assert self.server.pid is not None
        os.kill(self.server.pid, signal.SIGKILL)
        time.sleep(self.random.uniform(0.0, 1.0))
        self.server.start()
        self.done.append("Redis killed")

    def empty_redis(self) -> None:
        self.store.redis.flushall()
        self.done.append("Redis emptied")

    def keep_workers(self) -> None:
        while len(self.alive) < self.n_workers:
            self.start_worker()

    def wait_for(self, condition: Callable[[], Any], seconds: float = START_S) -> None:
        deadline = time.monotonic() + seconds
        while True:
            try:
                if condition():
                    return
            except RedisError:
                pass
            assert time.monotonic() < deadline, (self.done, self.store.queue(), self._last_words())
            self.keep_workers()
            time.sleep(0.1)

    def _last_words(self) -> str:
        return (self.folder / "workers.log").read_text()[-3000:]

    def end(self) -> None:
        for worker in self.workers:
            if worker.poll() is None:
                worker.send_signal(signal.SIGCONT)
                worker.kill()
            worker.wait()
        self.server.stop()


@pytest.fixture
def storm(tmp_path: Path) -> Iterator[Storm]:
    storm = Storm(tmp_path, int(os.environ.get("EQUIPOT_CHAOS_SEED", "1")))
    yield storm
    storm.end()


def rage(storm: Storm, n_jobs: int, n_blows: int) -> None:
    """Submit and cancel, and between the submissions let something die."""
    storm.keep_workers()
    storm.wait_for(lambda: len(storm.ready) == 2)
    blows = [storm.kill_a_worker, storm.restart_redis, storm.freeze_a_worker, storm.kill_a_worker, storm.empty_redis]
    every = max(1, n_jobs // n_blows)
    for number in range(n_jobs):
        storm.submit()
        if storm.random.random() < 0.15:
            storm.cancel()
        if number % every == every - 1:
            blows[(number // every) % len(blows)]()
            storm.keep_workers()
            storm.wait_for(lambda: storm.ready)
    storm.wait_for(lambda: all(storm.store.get(job_id).is_over for job_id in storm.asked), 60.0 + 6.0 * n_jobs)


def check(storm: Storm) -> None:
    """Every job in a right state, none doubled, every trajectory whole, and equal jobs equal to the last bit."""
    records = {job_id: storm.store.get(job_id) for job_id in storm.asked}
    listed, token = [], ""
    while True:
        page, token = storm.store.list(200, token)
        listed += [record.id for record in page]
        if not token:
            break
    assert sorted(listed) == sorted(storm.asked), "jobs were lost or doubled"
    for job_id, record in records.items():
        allowed = {JobState.SUCCEEDED, JobState.CANCELLED} if job_id in storm.cancelled else {JobState.SUCCEEDED}
        assert record.state in allowed, (job_id, record.state, record.error)
        _refuse_illegal_moves(storm, job_id)
        on_disk = json.loads((storm.folder / "jobs" / job_id / "record.json").read_text())
        assert on_disk["state"] == record.state, "the record on disk says something else"
        results = list((storm.folder / "jobs" / job_id / "results").glob("*.json"))
        assert len(results) <= 1
    digests: dict[int, set[str]] = {}
    attempts = []
    for job_id, record in records.items():
        steps, digest = _trajectory(storm, job_id)
        assert steps == sorted(set(steps)), "a frame is missing its place or there twice"
        if record.state is JobState.SUCCEEDED:
            assert steps == list(range(0, N_STEPS + 1, FRAME_EVERY))
            digests.setdefault(storm.kind_of[job_id], set()).add(digest)
            attempts.append(record.attempt)
    assert all(len(found) == 1 for found in digests.values()), "a resumed run differs from an uninterrupted one"
    assert min(attempts) == 1, "no run was left alone, so nothing was compared"
    interrupted = sum(attempt > 1 for attempt in attempts)
    states = [record.state.value for record in records.values()]
    counts = {state: states.count(state) for state in sorted(set(states))}
    print(f"\n{len(states)} jobs: {counts}; {interrupted} went on elsewhere; {storm.done}")


def _trajectory(storm: Storm, job_id: str) -> tuple[list[int], str]:
    steps, digest = [], hashlib.sha256()
    for directory in storm.store.shard_dirs(job_id):
        for frame in read_frames(directory):
            steps.append(frame.step)
            digest.update(frame.structure.positions_ang.tobytes() + np.float64(frame.energy_ev).tobytes())
    return steps, digest.hexdigest()


def _refuse_illegal_moves(storm: Storm, job_id: str) -> None:
    states = [JobState(event.data["state"]) for event in storm.store.events(job_id) if event.type == "state"]
    for before, after in pairwise(states):
        assert after in LEGAL_MOVES[before], f"{before} -> {after}"


@pytest.mark.timeout(600)
def test_a_short_storm_loses_doubles_and_changes_nothing(storm: Storm) -> None:
    rage(storm, n_jobs=30, n_blows=5)
    check(storm)


@pytest.mark.long
def test_a_long_storm_loses_doubles_and_changes_nothing(storm: Storm) -> None:
    rage(storm, n_jobs=int(os.environ.get("EQUIPOT_CHAOS_JOBS", "500")), n_blows=25)
    check(storm)


def test_a_full_disk_ends_a_job_with_a_clear_error_and_its_earlier_frames_can_be_read(storm: Storm) -> None:
    """The worker's files may not grow beyond a limit, which is what a full disk looks like to it."""
    with (storm.folder / "workers.log").open("ab") as log:
        command = [sys.executable, "-m", "equipot.service.worker"]
        environment = {**os.environ, **storm.settings.as_environment()}
        worker = subprocess.Popen(command, env=environment, stdout=log, stderr=log, preexec_fn=_small_files)
    storm.workers.append(worker)
    storm.n_workers = 1  # a second one has a disk that is not full
    storm.wait_for(lambda: storm.ready)
    params = MDParams(n_steps=100_000, seed=1, save_every=1, checkpoint_every_s=0.2)
    structure = structure_from_json(WATER)
    record, _ = storm.store.submit(
        kind="md",
        model_card=find_model("tiny")[1],
        params=params.resolved([structure.numbers]),
        structures=[structure],
        request_json={},
    )
    storm.wait_for(lambda: storm.store.get(record.id).is_over)
    ended = storm.store.get(record.id)
    assert ended.state is JobState.FAILED
    assert ended.error is not None
    assert "could not be written" in ended.error["detail"], ended.error
    assert "resume" in ended.error["hint"]
    steps, _ = _trajectory(storm, record.id)
    assert steps == list(range(len(steps)))
    assert len(steps) > 10
    assert worker.poll() is None, "the worker died of it"


def _small_files() -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, 400_000))

"""A real Redis for the session, an empty store for each test, and real worker processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from equipot.cards import find_model
from equipot.params import PARAMS_OF_KIND, MDParams
from equipot.service import cli
from equipot.service.reconciler import Reconciler
from equipot.service.records import JobRecord
from equipot.service.redis_server import RedisServer, connect
from equipot.service.settings import Settings
from equipot.service.states import LEGAL_MOVES, JobState
from equipot.service.store import JobStore
from equipot.structure import Structure, structure_from_json

START_S = 120.0  # to load torch on a busy machine
JOB_S = 120.0
ETHANOL = {
    "symbols": ["C", "C", "O", "H", "H", "H", "H", "H", "H"],
    "positions": [
        [0.0072, -0.5687, 0.0],
        [-1.2854, 0.2499, 0.0],
        [1.1304, 0.3147, 0.0],
        [0.0392, -1.1972, 0.89],
        [0.0392, -1.1972, -0.89],
        [-1.3175, 0.8784, 0.89],
        [-1.3175, 0.8784, -0.89],
        [-2.1422, -0.4239, 0.0],
        [1.9857, -0.1365, 0.0],
    ],
}


class ServiceUnderTest:
    """A store on the session's Redis, and workers started and ended by the test."""

    def __init__(self, url: str, data_dir: Path) -> None:
        self.settings = Settings(
            data_dir=data_dir,
            redis_url=url,
            lease_s=1.5,
            beat_s=0.3,
            reconcile_s=0.2,
            max_attempts=2,
            turn_s=0.3,
            preload_model="tiny",
            log_format="json",
            worker_device="cpu",
            threads_per_worker=1,
        )
        self.store = JobStore(connect(url), data_dir, self.settings)
        self.reconciler = Reconciler(self.store)
        self.log = data_dir / "workers.log"
        self._workers: list[subprocess.Popen[bytes]] = []

    def start_worker(self, program: str = "", **environment: str) -> subprocess.Popen[bytes]:
        """A real worker process; returns when it is ready. `program` is run before it, in the same process."""
        command = [sys.executable, "-m", "equipot.service.worker"]
        if program:
            code = f"{program}\nimport sys\nfrom equipot.service.worker import main\nsys.exit(main())"
            command = [sys.executable, "-c", code, "worker"]
        with self.log.open("ab") as log:
            variables = {**os.environ, **self.settings.as_environment(), **environment}
            worker = subprocess.Popen(command, env=variables, stdout=log, stderr=log)
        self._workers.append(worker)
        self.wait_for(lambda: any(w["pid"] == worker.pid and w["ready"] for w in self.store.workers()), START_S)
        return worker

    def stop_workers(self) -> None:
        """Kill what is left."""
        for worker in self._workers:
            if worker.poll() is None:
                worker.send_signal(signal.SIGCONT)
                worker.kill()
            worker.wait()

    def wait_for(self, condition: Callable[[], Any], seconds: float = JOB_S) -> Any:
        """The first true answer of `condition`, with the reconciler looking meanwhile."""
        deadline = time.monotonic() + seconds
        while not (answer := condition()):
            if time.monotonic() > deadline:
                log = self.log.read_text()[-3000:] if self.log.exists() else ""
                pytest.fail(f"waited {seconds} s in vain; {self.store.queue()}; the workers said:\n{log}")
            self.reconciler.look()
            time.sleep(0.02)
        return answer

    def wait_until_over(self, job_id: str, seconds: float = JOB_S) -> JobRecord:
        """The record of the job when it has ended."""
        self.wait_for(lambda: self.store.get(job_id).is_over, seconds)
        self.refuse_illegal_moves(job_id)
        return self.store.get(job_id)

    def refuse_illegal_moves(self, job_id: str) -> None:
        """Every move the job has made so far is in the table of legal ones."""
        states = [JobState(event.data["state"]) for event in self.store.events(job_id) if event.type == "state"]
        for before, after in pairwise(states):
            assert after in LEGAL_MOVES[before], f"{before} -> {after}"

    def submit(self, n_systems: int = 1, key: str | None = None, **fields: Any) -> JobRecord:
        """A job: MD with Langevin noise unless `params` says otherwise."""
        molecule = ethanol()
        params = fields.pop("params", MDParams(n_steps=100, seed=7, save_every=20))
        [kind] = [kind for kind, params_type in PARAMS_OF_KIND.items() if isinstance(params, params_type)]
        structures: list[Structure] = fields.pop("structures", [molecule] * n_systems)
        record, _ = self.store.submit(
            kind=kind,  # type: ignore[arg-type]
            model_card=find_model("tiny")[1],
            params=params.resolved([s.numbers for s in structures]),
            structures=structures,
            request_json=fields.pop("request_json", {"kind": "md", "n": n_systems}),
            idempotency_key=key,
            **fields,
        )
        return record


class Said(NamedTuple):
    """What a command said and how it ended."""

    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def in_process(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Callable[..., Said]:
    """Run the command line in tmp_path without a process of its own, for the many cases that only differ in words."""

    def run(*arguments: str | Path) -> Said:
        monkeypatch.setattr(sys, "argv", ["equipot", *map(str, arguments)])
        monkeypatch.setenv("COLUMNS", "200")
        monkeypatch.chdir(tmp_path)
        status = cli._run()
        text = capsys.readouterr()
        return Said(status, text.out, text.err)

    return run


def ethanol() -> Structure:
    """Nine atoms without a cell."""
    return structure_from_json(ETHANOL)


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real server with an append-only file, on a private socket."""
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server.url


def _empty(redis_url: str, data_dir: Path) -> ServiceUnderTest:
    with connect(redis_url) as redis:
        redis.flushall()
    return ServiceUnderTest(redis_url, data_dir)


@pytest.fixture
def service(redis_url: str, tmp_path: Path) -> Iterator[ServiceUnderTest]:
    """An empty store; its workers are gone afterwards."""
    service = _empty(redis_url, tmp_path)
    yield service
    service.stop_workers()


@pytest.fixture(scope="module")
def one_worker(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceUnderTest]:
    """A store and a worker that the tests of one module share; none of them may end the worker."""
    service = _empty(redis_url, tmp_path_factory.mktemp("service"))
    service.start_worker()
    yield service
    service.stop_workers()

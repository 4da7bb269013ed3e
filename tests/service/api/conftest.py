"""One real API process for the session, on a Redis of its own, and an empty store for each test."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from equipot.service.redis_server import RedisServer, connect
from equipot.service.settings import Settings
from equipot.service.store import JobStore

START_S = 60.0
MAX_BODY_BYTES = 400_000
MAX_QUEUED_JOBS = 12
MAX_ATOMS = 3000
MAX_STRUCTURES = 50
WORKER: dict[str, Any] = {
    "worker_device": "cpu",
    "threads_per_worker": 1,
    "lease_s": 3.0,
    "beat_s": 0.5,
    "shard_max_systems": 2,
}

WATER: dict[str, Any] = {
    "symbols": ["O", "H", "H"],
    "positions": [[0.0, 0.0, 0.119], [0.0, 0.763, -0.477], [0.0, -0.763, -0.477]],
}


@dataclass(frozen=True)
class LiveApi:
    """A running API: how to reach it, and its store seen from the test."""

    http: httpx.Client
    store: JobStore
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def url(self) -> str:
        return str(self.http.base_url)

    def job(self, **changes: Any) -> dict[str, Any]:
        """The body of a valid request, changed."""
        return {"kind": "relax", "model": "tiny", "structures": [WATER], **changes}

    def submit(self, **changes: Any) -> dict[str, Any]:
        """Queue a valid job; its record."""
        answer = self.http.post("/v1/jobs", json=self.job(**changes))
        assert answer.status_code == 202, answer.text
        record: dict[str, Any] = answer.json()
        return record

    def n_jobs(self) -> int:
        """How many jobs the store knows."""
        return len(self.store.list(100)[0])


def start_api(settings: Settings, log: Path) -> subprocess.Popen[bytes]:
    """An API process; it may not answer yet."""
    with log.open("ab") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "equipot.service.api"],
            env={**os.environ, **settings.as_environment()},
            stdout=output,
            stderr=output,
        )


def wait_until_it_answers(http: httpx.Client, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_S
    while process.poll() is None and time.monotonic() < deadline:
        try:
            if http.get("/healthz").status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.05)
    pytest.fail(f"the API did not start:\n{log.read_text()[-3000:]}")


def free_port() -> int:
    """A port nobody uses."""
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def running_api(redis_url: str, folder: Path, **changes: Any) -> Iterator[LiveApi]:
    """An API process on a Redis; told to stop at the end, which it must do by itself."""
    settings = Settings(
        **{"data_dir": folder / "data", "redis_url": redis_url, "port": free_port(), "log_format": "json", **changes}
    )
    log = folder / "api.log"
    process = start_api(settings, log)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{settings.port}", timeout=30.0) as http:
            wait_until_it_answers(http, process, log)
            yield LiveApi(http, JobStore(connect(redis_url), settings.data_dir, settings), process, log)
            process.terminate()
            assert process.wait(10) in (0, -15)
    finally:
        process.kill()


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Another server than the other tests have: the API process tells webhooks and removes what expired by itself."""
    with RedisServer(tmp_path_factory.mktemp("redis-of-api")) as server:
        yield server.url


@pytest.fixture(scope="session")
def live_api(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveApi]:
    limits = {
        "max_body_bytes": MAX_BODY_BYTES,
        "max_queued_jobs": MAX_QUEUED_JOBS,
        "max_atoms": MAX_ATOMS,
        "max_structures": MAX_STRUCTURES,
    }
    with running_api(redis_url, tmp_path_factory.mktemp("api"), **limits) as api:
        yield api


@pytest.fixture
def api(live_api: LiveApi) -> LiveApi:
    """The API with no job, no worker and no remembered key."""
    live_api.store.redis.flushall()
    return live_api


@pytest.fixture(scope="session")
def working_api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveApi]:
    """An API with a Redis and a worker process of its own; its jobs are computed and stay."""
    folder = tmp_path_factory.mktemp("working")
    with RedisServer(folder) as server, running_api(server.url, folder, preload_model="tiny", **WORKER) as api:
        environment = {**os.environ, **api.store.settings.as_environment()}
        with (folder / "worker.log").open("wb") as log:
            worker = subprocess.Popen(
                [sys.executable, "-m", "equipot.service.worker"], env=environment, stdout=log, stderr=log
            )
        try:
            deadline = time.monotonic() + START_S
            while api.http.get("/readyz").status_code != 200:
                if worker.poll() is not None or time.monotonic() > deadline:
                    pytest.fail("the worker did not start:\n" + (folder / "worker.log").read_text()[-3000:])
                time.sleep(0.1)
            yield api
        finally:
            worker.terminate()
            try:
                worker.wait(20)
            except subprocess.TimeoutExpired:
                worker.kill()

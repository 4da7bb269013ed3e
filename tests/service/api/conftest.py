"""One real API process for the session, on the session's Redis, and an empty store for each test."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from equipot.service.redis_server import connect
from equipot.service.settings import Settings
from equipot.service.store import JobStore

START_S = 60.0
MAX_BODY_BYTES = 400_000
MAX_QUEUED_JOBS = 12
MAX_ATOMS = 3000
MAX_STRUCTURES = 50

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


@pytest.fixture(scope="session")
def live_api(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveApi]:
    folder = tmp_path_factory.mktemp("api")
    settings = Settings(
        data_dir=folder / "data",
        redis_url=redis_url,
        port=free_port(),
        max_body_bytes=MAX_BODY_BYTES,
        max_queued_jobs=MAX_QUEUED_JOBS,
        max_atoms=MAX_ATOMS,
        max_structures=MAX_STRUCTURES,
        log_format="json",
    )
    log = folder / "api.log"
    process = start_api(settings, log)
    with httpx.Client(base_url=f"http://127.0.0.1:{settings.port}", timeout=30.0) as http:
        wait_until_it_answers(http, process, log)
        yield LiveApi(http, JobStore(connect(redis_url), settings.data_dir, settings), process, log)
        process.terminate()
        assert process.wait(10) in (0, -15)


@pytest.fixture
def api(live_api: LiveApi) -> LiveApi:
    """The API with no job, no worker and no remembered key."""
    live_api.store.redis.flushall()
    return live_api

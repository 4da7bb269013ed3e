"""The whole stack, started as a user starts it: `equipot serve` in a process of its own."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

ENDED = {"succeeded", "partially_succeeded", "failed", "cancelled"}
START_S = 90.0  # to load torch on a busy machine
JOB_S = 120.0


def running_processes() -> list[tuple[int, int, str]]:
    """Process, its parent and its command line, of everything that runs; a small Debian has no `ps`."""
    if not Path("/proc/self/stat").exists():
        listing = subprocess.run(["ps", "-axo", "pid=,ppid=,args="], capture_output=True, text=True, check=True).stdout
        fields = (line.split(None, 2) for line in listing.splitlines())
        return [(int(pid), int(parent), args) for pid, parent, args in fields]
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it ended meanwhile
            parent = (folder / "stat").read_text().rpartition(")")[2].split()[1]
            found.append((int(folder.name), int(parent), (folder / "cmdline").read_text().replace("\0", " ")))
    return found


class Stack:
    """A running `equipot serve` with its data directory; can be killed and started again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=JOB_S)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Returns when the server is ready for work."""
        command = [str(Path(sys.executable).with_name("equipot")), "serve", "--port", str(self.port)]
        command += ["--data-dir", str(self.folder / "data"), "--workers", "1"]
        settings = {"EQUIPOT_PRELOAD_MODEL": "tiny", "EQUIPOT_LEASE_S": "3", "EQUIPOT_BEAT_S": "0.5"}
        settings |= {"EQUIPOT_RECONCILE_S": "0.5", "EQUIPOT_THREADS_PER_WORKER": "1", "EQUIPOT_LOG_LEVEL": "warning"}
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                command, stdout=log, stderr=log, env={**os.environ, **settings}, start_new_session=True
            )
        self.wait_until("ready", lambda: self._is_ready(), START_S)

    def _is_ready(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, self.log()
        try:
            return self.client.get("/readyz").status_code == 200
        except httpx.TransportError:
            return False

    def stop(self) -> None:
        """Ctrl-C, which a terminal sends to every process at once."""
        assert self._process is not None
        os.killpg(self._process.pid, signal.SIGINT)
        self._process.wait(timeout=60)

    def kill_everything(self) -> None:
        """kill -9 of every process of the stack at once: what a power cut leaves."""
        assert self._process is not None
        for pid in [self._process.pid, *self.descendants()]:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        self._process.wait(timeout=10)

    def descendants(self, word: str = "") -> list[int]:
        """The processes below `equipot serve` that have `word` in their command line."""
        assert self._process is not None
        processes = running_processes()
        family = {self._process.pid}
        for _ in range(4):  # generations
            family |= {pid for pid, parent, _ in processes if parent in family}
        return [pid for pid, _, args in processes if pid in family - {self._process.pid} and word in args]

    def log(self) -> str:
        """What the processes printed."""
        return (self.folder / "log").read_text()[-5000:]

    def wait_until(self, what: str, true: Callable[[], bool], seconds: float) -> None:
        """Returns when `true()` is; fails after `seconds`, with the log."""
        give_up = time.monotonic() + seconds
        while time.monotonic() < give_up:
            if true():
                return
            time.sleep(0.05)
        raise AssertionError(f"not {what} after {seconds:g} s\n{self.log()}")

    def submit(self, **body: Any) -> str:
        """The id of a new job."""
        answer = self.client.post("/v1/jobs", json={"model": "tiny", **body})
        assert answer.status_code == 202, answer.text
        job_id: str = answer.json()["id"]
        assert answer.headers["Location"] == f"/v1/jobs/{job_id}"
        return job_id

    def job(self, job_id: str) -> dict[str, Any]:
        """The record now."""
        record: dict[str, Any] = self.client.get(f"/v1/jobs/{job_id}").raise_for_status().json()
        return record

    def ended(self, job_id: str) -> dict[str, Any]:
        """The record when the job has ended."""
        self.wait_until(f"ended: {job_id}", lambda: self.job(job_id)["state"] in ENDED, JOB_S)
        return self.job(job_id)

    def events(self, job_id: str) -> list[tuple[str, dict[str, Any]]]:
        """Every event of a job up to its end, type and data, as they are streamed."""
        found: list[tuple[str, dict[str, Any]]] = []
        kind = ""
        with self.client.stream("GET", f"/v1/jobs/{job_id}/events") as stream:
            for line in stream.iter_lines():
                if line.startswith("event:"):
                    kind = line.removeprefix("event:").strip()
                elif line.startswith("data:"):
                    found.append((kind, json.loads(line.removeprefix("data:"))))
                    if kind == "end":
                        break
        return found


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack that runs while the tests of a module do."""
    running = Stack(tmp_path_factory.mktemp("stack"))
    running.start()
    yield running
    running.kill_everything()
    running.client.close()

"""The whole service as `serve` runs it: Redis, API and worker in processes of their own."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from equipot.service import supervisor
from equipot.service.settings import Settings
from equipot.service.supervisor import Child, count_gpus

START_S = 90.0
SERVE = "import sys; from equipot.service.supervisor import serve; from equipot.service.settings import Settings; "
LONG_MD = {"n_steps": 400, "seed": 3, "save_every": 20, "checkpoint_every_s": 0.3}


def silicon() -> dict[str, Any]:
    """64 atoms: slow enough for a job to be still running when it is killed."""
    corners = [(0, 0, 0), (0, 2, 2), (2, 0, 2), (2, 2, 0)]
    cells = [(4 * i, 4 * j, 4 * k) for i in range(2) for j in range(2) for k in range(2)]
    sites = [(a + x + d, b + y + d, c + z + d) for a, b, c in cells for x, y, z in corners for d in (0, 1)]
    quarter_ang = 5.43 / 4
    return {
        "symbols": ["Si"] * len(sites),
        "positions": [[quarter_ang * x for x in site] for site in sites],
        "cell": [[10.86, 0, 0], [0, 10.86, 0], [0, 0, 10.86]],
        "pbc": [True, True, True],
    }


class Served:
    """A service in a process of its own; may be killed and started again on the same data."""

    def __init__(self, data_dir: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.settings = Settings(
            data_dir=data_dir, port=port, preload_model="tiny", lease_s=2, beat_s=0.4, reconcile_s=0.3, turn_s=0.3
        )
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30)
        self.log = data_dir / "serve.log"
        self._processes: list[subprocess.Popen[bytes]] = []

    def start(self) -> subprocess.Popen[bytes]:
        """Returns when the service says that it is ready."""
        process = self.launch()
        said = self.log.stat().st_size
        self.wait_for(lambda: b"equipot is ready at" in self.log.read_bytes()[said:])
        return process

    def launch(self) -> subprocess.Popen[bytes]:
        """Start the process and nothing more."""
        environment = {**os.environ, **self.settings.as_environment(), "EQUIPOT_THREADS_PER_WORKER": "1"}
        with self.log.open("ab") as log:
            command = [sys.executable, "-c", SERVE + "sys.exit(serve(Settings(), workers=1))"]
            process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
        self._processes.append(process)
        return process

    def wait_for(self, condition: Callable[[], Any], seconds: float = START_S) -> Any:
        """The first true answer of `condition`; the API may be away meanwhile."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                if answer := condition():
                    return answer
            except httpx.TransportError:
                pass
            assert time.monotonic() < deadline, self.log.read_text()[-4000:]
            time.sleep(0.05)

    def submit_md(self) -> str:
        body = {"kind": "md", "model": "tiny", "structures": [silicon()], "params": LONG_MD}
        return str(self.client.post("/v1/jobs", json=body).raise_for_status().json()["id"])

    def job(self, job_id: str) -> dict[str, Any]:
        return dict(self.client.get(f"/v1/jobs/{job_id}").raise_for_status().json())

    def worker_pid(self) -> int:
        """Of the one worker that is ready."""
        workers = self.wait_for(
            lambda: [w for w in self.client.get("/v1/workers").json()["items"] if w["ready"] and _is_alive(w["pid"])]
        )
        return int(workers[0]["pid"])

    def end(self) -> None:
        self.client.close()
        for process in self._processes:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def _children(pid: int) -> list[int]:
    listing = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True, check=False)
    return [int(line) for line in listing.stdout.split()]


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    served = Served(tmp_path)
    yield served
    served.end()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks at processes with procps")
def test_a_job_survives_the_death_of_its_worker_and_then_of_everything(served: Served) -> None:
    process = served.start()
    second = served.launch()
    assert second.wait(60) != 0
    assert f"in use by process {process.pid}" in served.log.read_text()

    job_id = served.submit_md()
    served.wait_for(lambda: (served.job(job_id)["checkpoint_step"] or 0) > 10)

    worker = served.worker_pid()
    os.kill(worker, signal.SIGKILL)
    served.wait_for(lambda: served.job(job_id)["attempt"] == 2 and served.job(job_id)["state"] == "running")
    assert served.worker_pid() != worker

    before = served.wait_for(lambda: served.job(job_id)["checkpoint_step"])
    assert served.job(job_id)["state"] == "running", "the job ended before everything was killed"
    everybody = [process.pid, *_children(process.pid)]
    assert len(everybody) == 4
    for pid in everybody:
        os.kill(pid, signal.SIGKILL)
    process.wait()

    process = served.start()
    job = served.wait_for(lambda: (job := served.job(job_id))["state"] == "succeeded" and job)
    assert job["attempt"] == 3
    assert job["outcomes"] == {"completed": 1}
    assert job["progress"]["step"] == LONG_MD["n_steps"]
    assert before > 0
    frames = served.client.get(f"/v1/jobs/{job_id}/trajectory", params={"format": "extxyz"}).text
    assert frames.splitlines().count("64") == 21, "every 20 steps one frame, none missing and none twice"

    children = _children(process.pid)
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 0
    assert not any(_is_alive(pid) for pid in children)


def test_a_child_that_dies_at_once_is_started_again_after_longer_and_longer_pauses() -> None:
    child = Child("short-lived", [sys.executable, "-c", "pass"], {})
    pauses = []
    for _ in range(8):
        child.start()
        assert child.process is not None
        child.process.wait()
        pauses.append(child.plan_restart())
    assert pauses == [0.5, 1, 2, 4, 8, 16, 30, 30]


def test_gpus_are_counted_without_torch(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,2")
    assert count_gpus() == 2
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert count_gpus() == 0
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    monkeypatch.setattr(supervisor, "NVIDIA_DRIVER", tmp_path / "none")
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'GPU 0: one (UUID: x)'\necho 'GPU 1: two (UUID: y)'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    assert count_gpus() == 2
    (tmp_path / "gpus" / "0000:01:00.0").mkdir(parents=True)
    monkeypatch.setattr(supervisor, "NVIDIA_DRIVER", tmp_path / "gpus")
    assert count_gpus() == 1


def test_settings_reach_a_child_process_unchanged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = Settings(data_dir=tmp_path, lease_s=2.5, workers=3, log_format="json", redis_url="unix:///x", max_atoms=7)
    for name, value in given.as_environment().items():
        monkeypatch.setenv(name, value)
    assert Settings() == given

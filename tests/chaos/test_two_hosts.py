"""Two machines, as two network namespaces with an address each: Redis and API on one, the worker on the other."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from equipot.service.redis_server import find_binary

WATER = {"symbols": ["O", "H", "H"], "positions": [[0, 0, 0], [0.9, 0.3, 0], [-0.3, 0.9, 0]]}
PATIENCE_S = 180.0
ASK = """
import sys, urllib.request
request = urllib.request.Request(sys.argv[1], data=sys.stdin.buffer.read() or None, headers={"Prefer": "wait=30"})
sys.stdout.buffer.write(urllib.request.urlopen(request, timeout=60).read())
"""


@dataclass
class Hosts:
    """Namespaces joined by a cable, and the processes in them."""

    folder: Path
    front: str = f"eq{os.getpid()}f"
    back: str = f"eq{os.getpid()}b"
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def plug_in(self) -> None:
        """Raises CalledProcessError where namespaces are not allowed."""
        for host in (self.front, self.back):
            _ip("netns", "add", host)
        _ip("link", "add", self.front, "type", "veth", "peer", "name", self.back)
        for host, address in ((self.front, "10.213.7.1/24"), (self.back, "10.213.7.2/24")):
            _ip("link", "set", host, "netns", host)
            _ip("-n", host, "address", "add", address, "dev", host)
            _ip("-n", host, "link", "set", host, "up")
            _ip("-n", host, "link", "set", "lo", "up")

    def run(self, host: str, *command: str, **environment: str) -> None:
        with (self.folder / "hosts.log").open("ab") as log:
            line = ["ip", "netns", "exec", host, *command]
            variables = {**os.environ, **environment}
            self.processes.append(subprocess.Popen(line, stdout=log, stderr=log, env=variables))

    def ask(self, path: str, body: dict[str, Any] | None = None) -> bytes | None:
        """What the API says, asked from the worker's machine; None if nobody answers."""
        answer = subprocess.run(
            ["ip", "netns", "exec", self.back, sys.executable, "-c", ASK, f"http://10.213.7.1:8000{path}"],
            input=b"" if body is None else json.dumps(body).encode(),
            capture_output=True,
            check=False,
            timeout=90,
        )
        return answer.stdout if answer.returncode == 0 else None

    def wait_for(self, path: str) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while self.ask(path) is None:
            assert time.monotonic() < deadline, (self.folder / "hosts.log").read_text()[-3000:]
            time.sleep(0.5)

    def unplug(self) -> None:
        for process in reversed(self.processes):
            process.terminate()
            process.wait(60)
        for host in (self.front, self.back):
            subprocess.run(["ip", "netns", "del", host], check=False, capture_output=True)


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[Hosts]:
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("network namespaces need root and the command ip (Debian: iproute2)")
    hosts = Hosts(tmp_path)
    try:
        hosts.plug_in()
    except subprocess.CalledProcessError as error:
        hosts.unplug()
        pytest.skip(f"network namespaces are not allowed here: {error.stderr!r}")
    yield hosts
    hosts.unplug()


@pytest.mark.parametrize("storage", ["share", "s3"])
def test_a_job_submitted_on_one_host_runs_on_the_other(hosts: Hosts, storage: str) -> None:
    common = {
        "EQUIPOT_REDIS_URL": "redis://:secret@10.213.7.1:6379/0",
        "EQUIPOT_PRELOAD_MODEL": "tiny",
        "EQUIPOT_WORKER_DEVICE": "cpu",
        "EQUIPOT_LOG_FORMAT": "json",
    }
    front = {**common, "EQUIPOT_DATA_DIR": str(hosts.folder / "front"), "EQUIPOT_ACCESS": "open"}
    front["EQUIPOT_ALLOWED_HOSTS"] = '["10.213.7.1"]'
    back = {**common, "EQUIPOT_DATA_DIR": str(hosts.folder / "back")}
    if storage == "share":
        back["EQUIPOT_DATA_DIR"] = front["EQUIPOT_DATA_DIR"]
    else:
        pytest.importorskip("obstore")
        pytest.importorskip("moto.server")
        s3 = "s3://jobs/equipot?endpoint=http://10.213.7.1:5555&region=us-east-1"
        keys = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "EQUIPOT_STORAGE": s3}
        front |= keys
        back |= keys
        hosts.run(hosts.front, sys.executable, "-m", "moto.server", "-H", "10.213.7.1", "-p", "5555")
        hosts.run(hosts.front, sys.executable, "-c", MAKE_BUCKET)
    redis = [str(find_binary()), "--bind", "10.213.7.1", "--port", "6379", "--requirepass", "secret", "--save", ""]
    hosts.run(hosts.front, *redis, "--dir", str(hosts.folder))
    hosts.run(hosts.front, sys.executable, "-m", "equipot.service.api", EQUIPOT_HOST="10.213.7.1", **front)
    hosts.run(hosts.back, sys.executable, "-m", "equipot.service.worker", **back)
    hosts.wait_for("/readyz")
    params = {"n_steps": 40, "seed": 1, "save_every": 10}
    body = {"kind": "md", "model": "tiny", "structures": [WATER], "params": params}
    answer = hosts.ask("/v1/jobs", body)
    assert answer is not None, (hosts.folder / "hosts.log").read_text()[-3000:]
    job = json.loads(answer)
    deadline = time.monotonic() + PATIENCE_S
    while job["state"] not in ("succeeded", "failed"):
        assert time.monotonic() < deadline, job
        job = json.loads(hosts.ask(f"/v1/jobs/{job['id']}") or b"{}")
    assert job["state"] == "succeeded", job
    frames = hosts.ask(f"/v1/jobs/{job['id']}/trajectory?format=extxyz")
    assert frames is not None
    assert frames.decode().splitlines().count("3") == 5
    systems = json.loads(hosts.ask(f"/v1/jobs/{job['id']}/systems") or b"{}")
    assert [system["outcome"] for system in systems["items"]] == ["completed"]


MAKE_BUCKET = """
import time, urllib.request
for _ in range(200):
    try:
        urllib.request.urlopen(urllib.request.Request("http://10.213.7.1:5555/jobs", method="PUT"), timeout=5).read()
        break
    except OSError:
        time.sleep(0.2)
"""

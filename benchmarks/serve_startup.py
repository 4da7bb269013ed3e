"""Seconds from `equipot serve` to a server that answers, is ready, and has finished its first job."""

from __future__ import annotations

import argparse
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx
from systems import show

WATER = {
    "symbols": ["O", "H", "H"],
    "positions": [[0.0, 0.0, 0.0], [0.96, 0.0, 0.0], [-0.24, 0.93, 0.0]],
    "cell": None,
    "pbc": [False, False, False],
}
PATIENCE_S = 180.0


def free_port() -> int:
    """A TCP port nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_until_ok(client: httpx.Client, path: str) -> None:
    """Returns when GET `path` answers 200."""
    give_up = time.perf_counter() + PATIENCE_S
    while time.perf_counter() < give_up:
        try:
            if client.get(path).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.01)
    raise TimeoutError(f"{path} did not answer 200 within {PATIENCE_S:g} s")


def one_start(data_dir: Path) -> list[float]:
    """Seconds to /healthz, to /readyz and to the end of a first single point."""
    port = free_port()
    command = [
        str(Path(sys.executable).with_name("equipot")),
        "serve",
        "--port",
        str(port),
        "--data-dir",
        str(data_dir),
    ]
    started = time.perf_counter()
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=dict(os.environ))
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=PATIENCE_S) as client:
            times_s = []
            for path in ("/healthz", "/readyz"):
                wait_until_ok(client, path)
                times_s.append(time.perf_counter() - started)
            job = client.post(
                "/v1/jobs", json={"kind": "singlepoint", "structures": [WATER]}, headers={"Prefer": "wait=60"}
            ).json()
            while job["state"] not in {"succeeded", "failed", "partially_succeeded", "cancelled"}:
                job = client.get(f"/v1/jobs/{job['id']}", headers={"Prefer": "wait=60"}).json()
            assert job["state"] == "succeeded", job
            return [*times_s, time.perf_counter() - started]
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(timeout=60)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--starts", type=int, default=3, help="how many times the server is started (3)")
    given = parser.parse_args()
    rows = []
    for number in range(given.starts):
        with tempfile.TemporaryDirectory() as folder:
            rows.append([str(number + 1), *(f"{value:.2f}" for value in one_start(Path(folder)))])
    show("seconds after `equipot serve`", ["start", "/healthz", "/readyz", "first result"], rows)


if __name__ == "__main__":
    main()

"""`equipot serve`: starts Redis (unless one is given), the API and the workers, and keeps them running.

Children are started anew with `subprocess`, never forked: a process that has torch loaded does not survive a fork.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import structlog
from redis.exceptions import RedisError

from equipot.errors import ConflictError
from equipot.service.access import refuse_open_door
from equipot.service.logs import configure_logs
from equipot.service.processes import n_cores, start_child
from equipot.service.reconciler import Reconciler
from equipot.service.redis_server import DataDirLock, RedisServer, connect
from equipot.service.roster import worker_id_of
from equipot.service.settings import Settings
from equipot.service.store import JobStore

log = structlog.get_logger()

LONGEST_BACK_OFF_S = 30.0
HEALTHY_AFTER_S = 30.0  #: a child that ran so long is started again at once
TICK_S = 0.2
NVIDIA_DRIVER = Path("/proc/driver/nvidia/gpus")  #: on Linux one folder for each GPU


def count_gpus() -> int:
    """How many NVIDIA GPUs this process may use, found without loading torch."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return len([part for part in visible.split(",") if part.strip() and part.strip() != "-1"])
    if NVIDIA_DRIVER.is_dir():
        return len(list(NVIDIA_DRIVER.iterdir()))
    if shutil.which("nvidia-smi"):
        listing = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, text=True, timeout=20, check=False)
        return sum(line.startswith("GPU ") for line in listing.stdout.splitlines())
    return 0


@dataclass
class Child:
    """A process that is started again, with growing pauses, when it ends by itself."""

    name: str
    command: list[str]
    environment: dict[str, str]
    process: subprocess.Popen[bytes] | None = None
    started_at: float = 0.0
    start_again_at: float = 0.0
    back_off_s: float = field(default=0.5)

    def start(self) -> None:
        """Start the process."""
        self.process = start_child(self.command, environment=self.environment)
        self.started_at = time.monotonic()

    @property
    def is_alive(self) -> bool:
        """Whether the process runs."""
        return self.process is not None and self.process.poll() is None

    def plan_restart(self) -> float:
        """Set when to start again; returns the pause in seconds."""
        if time.monotonic() - self.started_at > HEALTHY_AFTER_S:
            self.back_off_s = 0.5
        pause_s = self.back_off_s
        self.start_again_at = time.monotonic() + pause_s
        self.back_off_s = min(2 * self.back_off_s, LONGEST_BACK_OFF_S)
        self.process = None
        return pause_s


class Supervisor:
    """Everything of a service on one machine."""

    def __init__(self, settings: Settings, url: str, server: RedisServer | None) -> None:
        self._settings = settings.model_copy(update={"redis_url": url})
        self._server = server
        self._stop = threading.Event()
        self._store = JobStore(connect(url), settings.data_dir, self._settings)
        self._reconciler = Reconciler(self._store)
        self._children = [self._api(), *self._workers()]

    # -- what is started

    def _environment(self) -> dict[str, str]:
        return self._settings.as_environment()

    def _api(self) -> Child:
        return Child("api", [sys.executable, "-m", "equipot.service.api"], self._environment())

    def _workers(self) -> list[Child]:
        n_gpus = count_gpus() if self._settings.worker_device != "cpu" else 0
        n_workers = self._settings.workers if self._settings.workers is not None else max(1, n_gpus)
        threads = self._settings.threads_per_worker or max(1, n_cores() // max(1, n_workers))
        command = [sys.executable, "-m", "equipot.service.worker"]
        children = []
        for number in range(n_workers):
            environment = self._environment() | {"EQUIPOT_THREADS_PER_WORKER": str(threads)}
            environment["OMP_NUM_THREADS"] = str(threads)
            if n_gpus:
                environment["CUDA_VISIBLE_DEVICES"] = _visible_gpu(number % n_gpus)
            children.append(Child(f"worker-{number}", command, environment))
        return children

    # -- running

    def run(self, started_at: float) -> int:
        """Start everything, say so when it is ready, and watch until asked to stop. Returns the exit status."""
        self._reconciler.rebuild(forget_missing=self._server is not None)
        if self._server is not None:
            self._reconciler.take_from("all")  # nobody else can have worked with a Redis that was not there
        for child in self._children:
            child.start()
        ready = threading.Thread(target=self._announce, args=(started_at,), daemon=True)
        ready.start()
        next_look = 0.0
        while not self._stop.wait(TICK_S):
            self._revive()
            if time.monotonic() >= next_look:
                with suppress(RedisError):
                    self._reconciler.look()
                next_look = time.monotonic() + self._settings.reconcile_s
        self._shut_down()
        return 0

    def stop(self, *_: object) -> None:
        """Ask for an orderly end; may be called from a signal handler."""
        self._stop.set()

    def _revive(self) -> None:
        if self._server is not None and not self._server.is_alive:
            log.error("Redis died; starting it again")
            self._server.start()
        for child in self._children:
            if child.process is not None and not child.is_alive:
                pid, status = child.process.pid, child.process.returncode
                log.error("process ended", process=child.name, pid=pid, status=status, again_in_s=child.plan_restart())
                if child.name != "api":
                    self._bury(worker_id_of(pid))
            elif child.process is None and time.monotonic() >= child.start_again_at:
                child.start()

    def _bury(self, worker_id: str) -> None:
        """The shards of a worker that is surely dead need not wait for their lease to run out."""
        with suppress(RedisError):
            self._store.roster.leave(worker_id)
            self._reconciler.take_from(worker_id)

    def _announce(self, started_at: float) -> None:
        """Print the one line users wait for, once the API answers and a worker is ready."""
        url = f"http://{_shown_host(self._settings.host)}:{self._settings.port}"
        answered = False
        while not self._stop.wait(0.05):
            with suppress(httpx.HTTPError, RedisError):
                answered = answered or httpx.get(f"{url}/healthz", timeout=2.0).status_code == 200
                workers = [worker for worker in self._store.workers() if worker["ready"]]
                if answered and (workers or self._settings.workers == 0):
                    took = f"{time.monotonic() - started_at:.1f} s"
                    print(f"equipot is ready at {url} (workers: {len(workers)}; {took}). Ctrl-C stops it.", flush=True)
                    return

    def _shut_down(self) -> None:
        """Workers checkpoint and hand back, the API ends its streams, then Redis (stopped by the caller) goes."""
        log.info("stopping: running jobs are checkpointed and go on at the next start")
        alive = [child for child in self._children if child.is_alive]
        for child in alive:
            assert child.process is not None
            child.process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + self._settings.grace_s
        for child in alive:
            assert child.process is not None
            try:
                child.process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                log.error("process did not end in time", process=child.name)
                child.process.kill()
                child.process.wait()


def serve(settings: Settings, workers: int | None = None) -> int:
    """Run the whole service until SIGINT or SIGTERM. Returns the exit status.

    Raises ConflictError if the data directory or the port is in use, EquipotError if no Redis can be started.
    """
    started_at = time.monotonic()
    if workers is not None:
        settings = settings.model_copy(update={"workers": workers})
    configure_logs(settings)
    refuse_open_door(settings)
    with ExitStack() as stack:
        server, url = None, settings.redis_url
        if url is None:
            stack.callback(DataDirLock(settings.data_dir).release)
            _refuse_taken_port(settings)
            server = stack.enter_context(RedisServer(settings.data_dir))
            url = server.url
        supervisor = Supervisor(settings, url, server)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, supervisor.stop)
        return supervisor.run(started_at)


def _refuse_taken_port(settings: Settings) -> None:
    with socket.socket(socket.AF_INET6 if ":" in settings.host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((settings.host, settings.port))
        except OSError as error:
            raise ConflictError(
                f"Cannot listen on {settings.host}:{settings.port}: {error.strerror}.", hint="Give another --port."
            ) from error


def _shown_host(host: str) -> str:
    return {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)


def _visible_gpu(number: int) -> str:
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    return visible.split(",")[number].strip() if visible else str(number)

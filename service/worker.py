"""A worker: one warm process that is woken by RQ, claims shards and runs them.

`python -m equipot.service.worker`, or `equipot worker`.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from contextlib import suppress
from typing import Any, Literal

import structlog
import torch
from redis import Redis
from redis.exceptions import RedisError
from rq import SimpleWorker
from rq.exceptions import StopRequested
from rq.job import Job
from rq.serializers import JSONSerializer

from equipot.errors import EquipotError
from equipot.service.calibration import calibrate
from equipot.service.claims import Claims
from equipot.service.desk import Desk
from equipot.service.doorbell import WakeUp, ticket_client, wake_up_queue
from equipot.service.engines import Engines
from equipot.service.evaluator import Evaluator
from equipot.service.logs import configure_logs
from equipot.service.meter import Meter
from equipot.service.pace import Pace
from equipot.service.reconciler import Reconciler
from equipot.service.records import utc_now
from equipot.service.redis_server import connect, running_url
from equipot.service.roster import worker_id_of
from equipot.service.settings import Settings
from equipot.service.store import JobStore
from equipot.service.workbench import Workbench

log = structlog.get_logger()

WORKER_TTL_S = 20  #: of RQ's own list of workers; also how long it blocks for a ticket, plus 15
MAINTENANCE_S = 30  #: between RQ's clean-ups of tickets that dead workers left

_bench: Workbench | None = None


def wake_up() -> None:
    """The one function a ticket runs: work until nothing is left."""
    assert _bench is not None, "only a worker can be woken"
    _bench.work()


class WarmWorker(SimpleWorker):
    """RQ's loop around our work: keeps the ticket's lease, and hands everything back on SIGTERM or SIGINT."""

    bench: Workbench
    lease_s: float
    beat_s: float
    grace_s: float
    _working = False

    def execute_job(self, job: Job, queue: Any) -> None:
        """Run the ticket while a thread says that the worker is alive."""
        ended = threading.Event()

        def keep_alive() -> None:
            while not ended.wait(self.beat_s):
                with suppress(RedisError, AttributeError):  # RQ has no execution at the edges
                    self.maintain_heartbeats(job)

        thread = threading.Thread(target=keep_alive, daemon=True, name="ticket")
        thread.start()
        self._working = True
        try:
            super().execute_job(job, queue)
        finally:
            self._working = False
            ended.set()
            thread.join()

    def get_heartbeat_ttl(self, job: Job) -> int:
        """Seconds until RQ takes the ticket for abandoned."""
        return max(1, round(self.lease_s))

    def request_stop(self, signum: int, frame: Any) -> None:
        """SIGTERM, SIGINT: finish the step, checkpoint, hand back, go. Asked again, go on doing so."""
        first = not self._stop_requested
        self._stop_requested = True
        self.bench.preempted.set()
        if first:  # Redis may be gone too, as when the supervisor was killed: do not wait for it for ever
            last_word = threading.Timer(self.grace_s, os._exit, (1,))
            last_word.daemon = True
            last_word.start()
        if first and not self._working:
            raise StopRequested

    def request_force_stop(self, signum: int, frame: Any) -> None:
        """Never: a checkpoint takes less than the grace period."""

    def kill_horse(self, *args: Any) -> None:
        """RQ's stop command: there is no horse, and a job is cancelled through the store."""


class Heartbeat:
    """Tells the store every few seconds that the worker lives, and hears what was asked of its shards."""

    def __init__(
        self,
        store: JobStore,
        claims: Claims,
        bench: Workbench,
        meter: Meter,
        worker_id: str,
        about: dict[str, Any],
    ) -> None:
        self._store, self._claims, self._bench, self._meter = store, claims, bench, meter
        self._worker_id, self._about = worker_id, about
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat_on, daemon=True, name="heartbeat")

    def start(self) -> None:
        """Say so at once, then go on in a thread."""
        self.beat()
        self._thread.start()

    def stop(self) -> None:
        """The worker leaves."""
        self._ended.set()
        self._thread.join()
        with suppress(RedisError):
            self._store.roster.leave(self._worker_id)

    def beat(self) -> None:
        """One sign of life for the worker and for every shard."""
        held = self._bench.held
        self._store.roster.announce(
            self._worker_id, {**self._about, "n_shards": len(held)}, self._store.settings.lease_s
        )
        for shard, answer in zip(held, self._claims.beat([shard.claim for shard in held]), strict=True):
            if answer != "ok":
                shard.answer = answer
        self._meter.flush(self._store.redis)

    def _beat_on(self) -> None:
        while not self._ended.wait(self._store.settings.beat_s):
            try:
                self.beat()
            except RedisError as error:
                log.warning("no heartbeat", error=str(error))


class Watch:
    """Looks for what crashes have left behind, in a thread: a service without a supervisor is whole too."""

    def __init__(self, store: JobStore) -> None:
        self._reconciler = Reconciler(store)
        self._interval_s = store.settings.reconcile_s
        threading.Thread(target=self._look_on, daemon=True, name="reconciler").start()

    def _look_on(self) -> None:
        while True:
            time.sleep(self._interval_s)
            try:
                self._reconciler.look()
            except RedisError as error:
                log.warning("could not reconcile", error=str(error))


def main(settings: Settings | None = None) -> int:
    """Work until SIGTERM or SIGINT. Returns the exit status.

    Without a Redis URL the worker joins the service that runs on its data directory.
    """
    global _bench
    settings = settings or Settings()
    worker_id = worker_id_of(os.getpid())
    configure_logs(settings, worker=worker_id)
    url = settings.redis_url or running_url(settings.data_dir)
    if url is None:
        raise EquipotError(
            f"No service runs on {settings.data_dir}.", hint="Start `equipot serve`, or give --redis-url."
        )
    if settings.threads_per_worker:
        torch.set_num_threads(settings.threads_per_worker)
    device = _device(settings)
    store = JobStore(connect(url, patience_s=settings.redis_patience_s), settings.data_dir, settings)
    meter = Meter()
    claims, engines = Claims(store, worker_id, device), Engines(compile=settings.compile, meter=meter)
    bench = _bench = Workbench(store, claims, engines, settings, meter)
    Reconciler(store).take_from(worker_id)  # of an earlier process with the same number on a machine of the same name
    about: dict[str, Any] = {
        "device": device,
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "started_at": utc_now(),
        "ready": False,
        "models": engines.names,
    }
    heartbeat = Heartbeat(store, claims, bench, meter, worker_id, about)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _leave)  # until RQ's own handlers are there
    heartbeat.start()
    try:
        _preload(settings, engines, device, Pace(store.redis))
        about |= {"ready": True, "models": engines.names}
        heartbeat.beat()
        Watch(store)
        evaluator = Evaluator(Desk(connect(url, patience_s=settings.redis_patience_s)), device)
        evaluator.start()
        log.info("ready", device=device, models=engines.names, threads=torch.get_num_threads())
        try:
            _listen(store.redis, bench, settings, worker_id, device)
        finally:
            evaluator.stop()
    finally:
        heartbeat.stop()
    log.info("stopped")
    return 0


def _leave(number: int, frame: object) -> None:
    """Asked to stop before the first job: there is nothing to hand back."""
    sys.exit(0)


def _device(settings: Settings) -> Literal["cpu", "cuda"]:
    if settings.worker_device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return settings.worker_device


def _preload(settings: Settings, engines: Engines, device: Literal["cpu", "cuda"], pace: Pace) -> None:
    """Load the usual potential before it is asked for, and see how fast it is."""
    if settings.preload_model:
        try:
            metered = engines.get(settings.preload_model, None, "float64", device)
            calibrate(pace, metered.provider, "float64", device)
        except EquipotError as error:
            log.warning("nothing preloaded", model=settings.preload_model, why=str(error))


def _listen(redis: Redis, bench: Workbench, settings: Settings, worker_id: str, device: str) -> None:
    client = ticket_client(redis)
    worker = WarmWorker(
        [wake_up_queue(device, client)],
        name=worker_id,
        connection=client,
        job_class=WakeUp,
        serializer=JSONSerializer,
        worker_ttl=WORKER_TTL_S,
        maintenance_interval=MAINTENANCE_S,
        log_job_description=False,
    )
    worker.bench, worker.grace_s = bench, settings.grace_s
    worker.lease_s, worker.beat_s = settings.lease_s, settings.beat_s
    with suppress(StopRequested):
        worker.work(logging_level="ERROR")


if __name__ == "__main__":
    from equipot.service import worker as this  # the same module that tickets import, not a second copy

    sys.exit(this.main())

"""RQ as a doorbell: empty tickets that wake a worker, which then asks the store for work.

A ticket says nothing: losing one, or getting two, changes nothing but the moment at which a worker looks. Everything
RQ could be made to run by somebody who can write to Redis is closed: JSON instead of pickle, a job class that knows
one function, no callbacks, no webhooks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import uuid4

from redis import ConnectionPool, Redis
from rq import Queue
from rq.job import Job
from rq.serializers import JSONSerializer

from equipot.errors import EquipotError
from equipot.service.roster import Roster
from equipot.service.scripts import Scripts

DEVICE_CLASSES = ("cpu", "cuda")
ENTRY_POINT = "equipot.service.worker.wake_up"
RESERVATION_MS = 2000
NEVER = -1  #: RQ's job_timeout: a woken worker works as long as there is work


class WakeUp(Job):
    """A ticket. Whatever Redis says it is, it runs the entry point and nothing else."""

    success_callback = None
    failure_callback = None
    stopped_callback = None

    @property
    def func(self) -> Callable[[], Any]:
        if self.func_name != ENTRY_POINT:
            raise EquipotError(f"A ticket asks for {self.func_name!r}; only {ENTRY_POINT!r} is ever run.")
        from equipot.service.worker import wake_up

        return wake_up

    def _deserialize_data(self) -> None:
        """Take the name from the ticket and no arguments."""
        super()._deserialize_data()
        self._args, self._kwargs, self._instance = (), {}, None

    def send_webhooks(self, *args: Any, **kwargs: Any) -> None:
        """No ticket calls anybody."""


def queue_name(device: str) -> str:
    """The one queue all workers of a class of devices listen to."""
    return f"equipot:{device}"


def ticket_client(redis: Redis) -> Redis:
    """A client for RQ, which wants bytes, on the same server as one that decodes."""
    pool = redis.connection_pool
    kwargs = {**pool.connection_kwargs, "decode_responses": False}
    return Redis(connection_pool=ConnectionPool(connection_class=pool.connection_class, **kwargs))


def wake_up_queue(device: str, client: Redis) -> Queue:
    """The RQ queue of a class of devices."""
    return Queue(queue_name(device), connection=client, serializer=JSONSerializer, job_class=WakeUp)


class Doorbell:
    """Puts tickets into the queues, never more than there are workers."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._scripts = Scripts(redis)
        self._client = ticket_client(redis)
        self._queues = {device: wake_up_queue(device, self._client) for device in DEVICE_CLASSES}

    def ring(self, device: str, n_shards: int = 1) -> int:
        """Wake up to `n_shards` workers that can serve `device`. Returns how many tickets were added."""
        alive = self._alive()
        if not alive[device] and alive["cuda"]:
            device = "cuda"  # a worker with a GPU also computes what asks for the CPU, if nobody else can
        most = max(1, alive[device])
        for rung in range(min(n_shards, most)):
            if not self._ring_once(device, most):
                return rung
        return min(n_shards, most)

    def _ring_once(self, device: str, most: int) -> bool:
        queue, token = self._queues[device], uuid4().hex
        reservations = f"equipot:ringing:{device}"
        if not self._scripts.run("reserve_ring", queue.key, reservations, most, token, RESERVATION_MS):
            return False
        with self._client.pipeline() as pipeline:
            queue.enqueue_call(
                ENTRY_POINT, timeout=NEVER, result_ttl=0, failure_ttl=60, description="wake up", pipeline=pipeline
            )
            pipeline.zrem(reservations, token)
            pipeline.execute()
        return True

    def _alive(self) -> dict[str, int]:
        """How many workers of each class are alive."""
        devices = [worker["device"] for worker in Roster(self._redis).alive()]
        return {device: devices.count(device) for device in DEVICE_CLASSES}

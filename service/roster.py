"""Which workers are alive, as they say themselves; who is silent for a lease drops out."""

from __future__ import annotations

import json
import socket
from typing import Any

from redis import Redis

ALIVE = "equipot:workers"  #: worker id -> POSIX time (of the Redis server) until which it counts as alive
ABOUT = "equipot:workers:about"  #: worker id -> what it says about itself


class Roster:
    """The list of live workers."""

    def __init__(self, redis: Redis) -> None:
        self._redis: Any = redis

    def announce(self, worker_id: str, about: dict[str, Any], lease_s: float) -> None:
        """Say that a worker is alive for `lease_s` more, and what it is doing."""
        pipeline = self._redis.pipeline()
        pipeline.zadd(ALIVE, {worker_id: self._now() + lease_s})
        pipeline.hset(ABOUT, worker_id, json.dumps({"id": worker_id, **about}))
        pipeline.execute()

    def leave(self, worker_id: str) -> None:
        """Say that a worker is gone."""
        pipeline = self._redis.pipeline()
        pipeline.zrem(ALIVE, worker_id)
        pipeline.hdel(ABOUT, worker_id)
        pipeline.execute()

    def alive(self) -> list[dict[str, Any]]:
        """What each live worker says about itself: id, device, ready, host, pid, models, n_shards, started_at."""
        worker_ids = self._redis.zrangebyscore(ALIVE, self._now(), "+inf")
        if not worker_ids:
            return []
        return [json.loads(text) for text in self._redis.hmget(ABOUT, worker_ids) if text]

    def drop_silent(self) -> list[str]:
        """Forget the workers whose time has run out; returns their ids."""
        silent = self._redis.zrangebyscore(ALIVE, "-inf", f"({self._now()}")
        for worker_id in silent:
            self.leave(worker_id)
        return list(silent)

    def _now(self) -> float:
        seconds, microseconds = self._redis.time()
        return float(seconds) + float(microseconds) / 1e6


def worker_id_of(pid: int) -> str:
    """The name of the worker that is process `pid` of this machine."""
    return f"{socket.gethostname()}-{pid}"

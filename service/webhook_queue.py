"""Which ends of jobs are still to be told (see equipot.service.webhooks)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from redis import Redis

WAITING = "equipot:webhooks"  #: job -> POSIX time at which to tell its end, 0 as soon as it has ended


def await_end(redis: Redis, static: Mapping[str, Any]) -> None:
    """Have the end of a job told, if it asks for that; said before the job is known, so it is never missed."""
    if static.get("webhook_url"):
        redis.zadd(WAITING, {static["id"]: 0})

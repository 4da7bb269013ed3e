"""Idempotency-Key: the same request sent twice makes one job."""

from __future__ import annotations

import hashlib
import json
import time
from typing import Any

from redis import Redis

from equipot.errors import IdempotencyKeyInUseError, IdempotencyKeyReusedError

RESERVATION_S = 60  #: how long a submission may take before its key is free again
PATIENCE_S = 2.0  #: how long a submission waits for another with the same key before it is refused


class Reservation:
    """The right of one submission to a key. Kept in Redis as {job, body, done}; `body` is the request's digest."""

    def __init__(self, redis: Redis, idempotency_key: str, job_id: str, request_json: dict[str, Any]) -> None:
        self._redis: Any = redis
        self.key = "equipot:idempotency:" + hashlib.sha256(idempotency_key.encode()).hexdigest()
        body = json.dumps(request_json, sort_keys=True, separators=(",", ":"))
        self._mine = {"job": job_id, "body": hashlib.sha256(body.encode()).hexdigest()}

    @property
    def final(self) -> dict[str, str]:
        """Key and value to keep once the job exists."""
        return {"key": self.key, "value": json.dumps({**self._mine, "done": True})}

    def take(self) -> str | None:
        """Reserve the key, or return the id of the job that was made with it.

        Raises IdempotencyKeyReusedError if that job was another request, IdempotencyKeyInUseError if it is still
        being made after PATIENCE_S.
        """
        deadline = time.monotonic() + PATIENCE_S
        while not self._redis.set(self.key, json.dumps({**self._mine, "done": False}), nx=True, ex=RESERVATION_S):
            text = self._redis.get(self.key)
            if text is None:
                continue
            theirs = json.loads(text)
            if theirs["body"] != self._mine["body"]:
                raise IdempotencyKeyReusedError(
                    "This Idempotency-Key came with another request before.", hint="Use a new key for a new request."
                )
            if theirs["done"]:
                if self._redis.exists(f"equipot:job:{theirs['job']}"):
                    return str(theirs["job"])
                self._redis.delete(self.key)  # the job was deleted since
                continue
            if time.monotonic() > deadline:
                raise IdempotencyKeyInUseError(
                    "The first request with this Idempotency-Key has not been answered yet.",
                    hint="Try again in a moment.",
                )
            time.sleep(0.02)
        return None

    def keep(self, seconds: int) -> None:
        """Remember that the request was done."""
        self._redis.set(self.key, self.final["value"], ex=seconds)

    def release(self) -> None:
        """Free the key again: the submission failed."""
        self._redis.delete(self.key)

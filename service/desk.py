"""Questions that are answered while the caller waits: energies and forces of structures, from any free worker.

The API puts the number of a question into the list of a class of devices and the question itself under a key that
ends with the caller's patience; a worker answers into a list of the question's own. Nothing is kept: an evaluation
changes nothing, so what a dying worker loses is asked again.
"""

from __future__ import annotations

import json
import time
from typing import Any
from uuid import uuid4

from redis import Redis

from equipot.errors import QueueFullError, UnavailableError
from equipot.service.roster import Roster

MOST_WAITING = 1000  #: questions; beyond, callers are told to come back
ANSWER_KEPT_S = 30  #: for a caller that has just gone away
LOOK_AGAIN_S = 1.0  #: between two looks whether a worker is still there


class Desk:
    """Both sides of the desk: `ask` for the API, `take` and `answer` for workers."""

    def __init__(self, redis: Redis) -> None:
        self._redis: Any = redis
        self._roster = Roster(redis)

    def ask(self, device: str, question: dict[str, Any], patience_s: float) -> dict[str, Any]:
        """The answer to a question for a device (auto, cpu, cuda); blocks for at most `patience_s`.

        Raises UnavailableError without a worker for it or an answer in time, QueueFullError if too many wait.
        """
        queue = _queue(self._class_for(device))
        if self._redis.llen(queue) >= MOST_WAITING:
            raise QueueFullError("Too many evaluations are waiting.", hint="Try again in a second.")
        number = uuid4().hex
        pipeline = self._redis.pipeline()
        pipeline.set(_question(number), json.dumps(question, allow_nan=False), px=int(patience_s * 1000))
        pipeline.rpush(queue, number)
        pipeline.execute()
        deadline = time.monotonic() + patience_s
        while (left_s := deadline - time.monotonic()) > 0:
            if found := self._redis.blpop(_answer(number), timeout=min(left_s, LOOK_AGAIN_S)):
                answer: dict[str, Any] = json.loads(found[1])
                return answer
            self._class_for(device)
        self._redis.delete(_question(number))
        raise UnavailableError(
            f"No worker answered within {patience_s:g} s.", hint="Try again, or submit a singlepoint job, which waits."
        )

    def take(self, device: str, wait_s: float, most: int) -> list[tuple[str, dict[str, Any]]]:
        """Up to `most` questions that wait now, with their numbers; waits up to `wait_s` for the first."""
        first = self._redis.blpop(_queue(device), timeout=wait_s)
        if not first:
            return []
        numbers = [first[1], *(self._redis.lpop(_queue(device), most - 1) or [])]
        pipeline = self._redis.pipeline()
        for number in numbers:
            pipeline.getdel(_question(number))
        return [
            (number, json.loads(text)) for number, text in zip(numbers, pipeline.execute(), strict=True) if text
        ]  # the others have lost patience

    def answer(self, number: str, answer: dict[str, Any]) -> None:
        """Give the caller what it waits for."""
        pipeline = self._redis.pipeline()
        pipeline.rpush(_answer(number), json.dumps(answer, allow_nan=False))
        pipeline.expire(_answer(number), ANSWER_KEPT_S)
        pipeline.execute()

    def _class_for(self, device: str) -> str:
        """The class of live workers that serves this device. Raises UnavailableError if there is none."""
        there = {worker["device"] for worker in self._roster.alive()}
        wanted = {"auto": ("cuda", "cpu"), "cpu": ("cpu", "cuda"), "cuda": ("cuda",)}[device]
        for candidate in wanted:
            if candidate in there:
                return candidate
        raise UnavailableError(
            "No worker is running." if device != "cuda" else "No worker with a GPU is running.",
            hint="GET /v1/workers lists the workers; a job would wait for one.",
        )


def _queue(device: str) -> str:
    return f"equipot:evaluate:{device}"


def _question(number: str) -> str:
    return f"equipot:evaluate:question:{number}"


def _answer(number: str) -> str:
    return f"equipot:evaluate:answer:{number}"

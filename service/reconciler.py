"""Puts right what crashes leave behind: lost shards, missed wake-ups, jobs that Redis has forgotten."""

from __future__ import annotations

import json
from contextlib import suppress
from datetime import datetime
from typing import Any

import structlog

from equipot.errors import JobNotFoundError, WorkerLostError
from equipot.service.doorbell import DEVICE_CLASSES
from equipot.service.states import JobState, ShardState
from equipot.service.store import COUNTERS, JobStore, job_key

log = structlog.get_logger()

LOCK = "equipot:reconciler"
MARK = "equipot:rebuilt"  #: set when the jobs on disk have been brought back; gone if Redis was emptied


class Reconciler:
    """Any number may run; a lock in Redis lets one look at a time."""

    def __init__(self, store: JobStore) -> None:
        self._store = store

    def look(self) -> None:
        """One look at everything."""
        # Two looks at once do no harm, so a process that freezes with the lock need not hold it for long.
        lock = self._store.redis.lock(LOCK, timeout=self._store.settings.lease_s, blocking=False)
        if not lock.acquire():
            return
        try:
            if not self._store.redis.exists(MARK):
                self.rebuild()
            self._drop_silent_workers()
            self.take_from()
            self._settle()
            self._ring()
        finally:
            with suppress(Exception):
                lock.release()

    def rebuild(self, *, forget_missing: bool = False) -> int:
        """Bring back jobs that are on disk and unknown to Redis; forget those without files only if told to.

        Shards with a result are taken as they ended, the others are queued again. Seen from a wrong data directory
        every job of a shared Redis is without files. Returns the number of jobs brought back.
        """
        n_rebuilt = 0
        on_disk = self._store.files.known()
        for job_id in on_disk:
            if self._store.redis.exists(job_key(job_id)):
                self._catch_up(job_id)
            elif self._bring_back(job_id):
                n_rebuilt += 1
        known = set(self._store.redis.zrange("equipot:jobs", 0, -1)) if forget_missing else set()
        for job_id in known - set(on_disk):
            if not self._store.files.job(job_id).exists():
                self._store.scripts.run("delete", job_id, "1")
        self._store.redis.set(MARK, "1")
        if n_rebuilt:
            log.info("jobs brought back from disk", n_jobs=n_rebuilt)
        return n_rebuilt

    def _bring_back(self, job_id: str) -> bool:
        files = self._store.files
        try:
            request = files.read_request(job_id)
        except (JobNotFoundError, ValueError):
            log.warning("job on disk cannot be read", job_id=job_id)
            return False
        record = files.read_record(job_id) or {}
        shards = [self.shard_fields(job_id, idx, shard, record) for idx, shard in enumerate(request["shards"])]
        all_ended = all(shard["state"] not in ("pending", "running") for shard in shards)
        state = JobState(record.get("state", "queued"))
        kept: dict[str, Any] = {}
        for name, value in (("started_ms", record.get("started_at")), ("finished_ms", record.get("finished_at"))):
            if value and (all_ended or name == "started_ms"):
                kept[name] = _milliseconds(value)
        remembered = ("worker", "device", "checkpoint_step")
        kept |= {name: record[name] for name in remembered if record.get(name) is not None}
        if record.get("error") and all_ended:
            kept["error"] = json.dumps(record["error"])
        if all_ended and state.is_terminal:
            kept["state"] = state.value
        return self._store.register(request, kept=kept, shards=shards)

    def shard_fields(self, job_id: str, shard_idx: int, size: dict[str, int], record: dict[str, Any]) -> dict[str, Any]:
        """The fields of a shard's hash as its files tell them."""
        fields = {**size, "state": "pending", "attempt": self._store.files.last_attempt(job_id, shard_idx)}
        result = self._store.files.read_result(job_id, shard_idx) or _ended_by_record(record)
        if result is None:
            return fields
        outcomes = dict(result["outcomes"])
        fields |= {"state": result["state"], "step": result["step"], "n_done": sum(outcomes.values())}
        missing = size["n_systems"] - sum(outcomes.values())
        if missing:
            outcomes[result["state"]] = outcomes.get(result["state"], 0) + missing
        if result["error"]:
            fields["error"] = json.dumps(result["error"])
        return {**fields, "outcomes": json.dumps(outcomes)}

    def _catch_up(self, job_id: str) -> None:
        """A Redis that lost its last second may not know that a job ended; its record does."""
        record = self._store.files.read_record(job_id)
        state = self._store.redis.hget(job_key(job_id), "state")
        if record and JobState(record["state"]).is_terminal and state and not JobState(state).is_terminal:
            self._store.scripts.run("delete", job_id, "1")
            self._bring_back(job_id)

    def take_from(self, whose: str = "") -> None:
        """Give shards whose worker is gone to others: of one worker, of 'all', or ('') those whose lease ran out."""
        most = self._store.settings.max_attempts
        problem = WorkerLostError(
            f"{most} workers in a row died while running this, without a checkpoint between.",
            hint="A structure of this job probably brings the process down; the operator's log may say how.",
        )
        for job_id in set(self._store.scripts.run("expire", most, json.dumps(problem.as_problem()), whose)):
            self._store.settle(job_id)
            with suppress(JobNotFoundError):
                record = self._store.save_record(job_id)
                self._store.redis.hincrby(COUNTERS, "retries", 1)
                log.warning("worker lost", job_id=job_id, state=record.state.value, attempt=record.attempt)

    def _drop_silent_workers(self) -> None:
        for worker_id in self._store.roster.drop_silent():
            log.warning("worker is silent", worker=worker_id)

    def _settle(self) -> None:
        for job_id in self._store.redis.smembers("equipot:live"):
            with suppress(JobNotFoundError):
                if self._store.settle(job_id):
                    self._store.save_record(job_id)

    def _ring(self) -> None:
        for device in DEVICE_CLASSES:
            if waiting := self._store.redis.zcard(f"equipot:pending:{device}"):
                self._store.doorbell.ring(device, waiting)


def _milliseconds(text: str) -> int:
    return round(datetime.fromisoformat(text).timestamp() * 1000)


def _ended_by_record(record: dict[str, Any]) -> dict[str, Any] | None:
    """How a shard without a result ended: with its job, or not at all."""
    state = record.get("state")
    if state in ("cancelled", "cancelling"):
        return {"state": ShardState.CANCELLED.value, "step": 0, "outcomes": {}, "error": None}
    if state in ("failed", "partially_succeeded"):
        return {"state": ShardState.FAILED.value, "step": 0, "outcomes": {}, "error": record.get("error")}
    return None

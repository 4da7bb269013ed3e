"""What the service says about a job, and what a worker holds while it runs a part of one."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from equipot.params import Device, Dtype, JobKind
from equipot.service.states import JobState


def utc_now() -> str:
    """The time now, ISO 8601, UTC, milliseconds."""
    return utc_text(datetime.now(UTC).timestamp())


def utc_text(seconds: float) -> str:
    """A POSIX time as ISO 8601, UTC, milliseconds."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def seconds_since(text: str) -> float:
    """How long ago a time was that `utc_now` wrote; never negative, though clocks differ."""
    return max(0.0, datetime.now(UTC).timestamp() - datetime.fromisoformat(text).timestamp())


class Record(BaseModel):
    """Base of everything the service says: frozen."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Progress(Record):
    """How far a job is. `step` is the smallest step of a system that has not ended."""

    step: int = 0
    n_steps: int = 0
    n_systems: int
    n_done: int = 0


class JobWarning(Record):
    """Something a user should know about a result; `system_idx` is absent if it concerns the whole job."""

    message: str
    system_idx: int | None = None


class JobRecord(Record):
    """Everything known about a job but its structures and numbers. Times are ISO 8601, UTC."""

    id: str
    kind: JobKind
    model: str  #: full name, never an alias
    model_sha256: str
    level_of_theory: str
    state: JobState
    name: str = ""
    tags: list[str] = []
    priority: int = 0
    params: dict[str, Any]  #: all defaults resolved
    dtype: Dtype
    device: Device
    reproducible: bool = False
    compile: bool | None = None
    max_wall_time_s: float | None = None
    webhook_url: str | None = None
    owner: str = ""  #: whose API key submitted it; empty if none was needed
    cached: bool = False  #: the results are those of an earlier job that computed exactly this
    progress: Progress
    outcomes: dict[str, int] = {}  #: systems that have ended, by outcome
    warnings: list[JobWarning] = []
    attempt: int = 0  #: how often a worker has taken up the job (the largest number among its shards)
    worker: str | None = None  #: the worker that took up a part of it last
    checkpoint_step: int | None = None
    queue_position: int | None = None  #: 1 is next; only while queued
    created_at: str
    started_at: str | None = None
    finished_at: str | None = None
    expires_at: str | None = None  #: when the job and its files are removed; known once it has ended
    error: dict[str, Any] | None = None  #: a problem object

    @property
    def is_over(self) -> bool:
        """Whether the job has ended."""
        return self.state.is_terminal


@dataclass(frozen=True)
class Event:
    """One thing that happened to a job. `type` is state, progress, thermo, system, warning or end."""

    id: str  #: of the Redis stream entry; grows with time
    type: str
    data: dict[str, Any]


@dataclass(frozen=True)
class ShardClaim:
    """A worker's right to run one shard, valid while nobody has claimed the shard after it."""

    job_id: str
    shard_idx: int
    attempt: int
    worker_id: str
    directory: Path  #: the run directory
    kind: JobKind
    model: str
    model_sha256: str
    params: dict[str, Any]
    dtype: Dtype
    device: Device
    reproducible: bool  #: on a GPU, computed apart from every other shard
    compile: bool | None
    system_offset: int
    n_systems: int
    owner: str  #: whose job it is; empty where there are no accounts
    request_id: str  #: of the request that submitted the job
    wall_left_s: float | None  #: running time left to the job, if limited
    level_of_theory: str | None = None
    alone: bool = False  #: a worker died with it and others: nothing else runs until it has passed a checkpoint

    @property
    def name(self) -> str:
        """`JOB/SHARD`, the member of the sets in Redis."""
        return f"{self.job_id}/{self.shard_idx}"


def _moment(text: str | None) -> str | None:
    return utc_text(int(text) / 1000) if text else None


def record_from_hash(fields: Mapping[str, str], warnings: Sequence[str]) -> JobRecord:
    """The record of a job from its hash in Redis and the list of its warnings."""
    static = json.loads(fields["static"])
    n_steps, n_systems = static.pop("n_steps"), static.pop("n_systems")
    retention_s = static.pop("retention_s", None)
    over_ms = int(fields["finished_ms"]) if fields.get("finished_ms") else None
    static["device"] = fields.get("device", static["device"])
    static.pop("request_id", None)
    return JobRecord(
        **static,
        state=JobState(fields["state"]),
        progress=Progress(
            step=int(fields.get("step", 0)),
            n_steps=n_steps,
            n_systems=n_systems,
            n_done=int(fields.get("n_done", 0)),
        ),
        outcomes=json.loads(fields.get("outcomes", "{}")),
        warnings=[JobWarning.model_validate_json(text) for text in warnings],
        attempt=int(fields.get("attempt", 0)),
        worker=fields.get("worker"),
        checkpoint_step=int(fields["checkpoint_step"]) if "checkpoint_step" in fields else None,
        started_at=_moment(fields.get("started_ms")),
        finished_at=_moment(fields.get("finished_ms")),
        expires_at=utc_text(over_ms / 1000 + retention_s) if over_ms and retention_s else None,
        error=json.loads(fields["error"]) if "error" in fields else None,
    )

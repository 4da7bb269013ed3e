"""Every setting of the service, with its default. Set by environment variables EQUIPOT_<NAME> or in Python.

The supervisor hands its settings to the processes it starts through the same variables, so all of them agree.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from equipot.structure import MAX_ATOMS

PREFIX = "EQUIPOT_"


class Settings(BaseSettings):
    """How the service runs. Frozen: a change makes a new object (`model_copy(update=...)`)."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, env_ignore_empty=True)

    data_dir: Path = Field(Path("equipot-data"), description="jobs, uploaded structures and the embedded Redis")
    redis_url: str | None = Field(None, description="redis://, rediss:// or unix://; if absent, one is started")
    storage: str = Field("", description="s3://bucket/prefix or file:///folder for jobs; '' keeps them in data_dir")
    host: str = "127.0.0.1"
    port: int = Field(8000, ge=0, le=65535)

    access: Literal["auto", "keys", "open"] = Field(
        "auto", description="keys: requests need an API key; open: none do; auto: off 127.0.0.1, or once there is a key"
    )
    allowed_hosts: list[str] = Field([], description="names beside localhost that a service without keys answers to")
    signed_url_s: int = Field(3600, gt=0, description="how long a signed address of an artifact works")
    retention_days: float | None = Field(None, gt=0, description="days after its end until a job is removed")
    webhook_allow_private: bool = Field(False, description="let webhooks go to private networks and this machine")
    webhook_attempts: int = Field(8, ge=1, description="tries before a webhook is given up")
    webhook_pause_s: float = Field(
        5.0, gt=0, description="after the first try; four times longer after each further one"
    )
    chores_s: float = Field(1.0, gt=0, description="between two looks for webhooks that are due")

    max_body_bytes: int = Field(10_000_000, gt=0, description="largest request body")
    max_atoms: int = Field(MAX_ATOMS, gt=0, description="most atoms in one structure")
    max_structures: int = Field(10_000, gt=0, description="most structures in one job")
    max_queued_jobs: int = Field(10_000, gt=0, description="jobs waiting before new ones are refused")
    idempotency_ttl_s: int = Field(86_400, gt=0, description="how long an Idempotency-Key is remembered")

    workers: int | None = Field(None, ge=0, description="worker processes; if absent the number of GPUs, else 1")
    worker_device: Literal["auto", "cpu", "cuda"] = Field("auto", description="what a worker computes on")
    threads_per_worker: int | None = Field(None, ge=1, description="if absent, cores divided by workers")
    preload_model: str = Field("organic", description="the potential a worker loads before its first job; '' for none")
    compile: bool = Field(False, description="compile potentials for CPUs: a minute the first time, then much faster")
    turn_s: float = Field(1.0, gt=0, description="how long one shard runs before the next has its turn")
    max_shards_per_worker: int = Field(
        64, ge=1, description="shards of one owner that a worker has at a time, one of a job"
    )
    shard_max_systems: int = Field(256, ge=1, description="most systems in one shard")
    shard_max_atoms: int = Field(50_000, ge=1, description="most atoms in one shard, but never less than one system")

    lease_s: float = Field(15.0, gt=0, description="a shard without a sign of life for so long is given to another")
    beat_s: float = Field(3.0, gt=0, description="between two signs of life of a worker")
    reconcile_s: float = Field(5.0, gt=0, description="between two looks for lost shards and missed wake-ups")
    max_attempts: int = Field(3, ge=1, description="crashes in a row, without a checkpoint between, before giving up")
    grace_s: float = Field(30.0, gt=0, description="for a worker to checkpoint and hand back before it is killed")
    redis_patience_s: float = Field(120.0, ge=0, description="how long a worker waits for a Redis that went away")

    event_interval_s: float = Field(0.2, gt=0, description="least time between two progress events of a shard")
    log_format: Literal["auto", "json", "console"] = Field("auto", description="auto: console on a terminal, else json")
    log_level: Literal["debug", "info", "warning", "error"] = "info"

    def as_environment(self) -> dict[str, str]:
        """The settings as environment variables from which a child process reads the same object."""
        values = self.model_dump(mode="json", exclude_none=True)
        values["data_dir"] = str(self.data_dir.absolute())
        return {
            PREFIX + name.upper(): json.dumps(value) if isinstance(value, list) else str(value)
            for name, value in values.items()
        }

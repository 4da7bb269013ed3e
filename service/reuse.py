"""Results that are there already: a job that would compute exactly what an earlier one did gets a copy of them."""

from __future__ import annotations

import hashlib
import shutil
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from equipot.errors import JobNotFoundError
from equipot.service.manifest import input_digest
from equipot.service.records import JobRecord
from equipot.service.states import JobState

if TYPE_CHECKING:
    from equipot.service.store import JobStore

MOST_REMEMBERED = 16  #: jobs of one input
COPIED = ("inputs", "attempts", "shards", "results")


def remember(store: JobStore, request: Mapping[str, Any]) -> None:
    """Let a job be found by what it computes."""
    key = _key(request)
    if key is not None:
        store.redis.lpush(key, request["static"]["id"])
        store.redis.ltrim(key, 0, MOST_REMEMBERED - 1)


def forget(store: JobStore, request: Mapping[str, Any]) -> None:
    """The job is gone."""
    key = _key(request)
    if key is not None:
        store.redis.lrem(key, 0, request["static"]["id"])


def earlier_job(store: JobStore, request: Mapping[str, Any]) -> JobRecord | None:
    """The newest job of the same owner that succeeded in computing exactly this, if there is one."""
    key = _key(request)
    for job_id in store.redis.lrange(key, 0, -1) if key else ():
        try:
            record, found = store.get(job_id), store.files.read_request(job_id)
        except JobNotFoundError:
            continue
        if record.state is JobState.SUCCEEDED and _key(found) == key:
            return record
    return None


def take_over(store: JobStore, request: dict[str, Any], earlier: JobRecord) -> bool:
    """Make the job of this request known as one that has ended, with a copy of the files of an earlier one.

    False if the earlier one was removed or changed meanwhile: then the job has to be computed.
    """
    from equipot.service.reconciler import Reconciler

    job_id = request["static"]["id"]
    target = store.files.job(job_id)
    try:
        with store.files.locked(earlier.id) as source:
            if store.get(earlier.id) != earlier:
                return False
            target.mkdir(parents=True)
            for name in COPIED:
                if (source / name).exists():
                    shutil.copytree(source / name, target / name)
            shards = store.files.read_request(earlier.id)["shards"]
    except (OSError, JobNotFoundError):
        shutil.rmtree(target, ignore_errors=True)
        return False
    store.files.push(job_id, *COPIED)
    copied = {**request, "shards": shards, "static": {**request["static"], "cached": True}, "cached_from": earlier.id}
    store.files.rewrite_request(job_id, copied)
    now_ms = round(1000 * time.time())
    kept = {"state": JobState.SUCCEEDED.value, "started_ms": now_ms, "finished_ms": now_ms}
    reconciler = Reconciler(store)
    store.register(
        copied, kept=kept, shards=[reconciler.shard_fields(job_id, idx, size, {}) for idx, size in enumerate(shards)]
    )
    return True


def _key(request: Mapping[str, Any]) -> str | None:
    """Where jobs of this input and owner are remembered; None for a job from before inputs had digests."""
    static, structures_sha256 = request["static"], request.get("structures_sha256")
    if structures_sha256 is None:
        return None
    digest = input_digest(
        static["kind"],
        static["model_sha256"],
        static["level_of_theory"],
        static["dtype"],
        static["params"],
        structures_sha256,
    )
    whose = hashlib.sha256(static.get("owner", "").encode()).hexdigest()[:16]
    return f"equipot:same:{whose}:{digest}"

"""More steps for a dynamics that has ended: the same job goes on, on the same stream of noise."""

from __future__ import annotations

import json
from typing import Any

from equipot.errors import ConflictError, InvalidParameterError, NotResumableError
from equipot.params import Extension, MDParams
from equipot.service import reuse
from equipot.service.records import JobRecord, utc_now
from equipot.service.states import JobState
from equipot.service.store import JobStore, shard_key
from equipot.service.webhook_queue import await_end
from equipot.simulation.extension import extend_run

EXTENDABLE = (JobState.SUCCEEDED, JobState.PARTIALLY_SUCCEEDED)


def extend_job(store: JobStore, job_id: str, more: Extension) -> JobRecord:
    """Queue an ended dynamics again, so many steps longer. What was interrupted half-way may be asked for again.

    Raises ConflictError for a job of another kind or one that has not ended by itself, NotResumableError if none of
    its systems can go on, InvalidParameterError if the steps are too many.
    """
    with store.files.locked(job_id):
        record = store.get(job_id)
        if record.kind != "md":
            raise ConflictError(
                f"A job of kind {record.kind} has no steps to add.", hint="Only molecular dynamics can be extended."
            )
        if record.state not in EXTENDABLE:
            hint = "Wait for its end." if not record.is_over else "Resume it first, or submit a new job."
            raise ConflictError(f"The job is {record.state.value}; only one that has completed goes on.", hint=hint)
        store.files.fetch(job_id)
        request = store.files.read_request(job_id)
        params = _longer(MDParams.model_validate(record.params), more, request, record.progress.n_systems)
        dumped = params.model_dump(mode="json")
        going_on = []
        for shard_idx, size in enumerate(request["shards"]):
            if store.redis.hget(shard_key(job_id, shard_idx), "state") != "done":
                continue
            if extend_run(store.files.shard(job_id, shard_idx), _of_shard(dumped, size)):
                store.files.push_shard(job_id, shard_idx, store.files.last_attempt(job_id, shard_idx))
                store.files.withdraw_result(job_id, shard_idx)
                going_on.append(shard_idx)
        if not going_on:
            raise NotResumableError("No system of the job completed its steps.", hint="See /systems for what did end.")
        static = {**request["static"], "params": dumped, "n_steps": params.n_steps}
        said = {"at": utc_now(), "from_n_steps": record.params["n_steps"], "to_n_steps": params.n_steps}
        extensions = [*request.get("extensions", ()), said]
        store.files.rewrite_request(job_id, {**request, "static": static, "extensions": extensions})
        reuse.forget(store, request)
        reuse.remember(store, store.files.read_request(job_id))
        await_end(store.redis, static)
        store.scripts.run("extend", job_id, json.dumps(static), json.dumps(going_on))
    record = store.save_record(job_id)
    store.doorbell.ring(store.device_class(record.device), len(going_on))
    return record


def _longer(params: MDParams, more: Extension, request: dict[str, Any], n_systems: int) -> MDParams:
    """The resolved parameters that a job submitted for the longer time would have had."""
    assert params.n_steps is not None
    assert params.timestep_fs is not None
    changes: dict[str, Any] = {"n_steps": params.n_steps + more.steps(params.timestep_fs)}
    if "save_every" not in request["sent"].get("params", {}):
        changes["save_every"] = None  # the default depends on the number of steps
    try:
        return MDParams.model_validate({**params.model_dump(), **changes}).with_save_every(n_systems)
    except ValueError as error:
        raise InvalidParameterError(
            f"The run would have {changes['n_steps']} steps together, which is too many.", pointer="/n_steps"
        ) from error


def _of_shard(params: dict[str, Any], size: dict[str, int]) -> dict[str, Any]:
    """The parameters as the shard has them: of a list of seeds, those of its systems."""
    seed = params["seed"]
    if not isinstance(seed, list):
        return params
    return {**params, "seed": seed[size["offset"] : size["offset"] + size["n_systems"]]}

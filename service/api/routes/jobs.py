"""Jobs: submit, list, look, cancel, resume, extend, delete."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response
from pydantic import ValidationError
from starlette.concurrency import run_in_threadpool

from equipot.cards import find_model
from equipot.errors import ConflictError, UnknownModelError
from equipot.params import Extension, JobKind, invalid_parameters
from equipot.service import extension
from equipot.service.access import Caller
from equipot.service.api.context import (
    IdempotencyKey,
    Job,
    Services,
    Use,
    WaitSeconds,
    Who,
    json_response,
    pointing_at_query,
    waited,
)
from equipot.service.api.schemas import Estimate, JobList
from equipot.service.api.submission import Submission, parse_json, prepare
from equipot.service.idempotency import Reservation
from equipot.service.pace import Pace, estimate
from equipot.service.quotas import check_steps
from equipot.service.records import JobRecord, JobWarning
from equipot.service.states import JobState
from equipot.service.store import n_steps_of
from equipot.service.webhooks import check_url

router = APIRouter(prefix="/v1/jobs", tags=["jobs"])

LARGEST_PAGE = 1000
EXTENSION = {
    "required": True,
    "content": {
        "application/json": {
            "schema": Extension.model_json_schema(),
            "examples": {
                "steps": {"summary": "Ten thousand steps more", "value": {"n_steps": 10_000}},
                "time": {"summary": "Five picoseconds more", "value": {"duration_ps": 5.0}},
            },
        }
    },
}


@router.post("", status_code=202, responses={200: {"model": Estimate}, 202: {"model": JobRecord}})
async def submit_job(
    request: Request,
    use: Use,
    who: Who,
    wait_s: WaitSeconds,
    idempotency_key: IdempotencyKey = None,
    validate_only: Annotated[bool, Query(description="check and estimate, queue nothing")] = False,
) -> Response:
    """Queue a job. Nothing is queued unless every structure and parameter is valid.

    A structure is canonical JSON, `{"structure_id": ...}` of an upload, or `{"format": ..., "text": ...}` of a file.
    """
    body = await request.body()
    if validate_only:
        return json_response(await run_in_threadpool(_validate, use, who, body))
    request_id = request.state.request_id
    record, replayed = await run_in_threadpool(_submit, use, who, body, idempotency_key, request_id)
    headers = {"Location": f"/v1/jobs/{record.id}"}
    if replayed:
        headers["Idempotent-Replayed"] = "true"
    if wait_s:
        record = await waited(use, record.id, wait_s)
        headers["Preference-Applied"] = f"wait={wait_s:g}"
    return json_response(record.model_dump(mode="json"), 202, headers)


@router.get("", responses={200: {"model": JobList}})
def list_jobs(
    use: Use,
    who: Who,
    page_size: Annotated[int, Query(ge=1, description=f"at most {LARGEST_PAGE} are given")] = 50,
    page_token: Annotated[
        str,
        Query(
            max_length=100,
            description="`next_page_token` of the page before",
            json_schema_extra={"pattern": "^([0-9a-f]{22})?$"},
        ),
    ] = "",
    state: JobState | None = None,
    kind: JobKind | None = None,
    model: Annotated[str | None, Query(max_length=100)] = None,
    tag: Annotated[str | None, Query(max_length=64)] = None,
) -> Response:
    """Jobs, newest first."""
    if model is not None:
        with suppress(UnknownModelError):  # jobs of a potential that is gone are found by its full name
            model = find_model(model)[1].name
    with pointing_at_query("page_token"):
        records, next_page_token = use.store.list(
            min(page_size, LARGEST_PAGE),
            page_token,
            state=state,
            kind=kind,
            model=model,
            tag=tag,
            owner=None if who.sees_all else who.owner,
        )
    items = [record.model_dump(mode="json") for record in records]
    return json_response({"items": items, "next_page_token": next_page_token})


@router.get("/{job_id}", responses={200: {"model": JobRecord}})
async def get_job(use: Use, job: Job, wait_s: WaitSeconds) -> Response:
    """The record of a job. With `Prefer: wait=N` the answer comes when the job has ended, or after N seconds."""
    headers = {}
    if wait_s:
        job = await waited(use, job.id, wait_s)
        headers["Preference-Applied"] = f"wait={wait_s:g}"
    return json_response(job.model_dump(mode="json"), headers=headers)


@router.post("/{job_id}/cancel", status_code=202, responses={200: {"model": JobRecord}, 202: {"model": JobRecord}})
def cancel_job(use: Use, job: Job) -> Response:
    """Ask a job to stop. What it computed is kept. A job that has ended stays as it is (200)."""
    if job.is_over:
        return json_response(job.model_dump(mode="json"))
    try:
        record = use.store.request_cancel(job.id)
    except ConflictError:  # it ended in between
        return json_response(use.store.get(job.id).model_dump(mode="json"))
    return json_response(record.model_dump(mode="json"), 202)


@router.post("/{job_id}/resume", status_code=202, responses={202: {"model": JobRecord}})
def resume_job(use: Use, who: Who, job: Job) -> Response:
    """Let a cancelled or failed job go on from its last checkpoint, with the same weights."""
    if job.is_over:
        use.quotas.reserve_job(who, job.id)
    return json_response(use.store.resume(job.id).model_dump(mode="json"), 202)


@router.post(
    "/{job_id}/extend", status_code=202, responses={202: {"model": JobRecord}}, openapi_extra={"requestBody": EXTENSION}
)
async def extend_job(
    request: Request, use: Use, who: Who, job: Job, idempotency_key: IdempotencyKey = None
) -> Response:
    """Let a molecular dynamics that has ended go on for more steps, as if it had been asked for them from the start.

    The same job goes on from its last step on the same stream of noise: trajectory, time series and results are, bit by
    bit on a CPU, those of one submitted for the longer time.
    """
    body = await request.body()
    record, replayed = await run_in_threadpool(_extend, use, who, job, body, idempotency_key)
    headers = {"Idempotent-Replayed": "true"} if replayed else {}
    return json_response(record.model_dump(mode="json"), 202, headers)


@router.delete("/{job_id}", status_code=204)
def delete_job(use: Use, job: Job) -> Response:
    """Remove a job that has ended, with all its data."""
    use.store.delete(job.id)
    use.exports.forget(job.id)
    return Response(status_code=204)


def _submit(use: Services, who: Caller, body: bytes, key: str | None, request_id: str) -> tuple[JobRecord, bool]:
    data = parse_json(body)
    ready = _prepared(use, who, data)
    days = who.limits.retention_days or use.settings.retention_days
    return use.store.submit(
        kind=ready.job.kind,
        model_card=ready.card,
        params=ready.params,
        structures=ready.structures,
        request_json=data,
        warnings=[*ready.warnings, *_device_warnings(use, ready)],
        idempotency_key=key,
        owner=who.owner,
        retention_s=None if days is None else 86_400 * days,
        admit=lambda job_id: use.quotas.reserve_job(who, job_id),
        request_id=request_id,
        **ready.fields,
    )


def _prepared(use: Services, who: Caller, data: dict[str, Any]) -> Submission:
    """The request, checked against what the service and the key allow."""
    settings = use.settings
    if who.limits.max_atoms is not None:
        settings = settings.model_copy(update={"max_atoms": min(settings.max_atoms, who.limits.max_atoms)})
    ready = prepare(data, settings, use.reader, use.store.get_structure)
    if ready.job.webhook_url is not None:
        check_url(ready.job.webhook_url, settings)
    check_steps(who, n_steps_of(ready.params))
    return ready


def _extend(use: Services, who: Caller, job: JobRecord, body: bytes, key: str | None) -> tuple[JobRecord, bool]:
    job_id = job.id
    data = parse_json(body)
    try:
        more = Extension.model_validate(data)
    except ValidationError as error:
        raise invalid_parameters(error, known=Extension) from error
    timestep_fs = job.params.get("timestep_fs")
    if timestep_fs is not None:
        check_steps(who, job.params["n_steps"] + more.steps(timestep_fs))
    if job.is_over:
        use.quotas.reserve_job(who, job_id)
    if key is None:
        return extension.extend_job(use.store, job_id, more), False
    reservation = Reservation(use.store.redis, f"extend:{job_id}:{key}", job_id, data)
    if reservation.take():
        return use.store.get(job_id), True
    try:
        record = extension.extend_job(use.store, job_id, more)
    except BaseException:
        reservation.release()
        raise
    reservation.keep(use.settings.idempotency_ttl_s)
    return record, False


def _device_warnings(use: Services, ready: Submission) -> list[JobWarning]:
    """A job for a GPU waits as long as there is no worker with one: say so."""
    if ready.job.device != "cuda" or any(worker["device"].startswith("cuda") for worker in use.store.workers()):
        return []
    return [JobWarning(message="No worker with a GPU is there now; the job waits until one comes.")]


def _validate(use: Services, who: Caller, body: bytes) -> dict[str, Any]:
    ready = _prepared(use, who, parse_json(body))
    device = use.store.device_class(ready.job.device)
    expected = estimate(
        Pace(use.store.redis),
        ready.structures,
        ready.params,
        cutoff_ang=ready.card.cutoff_ang,
        model_sha256=ready.card.weights_sha256,
        dtype=ready.job.dtype,
        device=device,
    )
    return {
        "valid": True,
        "kind": ready.job.kind,
        "model": ready.card.name,
        "model_sha256": ready.card.weights_sha256,
        "params": ready.params.model_dump(mode="json"),
        "n_systems": len(ready.structures),
        **asdict(expected),
        "queue_position": use.store.position_of_next(device, ready.job.priority, who.owner),
        "warnings": [warning.model_dump() for warning in (*ready.warnings, *_device_warnings(use, ready))],
    }

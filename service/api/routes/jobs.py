"""Jobs: submit, list, look, cancel, resume, delete."""

from __future__ import annotations

from contextlib import suppress
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response
from starlette.concurrency import run_in_threadpool

from equipot.cards import find_model
from equipot.errors import ConflictError, UnknownModelError
from equipot.params import JobKind
from equipot.service.api.context import (
    IdempotencyKey,
    Job,
    Services,
    Use,
    WaitSeconds,
    json_response,
    pointing_at_query,
    waited,
)
from equipot.service.api.schemas import Estimate, JobList
from equipot.service.api.submission import Submission, parse_json, prepare
from equipot.service.records import JobRecord, JobWarning
from equipot.service.states import JobState

router = APIRouter(prefix="/v1/jobs", tags=["jobs"])

LARGEST_PAGE = 1000


@router.post("", status_code=202, responses={200: {"model": Estimate}, 202: {"model": JobRecord}})
async def submit_job(
    request: Request,
    use: Use,
    wait_s: WaitSeconds,
    idempotency_key: IdempotencyKey = None,
    validate_only: Annotated[bool, Query(description="check and estimate, queue nothing")] = False,
) -> Response:
    """Queue a job. Nothing is queued unless every structure and parameter is valid.

    A structure is canonical JSON, `{"structure_id": ...}` of an upload, or `{"format": ..., "text": ...}` of a file.
    """
    body = await request.body()
    if validate_only:
        return json_response(await run_in_threadpool(_validate, use, body))
    record, replayed = await run_in_threadpool(_submit, use, body, idempotency_key, request.state.request_id)
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
            min(page_size, LARGEST_PAGE), page_token, state=state, kind=kind, model=model, tag=tag
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
def resume_job(use: Use, job: Job) -> Response:
    """Let a cancelled or failed job go on from its last checkpoint, with the same weights."""
    return json_response(use.store.resume(job.id).model_dump(mode="json"), 202)


@router.delete("/{job_id}", status_code=204)
def delete_job(use: Use, job: Job) -> Response:
    """Remove a job that has ended, with all its data."""
    use.store.delete(job.id)
    return Response(status_code=204)


def _submit(use: Services, body: bytes, key: str | None, request_id: str) -> tuple[JobRecord, bool]:
    data = parse_json(body)
    ready = prepare(data, use.settings, use.reader, use.store.get_structure)
    return use.store.submit(
        kind=ready.job.kind,
        model_card=ready.card,
        params=ready.params,
        structures=ready.structures,
        request_json=data,
        warnings=[*ready.warnings, *_device_warnings(use, ready)],
        idempotency_key=key,
        request_id=request_id,
        **ready.fields,
    )


def _device_warnings(use: Services, ready: Submission) -> list[JobWarning]:
    """A job for a GPU waits as long as there is no worker with one: say so."""
    if ready.job.device != "cuda" or any(worker["device"].startswith("cuda") for worker in use.store.workers()):
        return []
    return [JobWarning(message="No worker with a GPU is there now; the job waits until one comes.")]


def _validate(use: Services, body: bytes) -> dict[str, Any]:
    ready: Submission = prepare(parse_json(body), use.settings, use.reader, use.store.get_structure)
    queue = use.store.queue()
    return {
        "valid": True,
        "kind": ready.job.kind,
        "model": ready.card.name,
        "model_sha256": ready.card.weights_sha256,
        "params": ready.params.model_dump(mode="json"),
        **ready.estimate(),
        "queue_position": queue["jobs"]["queued"] + 1,
        "warnings": [warning.model_dump() for warning in (*ready.warnings, *_device_warnings(use, ready))],
    }

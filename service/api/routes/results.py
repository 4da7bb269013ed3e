"""What jobs give: live events, results of each system, trajectory, time series, provenance."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Depends, Header, Query, Request
from fastapi.responses import Response, StreamingResponse
from fastapi.sse import EventSourceResponse, ServerSentEvent

from equipot.errors import InvalidParameterError
from equipot.service.api.context import Job, Use, json_response, pointing_at_query
from equipot.service.api.downloads import (
    THERMO_MEDIA_TYPES,
    Selection,
    Trajectory,
    thermo_chunks,
    thermo_rows,
    unsupported,
)
from equipot.service.api.routes.jobs import LARGEST_PAGE
from equipot.service.api.schemas import Manifest, SystemList, ThermoTable
from equipot.service.manifest import read_manifest
from equipot.service.records import JobRecord
from equipot.service.store import EVENT_ID
from equipot.simulation.exports import MEDIA_TYPES

router = APIRouter(prefix="/v1/jobs/{job_id}", tags=["results"])

SystemIndex = Annotated[int | None, Query(ge=0, description="of one system only; all if absent")]
Stride = Annotated[int, Query(ge=1, le=10**9, description="every so many")]


def last_event_id(
    given: Annotated[str, Header(alias="Last-Event-ID", description="go on after this event")] = "0",
) -> str:
    """Where a stream begins. Raises InvalidParameterError."""
    if not EVENT_ID.fullmatch(given) or given == "$":
        raise InvalidParameterError("Last-Event-ID is not one that a stream sent.", pointer="header:last-event-id")
    return given


@router.get("/events", response_class=EventSourceResponse)
async def events(
    request: Request, use: Use, job: Job, after: Annotated[str, Depends(last_event_id)]
) -> AsyncIterator[ServerSentEvent]:
    """Server-sent events: `state`, `progress`, `thermo`, `system`, `warning`, and `end`, which is the last.

    A client that comes back with `Last-Event-ID` gets what it missed.
    """
    async for event in use.hub.watch(job.id, after):
        yield ServerSentEvent(data=event.data, event=event.type, id=event.id or None)


@router.get("/systems", responses={200: {"model": SystemList}})
def systems(
    use: Use,
    job: Job,
    page_size: Annotated[int, Query(ge=1, description=f"at most {LARGEST_PAGE} are given")] = 50,
    page_token: Annotated[str, Query(max_length=20, json_schema_extra={"pattern": "^[0-9]*$"})] = "",
) -> Response:
    """What became of each system that has ended: outcome, energy, forces, stress, steps, final structure."""
    with pointing_at_query("page_token"):
        items, next_page_token = use.store.systems(job.id, min(page_size, LARGEST_PAGE), page_token)
    return json_response({"items": items, "next_page_token": next_page_token})


@router.get("/trajectory", response_class=Response, responses={200: {"content": {t: {} for t in MEDIA_TYPES.values()}}})
def trajectory(
    use: Use,
    job: Job,
    format: Annotated[str, Query(description=", ".join(MEDIA_TYPES))] = "extxyz",
    system: SystemIndex = None,
    start: Annotated[int | None, Query(description="first frame; negative counts from the end")] = None,
    stop: Annotated[int | None, Query(description="frame before which to stop; negative counts from the end")] = None,
    stride: Stride = 1,
) -> Response:
    """The frames up to the last checkpoint, also while the job runs. `X-Frames` says how many."""
    if format not in MEDIA_TYPES:
        raise unsupported(format, MEDIA_TYPES)
    _check_system(job, system)
    if format == "h5md" and system is None and job.progress.n_systems > 1:
        raise InvalidParameterError(
            "An H5MD file holds one system.", pointer="query:system", hint=f"0 to {job.progress.n_systems - 1}."
        )
    found = Trajectory(use.store.shard_dirs(job.id), Selection(system, start, stop, stride))
    headers = {
        "X-Frames": str(found.n_frames),
        "Content-Disposition": f'attachment; filename="{job.id}.{format}"',
        "Cache-Control": "no-cache",
    }
    return StreamingResponse(found.chunks(format), headers=headers, media_type=MEDIA_TYPES[format])


@router.get("/thermo", responses={200: {"model": ThermoTable}})
def thermo(
    use: Use,
    job: Job,
    format: Annotated[str, Query(description=", ".join(THERMO_MEDIA_TYPES))] = "json",
    system: SystemIndex = None,
    start: Annotated[int | None, Query(ge=0, le=10**12, description="first row")] = None,
    stop: Annotated[int | None, Query(ge=0, le=10**12, description="row before which to stop")] = None,
    stride: Stride = 1,
) -> Response:
    """The time series: energy, temperature, largest force and more at each recorded step."""
    _check_system(job, system)
    rows = thermo_rows(use.store.shard_dirs(job.id), Selection(system, start, stop, stride))
    chunks = thermo_chunks(rows, format)
    return StreamingResponse(chunks, headers={"Cache-Control": "no-cache"}, media_type=THERMO_MEDIA_TYPES[format])


@router.get("/manifest", responses={200: {"model": Manifest}})
def manifest(use: Use, job: Job) -> Response:
    """Where the numbers come from: weights, level of theory, parameters, seed, precision, device, versions.

    Once the job has ended, `files` has the sha256 of everything it was given and wrote; `equipot verify` checks them.
    """
    return json_response(read_manifest(use.store.files, job))


def _check_system(job: JobRecord, system: int | None) -> None:
    n_systems = job.progress.n_systems
    if system is not None and system >= n_systems:
        raise InvalidParameterError(
            f"The job has {n_systems} systems.", pointer="query:system", hint=f"Give 0 to {n_systems - 1}."
        )

"""What the routes share, and the small things every route needs."""

from __future__ import annotations

import asyncio
import json
import math
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Annotated, Any

import anyio
from fastapi import Depends, Header, Path, Request
from fastapi.responses import JSONResponse, Response

from equipot.errors import InvalidParameterError, JobNotFoundError
from equipot.service.access import Caller, KeyFile, Signer
from equipot.service.api.metrics import Metrics
from equipot.service.api.sse import EventHub
from equipot.service.api.uploads import FileReader
from equipot.service.artifacts import Exports
from equipot.service.desk import Desk
from equipot.service.quotas import Quotas
from equipot.service.records import JobRecord
from equipot.service.settings import Settings
from equipot.service.store import JobStore

LONGEST_WAIT_S = 60.0
MOST_WAITING = 200  # requests that wait for a job, each in a thread of its own
JOB_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
PREFER_WAIT = re.compile(r"(?:^|[,;\s])wait\s*=\s*\"?(\d{1,6})\"?", re.IGNORECASE)
PROBLEM_CONTENT = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
PROBLEMS: dict[int | str, dict[str, Any]] = {
    code: {"description": text, "content": PROBLEM_CONTENT}
    for code, text in ((422, "Not valid"), ("4XX", "Not possible"), ("5XX", "Our fault, or busy"))
}


@dataclass
class Services:
    """Everything a route works with; one per app."""

    settings: Settings
    store: JobStore
    metrics: Metrics
    reader: FileReader
    hub: EventHub
    desk: Desk
    exports: Exports
    keys: KeyFile
    signer: Signer
    quotas: Quotas
    closing: asyncio.Event  #: set when the server is asked to stop: streams end themselves
    waiters: anyio.CapacityLimiter = field(default_factory=lambda: anyio.CapacityLimiter(MOST_WAITING))


def services(request: Request) -> Services:
    """The services of the app that handles this request."""
    found = request.app.state.services
    assert isinstance(found, Services)
    return found


Use = Annotated[Services, Depends(services)]


def refuse_unknown_query(request: Request) -> None:
    """A misspelt `validate_only` must not queue a job. Raises InvalidParameterError for what a route does not know."""
    operations = request.app.openapi()["paths"].get(request.scope["route"].path_format, {})
    parameters = operations.get(request.method.lower(), {}).get("parameters", [])
    known = sorted(parameter["name"] for parameter in parameters if parameter["in"] == "query")
    for name in request.query_params:
        if operations and name not in known:
            raise InvalidParameterError(
                f"Unknown query parameter {name[:60]!r}.",
                pointer=f"query:{name[:60]}",
                hint=f"Known here: {', '.join(known)}." if known else "This address takes none.",
            )


def caller(request: Request) -> Caller:
    """Who makes the request, as the middleware found."""
    found = request.scope["state"]["caller"]
    assert isinstance(found, Caller)
    return found


Who = Annotated[Caller, Depends(caller)]


def existing_job(job_id: Annotated[str, Path(description="id of a job")], use: Use, who: Who) -> JobRecord:
    """The record of the job in the path. Raises JobNotFoundError, also for a job of somebody else."""
    if not JOB_ID.fullmatch(job_id):
        raise _no_such_job(job_id)
    record = use.store.get(job_id)
    if not who.may_see(record):
        raise _no_such_job(job_id)
    return record


def _no_such_job(job_id: str) -> JobNotFoundError:
    return JobNotFoundError(f"There is no job {job_id[:64]!r}.", hint="GET /v1/jobs lists the jobs.")


Job = Annotated[JobRecord, Depends(existing_job)]


def wait_seconds(
    prefer: Annotated[str, Header(description="`wait=N`: answer when the job has ended, or after N seconds")] = "",
) -> float:
    """The seconds a client is willing to wait (RFC 7240), at most a minute."""
    found = PREFER_WAIT.search(prefer)
    return min(float(found[1]), LONGEST_WAIT_S) if found else 0.0


WaitSeconds = Annotated[float, Depends(wait_seconds)]


IdempotencyKey = Annotated[
    str | None,
    Header(
        description="the same key never queues a second job",
        min_length=1,
        max_length=255,
        pattern=r"^[!-~]+$",  # visible ASCII
    ),
]


@contextmanager
def pointing_at_query(name: str) -> Iterator[None]:
    """Let the complaint about a query parameter say where that stands."""
    try:
        yield
    except InvalidParameterError as error:
        raise InvalidParameterError(error.detail, pointer=f"query:{name}", hint=error.hint) from error


async def waited(use: Services, job_id: str, seconds: float) -> JobRecord:
    """The record once the job has ended, or as it is after `seconds`."""

    def wait() -> JobRecord:
        deadline = time.monotonic() + seconds
        record = use.store.get(job_id)
        while not record.is_over and not use.closing.is_set() and (left := deadline - time.monotonic()) > 0:
            record = use.store.wait(job_id, min(left, 1.0))
        return record

    return await anyio.to_thread.run_sync(wait, limiter=use.waiters, abandon_on_cancel=True)


def json_response(data: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """JSON with every number finite: NaN and infinity, which JSON does not have, become null."""
    try:
        text = json.dumps(data, allow_nan=False, separators=(",", ":"))
    except ValueError:
        text = json.dumps(finite(data), allow_nan=False, separators=(",", ":"))
    return Response(text, status, headers=dict(headers or {}), media_type=JSONResponse.media_type)


def finite(data: Any) -> Any:
    """The same data with null for every number that is not finite."""
    if isinstance(data, float):
        return data if math.isfinite(data) else None
    if isinstance(data, Mapping):
        return {key: finite(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [finite(value) for value in data]
    return data

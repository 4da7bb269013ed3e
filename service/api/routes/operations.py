"""What an operator and a load balancer ask: limits, queue, workers, health, metrics."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import Response

from equipot.errors import UnavailableError
from equipot.service.api.context import LONGEST_WAIT_S, Use, Who, json_response
from equipot.service.api.metrics import CONTENT_TYPE
from equipot.service.api.problems import problem_response
from equipot.service.api.schemas import Health, Limits, WorkerList
from equipot.service.api.uploads import FORMAT_OF_SUFFIX

router = APIRouter(tags=["operations"])

LIMITS = ("max_body_bytes", "max_atoms", "max_structures", "max_queued_jobs", "idempotency_ttl_s")


@router.get("/v1/limits", responses={200: {"model": Limits}})
def limits(use: Use, who: Who) -> Response:
    """What a request may be at most, and what the API key allows."""
    out = {name: getattr(use.settings, name) for name in LIMITS}
    out |= {"key": {"owner": who.owner, "scopes": sorted(who.scopes), **who.limits.model_dump()}}
    return json_response({**out, "max_wait_s": LONGEST_WAIT_S, "upload_formats": sorted(FORMAT_OF_SUFFIX)})


@router.get("/v1/queue")
def queue(use: Use) -> Response:
    """How many jobs wait and run."""
    return json_response(use.store.queue())


@router.get("/v1/workers", responses={200: {"model": WorkerList}})
def workers(use: Use) -> Response:
    """The workers that are alive, and what they have loaded."""
    return json_response({"items": use.store.workers(), "next_page_token": ""})


@router.get("/healthz", responses={200: {"model": Health}})
def healthz() -> Response:
    """Whether this process answers."""
    return json_response({"status": "ok"})


@router.get("/readyz", responses={200: {"model": Health}})
def readyz(request: Request, use: Use) -> Response:
    """Whether a job posted now would be computed: the store answers and a worker has loaded its potential."""
    if not use.store.healthy():
        return _not_ready(request, "The job store does not answer.")
    if not use.store.is_durable():
        return _not_ready(request, "Redis or the data directory cannot be written to. Is the disk full?")
    if not any(worker["ready"] for worker in use.store.workers()):
        return _not_ready(request, "No worker has loaded a potential yet.")
    return json_response({"status": "ready"})


@router.get("/metrics", include_in_schema=False)
def metrics(use: Use) -> Response:
    """Numbers for Prometheus."""
    queue = use.store.queue()
    numbers = {f"jobs_{state}": n for state, n in queue["jobs"].items()}
    numbers |= {f"shards_waiting_{device}": n for device, n in queue["shards_waiting"].items()}
    numbers["shards_running"] = queue["shards_running"]
    page = use.metrics.render(numbers, len(use.store.workers()), use.store.depth(), use.store.counters())
    return Response(page, media_type=CONTENT_TYPE)


def _not_ready(request: Request, reason: str) -> Response:
    error = UnavailableError(reason, hint="Is a worker running? GET /v1/workers lists them.")
    return problem_response(request, error.as_problem(), {"Retry-After": "2"})

"""What the API answers when something is wrong: RFC 9457 problems with a stable type, pointers and hints.

`STATUS` is the one table from error codes to HTTP statuses. Codes without a status never answer a request: they
appear in the records of jobs that ended badly.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from http import HTTPStatus
from typing import Any

import redis.exceptions
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

from equipot.errors import Culprit, EquipotError, InvalidParameterError, UnavailableError, error_classes

MEDIA_TYPE = "application/problem+json"
LONGEST_TEXT = 500  # characters of one message: what was sent is never echoed at length
MOST_CULPRITS = 20
PLACEHOLDER = re.compile(r"(\{[^}]+\})")

STATUS: dict[str, int] = {
    "invalid-parameter": 422,
    "invalid-structure": 422,
    "atoms-too-close": 422,
    "unsupported-element": 422,
    "unsupported-format": 415,
    "payload-too-large": 413,
    "system-too-large": 413,
    "unknown-model": 404,
    "job-not-found": 404,
    "not-found": 404,
    "method-not-allowed": 405,
    "range-not-satisfiable": 416,
    "conflict": 409,
    "not-resumable": 409,
    "damaged-data": 500,
    "idempotency-key-in-use": 409,
    "idempotency-key-reused": 422,
    "queue-full": 503,
    "unavailable": 503,
    "rate-limited": 429,
    "quota-exceeded": 429,
    "unauthorized": 401,
    "forbidden": 403,
    "internal": 500,
}

#: problems of plain HTTP, which no error class stands for
HTTP_TITLES = {
    "not-found": "There is nothing at this address",
    "method-not-allowed": "The address does not take this method",
    "range-not-satisfiable": "The file does not have these bytes",
}

#: what each type means and what to do about it, shown at /problems/{code}
MEANING: dict[str, str] = {
    "invalid-parameter": "A field of the request is missing, unknown, of the wrong type or out of range. Nothing was "
    "queued. Each entry of `errors` points at one culprit in the body, or names a header or query parameter.",
    "invalid-structure": "A structure cannot be computed: not finite, without atoms, periodic without a cell, a "
    "singular cell, partial occupancies, or a file that breaks its format. Nothing was queued.",
    "atoms-too-close": "Two atoms, or an atom and a periodic image, are closer than any real pair. Usually a "
    "duplicate from a bad merge. Remove it or separate the two.",
    "unsupported-element": "The potential was not trained on an element of the structure. `/v1/models` lists what "
    "each one knows.",
    "unsupported-format": "The file or export format is not known. Uploads: extxyz, xyz, cif, vasp (poscar), pdb, "
    "sdf, mol. Trajectories: extxyz, jsonl, traj, npz, h5md.",
    "payload-too-large": "The request is larger than `/v1/limits` says. Upload files one by one to `/v1/structures` "
    "and refer to them by `structure_id`.",
    "system-too-large": "A structure has more atoms than `/v1/limits` allows. Submit a smaller cell or cluster.",
    "unknown-model": "No registered potential has this name or alias. `/v1/models` lists them.",
    "job-not-found": "There is no job with this id, or it was deleted.",
    "not-found": "There is nothing at this address. `/docs` lists what there is.",
    "method-not-allowed": "The address exists but does not take this method; the `Allow` header says which it takes.",
    "range-not-satisfiable": "The `Range` header asks for bytes beyond the end of the file; `Content-Range` says "
    "how many there are.",
    "conflict": "The job is in a state that does not allow this. Look at its `state` and try what fits.",
    "not-resumable": "The job cannot go on: it has nothing left to do, or never reached a checkpoint.",
    "damaged-data": "A file of the job on the server is cut off or overwritten. What is whole can still be had: choose "
    "frames with `start` and `stop`.",
    "idempotency-key-in-use": "Another request with the same Idempotency-Key is being handled. Send it again shortly.",
    "idempotency-key-reused": "The Idempotency-Key was used before with a different body. Use a new key for a new job.",
    "queue-full": "The queue has reached its limit. Nothing was queued; try again after `Retry-After` seconds.",
    "unavailable": "The job store does not answer, or no worker is ready yet. Try again after `Retry-After` seconds.",
    "rate-limited": "The API key has used up its requests of this minute. Wait for `Retry-After` seconds.",
    "quota-exceeded": "The API key does not allow so many jobs at once, or so many steps. `/v1/limits` says "
    "what it allows.",
    "unauthorized": "The request needs a valid API key in the `Authorization: Bearer` or `X-API-Key` header.",
    "forbidden": "The request is not allowed, for instance because a page of another site sent it.",
    "internal": "Something went wrong inside equipot. The operator finds the details in the log under `request_id`.",
    "invalid-weights": "The weights of a potential are damaged, foreign or of a newer format.",
    "out-of-memory": "A structure did not fit into the memory of the worker's device, alone in its batch.",
    "non-finite": "Energy or forces became NaN or infinite: the structure left the range the potential can describe.",
    "diverged": "The run blew up. Start from a relaxed structure, or use a smaller time step.",
    "worker-lost": "Workers died again and again while they ran this job. What was computed before is kept.",
    "timeout": "The job used up its `max_wall_time_s`. What was computed before is kept.",
}


def title_of(code: str) -> str:
    """The title of a problem type."""
    return HTTP_TITLES[code] if code in HTTP_TITLES else error_classes()[code].title


def problem_response(
    request: Request, problem: Mapping[str, Any], headers: Mapping[str, str] | None = None
) -> Response:
    """The HTTP answer for a problem object as `EquipotError.as_problem` makes it."""
    code = str(problem["type"]).rpartition("/")[2]
    status = STATUS.get(code, 500)
    body = {
        "type": problem["type"],
        "title": problem["title"],
        "status": status,
        "detail": _short(problem.get("detail", "")),
        "instance": _short(request.url.path),
        "hint": _short(problem.get("hint", "")),
        "errors": [{k: _short(v) for k, v in e.items()} for e in list(problem.get("errors", ()))[:MOST_CULPRITS]],
        "request_id": request.scope.get("state", {}).get("request_id", ""),
    }
    out = dict(headers or {})
    if status == HTTPStatus.SERVICE_UNAVAILABLE:
        out.setdefault("Retry-After", "5")
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        waiting = re.search(r"Wait (\d+) s", problem.get("hint", ""))
        out.setdefault("Retry-After", waiting[1] if waiting else "30")
    if status == HTTPStatus.UNAUTHORIZED:
        out.setdefault("WWW-Authenticate", "Bearer")
    return JSONResponse(body, status, headers=out, media_type=MEDIA_TYPE)


def plain_problem(code: str, detail: str, hint: str = "") -> dict[str, Any]:
    """A problem of plain HTTP, without an error class."""
    return {"type": f"/problems/{code}", "title": title_of(code), "detail": detail, "hint": hint, "errors": []}


def from_validation(errors: Iterable[Mapping[str, Any]]) -> InvalidParameterError:
    """FastAPI's complaints about headers, query and path, without the values it was given."""
    culprits = []
    for item in errors:
        where, *rest = [str(part) for part in item["loc"]] or [""]
        name = "/".join(rest)
        pointer = f"/{name}" if where == "body" else f"{where}:{name}"
        culprits.append(Culprit(pointer, str(item["msg"]).removeprefix("Value error, ")))
    first = culprits[0]
    return InvalidParameterError(f"{first.pointer}: {first.message}", culprits=culprits)


def install(app: FastAPI) -> None:
    """Answer every error of the app with a problem."""

    async def on_equipot(request: Request, error: Exception) -> Response:
        assert isinstance(error, EquipotError)
        return problem_response(request, error.as_problem())

    async def on_validation(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return problem_response(request, from_validation(error.errors()).as_problem())

    async def on_http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        allow = {"Allow": ", ".join(_methods(request))} if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED else {}
        return problem_response(request, _from_http(request, error), {**(error.headers or {}), **allow})

    async def on_redis(request: Request, error: Exception) -> Response:
        away = UnavailableError("The job store does not answer.", hint="Try again shortly; nothing is lost.")
        return problem_response(request, away.as_problem())

    app.add_exception_handler(EquipotError, on_equipot)
    app.add_exception_handler(RequestValidationError, on_validation)
    app.add_exception_handler(HTTPException, on_http)
    app.add_exception_handler(redis.exceptions.ConnectionError, on_redis)
    app.add_exception_handler(redis.exceptions.TimeoutError, on_redis)


def internal_problem() -> dict[str, Any]:
    """What a caller is told about an error nobody foresaw: nothing but where to look."""
    error = EquipotError("The request could not be handled.", hint="Report the request_id to the operator.")
    return error.as_problem()


def _from_http(request: Request, error: HTTPException) -> dict[str, Any]:
    if error.status_code == HTTPStatus.NOT_FOUND:
        return plain_problem("not-found", f"There is nothing at {_short(request.url.path, 100)}.", "See /docs.")
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        allowed = ", ".join(_methods(request))
        return plain_problem("method-not-allowed", f"{request.method} is not possible here.", f"Allowed: {allowed}.")
    if error.status_code < HTTPStatus.INTERNAL_SERVER_ERROR:
        return InvalidParameterError(str(error.detail)).as_problem()
    return internal_problem()


def _methods(request: Request) -> list[str]:
    """Every method the address takes; the framework names those of the first route alone."""
    for template, methods in request.app.openapi()["paths"].items():
        pattern = "".join("[^/]+" if part.startswith("{") else re.escape(part) for part in PLACEHOLDER.split(template))
        if re.fullmatch(pattern, request.url.path):
            return sorted(method.upper() for method in methods)
    return ["GET"]  # pages and metrics are not in the description


def _short(value: Any, longest: int = LONGEST_TEXT) -> str:
    text = str(value).encode("utf-8", "replace").decode()
    return text if len(text) <= longest else text[: longest - 1] + "…"

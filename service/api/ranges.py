"""Parts of a file over HTTP (RFC 9110, sections 13 and 14): what a client has already, and which bytes it wants."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from fastapi import Request
from fastapi.responses import Response, StreamingResponse

from equipot.service.api.problems import plain_problem, problem_response

CHUNK_BYTES = 256 * 1024
ONE_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})", re.IGNORECASE)
ETAG = re.compile(r'(?:W/)?"([^"]*)"')


def file_response(request: Request, path: Path, n_bytes: int, tag: str, media_type: str, name: str) -> Response:
    """The first `n_bytes` of a file, or the part asked for; 304 for who has it, 416 for a part that is not there.

    `tag` names these very bytes. One range is served; of several the whole file is sent, as a server may.
    """
    headers = {
        "ETag": f'"{tag}"',
        "Accept-Ranges": "bytes",
        "Cache-Control": "private, no-cache",
        "Content-Disposition": f'attachment; filename="{name}"',
    }
    if _has_it(request.headers.get("if-none-match", ""), tag):
        return Response(status_code=304, headers=headers)
    start, stop, status = 0, n_bytes, 200
    if _range_counts(request.headers.get("if-range"), tag):
        wanted = wanted_range(request.headers.get("range", ""), n_bytes)
        if wanted == range(0):
            problem = plain_problem(
                "range-not-satisfiable", f"The file has {n_bytes} bytes.", "Ask for a part of them."
            )
            return problem_response(request, problem, {"Content-Range": f"bytes */{n_bytes}"})
        if wanted is not None:
            start, stop, status = wanted.start, wanted.stop, 206
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{n_bytes}"
    headers["Content-Length"] = str(stop - start)
    if request.method == "HEAD":
        return Response(status_code=status, headers=headers, media_type=media_type)
    return StreamingResponse(_bytes(path, start, stop), status, headers, media_type)


def wanted_range(header: str, n_bytes: int) -> range | None:
    """The bytes a Range header asks for; None for all of them, an empty range if there are none of those."""
    found = ONE_RANGE.fullmatch(header.strip())
    if found is None or found[1] == found[2] == "":
        return None
    if not found[1]:
        return range(max(0, n_bytes - int(found[2])), n_bytes) if int(found[2]) and n_bytes else range(0)
    start = int(found[1])
    stop = min(int(found[2]) + 1, n_bytes) if found[2] else n_bytes
    if found[2] and int(found[2]) < start:
        return None  # not a range: RFC 9110 has it ignored
    return range(start, stop) if start < n_bytes else range(0)


def _has_it(if_none_match: str, tag: str) -> bool:
    return if_none_match.strip() == "*" or tag in ETAG.findall(if_none_match)


def _range_counts(if_range: str | None, tag: str) -> bool:
    """Whether a range is served: a client with another version gets the whole file."""
    return if_range is None or if_range.strip() == f'"{tag}"'


def _bytes(path: Path, start: int, stop: int) -> Iterator[bytes]:
    with path.open("rb") as file:
        file.seek(start)
        while start < stop and (chunk := file.read(min(CHUNK_BYTES, stop - start))):
            start += len(chunk)
            yield chunk

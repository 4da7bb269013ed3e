"""Pages for people: the web page with its files, the reference, and what each problem means."""

from __future__ import annotations

import gzip
import hashlib
from dataclasses import dataclass
from functools import cache
from html import escape
from importlib.resources import files
from importlib.resources.abc import Traversable

from fastapi import APIRouter, HTTPException, Request
from fastapi.responses import HTMLResponse, Response

from equipot.service.api.context import json_response
from equipot.service.api.openapi import describe, reference_page
from equipot.service.api.problems import MEANING, STATUS, title_of

router = APIRouter()

MEDIA_TYPES = {
    "css": "text/css; charset=utf-8",
    "html": "text/html; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "json": "application/json",
    "svg": "image/svg+xml",
}
PLAIN_TEXT = "text/plain; charset=utf-8"


@dataclass(frozen=True)
class Asset:
    """A file of the web page as it is sent: as it is, and packed for those who can unpack it."""

    content: bytes
    packed: bytes
    etag: str
    media_type: str

    @classmethod
    def read(cls, path: str, file: Traversable) -> Asset:
        content = file.read_bytes()
        etag = f'"{hashlib.sha256(content).hexdigest()[:16]}"'
        media_type = MEDIA_TYPES.get(path.rpartition(".")[2], PLAIN_TEXT)
        return cls(content, gzip.compress(content, mtime=0), etag, media_type)

    def answer(self, request: Request) -> Response:
        """The file, or nothing if the browser has this very version."""
        headers = {"Cache-Control": "no-cache", "ETag": self.etag, "Vary": "Accept-Encoding"}
        if request.headers.get("if-none-match") == self.etag:
            return Response(status_code=304, headers=headers)
        if "gzip" not in request.headers.get("accept-encoding", ""):
            return Response(self.content, media_type=self.media_type, headers=headers)
        return Response(self.packed, media_type=self.media_type, headers={**headers, "Content-Encoding": "gzip"})


@cache
def _assets() -> dict[str, Asset]:
    """Every file of the web page, by its path below /static."""
    found: dict[str, Asset] = {}
    waiting = [("", files("equipot.service").joinpath("web"))]
    while waiting:
        path, entry = waiting.pop()
        if entry.is_dir():
            waiting += [(f"{path}/{child.name}".lstrip("/"), child) for child in entry.iterdir()]
        else:
            found[path] = Asset.read(path, entry)
    return found


@router.get("/", include_in_schema=False)
def web_page(request: Request) -> Response:
    """The web page: submit, watch, fetch."""
    return _assets()["index.html"].answer(request)


@router.get("/static/{path:path}", include_in_schema=False)
def static(request: Request, path: str) -> Response:
    """The files that pages need. Only what is in the package: no path leads anywhere else."""
    asset = _assets().get(path)
    if asset is None:
        raise HTTPException(404)
    return asset.answer(request)


@router.get("/docs", include_in_schema=False)
def docs(request: Request) -> Response:
    """Every address and parameter."""
    return HTMLResponse(reference_page(describe(request.app)))


@router.get("/problems/{code}", tags=["problems"])
def explain_problem(request: Request, code: str) -> Response:
    """What a type of problem means and what to do about it."""
    if code not in MEANING:
        raise HTTPException(404)
    out = {"type": f"/problems/{code}", "title": title_of(code), "status": STATUS.get(code), "meaning": MEANING[code]}
    if "text/html" not in request.headers.get("accept", ""):
        return json_response(out)
    return HTMLResponse(
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(code)} · equipot</title>'
        '<meta name="viewport" content="width=device-width"><link rel="icon" href="/static/icon.svg">'
        '<link rel="stylesheet" href="/static/style.css"></head><body class="plain"><main>'
        f"<h1>{escape(title_of(code))}</h1>"
        f"<p><code>{escape(code)}</code>, HTTP status {STATUS.get(code, 'none: it appears in job records')}</p>"
        f"<p>{escape(MEANING[code])}</p></main></body></html>"
    )

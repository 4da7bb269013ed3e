"""Pages for people: the start page, the reference, and what each problem means."""

from __future__ import annotations

from functools import cache
from html import escape
from importlib.resources import files

from fastapi import APIRouter, HTTPException, Request
from fastapi.responses import HTMLResponse, Response

from equipot.service.api.context import json_response
from equipot.service.api.openapi import describe, reference_page
from equipot.service.api.problems import MEANING, STATUS, title_of

router = APIRouter()

MEDIA_TYPES = {"css": "text/css", "js": "text/javascript", "html": "text/html"}
STATIC = ("page.css", "start.js")


@cache
def _page(name: str) -> bytes:
    return (files("equipot.service.api") / "pages" / name).read_bytes()


@router.get("/", include_in_schema=False)
def start_page() -> Response:
    """How to begin, and the jobs there are."""
    return Response(_page("start.html"), media_type="text/html")


@router.get("/static/{name}", include_in_schema=False)
def static(name: str) -> Response:
    """The files that pages need."""
    if name not in STATIC:
        raise HTTPException(404)
    return Response(_page(name), media_type=MEDIA_TYPES[name.rpartition(".")[2]])


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
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(code)}</title>'
        f'<link rel="stylesheet" href="/static/page.css"></head><body><h1>{escape(title_of(code))}</h1>'
        f"<p><code>{escape(code)}</code>, HTTP status {STATUS.get(code, 'none: it appears in job records')}</p>"
        f"<p>{escape(MEANING[code])}</p></body></html>"
    )

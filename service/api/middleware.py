"""What happens around every request: an id, a log line, metrics, safe headers, and a limit on the body.

Plain ASGI, so that streams pass through untouched.
"""

from __future__ import annotations

import re
import secrets
import time
from urllib.parse import urlsplit

import structlog
from fastapi import Request
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from equipot.errors import ForbiddenError, PayloadTooLargeError
from equipot.service.api.metrics import Metrics
from equipot.service.api.problems import internal_problem, problem_response

log = structlog.get_logger("equipot.api")

GIVEN_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
QUIET_PATHS = ("/healthz", "/readyz", "/metrics")
SAFE_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; "
    "img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
}


class RequestFrame:
    """Outermost: gives each request an id, logs and counts it, and turns what nobody foresaw into a problem."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app = app
        self.metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request_id = _request_id(Headers(scope=scope))
        scope.setdefault("state", {})["request_id"] = request_id
        started = time.perf_counter()
        status = 0

        async def send_framed(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["X-Request-ID"] = request_id
                for name, value in SAFE_HEADERS.items():
                    headers.setdefault(name, value)
                if scope["path"].startswith("/v1/"):
                    headers.setdefault("Cache-Control", "no-store")  # results are their owner's
            await send(message)

        try:
            await self.app(scope, receive, send_framed)
        except Exception:
            log.exception("unexpected", request_id=request_id, path=scope["path"])
            if not status:
                await problem_response(Request(scope), internal_problem())(scope, receive, send_framed)
        finally:
            self._note(scope, status, time.perf_counter() - started)

    def _note(self, scope: Scope, status: int, seconds: float) -> None:
        route = getattr(scope.get("route"), "path", "unknown")
        self.metrics.seen(scope["method"], route, status, seconds)
        if scope["path"] not in QUIET_PATHS:
            log.info(
                "request",
                request_id=scope["state"]["request_id"],
                method=scope["method"],
                path=scope["path"][:200],
                status=status,
                duration_ms=round(seconds * 1000, 2),
                client=(scope.get("client") or [""])[0],
            )


class BodyLimit:
    """Refuses bodies above a number of bytes, counted as they arrive: neither server nor framework does."""

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self.app = app
        self.max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        declared = Headers(scope=scope).get("content-length", "")
        if declared.isascii() and declared.isdigit() and int(declared[:20]) > self.max_bytes:
            await problem_response(Request(scope), self._error().as_problem(), {"Connection": "close"})(
                scope, receive, send
            )
            return
        n_bytes = 0

        async def receive_counted() -> Message:
            nonlocal n_bytes
            message = await receive()
            n_bytes += len(message.get("body", b""))
            if n_bytes > self.max_bytes:
                raise self._error()
            return message

        await self.app(scope, receive_counted, send)

    def _error(self) -> PayloadTooLargeError:
        return PayloadTooLargeError(
            f"The request is larger than {self.max_bytes} bytes.",
            hint="Upload structures one by one to /v1/structures and submit their structure_id.",
        )


class SameSite:
    """Refuses changes asked for by a page of another site: a browser on this machine must not be a way in."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] not in ("GET", "HEAD", "OPTIONS"):
            headers = Headers(scope=scope)
            origin = headers.get("origin")
            if origin is not None and urlsplit(origin).netloc != headers.get("host"):
                error = ForbiddenError("A page of another site may not do this.", hint="Call the API directly.")
                await problem_response(Request(scope), error.as_problem())(scope, receive, send)
                return
        await self.app(scope, receive, send)


def _request_id(headers: Headers) -> str:
    given = headers.get("x-request-id", "")
    return given if GIVEN_REQUEST_ID.fullmatch(given) else secrets.token_hex(8)

"""Who is asking: every request but those for public pages says who it is, before anything of it is read."""

from __future__ import annotations

import re
from urllib.parse import parse_qs

from fastapi import Request
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from equipot.errors import EquipotError, ForbiddenError, UnauthorizedError
from equipot.service.access import ANYBODY, NOBODY, Caller, KeyFile, Signer, is_loopback, keys_needed
from equipot.service.api.problems import problem_response
from equipot.service.quotas import Quotas
from equipot.service.settings import Settings

KEY_HINT = "Send it in a header, `Authorization: Bearer eqp_...`; equipot takes --api-key or EQUIPOT_API_KEY."
READING = ("GET", "HEAD", "OPTIONS")
PUBLIC = re.compile(r"/|/(?:healthz|readyz|docs|openapi\.json|favicon\.ico)|/static/.+|/problems/[^/]+")
ARTIFACT = re.compile(r"/v1/jobs/([^/]+)/artifacts/[^/]+")


class Access:
    """Finds the caller of a request, or refuses it: 401 without a valid key, 403 for what the key does not allow."""

    def __init__(self, app: ASGIApp, settings: Settings, keys: KeyFile, signer: Signer, quotas: Quotas) -> None:
        self.app = app
        self._settings, self._keys, self._signer, self._quotas = settings, keys, signer, quotas

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            try:
                caller = self._caller(scope)
                if caller.limits.requests_per_minute is not None:
                    await run_in_threadpool(self._quotas.admit, caller)
            except EquipotError as error:
                await problem_response(Request(scope), error.as_problem())(scope, receive, send)
                return
            scope.setdefault("state", {})["caller"] = caller
        await self.app(scope, receive, send)

    def _caller(self, scope: Scope) -> Caller:
        headers, path = Headers(scope=scope), scope["path"]
        if not keys_needed(self._settings, self._keys):
            self._refuse_foreign_name(headers.get("host", ""))
            return ANYBODY
        if scope["method"] in READING and PUBLIC.fullmatch(path):
            return NOBODY
        query = parse_qs(scope["query_string"].decode("latin-1"))
        if "signature" in query and ARTIFACT.fullmatch(path) and scope["method"] in ("GET", "HEAD"):
            self._signer.check_query(path, query.get("expires", [""])[0], query["signature"][0])
            return Caller(scopes=frozenset({"admin"}))  # for this one file, which the signature names
        caller = self._keys.caller(_key_in(headers))
        caller.require("read" if scope["method"] in READING else "write")
        return caller

    def _refuse_foreign_name(self, host: str) -> None:
        """A page whose name was made to lead to this machine must not be a way in where no key is needed."""
        if not is_loopback(self._settings.host):
            return
        name = re.sub(r":\d+$", "", host).lower()
        is_local = is_loopback(name) or "." not in name  # no stranger owns a name without a dot
        if not is_local and name not in self._settings.allowed_hosts:
            raise ForbiddenError(
                f"This service does not answer to the name {name[:100]!r}.",
                hint="Use 127.0.0.1 or localhost, or name it in EQUIPOT_ALLOWED_HOSTS.",
            )


def _key_in(headers: Headers) -> str:
    scheme, _, credentials = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and credentials.strip():
        return credentials.strip()
    if given := headers.get("x-api-key"):
        return given
    raise UnauthorizedError("The request has no API key.", hint=KEY_HINT)

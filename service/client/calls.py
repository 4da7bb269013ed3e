"""Requests and what becomes of them: tried again where that is safe, and problems as the errors they are."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import httpx

from equipot import __version__
from equipot.errors import EquipotError, UnavailableError, error_from_problem
from equipot.service.address import API_KEY_VARIABLE, DEFAULT_SERVER, SERVER_VARIABLE
from equipot.service.client.wire import ANSWER_S, AwaitedWire, Wire

EVALUATE = "/v1/evaluate"
PAGE = 200
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 5.0
PROBLEM = "application/problem+json"
#: problems that go away by themselves
PASSING = frozenset({"unavailable", "queue-full", "rate-limited", "idempotency-key-in-use"})


class Calls:
    """The requests to one service.

    When it is away (restarted, network down) or busy, a request that cannot do anything twice is sent again, with
    growing pauses and as late as `Retry-After` asks, for about `patience_s`.
    """

    def __init__(
        self, url: str | None = None, api_key: str | None = None, *, patience_s: float = 30.0, wire: Wire | None = None
    ) -> None:
        """url: EQUIPOT_SERVER if absent, else http://127.0.0.1:8000; api_key: EQUIPOT_API_KEY if absent."""
        self.url = server_url(url)
        self._patience_s = patience_s
        self.wire = wire if wire is not None else AwaitedWire(self.url, headers_for(api_key))

    async def request(self, method: str, path: str, **given: Any) -> httpx.Response:
        """One call. Raises the typed error of a problem, UnavailableError if nobody answers."""
        harmless = _does_nothing_twice(method, path, given)
        for pause_s in self.pauses():
            least_s = 0.0
            try:
                answer = await self.wire.send(method, path, **given)
            except httpx.TransportError as error:
                unsent = isinstance(error, httpx.ConnectError | httpx.ConnectTimeout)
                if pause_s is None or not (harmless or unsent):
                    raise self.away(error) from error
            else:
                problem = error_of(answer)
                if problem is None:
                    return answer
                refused = answer.headers.get("Content-Type", "").startswith(PROBLEM)  # by the service: nothing was done
                if pause_s is None or problem.code not in PASSING or not (harmless or refused):
                    raise problem
                least_s = _retry_after_s(answer)
            assert pause_s is not None
            await self.wire.pause(max(pause_s, least_s))
        raise AssertionError("the last pause is None")

    @asynccontextmanager
    async def open(
        self,
        path: str,
        *,
        params: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        timeout_s: float = ANSWER_S,
    ) -> AsyncIterator[httpx.Response]:
        """An answer to be read piece by piece; not tried again. Raises the typed error of a problem."""
        async with self.wire.open(path, params or {}, headers or {}, timeout_s) as answer:
            if answer.status_code >= 400:
                await self.wire.read(answer)
                raise error_of(answer) or EquipotError("The stream was refused.")
            yield answer

    async def items(self, path: str, wanted: Mapping[str, Any] | None = None) -> AsyncGenerator[dict[str, Any], None]:
        """Every item of a list, page by page."""
        token = ""
        while True:
            query = {**(wanted or {}), "page_size": PAGE, "page_token": token}
            page = (await self.request("GET", path, params=query)).json()
            for item in page["items"]:
                yield item
            token = page["next_page_token"]
            if not token:
                return

    def pauses(self) -> Iterator[float | None]:
        """Growing pauses in seconds, together about `patience_s`; the last is None."""
        left, pause_s = self._patience_s, FIRST_PAUSE_S
        while left > 0:
            yield pause_s
            left -= pause_s
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
        yield None

    def away(self, error: Exception) -> UnavailableError:
        """What to say when nobody answers."""
        return UnavailableError(
            f"The service at {self.url} does not answer: {str(error) or type(error).__name__}.",
            hint="Is it running? `equipot serve` starts one.",
        )


def server_url(url: str | None) -> str:
    """Where the service is: as given, else EQUIPOT_SERVER, else on this machine."""
    return (url or os.environ.get(SERVER_VARIABLE) or DEFAULT_SERVER).rstrip("/")


def headers_for(api_key: str | None) -> dict[str, str]:
    """What every request says: who asks, and the key if there is one."""
    key = api_key or os.environ.get(API_KEY_VARIABLE)
    return {"User-Agent": f"equipot/{__version__}"} | ({"Authorization": f"Bearer {key}"} if key else {})


def error_of(answer: httpx.Response) -> EquipotError | None:
    """The typed error in an answer, or None if it is none."""
    if answer.status_code < 400:
        return None
    try:
        return error_from_problem(answer.json())
    except (ValueError, KeyError, TypeError, AttributeError):
        if answer.status_code in (502, 503, 504):  # from something between
            return UnavailableError(f"The service cannot be reached (HTTP {answer.status_code}).")
        return EquipotError(f"The service answered HTTP {answer.status_code}.")


def _retry_after_s(answer: httpx.Response) -> float:
    """What the service asks for, if it is not too long to wait for."""
    asked = answer.headers.get("Retry-After", "")
    return min(float(asked), 2 * LONGEST_PAUSE_S) if asked.isdecimal() else 0.0


def _does_nothing_twice(method: str, path: str, given: Mapping[str, Any]) -> bool:
    """Whether sending the request again cannot do anything twice."""
    if method == "GET" or path == EVALUATE or path.endswith("/cancel"):
        return True
    return "Idempotency-Key" in given.get("headers", {})

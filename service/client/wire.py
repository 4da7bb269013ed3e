"""How requests reach a service: over a wire that is awaited, or over one that blocks.

The rules of the client are coroutines over either. Over a wire that blocks they never pause, so `now` and `each` run
them to their end without an event loop: in a notebook, in any thread, and Ctrl-C acts where it should.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, AbstractContextManager, asynccontextmanager, nullcontext
from typing import Any, Protocol, TypeVar

import httpx

T = TypeVar("T")
ANSWER_S = 60.0


class Wire(Protocol):
    """What the rules need of the world: requests, streams and pauses. Raises httpx.TransportError."""

    headers: Mapping[str, str]

    async def send(self, method: str, path: str, **given: Any) -> httpx.Response:
        """One request and its whole answer."""

    def open(
        self, path: str, params: Mapping[str, Any], headers: Mapping[str, str], timeout_s: float
    ) -> AbstractAsyncContextManager[httpx.Response]:
        """A GET whose answer is read piece by piece."""

    async def read(self, answer: httpx.Response) -> None:
        """The rest of an opened answer."""

    def lines(self, answer: httpx.Response) -> AsyncIterator[str]:
        """The lines of an opened answer as they come."""

    def chunks(self, answer: httpx.Response) -> AsyncIterator[bytes]:
        """The bytes of an opened answer as they come."""

    async def pause(self, seconds: float) -> None:
        """Wait."""

    def shielded(self) -> AbstractContextManager[object]:
        """A context in which work is finished although it was cancelled."""

    async def close(self) -> None:
        """Give the connections back."""


class AwaitedWire:
    """For event loops: asyncio, trio."""

    def __init__(self, url: str, headers: Mapping[str, str]) -> None:
        self.headers = headers
        self._http = httpx.AsyncClient(base_url=url, headers=dict(headers), timeout=ANSWER_S)

    async def send(self, method: str, path: str, **given: Any) -> httpx.Response:
        return await self._http.request(method, path, **given)

    @asynccontextmanager
    async def open(
        self, path: str, params: Mapping[str, Any], headers: Mapping[str, str], timeout_s: float
    ) -> AsyncIterator[httpx.Response]:
        kept = dict(headers)
        async with self._http.stream("GET", path, params=dict(params), headers=kept, timeout=timeout_s) as answer:
            yield answer

    async def read(self, answer: httpx.Response) -> None:
        await answer.aread()

    def lines(self, answer: httpx.Response) -> AsyncIterator[str]:
        return answer.aiter_lines()

    def chunks(self, answer: httpx.Response) -> AsyncIterator[bytes]:
        return answer.aiter_bytes()

    async def pause(self, seconds: float) -> None:
        import anyio

        await anyio.sleep(seconds)

    def shielded(self) -> AbstractContextManager[object]:
        import anyio

        return anyio.CancelScope(shield=True)

    async def close(self) -> None:
        await self._http.aclose()


class BlockingWire:
    """For everything else. Its coroutines never pause: see `now`. It may be used from several threads."""

    def __init__(self, url: str, headers: Mapping[str, str]) -> None:
        self.headers = headers
        self._http = httpx.Client(base_url=url, headers=dict(headers), timeout=ANSWER_S)

    async def send(self, method: str, path: str, **given: Any) -> httpx.Response:
        return self._http.request(method, path, **given)

    @asynccontextmanager
    async def open(
        self, path: str, params: Mapping[str, Any], headers: Mapping[str, str], timeout_s: float
    ) -> AsyncIterator[httpx.Response]:
        kept = dict(headers)
        with self._http.stream("GET", path, params=dict(params), headers=kept, timeout=timeout_s) as answer:
            yield answer

    async def read(self, answer: httpx.Response) -> None:
        answer.read()

    async def lines(self, answer: httpx.Response) -> AsyncIterator[str]:
        for line in answer.iter_lines():
            yield line

    async def chunks(self, answer: httpx.Response) -> AsyncIterator[bytes]:
        for chunk in answer.iter_bytes():
            yield chunk

    async def pause(self, seconds: float) -> None:
        time.sleep(seconds)

    def shielded(self) -> AbstractContextManager[object]:
        return nullcontext()

    async def close(self) -> None:
        self._http.close()


def now(work: Coroutine[Any, Any, T]) -> T:
    """What a coroutine over a BlockingWire returns."""
    try:
        work.send(None)
    except StopIteration as end:
        result: T = end.value
        return result
    work.close()
    raise RuntimeError("This was to be awaited.")


def each(items: AsyncGenerator[T, None]) -> Iterator[T]:
    """What an asynchronous generator over a BlockingWire yields."""

    async def following() -> T:
        return await anext(items)

    try:
        while True:
            try:
                item = now(following())
            except StopAsyncIteration:
                return
            yield item
    finally:
        now(items.aclose())

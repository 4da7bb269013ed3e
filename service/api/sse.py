"""Live events of jobs, fanned out: one reader for each watched job, however many clients watch it.

A client gets what it missed first (everything after its `Last-Event-ID`), then what happens, in order and once. The
stream ends after the job's `end` event and when the server is asked to stop.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import anyio
import redis.exceptions
import structlog

from equipot.errors import JobNotFoundError
from equipot.service.records import Event
from equipot.service.store import JobStore

BLOCK_MS = 1000
MOST_WATCHED = 100  # jobs watched at once, each by one thread
LONGEST_BACKLOG = 2000  # events a slow client may lag behind before its stream is cut; it reconnects and replays
END = "end"

log = structlog.get_logger("equipot.api")
EventQueue = asyncio.Queue[Event | None]


class EventHub:
    """The live events of every watched job of one process."""

    def __init__(self, store: JobStore, closing: asyncio.Event) -> None:
        self._store = store
        self._closing = closing
        self._channels: dict[str, _Channel] = {}
        self._limiter = anyio.CapacityLimiter(MOST_WATCHED)

    async def watch(self, job_id: str, last_id: str) -> AsyncIterator[Event]:
        """Every event of a job after `last_id` ("0" for all that is kept), until the job or the server ends."""
        newest = last_id
        async with self._subscription(job_id) as queue:
            past = await anyio.to_thread.run_sync(self._events_after, job_id, last_id)
            for event in past:
                yield event
                newest = event.id
            if past and past[-1].type == END:  # an earlier `end` belongs to a run before a resume
                return
            while (live := await queue.get()) is not None:
                if live.id and _place(live.id) <= _place(newest):
                    continue
                yield live
                newest = live.id
                if live.type == END:
                    return

    @contextlib.asynccontextmanager
    async def _subscription(self, job_id: str) -> AsyncIterator[EventQueue]:
        channel = self._channels.get(job_id)
        if channel is None:
            channel = self._channels[job_id] = _Channel()
            channel.reader = asyncio.create_task(self._read(job_id, channel))
        queue: EventQueue = asyncio.Queue(LONGEST_BACKLOG)
        channel.queues.add(queue)
        await channel.reading.wait()
        try:
            yield queue
        finally:
            channel.queues.discard(queue)
            if not channel.queues and channel.reader is not None:
                channel.reader.cancel()
                self._channels.pop(job_id, None)

    async def _read(self, job_id: str, channel: _Channel) -> None:
        """Tell everybody what happens from now on. An end without an event (history was lost) is told too."""
        last_id: str | None = None
        while not self._closing.is_set():
            try:
                if last_id is None:
                    past = await anyio.to_thread.run_sync(self._events_after, job_id, "0")
                    last_id = past[-1].id if past else "0"
                    channel.reading.set()
                events = await self._next_events(job_id, last_id)
            except redis.exceptions.RedisError as error:
                log.warning("events.interrupted", job_id=job_id, error=type(error).__name__)
                await asyncio.sleep(1.0)
                continue
            except JobNotFoundError:
                break
            for event in events:
                last_id = event.id or last_id
                channel.tell(event)
        channel.reading.set()
        channel.tell(None)

    async def _next_events(self, job_id: str, last_id: str) -> list[Event]:
        def look() -> list[Event]:
            events = self._store.events(job_id, last_id, BLOCK_MS)
            if not events and (record := self._store.get(job_id)).is_over:
                events = self._store.events(job_id, last_id)
                return events or [Event(id="", type=END, data={"state": record.state})]
            return events

        return await anyio.to_thread.run_sync(look, limiter=self._limiter, abandon_on_cancel=True)

    def _events_after(self, job_id: str, last_id: str) -> list[Event]:
        found: list[Event] = []
        while page := self._store.events(job_id, found[-1].id if found else last_id):
            found += page
        return found


class _Channel:
    """One watched job: its reader and the queues of those who watch."""

    def __init__(self) -> None:
        self.queues: set[EventQueue] = set()
        self.reading = asyncio.Event()  #: set once the reader knows where "from now on" begins
        self.reader: asyncio.Task[None] | None = None

    def tell(self, event: Event | None) -> None:
        for queue in list(self.queues):
            if queue.full():  # cut a client that does not read; what it missed is replayed when it returns
                while not queue.empty():
                    queue.get_nowait()
                event = None
            queue.put_nowait(event)


def _place(event_id: str) -> tuple[int, int]:
    """Where a stream id stands in time."""
    milliseconds, _, number = event_id.partition("-")
    return int(milliseconds), int(number or 0)

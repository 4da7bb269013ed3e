"""Server-sent events, as a service sends them."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator

import httpx

from equipot.service.client.calls import LONGEST_PAUSE_S, Calls
from equipot.service.records import Event

SILENCE_S = 45.0  # an event stream sends a ping every 15 s
START = "0"


async def follow(calls: Calls, path: str, last_id: str = START) -> AsyncGenerator[Event, None]:
    """What happens, as it happens, each event once and to the end, however often the connection breaks."""
    newest, last_type = last_id, ""
    pauses = calls.pauses()
    while True:
        try:
            async with calls.open(path, headers={"Last-Event-ID": newest}, timeout_s=SILENCE_S) as answer:
                async for event in events_in(calls.wire.lines(answer)):
                    if not event.id or _place(event.id) > _place(newest):
                        pauses = calls.pauses()
                        newest, last_type = event.id or newest, event.type
                        yield event
        except httpx.TransportError as error:
            if (pause_s := next(pauses)) is None:
                raise calls.away(error) from error
            await calls.wire.pause(pause_s)
        else:
            if last_type == "end":  # one in the middle belongs to a run before a resume
                return
            await calls.wire.pause(next(pauses) or LONGEST_PAUSE_S)


async def events_in(lines: AsyncIterator[str]) -> AsyncGenerator[Event, None]:
    """The server-sent events in the lines of a stream; a half-sent one at its end is left out."""
    fields: dict[str, str] = {}
    async for line in lines:
        if line:
            name, _, value = line.partition(":")
            fields[name] = value.removeprefix(" ")
        elif "data" in fields:
            yield Event(fields.get("id", ""), fields.get("event", "message"), json.loads(fields["data"]))
            fields = {}


def _place(event_id: str) -> tuple[int, int]:
    milliseconds, _, number = event_id.partition("-")
    return int(milliseconds), int(number or 0)

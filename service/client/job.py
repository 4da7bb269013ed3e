"""A job of a service: how it is, what happens to it, what it gives; `blocking` has the same without await."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncGenerator, Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from equipot.errors import ConflictError, InvalidParameterError, TimedOutError, error_from_problem
from equipot.service.client.events import START, follow
from equipot.service.client.frames import as_they_come, atoms_in
from equipot.service.client.values import complete, job_record, progress_of
from equipot.service.progress import watching
from equipot.service.records import Event, JobRecord
from equipot.simulation.progress import Progress

if TYPE_CHECKING:
    from ase import Atoms

    from equipot.service.client.asynchronous import AsyncClient

PIECE_BYTES = 4 << 20  # of a file, in one request
LONG_POLL_S, SHORT_POLL_S = 30, 1  # the short one between two calls of on_progress


class AsyncJob:
    """A job of a service. `record` is what was last heard of it."""

    def __init__(self, client: AsyncClient, record: JobRecord) -> None:
        self.client = client
        self.record = record

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.id} {self.record.kind} {self.record.state}>"

    async def html(self) -> str:
        """What a notebook shows of it, self-contained: state, plot, viewer."""
        from equipot.service.client.notebook import job_html

        return await job_html(self)

    @property
    def id(self) -> str:
        return self.record.id

    @property
    def progress(self) -> Progress:
        """How far it was when it was last heard of."""
        return progress_of(self.record)

    @property
    def path(self) -> str:
        """Where it is on the service."""
        return f"/v1/jobs/{self.id}"

    async def refresh(self, wait_s: int = 0) -> AsyncJob:
        """Ask how it is; with `wait_s`, when it has ended or after so many seconds."""
        headers = {"Prefer": f"wait={wait_s}"} if wait_s else {}
        self.record = job_record((await self.client.request("GET", self.path, headers=headers)).json())
        return self

    async def wait(
        self,
        on_progress: Callable[[Progress], None] | None = None,
        timeout_s: float | None = None,
        *,
        progress: bool | None = None,
    ) -> AsyncJob:
        """See `RemoteJob.wait`."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        told: Progress | None = None
        with watching(self.record.kind, on_progress, progress) as tell:
            while not self.record.is_over:
                if deadline is not None and time.monotonic() > deadline:
                    raise TimedOutError(f"The job is still {self.record.state.value}.", hint="It goes on; wait again.")
                longest = LONG_POLL_S if tell is None else SHORT_POLL_S
                left = longest if deadline is None else max(1, min(longest, round(deadline - time.monotonic())))
                await self.refresh(wait_s=left)
                if tell is not None and self.progress != told:
                    told = self.progress
                    tell(told)
        return self

    async def cancel(self) -> AsyncJob:
        """Ask it to stop; what was computed is kept."""
        self.record = job_record((await self.client.request("POST", f"{self.path}/cancel")).json())
        return self

    async def resume(self) -> AsyncJob:
        """Let it go on from its last checkpoint. Raises NotResumableError."""
        self.record = job_record((await self.client.request("POST", f"{self.path}/resume")).json())
        return self

    async def extend(self, *, n_steps: int | None = None, duration_ps: float | None = None) -> AsyncJob:
        """See `RemoteJob.extend`."""
        wanted = {"n_steps": n_steps, "duration_ps": duration_ps}
        body = {name: value for name, value in wanted.items() if value is not None}
        if len(body) != 1:
            raise InvalidParameterError("Give exactly one of n_steps and duration_ps.", pointer="/n_steps")
        headers = {"Idempotency-Key": str(uuid.uuid4())}
        answer = await self.client.request("POST", f"{self.path}/extend", json=body, headers=headers)
        self.record = job_record(answer.json())
        return self

    async def delete(self) -> None:
        """Remove it with all its data. Raises ConflictError while it runs."""
        await self.client.request("DELETE", self.path)

    async def systems(self) -> AsyncGenerator[dict[str, Any], None]:
        """The results of the systems that have ended, as the service tells them."""
        async for record in self.client.items(f"{self.path}/systems"):
            yield record

    async def results(self) -> list[Any]:
        """See `RemoteJob.results`."""
        records = [complete(record, self.record) async for record in self.systems()]
        if not records and self.record.error is not None:
            raise error_from_problem(self.record.error)
        return [self.client.result_of_system(self, record) for record in records]

    async def trajectory(self, format: str = "extxyz", **selection: int | None) -> bytes:
        """See `RemoteJob.trajectory`."""
        return (await self.client.request("GET", f"{self.path}/trajectory", params=_query(format, selection))).content

    async def download(self, path: Path, format: str = "extxyz", **selection: int | None) -> Path:
        """See `RemoteJob.download`."""
        partial = path.with_name(f".{path.name}.part")
        async with self.client.open(f"{self.path}/trajectory", params=_query(format, selection)) as answer:
            with partial.open("wb") as file:
                async for chunk in self.client.wire.chunks(answer):
                    file.write(chunk)
        partial.replace(path)
        return path

    async def n_frames(self, system: int | None = None) -> int:
        """How many frames there are now."""
        params = _query("jsonl", {"system": system})
        async with self.client.open(f"{self.path}/trajectory", params=params) as answer:
            return int(answer.headers["X-Frames"])

    async def frames(self, **selection: int | None) -> list[Atoms]:
        """See `RemoteJob.frames`."""
        return atoms_in(await self.trajectory("traj", **selection))

    async def stream(
        self, system: int | None = None, on_progress: Callable[[Progress], None] | None = None
    ) -> AsyncGenerator[Atoms, None]:
        """See `RemoteJob.stream`."""
        async for atoms in as_they_come(self, system, on_progress):
            yield atoms

    async def thermo(self, system: int | None = None) -> list[dict[str, Any]]:
        """The rows of the time series."""
        params = {} if system is None else {"system": system}
        rows: list[dict[str, Any]] = (await self.client.request("GET", f"{self.path}/thermo", params=params)).json()[
            "items"
        ]
        return rows

    async def manifest(self) -> dict[str, Any]:
        """Where the numbers come from."""
        answer: dict[str, Any] = (await self.client.request("GET", f"{self.path}/manifest")).json()
        return answer

    async def artifacts(self) -> list[dict[str, Any]]:
        """See `RemoteJob.artifacts`."""
        items: list[dict[str, Any]] = (await self.client.request("GET", f"{self.path}/artifacts")).json()["items"]
        return items

    async def artifact_chunks(self, name: str) -> AsyncGenerator[bytes, None]:
        """See `RemoteJob.artifact_chunks`."""
        path = f"{self.path}/artifacts/{name}"
        head = await self.client.request("HEAD", path)
        size, tag = int(head.headers["Content-Length"]), head.headers["ETag"]
        for start in range(0, size, PIECE_BYTES):
            wanted = {"Range": f"bytes={start}-{min(start + PIECE_BYTES, size) - 1}", "If-Range": tag}
            answer = await self.client.request("GET", path, headers=wanted)
            if answer.status_code != 206:
                raise ConflictError("The file changed while it was fetched.", hint="Fetch it again.")
            yield answer.content

    async def events(self, last_id: str = START) -> AsyncGenerator[Event, None]:
        """See `RemoteJob.events`."""
        async for event in follow(self.client, f"{self.path}/events", last_id):
            yield event


def _query(format: str, selection: Mapping[str, int | None]) -> dict[str, Any]:
    return {"format": format, **{name: value for name, value in selection.items() if value is not None}}

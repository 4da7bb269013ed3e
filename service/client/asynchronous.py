"""The client of a service for event loops, and with it the rules that both clients follow."""

from __future__ import annotations

import hashlib
import os
import uuid
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from equipot.errors import InvalidParameterError, error_from_problem
from equipot.params import JobKind
from equipot.service.client.calls import EVALUATE, Calls
from equipot.service.client.folder import JobNote, fetch_into, go_on, noted_job
from equipot.service.client.frames import RemoteTrajectory
from equipot.service.client.job import AsyncJob
from equipot.service.client.many import CHUNK, N_IN_FLIGHT, Batch, Order, batches, in_parts, run_batches
from equipot.service.client.values import (
    REJECTED,
    OneStructure,
    Structures,
    given_fields,
    is_one,
    job_body,
    job_record,
    result_of,
    structure_text,
    unsent_record,
)
from equipot.service.client.wire import BlockingWire
from equipot.service.progress import watching
from equipot.service.records import JobRecord
from equipot.service.run_files import TRAJECTORY
from equipot.simulation.progress import Progress
from equipot.simulation.results import SavedTrajectory

if TYPE_CHECKING:
    from ase import Atoms

    from equipot.simulation.results import MDResult, RelaxResult, SinglepointResult

JSON = {"Content-Type": "application/json"}


class AsyncClient(Calls):
    """A service, for event loops (asyncio, trio): every method of `Client`, awaited.

        async with AsyncClient("http://127.0.0.1:8000") as client:
            (result,) = await client.relax(atoms)
            async for result in client.map(conformers):
                ...

    url: EQUIPOT_SERVER if absent; api_key: EQUIPOT_API_KEY if absent. When the service is away or busy, calls are tried
    again for `patience_s`; a submission carries an Idempotency-Key, so trying again never makes a second job.
    """

    # -- run to the end

    async def relax(
        self,
        structures: Structures,
        model: str = "organic",
        *,
        device: str | None = None,
        dtype: str | None = None,
        compile: bool = False,
        n_threads: int | None = None,
        reproducible: bool = False,
        level_of_theory: str | None = None,
        on_progress: Callable[[Progress], None] | None = None,
        **params: Any,
    ) -> list[RelaxResult]:
        """See `Client.relax`."""
        order = Order("relax", model, params, given_fields(device, dtype, reproducible, level_of_theory))
        return await self._to_the_end(order, structures, on_progress=on_progress)

    async def run_md(
        self,
        structures: Structures,
        model: str = "organic",
        *,
        output: str | os.PathLike[str] | None = None,
        resume: bool = False,
        device: str | None = None,
        dtype: str | None = None,
        compile: bool = False,
        n_threads: int | None = None,
        reproducible: bool = False,
        level_of_theory: str | None = None,
        on_progress: Callable[[Progress], None] | None = None,
        on_frame: Callable[[Atoms], None] | None = None,
        **params: Any,
    ) -> list[MDResult]:
        """See `Client.run_md`."""
        order = Order("md", model, params, given_fields(device, dtype, reproducible, level_of_theory))
        folder = None if output is None else Path(output)
        return await self._to_the_end(
            order, structures, folder=folder, resume=resume, on_progress=on_progress, on_frame=on_frame
        )

    async def singlepoint(
        self,
        structures: Structures,
        model: str = "organic",
        *,
        device: str | None = None,
        dtype: str | None = None,
        compile: bool = False,
        n_threads: int | None = None,
        reproducible: bool = False,
        level_of_theory: str | None = None,
    ) -> list[SinglepointResult]:
        """See `Client.singlepoint`."""
        order = Order("singlepoint", model, {}, given_fields(device, dtype, reproducible, level_of_theory))
        return await self._to_the_end(order, structures)

    async def map(
        self,
        structures: Iterable[OneStructure],
        kind: JobKind = "relax",
        model: str = "organic",
        *,
        chunk_size: int = CHUNK,
        n_in_flight: int = N_IN_FLIGHT,
        ordered: bool = True,
        key: str | None = None,
        progress: bool | None = None,
        on_progress: Callable[[Progress], None] | None = None,
        device: str | None = None,
        dtype: str | None = None,
        level_of_theory: str | None = None,
        **params: Any,
    ) -> AsyncGenerator[Any, None]:
        """See `Client.map`."""
        limits = await self.limits()
        order = Order(kind, model, params, given_fields(device, dtype, False, level_of_theory), key)
        source = batches(structures, min(chunk_size, limits["max_structures"]), limits["max_body_bytes"])
        n_systems = len(structures) if isinstance(structures, Sequence) else None
        last: JobRecord | None = None
        with watching(kind, on_progress, progress) as tell:
            running = run_batches(
                self,
                order,
                source,
                n_in_flight=n_in_flight,
                ordered=ordered,
                n_systems=n_systems,
                on_progress=tell,
                leave_running=key is not None,
            )
            try:
                async for batch in running:
                    last = await self._speaker(batch, order, last)
                    async for index, given, record in batch.records(last):
                        yield self._result(kind, batch, index, given, record)
            finally:
                await running.aclose()

    async def evaluate(
        self,
        structures: Structures,
        model: str = "organic",
        *,
        dtype: str = "float64",
        device: str = "auto",
        level_of_theory: str | None = None,
    ) -> dict[str, Any]:
        """See `Client.evaluate`."""
        texts = [structure_text(structure) for structure in _listed(structures)]
        fields = {"model": model, "dtype": dtype, "device": device, "level_of_theory": level_of_theory}
        content = job_body(texts, {name: value for name, value in fields.items() if value is not None})
        answer: dict[str, Any] = (await self.request("POST", EVALUATE, content=content, headers=JSON)).json()
        return answer

    # -- jobs

    async def submit(
        self,
        kind: JobKind,
        structures: Structures,
        *,
        model: str = "organic",
        params: Mapping[str, Any] | None = None,
        idempotency_key: str | None = None,
        **fields: Any,
    ) -> AsyncJob:
        """See `Client.submit`."""
        texts = [structure_text(structure) for structure in _listed(structures)]
        body = {"kind": kind, "model": model, "params": dict(params or {}), **fields}
        return await self.post_job(texts, body, idempotency_key)

    async def post_job(self, texts: Sequence[str], fields: Mapping[str, Any], key: str | None = None) -> AsyncJob:
        """Queue a job of structures that are JSON text already."""
        headers = {"Idempotency-Key": key or str(uuid.uuid4()), **JSON}
        answer = await self.request("POST", "/v1/jobs", content=job_body(texts, fields), headers=headers)
        return AsyncJob(self, job_record(answer.json()))

    async def check(
        self,
        kind: JobKind,
        structures: Structures,
        *,
        model: str = "organic",
        params: Mapping[str, Any] | None = None,
        **fields: Any,
    ) -> dict[str, Any]:
        """See `Client.check`."""
        texts = [structure_text(structure) for structure in _listed(structures)]
        content = job_body(texts, {"kind": kind, "model": model, "params": dict(params or {}), **fields})
        query = {"validate_only": "true"}
        answer = await self.request("POST", "/v1/jobs", content=content, headers=JSON, params=query)
        estimate: dict[str, Any] = answer.json()
        return estimate

    async def get(self, job_id: str) -> AsyncJob:
        """See `Client.get`."""
        return AsyncJob(self, job_record((await self.request("GET", f"/v1/jobs/{job_id}")).json()))

    async def jobs(
        self, *, state: str | None = None, kind: str | None = None, model: str | None = None, tag: str | None = None
    ) -> AsyncGenerator[AsyncJob, None]:
        """See `Client.jobs`."""
        given = {"state": state, "kind": kind, "model": model, "tag": tag}
        wanted = {name: value for name, value in given.items() if value is not None}
        async for item in self.items("/v1/jobs", wanted):
            yield AsyncJob(self, job_record(item))

    # -- the rest

    async def models(self) -> list[dict[str, Any]]:
        """The potentials there."""
        answer: list[dict[str, Any]] = (await self.request("GET", "/v1/models")).json()["items"]
        return answer

    async def limits(self) -> dict[str, Any]:
        """What a request may be at most there."""
        answer: dict[str, Any] = (await self.request("GET", "/v1/limits")).json()
        return answer

    async def upload(self, path: str | os.PathLike[str], format: str | None = None) -> dict[str, Any]:
        """See `Client.upload`."""
        path = Path(path)
        data = {"format": format} if format else {}
        files = {"file": (path.name, path.read_bytes())}
        answer: dict[str, Any] = (await self.request("POST", "/v1/structures", files=files, data=data)).json()
        return answer

    async def close(self) -> None:
        """Give the connections back."""
        if "_blocking" in self.__dict__ and self._blocking is not self:
            await self._blocking.wire.close()
        await self.wire.close()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    # -- how

    async def _to_the_end(
        self,
        order: Order,
        structures: Structures,
        *,
        folder: Path | None = None,
        resume: bool = False,
        on_progress: Callable[[Progress], None] | None = None,
        on_frame: Callable[[Atoms], None] | None = None,
    ) -> list[Any]:
        """The results of all structures, in order; a structure given alone raises its error."""
        alone, given = is_one(structures), _listed(structures)
        if not given:
            return []
        limits = await self.limits()
        largest = limits["max_structures"]
        size = 1 if alone else in_parts(len(given), largest)
        parts = list(batches(given, size, limits["max_body_bytes"], alone))
        if len(parts) > 1:
            order = order.resolved_over(given)
        if folder is not None:
            await self._keep(folder, resume, order, parts)
        results: list[Any] = []
        last: JobRecord | None = None
        running = run_batches(
            self,
            order,
            iter(parts),
            alone=alone,
            n_systems=len(given),
            on_progress=on_progress,
            on_frame=on_frame,
            leave_running=folder is not None,
        )
        try:
            async for batch in running:
                last = await self._speaker(batch, order, last)
                async for index, one, record in batch.records(last):
                    if alone and record["outcome"] == REJECTED:
                        raise error_from_problem(record["reason"])
                    results.append(self._result(order.kind, batch, index, one, record, folder))
                if folder is not None and batch.job is not None:
                    await fetch_into(folder, batch.job)
        finally:
            await running.aclose()
        return results

    async def _keep(self, folder: Path, resume: bool, order: Order, parts: Sequence[Batch]) -> None:
        """Let the folder say which job it is for: one that is queued now, or the one that its note names."""
        if len(parts) > 1:
            raise InvalidParameterError(
                "With output, all structures must fit into one job of the service.",
                pointer="/output",
                hint="Give fewer structures, or leave output out and keep the results yourself.",
            )
        (batch,) = parts
        body = job_body([str(text) for text in batch.texts], order.body_fields(batch.indices))
        asked = hashlib.sha256(body).hexdigest()
        note = noted_job(folder, self.url, asked, resume)
        if note is not None:
            batch.take_up(await go_on(await self.get(note.job_id)), note.rejected)
            return
        await batch.send(self, order, alone=False)
        if batch.job is not None:
            JobNote(self.url, batch.job.id, asked=asked, rejected=batch.rejected).write(folder)

    async def _speaker(self, batch: Batch, order: Order, last: JobRecord | None) -> JobRecord | None:
        """The record that says which potential a batch without a job would have been computed with."""
        if batch.job is not None:
            return batch.job.record
        if last is not None:
            return last
        found = [card for card in await self.models() if order.model in (card["name"], *card["aliases"])]
        return unsent_record(order.kind, order.params, found[0] if found else {})

    def result_of_system(self, job: AsyncJob, record: Mapping[str, Any]) -> Any:
        """The result behind the complete record of a system of a job."""
        trajectory: Sequence[Atoms] = ()
        if job.record.kind == "md":
            trajectory = RemoteTrajectory(AsyncJob(self._blocking, job.record), record["system_idx"])
        return result_of(job.record.kind, record, None, trajectory)

    def _result(
        self,
        kind: JobKind,
        batch: Batch,
        index: int,
        given: OneStructure,
        record: dict[str, Any],
        folder: Path | None = None,
    ) -> Any:
        trajectory: Sequence[Atoms] = ()
        system = batch.system_of(index)
        if kind == "md" and batch.job is not None and system is not None:
            if folder is not None:
                trajectory = SavedTrajectory(folder / TRAJECTORY, system)
            else:
                trajectory = RemoteTrajectory(AsyncJob(self._blocking, batch.job.record), system, shown_as=index)
        return result_of(kind, record, given, trajectory)

    @cached_property
    def _blocking(self) -> AsyncClient:
        """The same service over a wire that blocks, for what cannot be awaited: looking at a trajectory."""
        if isinstance(self.wire, BlockingWire):
            return self
        return AsyncClient(self.url, patience_s=self._patience_s, wire=BlockingWire(self.url, self.wire.headers))


def _listed(structures: Structures) -> list[OneStructure]:
    return [structures] if is_one(structures) else list(structures)  # type: ignore[list-item, arg-type]

"""Many structures as jobs of bounded size, a bounded number at a time.

What cannot be computed is left out of its job and comes back `rejected`, as in a run here; a service that is full is
waited for; and whoever does not take results gets no further jobs queued.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from equipot.errors import Culprit, EquipotError, InputError, error_from_problem
from equipot.params import JobKind, parse_params
from equipot.service.client.frames import FrameFeed
from equipot.service.client.values import OneStructure, complete, structure_text, without_numbers
from equipot.service.records import JobRecord
from equipot.simulation.progress import Progress
from equipot.structure import Structure

if TYPE_CHECKING:
    from ase import Atoms

    from equipot.service.client.asynchronous import AsyncClient
    from equipot.service.client.job import AsyncJob

N_IN_FLIGHT = 8
CHUNK = 64
HELD = 4  # times n_in_flight: jobs whose results wait for those of an earlier one
POLL_S, LONG_POLL_S = 1, 30
ENVELOPE_BYTES = 20_000  # of a body, beside its structures
#: the service is full, which its other jobs, perhaps ours, will change
FULL = frozenset({"queue-full", "rate-limited", "quota-exceeded"})


@dataclass(frozen=True)
class Order:
    """What every job of a call asks for. `key` makes the same call find its jobs again."""

    kind: JobKind
    model: str
    params: Mapping[str, Any]
    fields: Mapping[str, Any]
    key: str | None = None

    def body_fields(self, indices: Sequence[int]) -> dict[str, Any]:
        """The body of a job for these structures of the call, without them."""
        params = dict(self.params)
        if isinstance(params.get("seed"), Sequence):
            params["seed"] = [params["seed"][index] for index in indices if index < len(params["seed"])]
        return {"kind": self.kind, "model": self.model, "params": params, **self.fields}

    def resolved_over(self, structures: Sequence[OneStructure]) -> Order:
        """The same with the defaults of one run of all the structures, for a call that takes several jobs."""
        numbers = [_numbers(structure) for structure in structures]
        if any(each is None for each in numbers):
            return self
        try:
            params = parse_params(self.kind, self.params).resolved(numbers)
        except InputError as error:
            raise error.moved_under("/params") from error
        return replace(self, params=params.model_dump(mode="json", exclude_none=True))


@dataclass
class Batch:
    """The structures of one job: where they stand in the call, what was given, and their JSON or what is wrong."""

    number: int
    indices: list[int]
    given: list[OneStructure]
    texts: list[str | EquipotError]
    job: AsyncJob | None = None
    sent: list[int] = field(default_factory=list)  #: of each system of the job, its place in the batch
    feed: FrameFeed | None = None

    @property
    def is_over(self) -> bool:
        return self.job is None or self.job.record.is_over

    @property
    def rejected(self) -> dict[str, dict[str, Any]]:
        """What is wrong with the structures that were left out, by place, as problems."""
        errors = enumerate(self.texts)
        return {str(place): error.as_problem() for place, error in errors if isinstance(error, EquipotError)}

    def system_of(self, index: int) -> int | None:
        """Which system of the job a structure of the call is, None if it was left out."""
        place = self.indices.index(index)
        return self.sent.index(place) if place in self.sent else None

    def take_up(self, job: AsyncJob, rejected: Mapping[str, Mapping[str, Any]]) -> None:
        """Go on with a job that was queued for these structures before."""
        for place, problem in rejected.items():
            self.texts[int(place)] = error_from_problem(problem)
        self.sent = [place for place, text in enumerate(self.texts) if isinstance(text, str)]
        self.job = job

    async def send(self, client: AsyncClient, order: Order, alone: bool) -> None:
        """Queue the job, without what cannot be computed unless the structure is `alone`."""
        while True:
            self.sent = [place for place, text in enumerate(self.texts) if isinstance(text, str)]
            if not self.sent:
                return
            texts = [text for text in self.texts if isinstance(text, str)]
            fields = order.body_fields([self.indices[place] for place in self.sent])
            key = None if order.key is None else f"{order.key}-{self.number}"
            try:
                self.job = await client.post_job(texts, fields, key)
                return
            except InputError as error:
                guilty = {} if alone else _by_structure(error, [self.indices[place] for place in self.sent])
                if not guilty:
                    raise
                for position, its_own in guilty.items():
                    self.texts[self.sent[position]] = its_own

    async def records(self, last: JobRecord | None) -> AsyncGenerator[tuple[int, OneStructure, dict[str, Any]], None]:
        """Of each structure its index in the call, what was given, and its complete record; `last` speaks for a batch
        without a job."""
        record = self.job.record if self.job is not None else last
        assert record is not None
        found = {} if self.job is None else {r["system_idx"]: r async for r in self.job.systems()}
        system_of = {place: system for system, place in enumerate(self.sent)}
        for place, (index, given, text) in enumerate(zip(self.indices, self.given, self.texts, strict=True)):
            if isinstance(text, EquipotError):
                yield index, given, without_numbers(index, record, text)
                continue
            theirs = found.get(system_of[place])
            if theirs is None:
                yield index, given, without_numbers(system_of[place], record, None) | {"system_idx": index}
            else:
                yield index, given, complete(theirs, record) | {"system_idx": index}

    async def frames(self) -> AsyncGenerator[Atoms, None]:
        """The frames that are new, under the numbers of the call."""
        assert self.job is not None
        self.feed = self.feed or FrameFeed(self.job)
        async for atoms in self.feed.new():
            atoms.info["system"] = self.indices[self.sent[atoms.info["system"]]]
            yield atoms


def batches(structures: Iterable[OneStructure], size: int, max_bytes: int, alone: bool = False) -> Iterator[Batch]:
    """Structures in batches of at most `size` and `max_bytes`, read as they are needed."""
    batch, n_bytes, number = Batch(0, [], [], []), 0, 0
    for index, structure in enumerate(structures):
        try:
            text: str | EquipotError = structure_text(structure)
        except EquipotError as error:
            if alone:
                raise
            text = error.moved_under(f"/structures/{index}")
        length = len(text) if isinstance(text, str) else 0
        if batch.given and (len(batch.given) == size or n_bytes + length > max_bytes - ENVELOPE_BYTES):
            yield batch
            number, n_bytes = number + 1, 0
            batch = Batch(number, [], [], [])
        batch.indices.append(index)
        batch.given.append(structure)
        batch.texts.append(text)
        n_bytes += length
    if batch.given:
        yield batch


async def run_batches(
    client: AsyncClient,
    order: Order,
    source: Iterator[Batch],
    *,
    n_in_flight: int = N_IN_FLIGHT,
    ordered: bool = True,
    alone: bool = False,
    n_systems: int | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    on_frame: Callable[[Atoms], None] | None = None,
    leave_running: bool = False,
) -> AsyncGenerator[Batch, None]:
    """Each batch when its job is over, in order or as they end.

    Whoever stops early, by an error or by not taking the rest, has the jobs cancelled, unless `leave_running`.
    """
    flying: list[Batch] = []
    waiting: Batch | None = None
    told = _Told(on_progress, n_systems)
    finished = False
    try:
        while True:
            room = sum(not batch.is_over for batch in flying) < n_in_flight and len(flying) < HELD * n_in_flight
            if room and (waiting := waiting or next(source, None)) is not None:
                try:
                    if waiting.job is None:
                        await waiting.send(client, order, alone)
                except EquipotError as error:
                    if error.code not in FULL:
                        raise
                    if not flying:
                        await client.wire.pause(POLL_S)
                else:
                    flying.append(waiting)
                    waiting = None
                    continue
            if not flying and waiting is None:
                finished = True
                return
            await _tell(flying, told, on_frame)
            candidates = flying[:1] if ordered else flying
            ready = next((batch for batch in candidates if batch.is_over), None)
            if ready is not None:
                flying.remove(ready)
                told.ended(ready)
                yield ready
            else:
                nobody_watches = on_progress is None and on_frame is None
                await _look(flying, LONG_POLL_S if nobody_watches and waiting is None and len(flying) == 1 else POLL_S)
    finally:
        if not finished and not leave_running:
            with client.wire.shielded(), suppress(EquipotError):
                for batch in flying:
                    if batch.job is not None and not batch.is_over:
                        await batch.job.cancel()


async def _look(flying: Sequence[Batch], wait_s: int) -> None:
    """Hear how the jobs are: wait a while for the first, ask for the others."""
    running = [batch.job for batch in flying if batch.job is not None and not batch.is_over]
    for job in running[:1]:
        await job.refresh(wait_s=wait_s)
    for job in running[1:]:
        await job.refresh()


async def _tell(flying: Sequence[Batch], told: _Told, on_frame: Callable[[Atoms], None] | None) -> None:
    told.all_of(flying)
    if on_frame is not None:
        for batch in flying:
            if batch.job is not None:
                async for atoms in batch.frames():
                    on_frame(atoms)


class _Told:
    """What `on_progress` has been told, over all jobs of a call."""

    def __init__(self, on_progress: Callable[[Progress], None] | None, n_systems: int | None) -> None:
        self._on_progress = on_progress
        self._n_systems = n_systems
        self._ended: list[Progress] = []
        self._last: Progress | None = None

    def ended(self, batch: Batch) -> None:
        """Remember a batch that leaves."""
        self._ended.append(_progress(batch))

    def all_of(self, flying: Sequence[Batch]) -> None:
        """Say how far everything is, if that has changed."""
        parts = [*self._ended, *map(_progress, flying)]
        if self._on_progress is None or not parts:
            return
        unfinished = [part.step for part in parts if part.n_done < part.n_systems]
        n_known = sum(part.n_systems for part in parts)
        progress = Progress(
            step=min(unfinished) if unfinished else max(part.step for part in parts),
            n_steps=max(part.n_steps for part in parts),
            n_systems=max(n_known, self._n_systems or 0),
            n_done=sum(part.n_done for part in parts),
            n_max_steps=sum(part.n_max_steps for part in parts),
        )
        if progress != self._last:
            self._last = progress
            self._on_progress(progress)


def _progress(batch: Batch) -> Progress:
    n_rejected = len(batch.given) - len(batch.sent)
    if batch.job is None:
        return Progress(0, 0, n_rejected, n_rejected, 0)
    progress = batch.job.progress
    return replace(progress, n_systems=progress.n_systems + n_rejected, n_done=progress.n_done + n_rejected)


def _by_structure(error: InputError, indices: Sequence[int]) -> dict[int, EquipotError]:
    """The structures an error is about, by position in the request, each with its own error under its index in the
    call; none if it is about something else."""
    found: dict[int, list[Culprit]] = {}
    for culprit in error.culprits:
        root, _, rest = culprit.pointer.removeprefix("/").partition("/")
        number, slash, below = rest.partition("/")
        if root != "structures" or not number.isdecimal() or int(number) >= len(indices):
            return {}
        moved = replace(culprit, pointer=f"/structures/{indices[int(number)]}{slash}{below}")
        found.setdefault(int(number), []).append(moved)
    one = len(found) == 1
    return {
        position: type(error)(
            error.detail if one else culprits[0].message,
            hint=error.hint if one else culprits[0].hint,
            culprits=culprits,
        )
        for position, culprits in found.items()
    }


def _numbers(structure: OneStructure) -> Any:
    """The atomic numbers of a structure, None if only the service knows them."""
    if isinstance(structure, Mapping):
        from equipot.elements import NUMBERS

        if "numbers" in structure:
            return list(structure["numbers"])
        symbols = structure.get("symbols")
        return None if symbols is None else [NUMBERS.get(symbol, 0) for symbol in symbols]
    return structure.numbers if isinstance(structure, Structure) else structure.get_atomic_numbers()


def in_parts(n: int, largest: int) -> int:
    """The size of the parts when n things are cut into as few parts as possible, all about as large."""
    n_parts = max(1, -(-n // largest))
    return max(1, -(-n // n_parts))

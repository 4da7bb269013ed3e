"""The frames of a job as ASE Atoms: all of them, those of one system one by one, or each as it comes."""

from __future__ import annotations

import io
from collections.abc import AsyncGenerator, Sequence
from typing import TYPE_CHECKING, Any, overload

from equipot.service.client.wire import now
from equipot.simulation.progress import Progress

if TYPE_CHECKING:
    from ase import Atoms

    from equipot.service.client.job import AsyncJob

PAGE_FRAMES = 200
KEPT_PAGES = 8
MOST_SYSTEMS_WATCHED = 16  # of more, the frames of a system are fetched when it has ended: it keeps first and last only
LIVE_POLL_S = 1


class FrameFeed:
    """The frames of a job that are new since the last look, each once, those of a system in order.

    A service shows frames up to the last checkpoint, so that what was read is never taken back.
    """

    def __init__(self, job: AsyncJob, system: int | None = None) -> None:
        self._job = job
        systems = range(job.record.progress.n_systems) if system is None else [system]
        self._seen = dict.fromkeys(systems, 0)
        self._ended: set[int] = set()
        self._n_ended = 0

    async def new(self) -> AsyncGenerator[Atoms, None]:
        """What is new. When the job is over, all the rest."""
        for system in await self._worth_a_look():
            while frames := await self._job.frames(
                system=system, start=self._seen[system], stop=self._seen[system] + PAGE_FRAMES
            ):
                for atoms in frames:
                    self._seen[system] += 1
                    yield atoms
                if len(frames) < PAGE_FRAMES:
                    break

    async def _worth_a_look(self) -> list[int]:
        over, n_done = self._job.record.is_over, self._job.record.progress.n_done
        if len(self._seen) <= MOST_SYSTEMS_WATCHED or over:
            return [system for system in self._seen if system not in self._ended]
        if n_done == self._n_ended:
            return []
        ended = {record["system_idx"] async for record in self._job.systems()}
        fresh = sorted((ended & self._seen.keys()) - self._ended)
        self._ended |= ended
        self._n_ended = n_done
        return fresh


async def as_they_come(job: AsyncJob, system: int | None, on_progress: Any = None) -> AsyncGenerator[Atoms, None]:
    """Every frame of a job while it runs, to its end; `on_progress` is told how far it is."""
    feed = FrameFeed(job, system)
    told: Progress | None = None
    while True:
        if on_progress is not None and job.progress != told:
            told = job.progress
            on_progress(told)
        was_over = job.record.is_over
        async for atoms in feed.new():
            yield atoms
        if was_over:
            return
        await job.refresh(wait_s=LIVE_POLL_S)


def atoms_in(data: bytes) -> list[Atoms]:
    """The frames in the bytes of a .traj."""
    from ase.io.trajectory import TrajectoryReader

    return list(TrajectoryReader(io.BytesIO(data))) if data else []


class RemoteTrajectory(Sequence["Atoms"]):
    """The saved frames of one system of a job that has ended, fetched when they are looked at.

    Frames come in pages of 200, of which the last few are kept: memory does not grow with the trajectory. The job is
    one over a BlockingWire: looking at an item of a sequence cannot be awaited.
    """

    def __init__(self, job: AsyncJob, system: int, shown_as: int | None = None) -> None:
        self._job = job
        self._system = system
        self._shown_as = system if shown_as is None else shown_as
        self._n_frames: int | None = None
        self._pages: dict[int, list[Atoms]] = {}

    def __len__(self) -> int:
        if self._n_frames is None:
            self._n_frames = now(self._job.n_frames(self._system))
        return self._n_frames

    @overload
    def __getitem__(self, index: int) -> Atoms: ...
    @overload
    def __getitem__(self, index: slice) -> list[Atoms]: ...
    def __getitem__(self, index: int | slice) -> Atoms | list[Atoms]:
        if isinstance(index, slice):
            return [self[i] for i in range(len(self))[index]]
        number, place = divmod(range(len(self))[index], PAGE_FRAMES)  # raises IndexError
        return self._page(number)[place]

    def _page(self, number: int) -> list[Atoms]:
        if number not in self._pages:
            start = number * PAGE_FRAMES
            frames = now(self._job.frames(system=self._system, start=start, stop=start + PAGE_FRAMES))
            for atoms in frames:
                atoms.info["system"] = self._shown_as
            self._pages[number] = frames
            while len(self._pages) > KEPT_PAGES:
                del self._pages[next(iter(self._pages))]
        return self._pages[number]

"""A job of a service and the folder it is kept in: which job it is, and in the end its files."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from equipot.errors import ConflictError, NotResumableError
from equipot.service.run_files import FINAL, JOB_NOTE, RESULT, TRAJECTORY, write_json

if TYPE_CHECKING:
    from equipot.service.client.job import AsyncJob


@dataclass(frozen=True)
class JobNote:
    """Which job is kept in a folder. `asked` is the digest of the request, where it is known."""

    server: str
    job_id: str
    asked: str = ""
    names: Sequence[str] = ()  #: of its systems, as the command line called them
    rejected: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  #: what was left out, by place, and why

    def write(self, folder: Path) -> None:
        """Leave the note, so that the job is found again."""
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / JOB_NOTE, asdict(self))

    @classmethod
    def read(cls, folder: Path) -> JobNote | None:
        """The note in a folder, if there is one."""
        with suppress(OSError, ValueError, KeyError, TypeError):
            return cls(**json.loads((folder / JOB_NOTE).read_text(encoding="utf-8")))
        return None


def noted_job(folder: Path, server: str, asked: str, resume: bool) -> JobNote | None:
    """The job to go on with, None to begin one.

    Raises ConflictError if the folder holds a run and nothing was said of resuming it, NotResumableError if it is
    another one.
    """
    note = JobNote.read(folder)
    if note is None:
        if folder.is_dir() and any(folder.iterdir()):
            raise ConflictError(f"{folder} holds something else.", hint="Choose another output folder.")
        return None
    if not resume:
        raise ConflictError(f"{folder} holds a run already.", hint="Go on with resume=True, or choose another folder.")
    if note.asked != asked or note.server != server:
        what = "request" if note.server == server else "service"
        raise NotResumableError(
            f"The run in this folder was begun with another {what}.",
            hint="Resume with the same arguments, or choose another output folder.",
        )
    return note


async def go_on(job: AsyncJob) -> AsyncJob:
    """The job, queued again if it ended before it was done."""
    if job.record.is_over and job.record.state.value in ("cancelled", "failed", "partially_succeeded"):
        with suppress(NotResumableError):
            await job.resume()
    return job


async def fetch_into(folder: Path, job: AsyncJob) -> list[Path]:
    """Write what a run here would leave: trajectory, final structures, results; gives the paths."""
    folder.mkdir(parents=True, exist_ok=True)
    records = [record async for record in job.systems()]
    if job.record.kind != "singlepoint":
        await job.download(folder / TRAJECTORY, format="traj")
    write_final(folder / FINAL, records)
    write_json(folder / RESULT, {"job": job.record.model_dump(mode="json"), "systems": records})
    return [path for name in (TRAJECTORY, FINAL, RESULT) if (path := folder / name).exists()]


def write_final(path: Path, records: Sequence[Mapping[str, Any]]) -> None:
    """The final structures of systems, with their numbers, as extended XYZ."""
    from ase.io import write

    from equipot.simulation.results import final_atoms

    final = []
    for record in records:
        atoms = final_atoms(None, record)
        if atoms is not None:
            atoms.info["system"] = record["system_idx"]
            final.append(atoms)
    write(path, final, format="extxyz")

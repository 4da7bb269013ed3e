"""A job on disk. From these files everything in Redis can be rebuilt.

jobs/JOB/request.json          what was asked, with all defaults resolved, and how it is cut into shards
jobs/JOB/inputs/0000.json      the structures of a shard
jobs/JOB/record.json           the job record, rewritten at each move
jobs/JOB/attempts/0000.0001    one empty file for each attempt at a shard, created exclusively
jobs/JOB/shards/0000/          the run directory of a shard (see equipot.simulation.run)
jobs/JOB/results/0000.json     how a shard ended, created exclusively: its result is visible exactly once
structures/ID.json             uploaded structures
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

from equipot.errors import InvalidStructureError, JobNotFoundError
from equipot.service.storage import Mirror, Storage
from equipot.simulation.checkpoint import NEWEST, PREVIOUS, read_header
from equipot.simulation.trajectory import read_results
from equipot.structure import Structure, structure_from_json

FORMAT_VERSION = 1
JOB_ID = re.compile(r"[0-9a-f]{22}")
STRUCTURE_ID = re.compile(r"[0-9a-f]{32}")


def new_job_id() -> str:
    """A new id; later ids sort after earlier ones."""
    return f"{time.time_ns() // 1_000_000:012x}{uuid4().hex[:10]}"


def write_atomically(path: Path, text: str, *, durable: bool = False) -> None:
    """Replace `path` as a whole: a reader sees the old text or the new one, never a part."""
    temporary = path.with_name(f".{path.name}.{uuid4().hex[:8]}")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        if durable:
            file.flush()
            os.fsync(file.fileno())
    temporary.replace(path)


def create_exclusively(path: Path, text: str) -> bool:
    """Make `path` appear complete, unless it exists already. Returns whether this call made it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid4().hex[:8]}")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    try:
        os.link(temporary, path)
    except FileExistsError:
        return False
    finally:
        temporary.unlink()
    return True


class JobFiles:
    """The directories of all jobs and the uploaded structures below `data_dir`."""

    def __init__(self, data_dir: Path, storage: str = "") -> None:
        """`storage`: where copies are kept that other hosts see, '' if they see the data directory itself."""
        self._mirror = Mirror(Storage(storage), data_dir) if storage else None
        self.jobs = data_dir.absolute() / "jobs"
        self.structures = data_dir.absolute() / "structures"
        self.jobs.mkdir(parents=True, exist_ok=True)
        self.structures.mkdir(parents=True, exist_ok=True)

    def job(self, job_id: str) -> Path:
        """The directory of a job. Raises JobNotFoundError for what cannot be a job id."""
        if not JOB_ID.fullmatch(job_id):
            raise JobNotFoundError(f"There is no job {job_id[:40]!r}.", hint="GET /v1/jobs lists the jobs.")
        return self.jobs / job_id

    def shard(self, job_id: str, shard_idx: int) -> Path:
        """The run directory of a shard."""
        return self.job(job_id) / "shards" / f"{shard_idx:04d}"

    def known(self) -> list[str]:
        """The ids of all jobs on disk or in the storage, oldest first."""
        found = {path.parent.name for path in self.jobs.glob("*/request.json")}
        if self._mirror:
            found |= set(self._mirror.storage.folders("jobs/"))
        return sorted(job_id for job_id in found if JOB_ID.fullmatch(job_id))

    # -- other hosts

    def fetch(self, job_id: str, *, often: bool = False) -> None:
        """Bring what other hosts have copied of a job; with `often`, unless that was done a moment ago."""
        if self._mirror:
            self._mirror.fetch(self.job(job_id), often=often)

    def push(self, job_id: str, *names: str) -> None:
        """Let other hosts see files or folders of a job."""
        if self._mirror:
            for name in names:
                self._mirror.push(self.job(job_id) / name)

    def push_shard(self, job_id: str, shard_idx: int, attempt: int) -> None:
        """Let other hosts see how far a shard is, unless a later attempt has begun."""
        if self._mirror and self.last_attempt(job_id, shard_idx) <= attempt and self.shard(job_id, shard_idx).is_dir():
            self._mirror.push(self.shard(job_id, shard_idx))

    # -- what was asked

    def write_request(self, job_id: str, request: dict[str, Any], inputs: list[list[Structure]]) -> None:
        """Write a new job; the request goes last, so a job is there completely or not at all."""
        folder = self.job(job_id)
        (folder / "inputs").mkdir(parents=True)
        for shard_idx, structures in enumerate(inputs):
            text = json.dumps([structure.to_json() for structure in structures], separators=(",", ":"))
            (folder / "inputs" / f"{shard_idx:04d}.json").write_text(text, "utf-8")
        self.push(job_id, "inputs")
        self.rewrite_request(job_id, request)

    def rewrite_request(self, job_id: str, request: dict[str, Any]) -> None:
        """Replace what the job was asked to do: its parameters change when it is extended."""
        text = json.dumps({"format_version": FORMAT_VERSION, **request}, separators=(",", ":"))
        write_atomically(self.job(job_id) / "request.json", text, durable=True)
        self.push(job_id, "request.json")

    def read_request(self, job_id: str) -> dict[str, Any]:
        """What `write_request` wrote. Raises JobNotFoundError."""
        path = self.job(job_id) / "request.json"
        if not path.exists():
            self.fetch(job_id, often=True)
        try:
            request: dict[str, Any] = json.loads(path.read_bytes())
        except FileNotFoundError as error:
            raise JobNotFoundError(f"There is no job {job_id!r}.", hint="It may have been deleted.") from error
        return request

    def read_inputs(self, job_id: str, shard_idx: int) -> list[Structure]:
        """The structures of a shard."""
        path = self.job(job_id) / "inputs" / f"{shard_idx:04d}.json"
        if not path.exists():
            self.fetch(job_id, often=True)
        return [structure_from_json(data) for data in json.loads(path.read_bytes())]

    # -- what became of it

    @contextmanager
    def locked(self, job_id: str) -> Iterator[Path]:
        """The job's directory while nobody else who asks for the lock rewrites its record."""
        folder = self.job(job_id)
        if not folder.exists():
            self.fetch(job_id, often=True)
        try:
            handle = (folder / ".lock").open("w")
        except FileNotFoundError as error:
            raise JobNotFoundError(f"There is no job {job_id!r}.", hint="It may have been deleted.") from error
        with handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield folder

    def read_record(self, job_id: str) -> dict[str, Any] | None:
        """The record as it was last written, or None."""
        with suppress(FileNotFoundError, ValueError):
            record: dict[str, Any] = json.loads((self.job(job_id) / "record.json").read_bytes())
            return record
        return None

    def create_attempt(self, job_id: str, shard_idx: int, attempt: int) -> bool:
        """Whether this call is the one that starts this attempt."""
        path = self.job(job_id) / "attempts" / f"{shard_idx:04d}.{attempt:04d}"
        path.parent.mkdir(exist_ok=True)
        if self._mirror and not self._mirror.storage.create(self._mirror.name(path), b"."):
            return False
        try:
            path.open("x").close()
        except FileExistsError:
            return False
        return True

    def last_attempt(self, job_id: str, shard_idx: int) -> int:
        """The largest number of an attempt at a shard, 0 if there was none."""
        folder = self.job(job_id) / "attempts"
        names = [path.name for path in folder.glob(f"{shard_idx:04d}.*")]
        if self._mirror:
            names += [
                n for n in self._mirror.storage.list(self._mirror.name(folder) + "/") if f"/{shard_idx:04d}." in n
            ]
        return max((int(name.rpartition(".")[2]) for name in names), default=0)

    def _result(self, job_id: str, shard_idx: int) -> Path:
        return self.job(job_id) / "results" / f"{shard_idx:04d}.json"

    def create_result(self, job_id: str, shard_idx: int, result: dict[str, Any]) -> bool:
        """Whether this call made the result of the shard; there is only ever one."""
        path, text = self._result(job_id, shard_idx), json.dumps(result)
        if self._mirror:
            created = self._mirror.storage.create(self._mirror.name(path), text.encode())
            self._mirror.fetch(path.parent)
            return created
        return create_exclusively(path, text)

    def read_result(self, job_id: str, shard_idx: int) -> dict[str, Any] | None:
        """How the shard ended, or None if it has not."""
        if self._mirror:
            data = self._mirror.storage.get(self._mirror.name(self._result(job_id, shard_idx)))
            return None if data is None else dict(json.loads(data))
        with suppress(FileNotFoundError):
            result: dict[str, Any] = json.loads(self._result(job_id, shard_idx).read_bytes())
            return result
        return None

    def withdraw_result(self, job_id: str, shard_idx: int) -> None:
        """Put aside the unsuccessful end of a shard that is to be resumed."""
        path = self._result(job_id, shard_idx)
        aside = path.with_suffix(f".{time.time_ns()}.withdrawn")
        with suppress(FileNotFoundError):
            path.rename(aside)
            if self._mirror:
                self._mirror.push(aside)
        if self._mirror:
            self._mirror.storage.delete(self._mirror.name(path))

    def system_results(self, job_id: str, shard_idx: int) -> dict[int, dict[str, Any]]:
        """The results of the ended systems of a shard by index within the job, as far as a checkpoint vouches."""
        return {result["system_idx"]: result for result in read_results(self.shard(job_id, shard_idx))}

    def undo_cancellation(self, job_id: str, shard_idx: int) -> None:
        """Go back to the checkpoint from before a run was cancelled, so that it can be resumed."""
        directory = self.shard(job_id, shard_idx)
        self.fetch(job_id)
        header = read_header(directory)
        if header is not None and header["complete"] and (directory / PREVIOUS).exists():
            (directory / NEWEST).unlink()
            if self._mirror:
                self._mirror.storage.delete(self._mirror.name(directory / NEWEST))

    def remove(self, job_id: str) -> None:
        """Remove everything of a job, all at once for a reader."""
        folder = self.job(job_id)
        if self._mirror:
            self._mirror.remove(folder)
        trash = folder.with_name(f".{folder.name}.{uuid4().hex[:8]}")
        with suppress(FileNotFoundError):
            folder.rename(trash)
            shutil.rmtree(trash, ignore_errors=True)

    # -- uploaded structures

    def put_structure(self, structure: Structure) -> str:
        """Keep a structure; its id is the start of its sha256."""
        structure_id = structure.sha256()[:32]
        path = self.structures / f"{structure_id}.json"
        if not path.exists():
            write_atomically(path, json.dumps(structure.to_json(), separators=(",", ":")))
            if self._mirror:
                self._mirror.push(path)
        return structure_id

    def get_structure(self, structure_id: str) -> Structure:
        """A kept structure. Raises InvalidStructureError."""
        try:
            if not STRUCTURE_ID.fullmatch(structure_id):
                raise FileNotFoundError
            path = self.structures / f"{structure_id}.json"
            kept = self._mirror.storage.get(self._mirror.name(path)) if self._mirror and not path.exists() else None
            data = json.loads(path.read_bytes() if kept is None else kept)
        except FileNotFoundError as error:
            raise InvalidStructureError(
                f"There is no structure {structure_id[:40]!r}.",
                pointer="/structure_id",
                hint="POST /v1/structures uploads one and answers with its id.",
            ) from error
        return structure_from_json(data)

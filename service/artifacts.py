"""The files of a job that can be fetched: what the run wrote, and exports that are made when they are first asked for.

While a job runs only files that grow at their end are given, as far as the last checkpoint vouches for them.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from equipot.service.job_files import JobFiles
from equipot.simulation.checkpoint import NEWEST, read_header
from equipot.simulation.segments import SEGMENTS
from equipot.simulation.trajectory import REQUEST, RESULTS, THERMO

#: exports of an ended job: name and media type
EXPORTS = {
    "trajectory.extxyz": "chemical/x-xyz",
    "trajectory.traj": "application/octet-stream",
    "thermo.csv": "text/csv; charset=utf-8",
    "systems.jsonl": "application/jsonl",
}
MEDIA_TYPES = {
    ".json": "application/json",
    ".jsonl": "application/jsonl",
    ".npz": "application/octet-stream",
    ".traj": "application/octet-stream",
    ".index": "application/octet-stream",
}


@dataclass(frozen=True)
class KeptFile:
    """A file of a job's directory under the flat name by which it is fetched; `n_bytes` of it are valid."""

    name: str
    path: Path
    role: str  #: input, output or state
    n_bytes: int

    @property
    def media_type(self) -> str:
        return MEDIA_TYPES[self.path.suffix]


def kept_files(files: JobFiles, job_id: str, n_shards: int, *, is_over: bool) -> list[KeptFile]:
    """What is there to fetch now, in a fixed order: the request, then shard by shard input, state and output."""
    files.fetch(job_id, often=True)
    folder = files.job(job_id)
    found = [KeptFile("request.json", folder / "request.json", "input", _size(folder / "request.json"))]
    for shard_idx in range(n_shards):
        inputs = folder / "inputs" / f"{shard_idx:04d}.json"
        found.append(KeptFile(f"inputs.{shard_idx:04d}.json", inputs, "input", _size(inputs)))
        found += _of_run(files.shard(job_id, shard_idx), shard_idx, is_over)
    return found


def _of_run(run: Path, shard_idx: int, is_over: bool) -> Iterator[KeptFile]:
    if not (run / REQUEST).exists():
        return
    number = f"{shard_idx:04d}"
    yield KeptFile(f"run.{number}.json", run / REQUEST, "input", _size(run / REQUEST))
    header = read_header(run)
    if header is None:
        return
    for name, length in ((RESULTS, "results_bytes"), (THERMO, "thermo_bytes")):
        stem = name.partition(".")[0]
        yield KeptFile(f"{stem}.{number}.jsonl", run / name, "output", header[length])
    if not is_over:
        return
    yield KeptFile(f"checkpoint.{number}.npz", run / NEWEST, "state", _size(run / NEWEST))
    for segment in header["segments"]:
        for suffix in ("traj", "index"):
            path = run / SEGMENTS / f"{segment['name']}.{suffix}"
            if segment["n_frames"] and path.exists():
                yield KeptFile(f"trajectory.{number}.{segment['name']}.{suffix}", path, "output", _size(path))


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


class Exports:
    """Exports of ended jobs, each made once and kept beside the jobs; a new end of a job makes them anew."""

    def __init__(self, data_dir: Path) -> None:
        self._root = data_dir.absolute() / "exports"

    def made(self, job_id: str, version: str, name: str) -> tuple[Path, str] | None:
        """Path and sha256 of an export, if it has been made."""
        folder = self._folder(job_id, version)
        for path in folder.glob(f"{name}.sha256-*"):
            return path, path.name.rpartition("-")[2]
        return None

    def make(self, job_id: str, version: str, name: str, chunks: Iterable[bytes]) -> tuple[Path, str]:
        """Write an export; the older ones of the job go."""
        folder = self._folder(job_id, version)
        folder.mkdir(parents=True, exist_ok=True)
        for other in folder.parent.iterdir():
            if other != folder:
                shutil.rmtree(other, ignore_errors=True)
        temporary = folder / f".{uuid4().hex}"
        digest = hashlib.sha256()
        try:
            with temporary.open("wb") as file:
                for chunk in chunks:
                    digest.update(chunk)
                    file.write(chunk)
            path = folder / f"{name}.sha256-{digest.hexdigest()}"
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        return path, digest.hexdigest()

    def forget(self, job_id: str) -> None:
        """Remove the exports of a job."""
        with suppress(FileNotFoundError):
            shutil.rmtree(self._root / job_id, ignore_errors=True)

    def _folder(self, job_id: str, version: str) -> Path:
        return self._root / job_id / hashlib.sha256(version.encode()).hexdigest()[:16]


def state_tag(found: KeptFile) -> str:
    """A validator for a file that still grows or whose digest is not known: changes whenever its bytes may have."""
    about = found.path.stat()
    text = json.dumps([found.name, found.n_bytes, about.st_ino, about.st_mtime_ns])
    return hashlib.sha256(text.encode()).hexdigest()[:32]

"""Writes a run to its directory, in the order that makes every checkpoint true: frames, thermo, results, checkpoint."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from equipot.errors import ConflictError
from equipot.simulation.checkpoint import save_checkpoint
from equipot.simulation.disk import LASTING, Disk
from equipot.simulation.provenance import Provenance
from equipot.simulation.segments import SegmentWriter
from equipot.simulation.trajectory import RESULTS, THERMO, Frame, attempts_begun, read_request


class Recorder:
    """The files of one attempt.

    Frames go to the segment at once. Rows and results are kept until `commit`, which hands everything to one writer
    thread: it makes the frames last, appends rows and results, and then writes the checkpoint that vouches for them.
    An attempt that has been superseded by a higher one stops writing. Frames are rounded to `trajectory_dtype` as they
    are written; nothing is ever computed from them, and checkpoints are float64, so a resume is exact either way.
    """

    def __init__(self, directory: Path, attempt: int, disk: Disk = LASTING) -> None:
        """Begin an attempt: from here on no earlier attempt writes a checkpoint. Call `go_on_from` next."""
        self._directory = directory
        self._attempt = attempt
        self._disk = disk
        provenance = Provenance.of_request(read_request(directory))
        description = {**provenance.to_json(), "attempt": attempt}
        self._segment = SegmentWriter(directory, attempt, description, provenance.trajectory_dtype)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint") if disk.lasts else None
        self._writing: Future[None] | None = None

    def go_on_from(self, header: Mapping[str, Any] | None) -> None:
        """Drop what was written after the checkpoint with this header, or everything if there is none."""
        self._earlier_segments: list[dict[str, Any]] = []
        if header is not None:
            self._earlier_segments = [s for s in header["segments"] if s["n_frames"]]
        self._thermo = _Table(self._directory / THERMO, header["thermo_bytes"] if header else 0, self._disk)
        self._results = _Table(self._directory / RESULTS, header["results_bytes"] if header else 0, self._disk)

    def frame(self, frame: Frame) -> None:
        self._segment.write(frame)

    def thermo(self, row: Mapping[str, Any]) -> None:
        self._thermo.add(row)

    def result(self, record: Mapping[str, Any]) -> None:
        """See SystemResult."""
        self._results.add(record)

    @property
    def is_writing(self) -> bool:
        """True while a commit is on its way. Raises what went wrong in the last one."""
        if self._writing is not None and self._writing.done():
            finished, self._writing = self._writing, None
            finished.result()
        return self._writing is not None

    def wait(self) -> None:
        """Until the last commit is on disk. Raises what went wrong in it."""
        if self._writing is not None:
            finished, self._writing = self._writing, None
            finished.result()

    def commit(self, header: Mapping[str, Any], tensors: Mapping[str, np.ndarray]) -> None:
        """Begin to write a checkpoint with all that was recorded so far; at most one at a time."""
        self.wait()
        self._segment.flush()
        whole = {
            **header,
            "attempt": self._attempt,
            "segments": [*self._earlier_segments, {"name": self._segment.name, "n_frames": self._segment.n_frames}],
        }
        rows = self._thermo.take(), self._results.take()
        if self._thread is None:
            self._write(whole, tensors, *rows)
        else:
            self._writing = self._thread.submit(self._write, whole, tensors, *rows)

    def close(self) -> None:
        """Wait for the writer and close the files."""
        try:
            self.wait()
        finally:
            if self._thread is not None:
                self._thread.shutdown()
            self._segment.close()

    def _write(
        self,
        header: Mapping[str, Any],
        tensors: Mapping[str, np.ndarray],
        thermo: Sequence[Mapping[str, Any]],
        results: Sequence[Mapping[str, Any]],
    ) -> None:
        if attempts_begun(self._directory)[-1] > self._attempt:
            raise ConflictError(
                f"Attempt {self._attempt} of {self._directory.name} has been superseded.", hint="Nothing is lost."
            )
        for path in (self._segment.path, self._segment.index_path):
            self._disk.sync_path(path)
        lengths = {"thermo_bytes": self._thermo.append(thermo), "results_bytes": self._results.append(results)}
        if self._disk.lasts:  # else nobody will go on from it
            save_checkpoint(self._directory, {**header, **lengths}, tensors)


_ENCODER = json.JSONEncoder(allow_nan=False)


class _Table:
    """A file of JSON lines that grows at commits only."""

    def __init__(self, path: Path, length: int, disk: Disk) -> None:
        self._path = path
        self._disk = disk
        self._rows: list[Mapping[str, Any]] = []
        self._length = length
        with path.open("ab") as file:
            file.truncate(length)

    def add(self, row: Mapping[str, Any]) -> None:
        """A row that nobody changes any more."""
        self._rows.append(row)

    def take(self) -> list[Mapping[str, Any]]:
        """The rows that have not been written yet; the caller writes them."""
        rows, self._rows = self._rows, []
        return rows

    def append(self, rows: Sequence[Mapping[str, Any]]) -> int:
        """Write them; gives the bytes the file has now."""
        if rows:
            text = "".join([_ENCODER.encode(row) + "\n" for row in rows]).encode("ascii")
            with self._path.open("ab") as file:
                file.write(text)
                self._disk.sync(file)
            self._length += len(text)
        return self._length

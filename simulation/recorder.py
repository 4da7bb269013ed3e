"""Writes a run to its directory, in the order that makes every checkpoint true: frames, thermo, results, checkpoint."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from equipot.errors import ConflictError
from equipot.simulation.checkpoint import save_checkpoint
from equipot.simulation.provenance import Provenance
from equipot.simulation.segments import SegmentWriter
from equipot.simulation.trajectory import RESULTS, THERMO, Frame, attempts_begun, read_request
from equipot.simulation.verdicts import SystemResult


class Recorder:
    """The files of one attempt.

    Frames go to the segment at once. Rows and results are kept until `commit`, which hands everything to one writer
    thread: it makes the frames last, appends rows and results, and then writes the checkpoint that vouches for them.
    An attempt that has been superseded by a higher one stops writing. Frames are rounded to `trajectory_dtype` as they
    are written; nothing is ever computed from them, and checkpoints are float64, so a resume is exact either way.
    """

    def __init__(self, directory: Path, attempt: int) -> None:
        """Begin an attempt: from here on no earlier attempt writes a checkpoint. Call `go_on_from` next."""
        self._directory = directory
        self._attempt = attempt
        provenance = Provenance.of_request(read_request(directory))
        description = {**provenance.to_json(), "attempt": attempt}
        self._segment = SegmentWriter(directory, attempt, description, provenance.trajectory_dtype)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._writing: Future[None] | None = None

    def go_on_from(self, header: Mapping[str, Any] | None) -> None:
        """Drop what was written after the checkpoint with this header, or everything if there is none."""
        self._earlier_segments: list[dict[str, Any]] = []
        if header is not None:
            self._earlier_segments = [s for s in header["segments"] if s["n_frames"]]
        self._thermo = _Table(self._directory / THERMO, header["thermo_bytes"] if header else 0)
        self._results = _Table(self._directory / RESULTS, header["results_bytes"] if header else 0)

    def frame(self, frame: Frame) -> None:
        self._segment.write(frame)

    def thermo(self, row: Mapping[str, Any]) -> None:
        self._thermo.add(row)

    def result(self, result: SystemResult) -> None:
        self._results.add(asdict(result))

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
            "thermo_bytes": self._thermo.length,
            "results_bytes": self._results.length,
        }
        thermo, results = self._thermo.take(), self._results.take()
        self._writing = self._thread.submit(self._write, whole, tensors, thermo, results)

    def close(self) -> None:
        """Wait for the writer and close the files."""
        try:
            self.wait()
        finally:
            self._thread.shutdown()
            self._segment.close()

    def _write(
        self, header: Mapping[str, Any], tensors: Mapping[str, np.ndarray], thermo: bytes, results: bytes
    ) -> None:
        if attempts_begun(self._directory)[-1] > self._attempt:
            raise ConflictError(
                f"Attempt {self._attempt} of {self._directory.name} has been superseded.", hint="Nothing is lost."
            )
        for path in (self._segment.path, self._segment.index_path):
            _sync(path)
        self._thermo.append(thermo)
        self._results.append(results)
        save_checkpoint(self._directory, header, tensors)


_ENCODER = json.JSONEncoder(allow_nan=False)


class _Table:
    """A file of JSON lines that grows at commits only. `length` counts what was added, written or not."""

    def __init__(self, path: Path, length: int) -> None:
        self._path = path
        self._lines: list[str] = []
        self._n_waiting = 0
        self._n_taken = length
        with path.open("ab") as file:
            file.truncate(length)

    def add(self, row: Mapping[str, Any]) -> None:
        self._lines.append(_ENCODER.encode(row) + "\n")
        self._n_waiting += len(self._lines[-1])  # JSON is written in ASCII

    @property
    def length(self) -> int:
        return self._n_taken + self._n_waiting

    def take(self) -> bytes:
        """What has not been written yet; the caller writes it."""
        text = "".join(self._lines).encode("ascii")
        self._n_taken += self._n_waiting
        self._lines, self._n_waiting = [], 0
        return text

    def append(self, text: bytes) -> None:
        if text:
            with self._path.open("ab") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)

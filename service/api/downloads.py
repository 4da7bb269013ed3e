"""Frames and time series of a job, gathered from the run directories of its shards, while it runs too.

A selection counts like a slice over all frames (rows) of the job, shard after shard. What a reader has got once is
never taken back: only what a checkpoint vouches for is shown.
"""

from __future__ import annotations

import csv
import io
import json
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

from equipot.errors import PayloadTooLargeError, UnsupportedFormatError
from equipot.service.api.context import finite
from equipot.simulation.exports import MEDIA_TYPES, TEXT_FORMATS, export, export_text
from equipot.simulation.sources import JoinedFrames
from equipot.simulation.trajectory import Frame, read_thermo

CHUNK_BYTES = 64 * 1024
LARGEST_FILE_BYTES = 8_000_000_000
BYTES_PER_ATOM = 9 * 8  # position, velocity and force
THERMO_MEDIA_TYPES = {"json": "application/json", "jsonl": "application/jsonl", "csv": "text/csv; charset=utf-8"}


@dataclass(frozen=True)
class Selection:
    """Which frames or rows: of one system or of all, and start, stop and stride like a slice."""

    system: int | None = None
    start: int | None = None
    stop: int | None = None
    stride: int = 1


class Trajectory:
    """The frames of a job that a selection picks, as they are at this moment."""

    def __init__(self, run_dirs: Iterable[Path], selection: Selection) -> None:
        begun = [path for path in run_dirs if path.exists()]
        self._frames = JoinedFrames(begun, selection.system)
        wanted = slice(selection.start, selection.stop, selection.stride)
        self._picked = range(*wanted.indices(len(self._frames)))

    @property
    def n_frames(self) -> int:
        return len(self._picked)

    def frames(self) -> Iterator[Frame]:
        """The picked frames, one after the other."""
        return (self._frames[i] for i in self._picked)

    def chunks(self, format: str) -> Iterator[bytes]:
        """The frames as a file in this format. Raises UnsupportedFormatError before anything is read."""
        if format not in MEDIA_TYPES:
            raise unsupported(format, MEDIA_TYPES)
        if format in TEXT_FORMATS:
            return _gathered(export_text(self.frames(), format))
        self._refuse_too_large(format)
        return self._file_chunks(format)

    def _refuse_too_large(self, format: str) -> None:
        """These formats are put together in a temporary file: what would fill the disk is refused."""
        if self._picked:
            n_bytes = self.n_frames * self._frames[self._picked[0]].structure.n_atoms * BYTES_PER_ATOM
            if n_bytes > LARGEST_FILE_BYTES:
                raise PayloadTooLargeError(
                    f"{self.n_frames} frames as {format} are about {n_bytes / 1e9:.1f} GB; "
                    f"at most {LARGEST_FILE_BYTES / 1e9:.0f} GB are made at once.",
                    pointer="query:stride",
                    hint="Ask for parts with start and stop, for fewer with stride, or for extxyz, which streams.",
                )

    def _file_chunks(self, format: str) -> Iterator[bytes]:
        with tempfile.TemporaryDirectory(prefix="equipot-") as folder:
            path = Path(folder) / f"trajectory.{format}"
            export(self.frames(), format, path)
            with path.open("rb") as file:
                while chunk := file.read(CHUNK_BYTES):
                    yield chunk


def thermo_rows(run_dirs: Iterable[Path], selection: Selection) -> Iterator[dict[str, Any]]:
    """Rows of the time series; start and stop count from the beginning."""
    rows = chain.from_iterable(read_thermo(path, selection.system) for path in run_dirs)
    return islice(rows, selection.start or 0, selection.stop, selection.stride)


def thermo_chunks(rows: Iterator[dict[str, Any]], format: str) -> Iterator[bytes]:
    """The rows as a JSON object with `items`, as JSON lines or as CSV. Raises UnsupportedFormatError."""
    if format not in THERMO_MEDIA_TYPES:
        raise unsupported(format, THERMO_MEDIA_TYPES)
    lines = {"json": _json_items, "jsonl": _json_lines, "csv": _csv_lines}[format]
    return _gathered(lines(rows))


def unsupported(format: str, known: Iterable[str]) -> UnsupportedFormatError:
    """The complaint about a format in the query."""
    return UnsupportedFormatError(
        f"It cannot be had as {format[:40]!r}.", pointer="query:format", hint=f"Formats: {', '.join(known)}."
    )


def _gathered(texts: Iterable[str]) -> Iterator[bytes]:
    """The texts end to end in chunks worth sending."""
    buffer = bytearray()
    for text in texts:
        buffer += text.encode()
        if len(buffer) >= CHUNK_BYTES:
            yield bytes(buffer)
            buffer.clear()
    if buffer:
        yield bytes(buffer)


def _json_lines(rows: Iterable[dict[str, Any]]) -> Iterator[str]:
    return (json.dumps(finite(row), allow_nan=False) + "\n" for row in rows)


def _json_items(rows: Iterable[dict[str, Any]]) -> Iterator[str]:
    yield '{"items": ['
    for number, line in enumerate(_json_lines(rows)):
        yield ("," if number else "") + line
    yield "]}"


def _csv_lines(rows: Iterator[dict[str, Any]]) -> Iterator[str]:
    writer = None
    for row in rows:
        buffer = io.StringIO()
        if writer is None:
            names = list(row)
            csv.writer(buffer).writerow(names)
        writer = csv.DictWriter(buffer, names, restval="", extrasaction="ignore")
        writer.writerow(finite(row))
        yield buffer.getvalue()

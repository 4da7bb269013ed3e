"""Segments: the frames one attempt wrote, as ASE's .traj and an index beside it. No torch, and ASE only to write.

A segment is a plain .traj, so ASE opens it. It is written and read here record by record: the index says where each
record is, so that a frame is read without looking at any other, and only the arrays that are asked for are read. What
is whole in the file can be read, wherever it was cut off.

    segments/0001.traj     records as ASE's TrajectoryWriter makes them; provenance is in the first one's description
    segments/0001.index    for each frame system, step, time_fs and the place of its record: 32 bytes (see INDEX)
"""

from __future__ import annotations

import json
import os
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from equipot.errors import ConflictError, DamagedDataError

if TYPE_CHECKING:
    from equipot.simulation.trajectory import Frame

SEGMENTS = "segments"
INDEX = np.dtype([("system", "<i8"), ("step", "<i8"), ("time_fs", "<f8"), ("offset", "<i8")])
DTYPES = ("float64", "float32")
LARGEST_HEAD_BYTES = 1 << 30  # what claims to be more is damage


class TrajWriter:
    """Writes frames as ASE's .traj, without the comparisons ASE's own writer makes for each property.

    `dtype` is the precision of positions, momenta and forces; `description` goes into the first record, where ASE's
    reader shows it.
    """

    def __init__(self, path: Path, description: Mapping[str, Any] | None = None, dtype: str = "float64") -> None:
        from ase.io.ulm import Writer

        assert dtype in DTYPES
        self._description = dict(description or {})
        self._dtype = np.dtype(dtype)
        self._system_in_head: int | None = None
        self._ulm = Writer(path, "w", "ASE-Trajectory")
        self.n_frames = 0

    def write(self, frame: Frame) -> int:
        """Append a frame and hand it to the operating system; gives the place of its record."""
        structure, ulm = frame.structure, self._ulm
        if frame.system != self._system_in_head:  # a frame without a header has that of the file's first frame
            self._write_header(frame)
        cell = np.zeros((3, 3)) if structure.cell_ang is None else structure.cell_ang
        ulm.write(positions=self._rounded(structure.positions_ang), cell=cell.tolist(), info=frame.tags)
        if frame.momenta is not None:
            ulm.write(momenta=self._rounded(frame.momenta))
        numbers = ulm.child("calculator")
        numbers.write(name="unknown", energy=frame.energy_ev, forces=self._rounded(frame.forces_ev_per_ang))
        if frame.stress_ev_per_ang3 is not None:
            numbers.write(stress=frame.stress_ev_per_ang3.tolist())
        offset: int = ulm.fd.tell()
        ulm.sync()
        self.n_frames += 1
        return offset

    def close(self) -> None:
        self._ulm.close()

    def _rounded(self, array: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(array, dtype=self._dtype)

    def _write_header(self, frame: Frame) -> None:
        from ase import __version__ as ase_version
        from ase.constraints import FixAtoms
        from ase.io.jsonio import encode

        structure = frame.structure
        if self.n_frames == 0:
            self._ulm.write(version=1, ase_version=ase_version)
            if self._description:
                self._ulm.write(description=self._description)
            self._system_in_head = frame.system
        self._ulm.write(pbc=list(structure.pbc), numbers=structure.numbers)
        if structure.fixed_atoms:
            self._ulm.write(constraints=encode([FixAtoms(list(structure.fixed_atoms))]))
        if structure.masses_u is not None:
            self._ulm.write(masses=structure.masses_u)


class SegmentWriter:
    """Appends frames to the segment of one attempt. Raises ConflictError if this attempt has been begun before."""

    def __init__(
        self,
        directory: Path,
        attempt: int,
        description: Mapping[str, Any] | None = None,
        dtype: str = "float64",
    ) -> None:
        folder = directory / SEGMENTS
        folder.mkdir(exist_ok=True)
        self.name = f"{attempt:04d}"
        self.path = folder / f"{self.name}.traj"
        self.index_path = folder / f"{self.name}.index"
        try:
            self.path.open("xb").close()  # only one process can be this attempt
        except FileExistsError:
            raise ConflictError(
                f"Attempt {attempt} of {directory.name} has been begun by another process.",
                hint="Resume with a higher attempt number.",
            ) from None
        self._traj = TrajWriter(self.path, description, dtype)
        self._index = self.index_path.open("wb")

    @property
    def n_frames(self) -> int:
        return self._traj.n_frames

    def write(self, frame: Frame) -> None:
        """Append a frame and hand it to the operating system."""
        offset = self._traj.write(frame)
        time_fs = np.nan if frame.time_fs is None else frame.time_fs
        self._index.write(np.array((frame.system, frame.step, time_fs, offset), INDEX).tobytes())

    def flush(self) -> None:
        self._index.flush()

    def close(self) -> None:
        self._traj.close()
        self._index.close()


@dataclass(frozen=True, eq=False)
class Record:
    """One frame's record: its plain values, and where its arrays are in the file."""

    values: Mapping[str, Any]
    segment: SegmentReader

    def get(self, name: str) -> Any:
        """An array or a plain value, None if the record has none of this name."""
        place = self.values.get(name + ".")
        if place is None:
            return self.values.get(name)
        shape, dtype, offset = place["ndarray"]
        return self.segment.array(shape, dtype, offset)

    @property
    def results(self) -> Record:
        """What was calculated: energy, forces, stress."""
        return Record(self.values["calculator."], self.segment)


@dataclass(frozen=True, eq=False)
class Header:
    """What all frames of a system share: numbers (n_atoms,), pbc, masses_u (n_atoms,) or None, fixed atoms.

    weights_u (n_atoms,) are the masses given, or the standard ones.
    """

    numbers: np.ndarray
    pbc: tuple[bool, bool, bool]
    masses_u: np.ndarray | None
    weights_u: np.ndarray
    fixed_atoms: tuple[int, ...]


class SegmentReader:
    """Reads records of a segment, each by its place. Raises DamagedDataError for what is not there whole."""

    def __init__(self, path: Path, first_offset: int) -> None:
        """first_offset is the place of the first record, which has the header of frames without one."""
        self._path = path
        self._first_offset = first_offset
        self._headers: dict[int, Header] = {}
        try:
            self._file = os.open(path, os.O_RDONLY)
        except OSError as error:
            raise _damaged(path, str(error.strerror)) from error
        self.close = weakref.finalize(self, os.close, self._file)

    def record(self, offset: int) -> Record:
        """The record at this place."""
        size = int(np.frombuffer(self._bytes(offset, 8), "<i8")[0])
        if not 0 < size < LARGEST_HEAD_BYTES:
            raise _damaged(self._path, f"no record at byte {offset}")
        try:
            return Record(json.loads(self._bytes(offset + 8, size)), self)
        except ValueError as error:
            raise _damaged(self._path, f"no record at byte {offset}") from error

    def header(self, system: int, record: Record) -> Header:
        """What a system's frames share; `record` is any of them."""
        if system not in self._headers:
            self._headers[system] = _header(record if "numbers." in record.values else self._first)
        return self._headers[system]

    def array(self, shape: list[int], dtype: str, offset: int) -> np.ndarray:
        """An array at a place, as float64 if it is of floating point."""
        kind = np.dtype(dtype).newbyteorder("<")
        data = self._bytes(offset, int(np.prod(shape, dtype=np.int64)) * kind.itemsize)
        array = np.frombuffer(data, kind).reshape(shape)
        return array.astype(np.float64) if kind.kind == "f" else array

    @cached_property
    def _first(self) -> Record:
        return self.record(self._first_offset)

    def _bytes(self, offset: int, size: int) -> bytes:
        data = os.pread(self._file, size, offset)
        if len(data) != size:
            raise _damaged(self._path, f"it ends after {offset + len(data)} bytes")
        return data


def read_index(directory: Path, segment: str, n_frames: int) -> np.ndarray:
    """The first frames of a segment's index (see INDEX). Raises DamagedDataError if it has not so many."""
    folder = Path(directory) / SEGMENTS
    path = folder / f"{segment}.index"
    if not path.exists() and (folder / f"{segment}.jsonl").exists():
        return _read_index_of_lines(folder, segment, n_frames)
    try:
        index = np.fromfile(path, INDEX, count=n_frames)
    except OSError as error:
        raise _damaged(path, str(error.strerror)) from error
    if len(index) < n_frames:
        raise _damaged(path, f"it has {len(index)} of {n_frames} frames")
    return index


def _read_index_of_lines(folder: Path, segment: str, n_frames: int) -> np.ndarray:
    """The index of a run begun by version 0.1.0: lines of JSON, without the places, which the .traj itself has."""
    with (folder / f"{segment}.traj").open("rb") as file:
        file.seek(40)
        file.seek(int(np.frombuffer(file.read(8), "<i8")[0]))
        offsets = np.frombuffer(file.read(8 * n_frames), "<i8")
    with (folder / f"{segment}.jsonl").open(encoding="utf-8") as lines:
        rows = [json.loads(line) for _, line in zip(range(n_frames), lines, strict=False)]
    if min(len(offsets), len(rows)) < n_frames:
        raise _damaged(folder / f"{segment}.jsonl", f"it has {min(len(offsets), len(rows))} of {n_frames} frames")
    times = [np.nan if row["time_fs"] is None else row["time_fs"] for row in rows]
    entries = zip([r["system"] for r in rows], [r["step"] for r in rows], times, offsets.tolist(), strict=True)
    return np.array(list(entries), INDEX)


def _header(record: Record) -> Header:
    from ase.data import atomic_masses

    numbers, masses = record.get("numbers"), record.get("masses")
    pbc = record.get("pbc")
    constraints = json.loads(record.get("constraints") or "[]")
    return Header(
        numbers=numbers,
        pbc=(bool(pbc[0]), bool(pbc[1]), bool(pbc[2])),
        masses_u=masses,
        weights_u=atomic_masses[numbers] if masses is None else masses,
        fixed_atoms=tuple(int(i) for each in constraints for i in each["kwargs"]["indices"]),
    )


def _damaged(path: Path, what: str) -> DamagedDataError:
    return DamagedDataError(
        f"{path.name} is damaged: {what}.", hint="Copy the folder again from where it was computed, or run it again."
    )

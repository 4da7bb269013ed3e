"""Training data from files: extended XYZ, HDF5 and `.npz` sets of frames, in eV and Å, with what was found amiss."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from equipot.models.training.conventions import Keys, Labels, Units, frame_in_ev_and_ang
from equipot.models.training.extxyz import RawFrame, read_extxyz
from equipot.models.training.frames import Frame, FrameError, FrameSet, Ints

SUFFIXES = (".npz", ".h5", ".hdf5", ".xyz", ".extxyz", ".xyz.xz", ".extxyz.xz", ".xyz.gz", ".extxyz.gz")


class FileSpec(BaseModel):
    """A file of frames: where it is, which of its frames count, and how it writes its labels."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: Path
    select: list[str] = Field([], description="only frames of these config_types")
    leave_out: list[str] = Field([], description="no frames of these config_types")
    keys: Keys | None = Field(None, description="None: those given for all files")
    units: Units | None = Field(None, description="None: those given for all files")


@dataclass(frozen=True)
class Problem:
    """A frame that cannot be used: which one of which file, and why in words that follow "frame 3"."""

    path: Path
    index: int
    what: str

    def __str__(self) -> str:
        return f"{self.path}: frame {self.index} {self.what}"


@dataclass(frozen=True, eq=False)
class DataFile:
    """What was read from a file: frames in eV and Å, and the index (n_frames,) of each in the file.

    `sha256` is that of the file, or, for an `.npz`, of what it holds (FrameSet.sha256). `problems` names frames that
    could not be read at all; they are not among the frames.
    """

    path: Path
    sha256: str
    frames: FrameSet
    index: Ints
    problems: tuple[Problem, ...] = ()
    remarks: tuple[str, ...] = ()

    def select(self, chosen: Sequence[int] | np.ndarray) -> DataFile:
        """The same with some of the frames only (indices, or a mask)."""
        return replace(self, frames=self.frames.select(chosen), index=self.index[np.asarray(chosen)])


def read_data_file(
    spec: FileSpec, level_of_theory: str, keys: Keys | None = None, units: Units | None = None
) -> DataFile:
    """Read a file; `keys` and `units` hold unless the file has its own.

    Raises FrameError when the file is missing, of an unknown kind or cannot be understood, when it is a `.npz` of
    another level of theory, or when no frame is selected.
    """
    path = spec.path
    if not path.is_file():
        raise FrameError(f"{path} does not exist.", hint="Paths are relative to the working directory.")
    name = path.name.lower()
    if not name.endswith(SUFFIXES):
        raise FrameError(f"{path} is of an unknown kind.", hint=f"Read are {', '.join(SUFFIXES)}.")
    if name.endswith(".npz"):
        data = _read_npz(path, level_of_theory)
    else:
        data = _read_raw(spec, level_of_theory, spec.keys or keys or Keys(), spec.units or units or Units())
    return _selected(data, spec)


def _read_npz(path: Path, level_of_theory: str) -> DataFile:
    frames = FrameSet.load(path)
    if frames.level_of_theory != level_of_theory:
        raise FrameError(
            f"{path} holds {frames.level_of_theory}, the configuration says {level_of_theory}.",
            hint="Data of two levels of theory have two zeros of energy and never train one potential.",
        )
    return DataFile(path, frames.sha256(), frames, np.arange(len(frames), dtype=np.int64))


def _read_raw(spec: FileSpec, level_of_theory: str, keys: Keys, units: Units) -> DataFile:
    path = spec.path
    raw = list(_raw_frames(path))
    good = [frame for frame in raw if isinstance(frame, RawFrame)]
    labels = Labels.found(keys, {key for frame in good for key in (*frame.info, *frame.arrays)})
    frames: list[Frame] = []
    index: list[int] = []
    problems: list[Problem] = []
    for i, frame in enumerate(raw):
        if isinstance(frame, FrameError):
            problems.append(Problem(path, i, frame.detail))
            continue
        try:
            frames.append(frame_in_ev_and_ang(frame, labels, units))
            index.append(i)
        except ValueError as error:
            problems.append(Problem(path, i, str(error)))
    remarks = [f"{path}: {labels.sentence}."] if good else []
    return DataFile(
        path,
        _file_sha256(path),
        FrameSet.from_frames(frames, level_of_theory),
        np.array(index, dtype=np.int64),
        tuple(problems),
        (*remarks, *_partial_stress(path, frames, index)),
    )


def _raw_frames(path: Path) -> Iterable[RawFrame | FrameError]:
    if path.suffix.lower() in (".h5", ".hdf5"):
        from equipot.models.training.hdf5 import read_hdf5

        return read_hdf5(path)
    return read_extxyz(path)


def _partial_stress(path: Path, frames: Sequence[Frame], index: Sequence[int]) -> list[str]:
    """A remark if only some of the periodic frames have a stress."""
    periodic = [(i, frame) for i, frame in zip(index, frames, strict=True) if frame.pbc.all()]
    without = [i for i, frame in periodic if np.isnan(frame.stress_ev_per_ang3).all()]
    if not without or len(without) == len(periodic):
        return []
    shown = ", ".join(map(str, without[:5])) + ("…" if len(without) > 5 else "")
    return [f"{path}: {len(without)} of {len(periodic)} periodic frames have no stress (frames {shown})."]


def _selected(data: DataFile, spec: FileSpec) -> DataFile:
    kinds = data.frames.config_type
    if not spec.select and not spec.leave_out:
        chosen = np.ones(len(kinds), dtype=np.bool_)
    else:
        chosen = ~np.isin(kinds, spec.leave_out)
        if spec.select:
            chosen &= np.isin(kinds, spec.select)
    unknown = sorted({*spec.select, *spec.leave_out} - set(kinds.tolist()))
    if unknown or not chosen.any():
        have = ", ".join(sorted(set(kinds.tolist()))) or "none"
        wanted = f"no frame of config_type {', '.join(unknown)}" if unknown else "no frame that is selected"
        if data.problems and not len(kinds):
            raise FrameError(f"{data.path} has no frame that can be read: {data.problems[0]}.")
        raise FrameError(f"{data.path} has {wanted}.", hint=f"Its config_types are: {have}.")
    return data.select(chosen)


def _file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def as_file_spec(given: Any) -> Any:
    """A path alone is a file with nothing special about it (for pydantic, before its checks)."""
    return {"path": given} if isinstance(given, str | Path) else given

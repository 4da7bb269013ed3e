"""Frames wherever they are: in a run, a job of the service, a trajectory file. No torch, and ASE only in functions."""

from __future__ import annotations

import weakref
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from equipot.errors import InvalidParameterError, InvalidStructureError, JobNotFoundError
from equipot.simulation.provenance import Provenance
from equipot.simulation.trajectory import REQUEST, Frame, RunFrames
from equipot.structure import Structure
from equipot.units import ASE_TIME_FS

if TYPE_CHECKING:
    from ase import Atoms

SHARDS = "shards"  # the folder of run directories in a job's directory
FILE_FORMATS = {".traj": "traj", ".extxyz": "extxyz", ".xyz": "extxyz"}


def open_frames(path: Path, system: int | None = None) -> Sequence[Frame]:
    """The frames at a path, of one system or of all: a run's folder, a job's folder, or a .traj or .extxyz file.

    Raises JobNotFoundError, InvalidParameterError (no such system) or InvalidStructureError (an unreadable file).
    """
    if system is not None:
        _refuse_absent(system, systems_in(path))
    if not path.is_file():
        return JoinedFrames(run_directories(path), system)
    frames = AtomsFrames(_read_file(path))
    return frames if system is None else [frame for frame in frames if frame.system == system]


def systems_in(path: Path) -> list[int]:
    """The systems that have frames at a path."""
    if path.is_file():
        return sorted({frame.system for frame in AtomsFrames(_read_file(path))})
    return sorted(system for run in run_directories(path) for system in RunFrames(run).systems)


def run_directories(path: Path) -> list[Path]:
    """The run in a folder, or the runs of a job in the order of its systems. Raises JobNotFoundError."""
    shards = sorted(p for p in (path / SHARDS).glob("*") if (p / REQUEST).exists())
    if not shards and not (path / REQUEST).exists():
        raise JobNotFoundError(f"There is no run in {path}.", hint="Give the output folder of a run, or a .traj file.")
    return shards or [path]


class JoinedFrames(Sequence[Frame]):
    """The frames of several runs, one run after the other, of one system or of all."""

    def __init__(self, directories: Sequence[Path], system: int | None = None) -> None:
        self._runs = [RunFrames(directory, system) for directory in directories]
        self._ends = list(accumulate(len(run) for run in self._runs))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    @overload
    def __getitem__(self, index: int) -> Frame: ...
    @overload
    def __getitem__(self, index: slice) -> list[Frame]: ...
    def __getitem__(self, index: int | slice) -> Frame | list[Frame]:
        if isinstance(index, slice):
            return [self[i] for i in range(len(self))[index]]
        place = range(len(self))[index]  # raises IndexError
        number = bisect_right(self._ends, place)
        return self._runs[number][place - self._ends[number]]


class AtomsFrames(Sequence[Frame]):
    """ASE Atoms as frames; what says neither its step nor its system is frame k of system 0, without a time."""

    def __init__(self, images: Sequence[Atoms]) -> None:
        self._images = images
        if hasattr(images, "close"):
            weakref.finalize(self, images.close)
        self._provenance = _provenance(getattr(images, "description", None))

    def __len__(self) -> int:
        return len(self._images)

    @overload
    def __getitem__(self, index: int) -> Frame: ...
    @overload
    def __getitem__(self, index: slice) -> list[Frame]: ...
    def __getitem__(self, index: int | slice) -> Frame | list[Frame]:
        if isinstance(index, slice):
            return [self[i] for i in range(len(self))[index]]
        place = range(len(self))[index]
        return frame_of_atoms(self._images[place], place, self._provenance)

    def __iter__(self) -> Iterator[Frame]:
        return (self[i] for i in range(len(self)))


def frame_of_atoms(atoms: Atoms, number: int = 0, provenance: Provenance | None = None) -> Frame:
    """ASE Atoms as a frame. Numbers that no calculator has are NaN, and a stress None; nothing is calculated."""
    results = {} if atoms.calc is None else atoms.calc.results
    momenta = atoms.arrays.get("momenta")
    fixed = {int(i) for c in atoms.constraints if type(c).__name__ == "FixAtoms" for i in c.index}
    structure = Structure(
        numbers=atoms.numbers,
        positions_ang=atoms.positions,
        cell_ang=atoms.cell.array if atoms.cell.rank else None,
        pbc=(bool(atoms.pbc[0]), bool(atoms.pbc[1]), bool(atoms.pbc[2])),
        velocities_ang_per_fs=None if momenta is None else atoms.get_velocities() / ASE_TIME_FS,
        masses_u=atoms.get_masses() if atoms.has("masses") else None,
        fixed_atoms=tuple(sorted(fixed)),
    )
    return Frame(
        system=int(atoms.info.get("system", 0)),
        step=int(atoms.info.get("step", number)),
        time_fs=atoms.info.get("time_fs"),
        structure=structure,
        momenta=momenta,
        energy_ev=float(results.get("energy", np.nan)),
        forces_ev_per_ang=np.array(results.get("forces", np.full((len(atoms), 3), np.nan))),
        stress_ev_per_ang3=np.array(results["stress"]) if "stress" in results else None,
        provenance=provenance or _provenance_in_words(atoms.info),
        n_degrees=atoms.info.get("n_degrees"),
    )


def _refuse_absent(system: int, systems: Sequence[int]) -> None:
    if system not in systems:
        raise InvalidParameterError(
            f"There are no frames of system {system}.",
            pointer="/system",
            hint=f"There are: {', '.join(map(str, systems[:20])) or 'none'}.",
        )


def _read_file(path: Path) -> Sequence[Atoms]:
    """A .traj is read frame by frame, an .extxyz as a whole."""
    import ase.io
    from ase.io.trajectory import TrajectoryReader

    format = FILE_FORMATS.get(path.suffix.lower())
    if format is None:
        raise InvalidStructureError(f"{path} is no trajectory.", hint=f"Endings: {', '.join(FILE_FORMATS)}.")
    try:
        if format == "traj":
            return TrajectoryReader(path)  # type: ignore[return-value]
        return ase.io.read(path, ":", format=format)  # type: ignore[return-value]
    except Exception as error:  # ASE's readers raise whatever a broken file makes them raise
        raise InvalidStructureError(f"{path} cannot be read: {error}", hint="Is it whole?") from error


def _provenance_in_words(info: Mapping[str, Any]) -> Provenance | None:
    """Of a frame of an .extxyz that was exported from a run: what its comment line has room for."""
    if "equipot" not in info or "model" not in info:
        return None
    names = ("model_sha256", "level_of_theory", "dtype", "trajectory_dtype")
    words = {name: None if info.get(name) is None else str(info[name]) for name in names}
    seed = info.get("seed")
    return Provenance(
        kind=str(info.get("kind", "not given")),
        model=str(info["model"]),
        model_sha256=words["model_sha256"],
        level_of_theory=words["level_of_theory"],
        dtype=words["dtype"],
        device=None,
        equipot=str(info["equipot"]),
        trajectory_dtype=words["trajectory_dtype"] or "float64",
        seeds=None if seed is None else int(seed),
        system_offset=0,
        params={},
    )


def _provenance(description: Any) -> Provenance | None:
    """Of a .traj that was exported from a run."""
    names = {field.name for field in fields(Provenance)}
    if not isinstance(description, dict) or not names <= description.keys():
        return None
    values = {name: description[name] for name in names}
    values["seeds"] = tuple(values["seeds"]) if isinstance(values["seeds"], list) else values["seeds"]
    return Provenance(**values)

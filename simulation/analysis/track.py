"""One system over time, as arrays: what analyses look at."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import numpy as np

from equipot.elements import SYMBOLS
from equipot.errors import InvalidParameterError, InvalidStructureError
from equipot.simulation.results import SavedTrajectory
from equipot.simulation.sources import AtomsFrames, open_frames, run_directories, systems_in
from equipot.simulation.trajectory import Frame, RunFrames, standard_or_own_masses_u

if TYPE_CHECKING:
    from ase import Atoms

Source: TypeAlias = "Track | str | Path | Sequence[Frame] | Sequence[Atoms]"
SAME_TIME = 1e-6  # of the time between two frames


@dataclass(frozen=True, eq=False, kw_only=True)
class Track:
    """The way of one system.

    numbers, masses_u (n_atoms,); step, time_fs (n_frames,), the latter None where there is no time;
    positions_ang (n_frames, n_atoms, 3), unwrapped if `is_unwrapped`; cells_ang (n_frames, 3, 3) or None;
    velocities_ang_per_fs like the positions, or None; `n_degrees` are the degrees of freedom the run counts, or None.
    """

    numbers: np.ndarray
    masses_u: np.ndarray
    pbc: tuple[bool, bool, bool]
    fixed_atoms: tuple[int, ...]
    step: np.ndarray
    time_fs: np.ndarray | None
    positions_ang: np.ndarray
    cells_ang: np.ndarray | None
    velocities_ang_per_fs: np.ndarray | None
    is_unwrapped: bool
    n_degrees: int | None = None
    friction_per_fs: float | None = None  #: of the Langevin thermostat, if the run had one
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        source: Source,
        system: int | None = None,
        *,
        start: int | None = None,
        stop: int | None = None,
        stride: int = 1,
        spacing_fs: float | None = None,
        velocities: bool = True,
        unwrapped: bool | None = None,
    ) -> Track:
        """The track of a run (its folder), a trajectory file, frames, or ASE Atoms.

        start, stop and stride choose frames like a slice; spacing_fs is the time between frames that do not say their
        time; velocities=False leaves them out, which saves half the memory. Positions of runs and of files made of them
        are unwrapped as they are; those of others are unwrapped when it is needed, unless unwrapped says otherwise.
        Raises InvalidParameterError (several systems and none chosen, no such system, no frames) or
        InvalidStructureError (the atoms are not the same throughout).
        """
        if isinstance(source, Track):
            return source
        frames = frames_of(source, system)
        picked = range(len(frames))[start:stop:stride]
        if not picked:
            raise InvalidParameterError(
                f"No frames are left of {len(frames)}.", hint="Look at what was saved, and at start, stop and stride."
            )
        first = frames[picked[0]]
        rows = _rows(frames, picked, velocities)
        table = _gathered(rows, first)
        times = table.pop("time_fs")
        if np.isnan(times).any():
            times = None if spacing_fs is None else spacing_fs * stride * np.arange(len(picked))
        provenance = first.provenance
        return cls(
            numbers=first.structure.numbers,
            masses_u=standard_or_own_masses_u(first.structure),
            pbc=first.structure.pbc,
            fixed_atoms=first.structure.fixed_atoms,
            time_fs=times,
            is_unwrapped=provenance is not None if unwrapped is None else unwrapped,
            n_degrees=first.n_degrees,
            friction_per_fs=None if provenance is None else _friction_per_fs(provenance.params),
            provenance={} if provenance is None else provenance.tags(first.system) | {"system": first.system},
            **table,
        )

    @property
    def n_frames(self) -> int:
        return len(self.step)

    @property
    def n_atoms(self) -> int:
        return len(self.numbers)

    @property
    def free(self) -> np.ndarray:
        """(n_atoms,) True where an atom is not fixed."""
        free = np.ones(self.n_atoms, dtype=bool)
        free[list(self.fixed_atoms)] = False
        return free

    @property
    def elements(self) -> dict[str, np.ndarray]:
        """The atoms (indices) of each element, by symbol, in the order of atomic numbers."""
        return {SYMBOLS[z]: np.flatnonzero(self.numbers == z) for z in np.unique(self.numbers)}

    @property
    def cell_moves(self) -> bool:
        """True if the cell is not the same in all frames."""
        return self.cells_ang is not None and not bool((self.cells_ang == self.cells_ang[0]).all())

    @property
    def spacing_fs(self) -> float:
        """Time from frame to frame. Raises InvalidParameterError if there is no time, or not one spacing."""
        if self.time_fs is None:
            raise InvalidParameterError(
                "The frames have no time.", pointer="/spacing_fs", hint="Give spacing_fs, the time between frames."
            )
        steps = np.diff(self.time_fs)
        if len(steps) == 0 or not np.allclose(steps, steps[0], rtol=SAME_TIME, atol=0) or steps[0] <= 0:
            raise InvalidParameterError(
                "The frames are not equally spaced in time.", hint="Choose frames that are, with start, stop, stride."
            )
        return float(steps[0])

    def evenly_spaced(self, n_least: int, what: str) -> Track:
        """The track without a last frame that is off the beat (the end of a run is always saved).

        Raises InvalidParameterError if the rest is not equally spaced, or has too few frames for what is asked.
        """
        track = self
        if self.time_fs is not None and self.n_frames > 2:
            last, usual = np.diff(self.time_fs[-2:])[0], self.time_fs[1] - self.time_fs[0]
            if abs(last - usual) > SAME_TIME * usual:
                track = self.until(self.n_frames - 1)
        if track.n_frames < n_least:
            raise InvalidParameterError(
                f"{track.n_frames} frames are too few for {what}: it needs {n_least}.", hint="Save more frames."
            )
        _ = track.spacing_fs
        return track

    def removes_drift(self, wanted: bool | None) -> bool:
        """What was asked for; if nothing was, True unless atoms are fixed, which hold the system, or there is one."""
        return (not self.fixed_atoms and self.n_atoms > 1) if wanted is None else wanted

    def until(self, n_frames: int) -> Track:
        """The first frames."""
        names = ("step", "time_fs", "positions_ang", "cells_ang", "velocities_ang_per_fs")
        return replace(self, **{n: getattr(self, n)[:n_frames] for n in names if getattr(self, n) is not None})

    def needed_velocities(self) -> np.ndarray:
        """The velocities. Raises InvalidParameterError if there are none."""
        if self.velocities_ang_per_fs is None:
            raise InvalidParameterError(
                "The frames have no velocities.", hint="Those of a dynamics have; a relaxation has none."
            )
        return self.velocities_ang_per_fs

    def displaced_ang(self, remove_drift: bool) -> np.ndarray:
        """Positions (n_frames, n_atoms, 3) without jumps, less those of the first frame.

        Where the cell moves they are taken in fractions of it and shown in the mean cell, so that its breathing is no
        displacement. remove_drift keeps the centre of mass where it was.
        """
        positions = self.positions_ang
        if self.cells_ang is not None and (self.cell_moves or not self.is_unwrapped):
            fractions = np.einsum("fai,fij->faj", positions, np.linalg.inv(self.cells_ang))
            if not self.is_unwrapped:
                fractions = _unwrapped(fractions, self.pbc)
            positions = (fractions - fractions[0]) @ self.cells_ang.mean(axis=0)
        moved = positions - positions[0]
        if remove_drift:
            weights = self.masses_u / self.masses_u.sum()
            moved = moved - np.einsum("a,fai->fi", weights, moved)[:, None]
        return np.asarray(moved)


def _friction_per_fs(params: Mapping[str, Any]) -> float | None:
    thermostat = params.get("thermostat") or {}
    return thermostat.get("friction_per_fs") if thermostat.get("type") == "langevin" else None


def _unwrapped(fractions: np.ndarray, pbc: Sequence[bool]) -> np.ndarray:
    """Fractions without the jumps of half a cell and more that wrapping makes from frame to frame."""
    jumps = np.round(np.diff(fractions, axis=0)) * np.array(pbc, dtype=float)
    out = fractions.copy()
    out[1:] -= np.cumsum(jumps, axis=0)
    return out


def frames_of(source: Any, system: int | None) -> Sequence[Frame]:
    """The frames of one system. Raises InvalidParameterError if there are several and none is chosen."""
    if isinstance(source, str | Path):
        return _frames_at(Path(source), system)
    if isinstance(source, SavedTrajectory):
        return source.frames
    frames = source if len(source) and isinstance(source[0], Frame) else AtomsFrames(source)
    chosen = _one_of(sorted({frame.system for frame in frames}), system)
    return [frame for frame in frames if frame.system == chosen] if system is not None else frames


def _frames_at(path: Path, system: int | None) -> Sequence[Frame]:
    chosen = _one_of(systems_in(path), system)
    if path.is_file():
        return open_frames(path, system)
    runs = (RunFrames(directory, chosen) for directory in run_directories(path))
    return next((run for run in runs if len(run)), [])


def _one_of(systems: Sequence[int], wanted: int | None) -> int | None:
    """The system that is meant, None if there is none at all."""
    if wanted is None and len(systems) > 1:
        named = ", ".join(map(str, systems[:20])) + (" ..." if len(systems) > 20 else "")
        raise InvalidParameterError(
            f"There are {len(systems)} systems.", pointer="/system", hint=f"Choose one of {named}."
        )
    if wanted is not None and wanted not in systems:
        raise InvalidParameterError(f"There are no frames of system {wanted}.", pointer="/system", hint="Count from 0.")
    return systems[0] if wanted is None and systems else wanted


Row: TypeAlias = "tuple[int, float, np.ndarray, np.ndarray | None, np.ndarray | None, np.ndarray]"


def _rows(frames: Sequence[Frame], picked: range, velocities: bool) -> Iterator[Row]:
    """Step, time, positions, cell, velocities and atomic numbers of each frame."""
    for i in picked:
        if isinstance(frames, RunFrames):
            yield frames.row(i, velocities)
        else:
            frame = frames[i]
            time = np.nan if frame.time_fs is None else frame.time_fs
            own = frame.structure
            speeds = own.velocities_ang_per_fs if velocities else None
            yield frame.step, time, own.positions_ang, own.cell_ang, speeds, own.numbers


def _gathered(rows: Iterator[Row], first: Frame) -> dict[str, Any]:
    steps, times, positions, cells, velocities = [], [], [], [], []
    for step, time, position, cell, velocity, numbers in rows:
        if len(position) != first.structure.n_atoms or not np.array_equal(numbers, first.structure.numbers):
            raise InvalidStructureError(
                "The atoms are not the same in all frames.",
                hint="Choose frames of one system; its number of atoms must not change.",
            )
        steps.append(step)
        times.append(time)
        positions.append(position)
        cells.append(cell)
        velocities.append(velocity)
    has_cells, has_velocities = (all(x is not None for x in column) for column in (cells, velocities))
    return {
        "step": np.array(steps),
        "time_fs": np.array(times),
        "positions_ang": np.stack(positions),
        "cells_ang": np.stack(cast("list[np.ndarray]", cells)) if has_cells else None,
        "velocities_ang_per_fs": np.stack(cast("list[np.ndarray]", velocities)) if has_velocities else None,
    }

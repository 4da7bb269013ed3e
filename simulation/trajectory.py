"""Trajectories on disk and the reading of run directories. No torch, and ASE only inside functions.

    request.json          what was asked: kind, params, structures, provider, seeds
    segments/0001.traj    frames of attempt 1 (ASE's .traj), each tagged with system, step and time in its info
    segments/0001.jsonl   one line per frame: {frame, system, step, time_fs}
    thermo.jsonl          rows of the time series
    results.jsonl         one line per system that has ended
    checkpoint.npz        says how much of the files above is valid

Readers see what the last checkpoint vouches for, so what was read is never taken back; what an attempt wrote after
its last checkpoint is ignored, and the next attempt computes it again.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from equipot.errors import ConflictError, JobNotFoundError
from equipot.simulation.checkpoint import read_header
from equipot.structure import Structure
from equipot.units import ASE_TIME_FS

if TYPE_CHECKING:
    from ase import Atoms

REQUEST = "request.json"
SEGMENTS = "segments"
THERMO = "thermo.jsonl"
RESULTS = "results.jsonl"


@dataclass(frozen=True, eq=False)
class Frame:
    """One system at one step.

    momenta (n_atoms, 3) are in ASE's unit, sqrt(u eV), as the file has them, or None; the rest is as in Structure
    and Evaluation. `system` counts through the job.
    """

    system: int
    step: int
    time_fs: float | None
    structure: Structure
    momenta: np.ndarray | None
    energy_ev: float
    forces_ev_per_ang: np.ndarray
    stress_ev_per_ang3: np.ndarray | None

    @property
    def tags(self) -> dict[str, Any]:
        """What a frame is called in files."""
        time = {} if self.time_fs is None else {"time_fs": self.time_fs}
        return {"system": self.system, "step": self.step, **time}

    def to_atoms(self) -> Atoms:
        """The frame as ASE Atoms with a SinglePointCalculator; its tags are in `info`."""
        from ase import Atoms
        from ase.calculators.singlepoint import SinglePointCalculator
        from ase.constraints import FixAtoms

        structure = self.structure
        atoms = Atoms(
            structure.numbers,
            structure.positions_ang,
            cell=structure.cell_ang,
            pbc=structure.pbc,
            masses=structure.masses_u,
            momenta=self.momenta,
            info=self.tags,
            constraint=FixAtoms(structure.fixed_atoms) if structure.fixed_atoms else None,
        )
        stress = {} if self.stress_ev_per_ang3 is None else {"stress": self.stress_ev_per_ang3}
        atoms.calc = SinglePointCalculator(atoms, energy=self.energy_ev, forces=self.forces_ev_per_ang, **stress)
        return atoms


@dataclass(frozen=True)
class FrameRef:
    """Where a frame is: segment file, number in it, and what it shows."""

    segment: str
    frame: int
    system: int
    step: int
    time_fs: float | None


class SegmentWriter:
    """Appends frames to the segment of one attempt. Raises ConflictError if this attempt has been begun before.

    The records are those of ASE's TrajectoryWriter, written without the comparisons it makes for each property.
    """

    def __init__(self, directory: Path, attempt: int) -> None:
        from ase.io.ulm import Writer

        folder = directory / SEGMENTS
        folder.mkdir(exist_ok=True)
        self.name = f"{attempt:04d}"
        self.path = folder / f"{self.name}.traj"
        self.index_path = folder / f"{self.name}.jsonl"
        try:
            self.path.open("xb").close()  # only one process can be this attempt
        except FileExistsError:
            raise ConflictError(
                f"Attempt {attempt} of {directory.name} has been begun by another process.",
                hint="Resume with a higher attempt number.",
            ) from None
        self.n_frames = 0
        self._system_in_head: int | None = None
        self._ulm = Writer(self.path, "w", "ASE-Trajectory")
        self._index = self.index_path.open("w", encoding="utf-8")

    def write(self, frame: Frame) -> None:
        """Append a frame and hand it to the operating system."""
        structure, ulm = frame.structure, self._ulm
        if frame.system != self._system_in_head:  # a frame without a header has that of the file's first frame
            self._write_header(frame)
        cell = np.zeros((3, 3)) if structure.cell_ang is None else structure.cell_ang
        ulm.write(positions=structure.positions_ang, cell=cell.tolist(), info=frame.tags)
        if frame.momenta is not None:
            ulm.write(momenta=frame.momenta)
        numbers = ulm.child("calculator")
        numbers.write(name="unknown", energy=frame.energy_ev, forces=frame.forces_ev_per_ang)
        if frame.stress_ev_per_ang3 is not None:
            numbers.write(stress=frame.stress_ev_per_ang3.tolist())
        ulm.sync()
        line = {"frame": self.n_frames, "system": frame.system, "step": frame.step, "time_fs": frame.time_fs}
        self._index.write(json.dumps(line) + "\n")
        self.n_frames += 1

    def flush(self) -> None:
        self._index.flush()

    def close(self) -> None:
        self._ulm.close()
        self._index.close()

    def _write_header(self, frame: Frame) -> None:
        from ase import __version__ as ase_version
        from ase.constraints import FixAtoms
        from ase.io.jsonio import encode

        structure = frame.structure
        if self.n_frames == 0:
            self._ulm.write(version=1, ase_version=ase_version)
            self._system_in_head = frame.system
        self._ulm.write(pbc=list(structure.pbc), numbers=structure.numbers)
        if structure.fixed_atoms:
            self._ulm.write(constraints=encode([FixAtoms(list(structure.fixed_atoms))]))
        if structure.masses_u is not None:
            self._ulm.write(masses=structure.masses_u)


def attempts_begun(directory: Path) -> list[int]:
    """The numbers of the attempts that have a segment."""
    return sorted(int(path.stem) for path in (directory / SEGMENTS).glob("[0-9]*.traj"))


def read_request(directory: Path) -> dict[str, Any]:
    """What was asked of the run in this directory. Raises JobNotFoundError if it holds none."""
    try:
        request: dict[str, Any] = json.loads((directory / REQUEST).read_bytes())
    except FileNotFoundError:
        raise JobNotFoundError(
            f"There is no run in {directory}.", hint="Check the path of its output folder."
        ) from None
    return request


def frame_index(directory: Path, system: int | None = None) -> list[FrameRef]:
    """Every frame that can be read now, oldest first, of one system or of all."""
    header = read_header(Path(directory))
    found = []
    for segment in header["segments"] if header else ():
        with (Path(directory) / SEGMENTS / f"{segment['name']}.jsonl").open(encoding="utf-8") as lines:
            for _, line in zip(range(segment["n_frames"]), lines, strict=False):
                entry = json.loads(line)
                if system is None or entry["system"] == system:
                    found.append(FrameRef(segment["name"], **entry))
    return found


def read_frames(
    directory: Path, system: int | None = None, start: int | None = None, stop: int | None = None, stride: int = 1
) -> Iterator[Frame]:
    """The frames of a run across its segments, while it runs too.

    start, stop and stride count the frames of the selection, like a slice.
    """
    from ase.io.trajectory import TrajectoryReader

    name, reader = "", None
    try:
        for ref in frame_index(directory, system)[start:stop:stride]:
            if reader is None or ref.segment != name:
                if reader is not None:
                    reader.close()
                name, reader = ref.segment, TrajectoryReader(Path(directory) / SEGMENTS / f"{ref.segment}.traj")
            yield _frame(reader[ref.frame], ref)
    finally:
        if reader is not None:
            reader.close()


def read_thermo(directory: Path, system: int | None = None) -> Iterator[dict[str, Any]]:
    """The rows of the time series up to the last checkpoint."""
    for row in _valid_lines(Path(directory), THERMO, "thermo_bytes"):
        if system is None or row["system"] == system:
            yield row


def read_results(directory: Path) -> list[dict[str, Any]]:
    """The results of the systems that have ended, in the order in which they did."""
    return list(_valid_lines(Path(directory), RESULTS, "results_bytes"))


def _valid_lines(directory: Path, name: str, length: str) -> Iterator[dict[str, Any]]:
    header = read_header(directory)
    left = header[length] if header else 0
    if left:
        with (directory / name).open("rb") as file:
            while left > 0:
                line = file.readline()
                if not line:
                    break
                left -= len(line)
                yield json.loads(line)


def _frame(atoms: Atoms, ref: FrameRef) -> Frame:
    structure = Structure(
        numbers=atoms.numbers,
        positions_ang=atoms.positions,
        cell_ang=atoms.cell.array if atoms.cell.rank else None,
        pbc=(bool(atoms.pbc[0]), bool(atoms.pbc[1]), bool(atoms.pbc[2])),
        velocities_ang_per_fs=atoms.get_velocities() / ASE_TIME_FS if atoms.has("momenta") else None,
        masses_u=atoms.get_masses() if atoms.has("masses") else None,
        fixed_atoms=tuple(int(i) for constraint in atoms.constraints for i in constraint.index),
    )
    results = atoms.calc.results
    return Frame(
        system=ref.system,
        step=ref.step,
        time_fs=ref.time_fs,
        structure=structure,
        momenta=atoms.arrays.get("momenta"),
        energy_ev=float(results["energy"]),
        forces_ev_per_ang=results["forces"],
        stress_ev_per_ang3=None if results.get("stress") is None else np.array(results["stress"]),
    )

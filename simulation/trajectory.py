"""Trajectories on disk and the reading of run directories. No torch, and ASE only inside functions.

    request.json          what was asked: kind, params, structures, provider, seeds
    segments/0001.traj    frames of attempt 1 (ASE's .traj), each tagged with system, step and time in its info
    segments/0001.index   where each of them is (see equipot.simulation.segments)
    thermo.jsonl          rows of the time series
    results.jsonl         one line per system that has ended
    checkpoint.npz        says how much of the files above is valid

Readers see what the last checkpoint vouches for, so what was read is never taken back; what an attempt wrote after
its last checkpoint is ignored, and the next attempt computes it again.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import dataclass
from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from equipot.errors import JobNotFoundError
from equipot.simulation.checkpoint import read_header
from equipot.simulation.provenance import Provenance
from equipot.simulation.segments import INDEX, SEGMENTS, Header, Record, SegmentReader, read_index
from equipot.structure import Structure
from equipot.units import ASE_TIME_FS, GPA_PER_EV_PER_ANG3, KB_EV_PER_K

if TYPE_CHECKING:
    from ase import Atoms

REQUEST = "request.json"
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
    provenance: Provenance | None = None  #: of a frame read from a run
    n_degrees: int | None = None  #: degrees of freedom as the run counts them, of a frame read from a run

    @property
    def tags(self) -> dict[str, Any]:
        """What a frame is called in files."""
        seed = None if self.provenance is None else self.provenance.seed(self.system)
        known = {"time_fs": self.time_fs, "seed": seed, "n_degrees": self.n_degrees}
        return {"system": self.system, "step": self.step} | {k: v for k, v in known.items() if v is not None}

    @property
    def kinetic_ev(self) -> float | None:
        """Kinetic energy, None where nothing has a velocity."""
        if self.momenta is None:
            return None
        return float(0.5 * (self.momenta**2 / standard_or_own_masses_u(self.structure)[:, None]).sum())

    @property
    def temperature_k(self) -> float | None:
        """Kinetic temperature; where the run says nothing, of three degrees of freedom for each free atom."""
        kinetic = self.kinetic_ev
        free = 3 * (self.structure.n_atoms - len(self.structure.fixed_atoms))
        n_degrees = free if self.n_degrees is None else self.n_degrees
        return None if kinetic is None or not n_degrees else 2.0 * kinetic / (n_degrees * KB_EV_PER_K)

    @property
    def pressure_gpa(self) -> float | None:
        """Pressure: that of the forces, less a third of the trace of the stress, and that of the motion, 2 K / 3 V."""
        volume = self.structure.volume_ang3
        if self.stress_ev_per_ang3 is None or volume is None:
            return None
        of_motion = 2.0 * (self.kinetic_ev or 0.0) / (3.0 * volume)
        return float(of_motion - self.stress_ev_per_ang3[:3].sum() / 3.0) * GPA_PER_EV_PER_ANG3

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


def standard_or_own_masses_u(structure: Structure) -> np.ndarray:
    """The masses (n_atoms,) a structure gives, else the standard ones."""
    if structure.masses_u is not None:
        return structure.masses_u
    from ase.data import atomic_masses

    masses: np.ndarray = atomic_masses[structure.numbers]
    return masses


@dataclass(frozen=True)
class FrameRef:
    """Where a frame is: segment file, place in it, and what it shows."""

    segment: str
    offset: int
    system: int
    step: int
    time_fs: float | None


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


class RunFrames(Sequence[Frame]):
    """The frames of a run that could be read when it was opened, oldest first, of one system or of all.

    Opening reads the index, 32 bytes for each frame; `self[k]` reads frame k and nothing of the others. Raises
    DamagedDataError for frames whose file is cut off.
    """

    def __init__(self, directory: Path, system: int | None = None) -> None:
        self._directory = Path(directory)
        self._provenance: Provenance | None = None
        self._n_degrees: dict[int, int] | None = None
        self._reader: tuple[str, SegmentReader] | None = None
        header = read_header(self._directory)
        self._segments: list[str] = []
        parts = []
        for number, segment in enumerate(header["segments"] if header else ()):
            self._segments.append(segment["name"])
            index = read_index(self._directory, segment["name"], segment["n_frames"])
            part = np.zeros(len(index), [*INDEX.descr, ("segment", "<i4"), ("first_offset", "<i8")])
            for name in INDEX.names or ():
                part[name] = index[name]
            part["segment"], part["first_offset"] = number, index["offset"][:1].sum()
            parts.append(part if system is None else part[part["system"] == system])
        self._index = np.concatenate(parts) if parts else np.zeros(0, INDEX)

    def __len__(self) -> int:
        return len(self._index)

    @property
    def refs(self) -> list[FrameRef]:
        """Where each frame is."""
        return [self._ref(entry) for entry in self._index]

    @property
    def systems(self) -> list[int]:
        """The systems that have frames."""
        return [int(system) for system in np.unique(self._index["system"])] if len(self) else []

    def of_system(self, system: int) -> RunFrames:
        """The frames of one system only."""
        chosen = copy(self)
        chosen._index = self._index[self._index["system"] == system] if len(self) else self._index
        return chosen

    @property
    def provenance(self) -> Provenance:
        """Where the numbers come from."""
        if self._provenance is None:
            self._provenance = Provenance.of_request(read_request(self._directory))
        return self._provenance

    def n_degrees(self, system: int) -> int | None:
        """Degrees of freedom of a system as the run counts them, None if its time series does not show them."""
        if self._n_degrees is None:
            self._n_degrees = _degrees_of_freedom(self._directory)
        return self._n_degrees.get(system)

    @overload
    def __getitem__(self, index: int) -> Frame: ...
    @overload
    def __getitem__(self, index: slice) -> list[Frame]: ...
    def __getitem__(self, index: int | slice) -> Frame | list[Frame]:
        if isinstance(index, slice):
            return [self[i] for i in range(len(self))[index]]
        entry = self._index[range(len(self))[index]]  # raises IndexError, and an index is not a float
        ref = self._ref(entry)
        return _frame(*self.record(index), ref, self.provenance, self.n_degrees(ref.system))

    def record(self, index: int) -> tuple[Record, Header]:
        """A frame as it is in the file, whose arrays are read when they are asked for."""
        entry = self._index[index]
        name = self._segments[entry["segment"]]
        if self._reader is None or self._reader[0] != name:
            path = self._directory / SEGMENTS / f"{name}.traj"
            self._reader = name, SegmentReader(path, int(entry["first_offset"]))
        reader = self._reader[1]
        record = reader.record(int(entry["offset"]))
        return record, reader.header(int(entry["system"]), record)

    def row(
        self, index: int, velocities: bool = True
    ) -> tuple[int, float, np.ndarray, np.ndarray | None, np.ndarray | None, np.ndarray]:
        """Step, time (NaN if none), positions, cell, velocities and atomic numbers of a frame, nothing else of it."""
        entry = self._index[index]
        record, header = self.record(index)
        momenta = record.get("momenta") if velocities else None
        speeds = None if momenta is None else momenta / header.weights_u[:, None] / ASE_TIME_FS
        cell = np.array(record.get("cell"))
        where = record.get("positions"), cell if cell.any() else None
        return int(entry["step"]), float(entry["time_fs"]), *where, speeds, header.numbers

    def __iter__(self) -> Iterator[Frame]:
        return (self[i] for i in range(len(self)))

    def _ref(self, entry: Any) -> FrameRef:
        time_fs = float(entry["time_fs"])
        return FrameRef(
            self._segments[entry["segment"]],
            int(entry["offset"]),
            int(entry["system"]),
            int(entry["step"]),
            None if isnan(time_fs) else time_fs,
        )


def frame_index(directory: Path, system: int | None = None) -> list[FrameRef]:
    """Every frame that can be read now, oldest first, of one system or of all."""
    return RunFrames(directory, system).refs


def read_frames(
    directory: Path, system: int | None = None, start: int | None = None, stop: int | None = None, stride: int = 1
) -> Iterator[Frame]:
    """The frames of a run across its segments, while it runs too.

    start, stop and stride count the frames of the selection, like a slice.
    """
    frames = RunFrames(directory, system)
    for i in range(len(frames))[start:stop:stride]:
        yield frames[i]


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


def _degrees_of_freedom(directory: Path) -> dict[int, int]:
    """Of each system of a dynamics, from the first row of the time series in which it moves: 2 K / (k T)."""
    found: dict[int, int] = {}
    n_systems = sum("error" not in structure for structure in read_request(directory)["structures"])
    for row in read_thermo(directory):
        if row["system"] not in found and row.get("temperature_k") and "kinetic_ev" in row:
            found[row["system"]] = round(2.0 * row["kinetic_ev"] / (KB_EV_PER_K * row["temperature_k"]))
        if len(found) == n_systems or "kinetic_ev" not in row:
            break
    return found


def _frame(record: Record, header: Header, ref: FrameRef, provenance: Provenance, n_degrees: int | None) -> Frame:
    momenta, cell, results = record.get("momenta"), np.array(record.get("cell")), record.results
    structure = Structure(
        numbers=header.numbers,
        positions_ang=record.get("positions"),
        cell_ang=cell if cell.any() else None,
        pbc=header.pbc,
        velocities_ang_per_fs=None if momenta is None else momenta / header.weights_u[:, None] / ASE_TIME_FS,
        masses_u=header.masses_u,
        fixed_atoms=header.fixed_atoms,
    )
    stress = results.get("stress")
    return Frame(
        system=ref.system,
        step=ref.step,
        time_fs=ref.time_fs,
        structure=structure,
        momenta=momenta,
        energy_ev=float(results.get("energy")),
        forces_ev_per_ang=results.get("forces"),
        stress_ev_per_ang3=None if stress is None else np.array(stress),
        provenance=provenance,
        n_degrees=n_degrees,
    )

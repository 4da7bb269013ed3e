"""One system's frames as H5MD 1.1 (de Buyl, Colberg, Höfling, Comput. Phys. Commun. 185, 1546, 2014).

Lengths are in Angstrom and times in ps, as MDAnalysis has them; forces in kJ mol-1 Angstrom-1, because it refuses
those in eV; observables in eV, K and GPa. Each has its unit as an attribute (the units module). MDAnalysis reads the
first particle group of a file only, and everybody's tools want one system at a time: so a file holds one.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from equipot import __version__
from equipot.errors import InvalidParameterError
from equipot.simulation.trajectory import Frame, standard_or_own_masses_u
from equipot.units import AVOGADRO_PER_MOL, ELEMENTARY_CHARGE_C, GPA_PER_EV_PER_ANG3
from equipot.voigt import symmetric_matrix

if TYPE_CHECKING:
    import h5py

GROUP = "particles/trajectory"  # the name with which MDAnalysis needs no topology beside the file
KJ_PER_MOL_PER_EV = ELEMENTARY_CHARGE_C * AVOGADRO_PER_MOL / 1000.0
FS_PER_PS = 1000.0
BUFFER_BYTES = 1 << 22
CHUNK_BYTES = 1 << 16

#: time-dependent elements: where, unit
PARTICLES = {
    "position": "Angstrom",
    "velocity": "Angstrom ps-1",
    "force": "kJ mol-1 Angstrom-1",
    "box/edges": "Angstrom",
}
OBSERVABLES = {
    "potential_energy": "eV",
    "kinetic_energy": "eV",
    "temperature": "K",
    "volume": "Angstrom+3",
    "pressure": "GPa",
    "stress": "GPa",
}


def write_h5md(frames: Iterable[Frame], path: Path) -> None:
    """Write the frames of one system. Raises InvalidParameterError if there is more than one.

    A relaxation has no time: it is NaN in the file, for readers that expect one. Of a dynamics, the pressure includes
    the share of the motion and the stress does not; both are there where the potential gave a stress.
    """
    import h5py

    writer: _Writer | None = None
    with h5py.File(path, "w", libver=("earliest", "v110")) as file:  # readers older than our HDF5 open it too
        for frame in frames:
            if writer is None:
                writer = _Writer(file, frame)
            writer.add(frame)
        if writer is not None:
            writer.flush()
        else:
            _describe(file, None)


class _Writer:
    """Appends frames to an open file, some megabytes at a time."""

    def __init__(self, file: h5py.File, first: Frame) -> None:
        self._system = first.system
        self._names = list(_values(first))
        self._rows: list[dict[str, np.ndarray]] = []
        self._n_written = 0
        _describe(file, first)
        _write_particles(file, first)
        dtype = "float64" if first.provenance is None else first.provenance.trajectory_dtype
        self._steps = _grows(file.create_group(f"{GROUP}/position"), "step", np.array(0))
        self._times = _grows(file[f"{GROUP}/position"], "time", np.array(0.0))
        self._times.attrs["unit"] = "ps"
        self._datasets = {}
        for name, value in _values(first).items():
            group = file.require_group(name)
            if name != f"{GROUP}/position":
                group["step"], group["time"] = self._steps, self._times  # hard links: one axis for all
            stored = value.astype(dtype) if value.ndim == 2 and value.shape[0] == first.structure.n_atoms else value
            self._datasets[name] = _grows(group, "value", stored)
            self._datasets[name].attrs["unit"] = _unit(name)
        self._row_bytes = sum(value.nbytes for value in _values(first).values())

    def add(self, frame: Frame) -> None:
        if frame.system != self._system:
            raise InvalidParameterError(
                f"An H5MD file holds one system, and there are frames of {self._system} and {frame.system}.",
                pointer="/system",
                hint="Choose one system.",
            )
        values = _values(frame)
        time_ps = np.nan if frame.time_fs is None else frame.time_fs / FS_PER_PS
        self._rows.append({**values, "step": np.array(frame.step), "time": np.array(time_ps)})
        if len(self._rows) * self._row_bytes > BUFFER_BYTES:
            self.flush()

    def flush(self) -> None:
        rows, self._rows = self._rows, []
        if not rows:
            return
        end = self._n_written + len(rows)
        columns: Mapping[str, Any] = {"step": self._steps, "time": self._times, **self._datasets}
        for name, dataset in columns.items():
            dataset.resize(end, axis=0)
            absent = np.full(dataset.shape[1:], np.nan)
            dataset[self._n_written : end] = np.stack([row.get(name, absent) for row in rows])
        self._n_written = end


def _values(frame: Frame) -> dict[str, np.ndarray]:
    """What of a frame depends on time, in the units of the file."""
    structure = frame.structure
    velocities, cell = structure.velocities_ang_per_fs, structure.cell_ang
    particles: dict[str, Any] = {
        "position": structure.positions_ang,
        "velocity": None if velocities is None else velocities * FS_PER_PS,
        "force": frame.forces_ev_per_ang * KJ_PER_MOL_PER_EV,
        "box/edges": cell,
    }
    stress = frame.stress_ev_per_ang3
    observables: dict[str, Any] = {
        "potential_energy": frame.energy_ev,
        "kinetic_energy": frame.kinetic_ev,
        "temperature": frame.temperature_k,
        "volume": structure.volume_ang3,
        "pressure": frame.pressure_gpa,
        "stress": None if stress is None else symmetric_matrix(stress) * GPA_PER_EV_PER_ANG3,
    }
    found = {f"{GROUP}/{name}": value for name, value in particles.items()}
    found |= {f"observables/{name}": value for name, value in observables.items()}
    return {name: np.asarray(value) for name, value in found.items() if value is not None}


def _unit(name: str) -> str:
    return (
        OBSERVABLES[name.removeprefix("observables/")] if name.startswith("obs") else PARTICLES[name[len(GROUP) + 1 :]]
    )


def _grows(group: h5py.Group, name: str, first: np.ndarray) -> h5py.Dataset:
    """A dataset without rows, each shaped like the first one; a chunk has some 64 KiB."""
    n_rows = int(np.clip(CHUNK_BYTES // max(first.nbytes, 1), 1, 1024))
    shape = first.shape
    return group.create_dataset(name, (0, *shape), first.dtype, maxshape=(None, *shape), chunks=(n_rows, *shape))


def _write_particles(file: h5py.File, first: Frame) -> None:
    """What does not change: species (atomic numbers), masses, the kind of the box."""
    structure = first.structure
    group = file.create_group(GROUP)
    group.create_dataset("species", data=structure.numbers.astype(np.int32))
    group.create_dataset("mass", data=standard_or_own_masses_u(structure)).attrs["unit"] = "u"
    box = group.create_group("box")
    box.attrs["dimension"] = 3
    box.attrs["boundary"] = ["periodic" if p else "none" for p in structure.pbc]
    if structure.fixed_atoms:
        file.create_dataset("parameters/equipot/fixed_atoms", data=np.array(structure.fixed_atoms))


def _describe(file: h5py.File, first: Frame | None) -> None:
    """The h5md group, and under /parameters/equipot where the numbers come from."""
    h5md = file.create_group("h5md")
    h5md.attrs["version"] = np.array([1, 1], np.int32)
    h5md.create_group("author").attrs["name"] = "not given"
    creator = h5md.create_group("creator")
    creator.attrs["name"], creator.attrs["version"] = "equipot", __version__
    h5md.create_group("modules/units").attrs["version"] = np.array([1, 1], np.int32)
    if first is None or first.provenance is None:
        return
    ours = file.require_group("parameters/equipot")
    ours.attrs["system"] = first.system
    for name, value in first.provenance.tags(first.system).items():
        ours.attrs[name] = value
    ours.attrs["provenance"] = json.dumps(first.provenance.to_json())

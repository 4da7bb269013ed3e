"""Frames as arrays in an .npz file, written column by column: memory does not grow with the number of frames."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from equipot.simulation.trajectory import Frame

BUFFER_BYTES = 1 << 18


def write_npz(frames: Iterable[Frame], path: Path) -> None:
    """Arrays whose first axis counts the frames of a system; `provenance` is JSON.

    With several systems, the names begin with `system0000_` and so on. A stress or a time that a frame lacks is NaN.
    """
    columns: dict[str, _Column] = {}
    constant: dict[int, dict[str, np.ndarray]] = {}
    provenance = ""
    with TemporaryDirectory(prefix="equipot-") as scratch:
        for frame in frames:
            if frame.system not in constant:
                constant[frame.system] = _constant(frame)
            if not provenance and frame.provenance is not None:
                provenance = json.dumps(frame.provenance.to_json())
            for name, value in _varying(frame):
                key = f"system{frame.system:04d}_{name}"
                if key not in columns:
                    columns[key] = _Column(Path(scratch) / f"{len(columns):06d}", value)
                columns[key].add(value)
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
            prefix = "system0000_"
            for system, arrays in constant.items():
                for name, value in arrays.items():
                    key = f"system{system:04d}_{name}"
                    with _member(archive, key if len(constant) > 1 else key[len(prefix) :]) as member:
                        np.lib.format.write_array(member, value, allow_pickle=False)
            for key, column in columns.items():
                with _member(archive, key if len(constant) > 1 else key[len(prefix) :]) as member:
                    column.copy_to(member)
            with _member(archive, "provenance") as member:
                np.lib.format.write_array(member, np.array(provenance), allow_pickle=False)


class _Column:
    """Rows of one shape and type, kept in a file until they are all there."""

    def __init__(self, path: Path, first: np.ndarray) -> None:
        self._path = path
        self._shape, self._dtype = first.shape, first.dtype
        self._buffer = bytearray()
        self._n_rows = 0

    def add(self, row: np.ndarray) -> None:
        assert row.shape == self._shape
        self._buffer += row.tobytes()
        self._n_rows += 1
        if len(self._buffer) > BUFFER_BYTES:
            self._flush()

    def copy_to(self, member: zipfile.ZipExtFile) -> None:
        self._flush()
        header = {"descr": self._dtype.str, "fortran_order": False, "shape": (self._n_rows, *self._shape)}
        np.lib.format.write_array_header_1_0(member, header)
        with self._path.open("rb") as file:
            shutil.copyfileobj(file, member, BUFFER_BYTES)

    def _flush(self) -> None:
        with self._path.open("ab") as file:
            file.write(self._buffer)
        self._buffer.clear()


def _member(archive: zipfile.ZipFile, name: str) -> zipfile.ZipExtFile:
    return archive.open(f"{name}.npy", "w", force_zip64=True)  # type: ignore[return-value]


def _constant(frame: Frame) -> dict[str, np.ndarray]:
    structure = frame.structure
    arrays = {"numbers": structure.numbers, "pbc": np.array(structure.pbc)}
    if structure.masses_u is not None:
        arrays["masses_u"] = structure.masses_u
    if structure.fixed_atoms:
        arrays["fixed_atoms"] = np.array(structure.fixed_atoms)
    seed = frame.tags.get("seed")
    return arrays if seed is None else arrays | {"seed": np.array(seed)}


def _varying(frame: Frame) -> Iterator[tuple[str, np.ndarray]]:
    structure, provenance = frame.structure, frame.provenance
    dtype = np.dtype("float64" if provenance is None else provenance.trajectory_dtype)
    yield "step", np.array(frame.step)
    yield "time_fs", np.array(np.nan if frame.time_fs is None else frame.time_fs)
    yield "energy_ev", np.array(frame.energy_ev)
    yield "positions_ang", structure.positions_ang.astype(dtype)
    yield "forces_ev_per_ang", frame.forces_ev_per_ang.astype(dtype)
    if structure.velocities_ang_per_fs is not None:
        yield "velocities_ang_per_fs", structure.velocities_ang_per_fs.astype(dtype)
    if structure.cell_ang is not None:
        yield "cell_ang", structure.cell_ang
    stress = frame.stress_ev_per_ang3
    if stress is not None or structure.volume_ang3:
        yield "stress_ev_per_ang3", np.full(6, np.nan) if stress is None else stress

"""Frames in other people's formats, one after the other: memory does not grow with their number.

No torch, and ASE and h5py only inside functions.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import chain
from pathlib import Path

import numpy as np

from equipot.elements import SYMBOLS
from equipot.errors import InvalidParameterError
from equipot.simulation.arrays import write_npz
from equipot.simulation.h5md import write_h5md
from equipot.simulation.segments import TrajWriter
from equipot.simulation.trajectory import Frame

MEDIA_TYPES = {
    "extxyz": "chemical/x-xyz",
    "jsonl": "application/jsonl",
    "traj": "application/octet-stream",
    "npz": "application/octet-stream",
    "h5md": "application/x-hdf5",
}
TEXT_FORMATS = ("extxyz", "jsonl")


def export(frames: Iterable[Frame], format: str, path: Path) -> None:
    """Write frames to a file as extxyz, jsonl, traj, npz or h5md. Raises InvalidParameterError.

    All but h5md take the frames of several systems.
    """
    if format in TEXT_FORMATS:
        with path.open("w", encoding="utf-8", newline="\n") as file:
            file.writelines(export_text(frames, format))
    elif format == "traj":
        _write_traj(frames, path)
    elif format == "npz":
        write_npz(frames, path)
    elif format == "h5md":
        write_h5md(frames, path)
    else:
        raise InvalidParameterError(
            f"Trajectories cannot be had as {format!r}.",
            pointer="/format",
            hint=f"Choose one of {', '.join(MEDIA_TYPES)}.",
        )


def export_text(frames: Iterable[Frame], format: str) -> Iterator[str]:
    """Frames as extxyz or jsonl, one string for each, so that they can be streamed."""
    one = {"extxyz": extxyz, "jsonl": json_line}[format]
    return (one(frame) for frame in frames)


def extxyz(frame: Frame) -> str:
    """A frame in extended XYZ, with 17 digits: reading it gives back every number to the last bit."""
    structure = frame.structure
    columns = [("species:S:1", np.array([SYMBOLS[z] for z in structure.numbers])[:, None], "%s")]
    columns.append(("pos:R:3", structure.positions_ang, "%.17g"))
    if frame.momenta is not None:
        columns.append(("momenta:R:3", frame.momenta, "%.17g"))
    columns.append(("forces:R:3", frame.forces_ev_per_ang, "%.17g"))
    if structure.masses_u is not None:
        columns.append(("masses:R:1", structure.masses_u[:, None], "%.17g"))
    if structure.fixed_atoms:
        moves = np.full((structure.n_atoms, 1), "T")
        moves[list(structure.fixed_atoms)] = "F"
        columns.append(("move_mask:L:1", moves, "%s"))
    comment = [] if structure.cell_ang is None else [f'Lattice="{_numbers(structure.cell_ang)}"']
    comment.append("Properties=" + ":".join(name for name, _, _ in columns))
    comment.append(f"energy={frame.energy_ev!r}")
    if frame.stress_ev_per_ang3 is not None:
        xx, yy, zz, yz, xz, xy = frame.stress_ev_per_ang3
        comment.append(f'stress="{_numbers(np.array([xx, xy, xz, xy, yy, yz, xz, yz, zz]))}"')
    comment.append('pbc="' + " ".join("T" if p else "F" for p in structure.pbc) + '"')
    comment += [f"{name}={_quoted(value)}" for name, value in _words(frame).items()]
    row = " ".join(" ".join([form] * values.shape[1]) for _, values, form in columns)
    cells = [values.tolist() for _, values, _ in columns]
    lines = [row % tuple(x for part in parts for x in part) for parts in zip(*cells, strict=True)]
    return f"{structure.n_atoms}\n{' '.join(comment)}\n" + "\n".join(lines) + "\n"


def json_line(frame: Frame) -> str:
    """A frame as canonical structure JSON, which can be submitted again; its info has all else but the forces."""
    stress = {} if frame.stress_ev_per_ang3 is None else {"stress_ev_per_ang3": frame.stress_ev_per_ang3.tolist()}
    info = {**_words(frame), "energy_ev": frame.energy_ev, **stress}
    return json.dumps(replace(frame.structure, info=info).to_json()) + "\n"


def _words(frame: Frame) -> dict[str, object]:
    """What a frame is called, and where it comes from."""
    provenance = frame.provenance
    return frame.tags | ({} if provenance is None else provenance.tags(frame.system))


def _quoted(value: object) -> str:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else repr(value)


def _numbers(values: np.ndarray) -> str:
    return " ".join(f"{x:.17g}" for x in values.ravel().tolist())


def _write_traj(frames: Iterable[Frame], path: Path) -> None:
    """ASE's .traj, in the precision of the run, which its description names."""
    rest = iter(frames)
    first = next(rest, None)
    provenance = first.provenance if first is not None else None
    description = {} if provenance is None else provenance.to_json()
    dtype = "float64" if provenance is None else provenance.trajectory_dtype
    writer = TrajWriter(path, description, dtype)
    try:
        for frame in chain(() if first is None else (first,), rest):
            writer.write(frame)
    finally:
        writer.close()

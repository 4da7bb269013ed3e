"""Frames in other people's formats. No torch, and ASE only inside functions."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import IO

import numpy as np

from equipot.elements import SYMBOLS
from equipot.errors import InvalidParameterError
from equipot.simulation.trajectory import Frame

MEDIA_TYPES = {
    "extxyz": "chemical/x-xyz",
    "jsonl": "application/jsonl",
    "traj": "application/octet-stream",
    "npz": "application/octet-stream",
}
TEXT_FORMATS = ("extxyz", "jsonl")


def export(frames: Iterable[Frame], format: str, path: Path) -> None:
    """Write frames to a file as extxyz, jsonl, traj or npz."""
    if format in TEXT_FORMATS:
        with path.open("w", encoding="utf-8", newline="\n") as file:
            file.writelines(export_text(frames, format))
    elif format == "traj":
        _write_traj(frames, path)
    elif format == "npz":
        with path.open("wb") as file:
            _write_npz(frames, file)
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
    comment += [f"{name}={value!r}" for name, value in frame.tags.items()]
    row = " ".join(" ".join([form] * values.shape[1]) for _, values, form in columns)
    cells = [values.tolist() for _, values, _ in columns]
    lines = [row % tuple(x for part in parts for x in part) for parts in zip(*cells, strict=True)]
    return f"{structure.n_atoms}\n{' '.join(comment)}\n" + "\n".join(lines) + "\n"


def json_line(frame: Frame) -> str:
    """A frame as canonical structure JSON, which can be submitted again; tags, energy and stress are in its info."""
    stress = {} if frame.stress_ev_per_ang3 is None else {"stress_ev_per_ang3": frame.stress_ev_per_ang3.tolist()}
    info = {**frame.tags, "energy_ev": frame.energy_ev, **stress}
    return json.dumps(replace(frame.structure, info=info).to_json()) + "\n"


def _numbers(values: np.ndarray) -> str:
    return " ".join(f"{x:.17g}" for x in values.ravel().tolist())


def _write_traj(frames: Iterable[Frame], path: Path) -> None:
    from ase.io.trajectory import TrajectoryWriter

    with TrajectoryWriter(path, "w") as writer:
        for frame in frames:
            writer.write(frame.to_atoms())


def _write_npz(frames: Iterable[Frame], file: IO[bytes]) -> None:
    """Arrays over the frames of each system; with several systems, each name begins with `systemNNNN_`."""
    of_system: dict[int, list[Frame]] = {}
    for frame in frames:
        of_system.setdefault(frame.system, []).append(frame)
    arrays = {}
    for system, own in of_system.items():
        prefix = f"system{system:04d}_" if len(of_system) > 1 else ""
        arrays.update({prefix + name: values for name, values in _arrays(own).items()})
    np.savez_compressed(file, allow_pickle=False, **arrays)


def _arrays(frames: list[Frame]) -> dict[str, np.ndarray]:
    """Arrays of one system: the first axis counts frames. Absent stresses and times are NaN."""
    first = frames[0].structure
    arrays = {
        "numbers": first.numbers,
        "pbc": np.array(first.pbc),
        "step": np.array([f.step for f in frames]),
        "time_fs": np.array([np.nan if f.time_fs is None else f.time_fs for f in frames]),
        "positions_ang": np.stack([f.structure.positions_ang for f in frames]),
        "energy_ev": np.array([f.energy_ev for f in frames]),
        "forces_ev_per_ang": np.stack([f.forces_ev_per_ang for f in frames]),
    }
    if first.cell_ang is not None:
        arrays["cell_ang"] = np.stack([f.structure.cell_ang for f in frames if f.structure.cell_ang is not None])
    velocities = [f.structure.velocities_ang_per_fs for f in frames]
    if all(v is not None for v in velocities):
        arrays["velocities_ang_per_fs"] = np.stack([v for v in velocities if v is not None])
    if any(f.stress_ev_per_ang3 is not None for f in frames):
        absent = np.full(6, np.nan)
        stresses = [absent if f.stress_ev_per_ang3 is None else f.stress_ev_per_ang3 for f in frames]
        arrays["stress_ev_per_ang3"] = np.stack(stresses)
    return arrays

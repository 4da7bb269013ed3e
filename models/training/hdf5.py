"""HDF5 data: a group for each system, one dataset for each quantity, frames along the first axis.

    /ethanol              any name, at any depth; it becomes the frames' group
        numbers           (n_atoms,)               atomic numbers
        positions         (n_frames, n_atoms, 3)
        energy            (n_frames,)
        forces            (n_frames, n_atoms, 3)
        cell              (3, 3) or (n_frames, 3, 3)      optional
        pbc               (3,) or (n_frames, 3)           optional; periodic where there is a cell
        stress or virial  (n_frames, 6) or (n_frames, 3, 3)   optional
        config_type       (n_frames,) strings, or an attribute of the group; optional
        charge            (n_frames,) whole numbers in e, or an attribute of the group; optional

Frames count through the file in the order of the groups' names. `atomic_numbers` and `coordinates` are understood
too; the keys of labels are those of any other file.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from equipot.models.training.extxyz import RawFrame
from equipot.models.training.frames import FrameError

NUMBER_KEYS = ("numbers", "atomic_numbers", "species")
POSITION_KEYS = ("positions", "coordinates", "conformations")


def read_hdf5(path: Path) -> Iterator[RawFrame | FrameError]:
    """The frames of an HDF5 file laid out as above; raises FrameError when it is not."""
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise FrameError(f"{path} cannot be read as HDF5: {error}.") from error
    with file:
        systems = sorted(_systems(file), key=lambda system: str(system.name))
        if not systems:
            raise FrameError(
                f"{path} has no group with {' or '.join(NUMBER_KEYS[:2])} and {' or '.join(POSITION_KEYS[:2])}.",
                hint="The layout is described in docs/training.md.",
            )
        for system in systems:
            yield from _frames(path, system)


def _systems(group: h5py.Group) -> Iterator[h5py.Group]:
    """Groups that hold frames. Links are not followed: a file must not lead out of itself."""
    if _first(group, NUMBER_KEYS) and _first(group, POSITION_KEYS):
        yield group
    for name in group:
        if isinstance(group.get(name, getlink=True), h5py.HardLink) and group.get(name, getclass=True) is h5py.Group:
            yield from _systems(group[name])


def _first(group: h5py.Group, names: tuple[str, ...]) -> str | None:
    return next((name for name in names if name in group), None)


def _frames(path: Path, system: h5py.Group) -> Iterator[RawFrame]:
    numbers_key, positions_key = _first(system, NUMBER_KEYS), _first(system, POSITION_KEYS)
    assert numbers_key is not None
    assert positions_key is not None
    numbers = np.asarray(system[numbers_key], dtype=np.int64)
    positions = np.asarray(system[positions_key], dtype=np.float64)
    if positions.ndim != 3 or positions.shape[1:] != (len(numbers), 3):
        raise FrameError(
            f"{path}: {system.name}/{positions_key} has shape {positions.shape}, "
            f"not (n_frames, {len(numbers)}, 3) as its {len(numbers)} numbers ask for."
        )
    n_frames = len(positions)
    data = {name: _values(system[name]) for name in system if isinstance(system[name], h5py.Dataset)}
    cell = np.broadcast_to(data.pop("cell", np.zeros((3, 3))), (n_frames, 3, 3))
    pbc = np.broadcast_to(data.pop("pbc", (cell != 0).any(axis=(1, 2))[:, None]), (n_frames, 3)).astype(bool)
    for name, values in data.items():
        if name not in (numbers_key, positions_key) and len(values) != n_frames:
            raise FrameError(f"{path}: {system.name}/{name} has {len(values)} rows for {n_frames} frames.")
    constants = {name: _plain(value) for name, value in system.attrs.items()}
    for i in range(n_frames):
        info: dict[str, Any] = {**constants, "group": str(system.name).strip("/") or path.stem}
        arrays = {}
        for name, values in data.items():
            if name in (numbers_key, positions_key):
                continue
            if values.ndim == 3 and values.shape[1:] == (len(numbers), 3) and "stress" not in name.lower():
                arrays[name] = values[i]
            else:
                info[name] = values[i]
        yield RawFrame(numbers, positions[i], np.array(cell[i], dtype=np.float64), pbc[i], info, arrays)


def _values(dataset: h5py.Dataset) -> np.ndarray:
    if h5py.check_string_dtype(dataset.dtype):
        return np.asarray(dataset.asstr()[...], dtype=np.str_)
    values: np.ndarray = dataset[...]
    return values


def _plain(value: Any) -> Any:
    return value.decode() if isinstance(value, bytes) else value

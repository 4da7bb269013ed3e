"""Checkpoints: complete, float64, never half written. No torch: the API reads their headers.

A checkpoint is an .npz of two arrays: `header`, JSON as bytes, and `values`, all tensors end to end; the header's
`layout` names them. It is written to a temporary file, fsynced and renamed; the one before stays as
`checkpoint.npz.1` and is used when the newest cannot be read. Nothing is ever unpickled.
"""

from __future__ import annotations

import json
import os
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from equipot.errors import NotResumableError
from equipot.simulation.disk import LASTING

T = TypeVar("T")

FORMAT_VERSION = 1
NEWEST = "checkpoint.npz"
PREVIOUS = "checkpoint.npz.1"
_DAMAGED = (OSError, ValueError, KeyError, EOFError, TypeError, zipfile.BadZipFile, zlib.error, NotImplementedError)


def save_checkpoint(directory: Path, header: Mapping[str, Any], tensors: Mapping[str, np.ndarray]) -> None:
    """Write a checkpoint and keep the one before it. On return it is on disk."""
    arrays = {name: np.asarray(value, dtype=np.float64) for name, value in tensors.items()}
    layout = [[name, list(value.shape)] for name, value in arrays.items()]
    text = json.dumps({**header, "format_version": FORMAT_VERSION, "layout": layout}, allow_nan=False)
    values = np.concatenate([value.ravel() for value in arrays.values()]) if arrays else np.zeros(0)
    temporary = directory / f".{NEWEST}.tmp"
    with temporary.open("wb") as file:
        np.savez(file, header=np.frombuffer(text.encode(), dtype=np.uint8), values=values)
        LASTING.sync(file)
    _keep_previous(directory)
    temporary.replace(directory / NEWEST)
    LASTING.sync_folder(directory)


def load_checkpoint(directory: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]] | None:
    """Header and tensors of the newest checkpoint that can be read whole; None if there never was one.

    Raises NotResumableError if there are checkpoints but none can be used.
    """
    return _newest_readable(directory, _load)


def read_header(directory: Path) -> dict[str, Any] | None:
    """The header of the newest readable checkpoint, None if there is none (yet)."""
    return _newest_readable(directory, lambda path: _load(path)[0])


def _keep_previous(directory: Path) -> None:
    """Give the newest checkpoint its second name without a moment in which there is none."""
    newest, link = directory / NEWEST, directory / f".{PREVIOUS}.tmp"
    if not newest.exists():
        return
    link.unlink(missing_ok=True)
    try:
        os.link(newest, link)
    except OSError:  # a file system without hard links
        newest.replace(link)
    link.replace(directory / PREVIOUS)


def _newest_readable(directory: Path, load: Callable[[Path], T]) -> T | None:
    damage: Exception | None = None
    for name in (NEWEST, PREVIOUS):
        try:
            return load(directory / name)
        except FileNotFoundError:
            continue
        except _DAMAGED as error:
            damage = damage or error
    if damage is not None:
        raise NotResumableError(
            f"No checkpoint in {directory.name} can be read: {damage}.", hint="Start the run anew."
        ) from damage
    return None


def _load(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
        header = json.loads(file["header"].tobytes())
        values = file["values"]
    if header["format_version"] > FORMAT_VERSION:
        raise NotResumableError(
            f"The checkpoint has format {header['format_version']}; this version reads up to {FORMAT_VERSION}.",
            hint="Upgrade equipot.",
        )
    tensors, start = {}, 0
    for name, shape in header["layout"]:
        size = int(np.prod(shape, dtype=np.int64))
        tensors[name] = values[start : start + size].reshape(shape)
        start += size
    if start != len(values):
        raise ValueError("its layout does not fit its values")
    return header, tensors

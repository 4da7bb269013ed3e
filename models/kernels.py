"""What a call on a CPU computes beside the network, compiled (`kernels.cpp`): a dozen small steps of numpy and torch
each, which take as long as a quarter of a small molecule's pass because every one of them starts with cold caches."""

from __future__ import annotations

import ctypes
import hashlib
import logging
import subprocess
from functools import cache
from pathlib import Path

import numpy as np
import torch

from equipot.models.code_cache import cached_code

SOURCE = Path(__file__).parent / "kernels.cpp"
FLAGS = ("-std=c++17", "-O3", "-march=native", "-fPIC", "-shared")
#: columns of a block of a map, as in `kernels.cpp`
COLUMNS = 32

MOVED_FAR, CROSSED, HELD = range(3)  # what `bond_vectors` says

_POINTER, _INT, _DOUBLE = ctypes.c_void_p, ctypes.c_int64, ctypes.c_double
_log = logging.getLogger(__name__)


class Kernels:
    """The compiled functions; safe to call from several threads, which compute at the same time."""

    def __init__(self, library: Path) -> None:
        """Raises OSError or AttributeError if it is no library of ours."""
        functions = ctypes.CDLL(str(library))
        self._bond_vectors = {np.dtype(t): getattr(functions, f"bond_vectors_{t}") for t in ("float32", "float64")}
        for function in self._bond_vectors.values():
            function.argtypes = [
                *(_POINTER, _POINTER, _INT, _POINTER, _POINTER, _POINTER, _POINTER, _INT),
                *(_DOUBLE, _DOUBLE, _POINTER, _INT, _POINTER),
            ]
            function.restype = ctypes.c_int
        self._lengths = {torch.float32: functions.lengths_float32, torch.float64: functions.lengths_float64}
        for function in self._lengths.values():
            function.argtypes = [_POINTER, _INT, _POINTER, _POINTER, _INT, _POINTER, _POINTER, _INT, _POINTER]
            function.restype = None

    def bond_vectors(
        self,
        positions_ang: np.ndarray,
        pairs: PairPointers,
        squared_leeway: float,
        squared_cutoff: float,
        near: np.ndarray,
        vectors_ang: np.ndarray,
    ) -> int:
        """The vectors along `pairs` at these positions (n_atoms, 3) into their slots, vectors_ang (3, n_atoms, slots),
        which come full of zeros.

        HELD if that is all; CROSSED if others than the pairs in the rows are within the cutoff: `near` (n_pairs,) says
        which; MOVED_FAR if some atom is so far from where it was that there may be other pairs.
        """
        said: int = self._bond_vectors[vectors_ang.dtype](
            positions_ang.ctypes.data,
            *pairs.addresses,
            squared_leeway,
            squared_cutoff,
            near.ctypes.data,
            vectors_ang[0].size,
            vectors_ang.ctypes.data,
        )
        return said

    def lengths(
        self,
        vectors: torch.Tensor,
        order: torch.Tensor,
        runs: np.ndarray,
        origins: torch.Tensor | None,
        maps: torch.Tensor,
    ) -> torch.Tensor:
        """See `ByElement.lengths`; order and runs are its own; maps as `in_blocks` lays them out."""
        vectors = vectors.contiguous()
        result = vectors.new_empty(len(vectors))
        self._lengths[vectors.dtype](
            vectors.data_ptr(),
            vectors.shape[1],
            order.data_ptr(),
            runs.ctypes.data,
            len(runs),
            None if origins is None else origins.data_ptr(),
            maps.data_ptr(),
            maps.shape[1],
            result.data_ptr(),
        )
        return result


def in_blocks(maps: torch.Tensor) -> torch.Tensor:
    """Maps (n_elements, n_in, n_out) as (n_elements, n_blocks, n_in, COLUMNS), filled up with columns of zeros, which
    change no length: the order in which they are read."""
    filled = torch.nn.functional.pad(maps, (0, -maps.shape[2] % COLUMNS))
    blocks: torch.Tensor = filled.unflatten(2, (-1, COLUMNS)).transpose(1, 2).contiguous()
    return blocks


class PairPointers:
    """Where the compiled code finds the pairs of atoms."""

    def __init__(
        self,
        positions_ang: np.ndarray,
        first: np.ndarray,
        second: np.ndarray,
        offsets_ang: np.ndarray,
        slot: np.ndarray,
    ) -> None:
        """positions_ang (n_atoms, 3): where the atoms were when the pairs were found; first and second atom (n_pairs,)
        int64; offsets_ang (n_pairs, 3) float64; slot (n_pairs,) int64, -1: beyond the cutoff."""
        before, *of_pairs = self._kept = [
            np.ascontiguousarray(array) for array in (positions_ang, first, second, offsets_ang, slot)
        ]
        pointers = (array.ctypes.data for array in of_pairs)
        self.addresses = (before.ctypes.data, len(before), *pointers, len(first))


def compiled_kernels() -> Kernels | None:
    """The kernels, from the cache or compiled now (in seconds); None where that is impossible: numpy does as well."""
    try:
        return _kernels()
    except Exception:  # no compiler, no right to write, a folder that may not execute ...
        _log.info("the kernels could not be compiled", exc_info=True)
        return None


@cache
def _kernels() -> Kernels:
    facts = {"kernels": hashlib.sha256(SOURCE.read_bytes()).hexdigest(), "flags": FLAGS}
    return Kernels(cached_code(facts, ".so", _compile))


def _compile(folder: Path) -> Path:
    from torch._inductor.cpp_builder import get_cpp_compiler

    made = folder / "kernels.so"
    command = [get_cpp_compiler(), *FLAGS, str(SOURCE), "-o", str(made)]
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    return made

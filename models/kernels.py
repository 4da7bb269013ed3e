"""What a call on a CPU computes beside the network, compiled (`kernels.cpp`): dozens of small steps of numpy and torch,
which take as long as a third of a small molecule's pass because every one of them starts with cold caches."""

from __future__ import annotations

import ctypes
import hashlib
import logging
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from equipot.models.code_cache import cached_code

SOURCE = Path(__file__).parent / "kernels.cpp"
FLAGS = ("-std=c++17", "-O3", "-march=native", "-fPIC", "-shared", "-pthread")
#: columns of a block of a map, as in `kernels.cpp`
COLUMNS = 32

_POINTER, _INT, _DOUBLE = ctypes.c_void_p, ctypes.c_int64, ctypes.c_double
_log = logging.getLogger(__name__)


class Kernels:
    """The compiled functions; safe to call from several threads, which compute at the same time."""

    def __init__(self, library: Path) -> None:
        """Raises OSError or AttributeError if it is no library of ours."""
        functions = ctypes.CDLL(str(library))
        self._whole_call = {
            torch.float32: functions.whole_call_float32,
            torch.float64: functions.whole_call_float64,
        }
        for function in self._whole_call.values():
            function.argtypes = [_POINTER, _POINTER, _POINTER, _DOUBLE, _POINTER, _POINTER]
            function.restype = ctypes.c_int
        self.helpers_begin, self.helpers_end = functions.helpers_begin, functions.helpers_end
        self.helpers_begin.restype, self.helpers_begin.argtypes = _POINTER, [ctypes.c_int, _POINTER]
        self.helpers_put, self.helpers_finish = functions.helpers_put, functions.helpers_finish
        for function in (self.helpers_end, self.helpers_put, self.helpers_finish):
            function.restype, function.argtypes = None, [_POINTER, _POINTER][: 1 if function is self.helpers_end else 2]
        self._lengths = {torch.float32: functions.lengths_float32, torch.float64: functions.lengths_float64}
        for function in self._lengths.values():
            function.argtypes = [_POINTER, _INT, _POINTER, _POINTER, _INT, _POINTER, _POINTER, _INT, _POINTER]
            function.restype = None

    def whole_call(self, dtype: torch.dtype) -> Any:
        """The function behind `WholeCall`, which says what it takes."""
        return self._whole_call[dtype]

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

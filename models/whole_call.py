"""A call of a compiled potential from positions to forces, without Python and its lock between (`kernels.cpp`)."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from equipot.models.kernels import Kernels
from equipot.models.neighbours import NearRows
from equipot.models.reliability import ByElement, ForceUncertainty, TrainingDomain
from equipot.models.unlocked import UnlockedRunner

MOVED_FAR, CROSSED, HELD, FAILED = range(4)  # what became of a call

_POINTER, _INT, _DOUBLE = ctypes.c_void_p, ctypes.c_int64, ctypes.c_double


class _Potential(ctypes.Structure):
    """`Potential` of kernels.cpp."""

    _fields_ = [  # declared so by ctypes
        ("container", _POINTER),
        ("run", _POINTER),
        ("create", _POINTER),
        ("release", _POINTER),
        ("data_of", _POINTER),
        ("sizes_of", _POINTER),
        ("strides_of", _POINTER),
        ("real_type", _INT),
        ("integer_type", _INT),
        ("bool_type", _INT),
        ("device_type", _INT),
        ("squared_cutoff", _DOUBLE),
        ("means", _POINTER),
        ("maps", _POINTER),
        ("n_map_blocks", _INT),
        ("factors", _POINTER),
        ("n_factor_blocks", _INT),
        ("n_told", _INT),
    ]


class _Neighbours(ctypes.Structure):
    """`Neighbours` of kernels.cpp."""

    _fields_ = [
        ("n_atoms", _INT),
        ("n_slots", _INT),
        ("n_pairs", _INT),
        *((name, _POINTER) for name in ("before", "first", "second", "offsets", "slot")),
        *((name, _POINTER) for name in ("numbers", "neighbours", "mask", "reverse", "condition", "order", "runs")),
        ("n_runs", _INT),
    ]


@dataclass(frozen=True, eq=False)
class Around:
    """What stays while the atoms of a system have the same neighbours: kept alive, and where it lies."""

    address: int
    reference_ev: np.ndarray  # (n_atoms,)
    kept: tuple[Any, ...]

    @classmethod
    def of(
        cls, rows: NearRows, tensors: tuple[torch.Tensor, ...], elements: ByElement, reference_ev: np.ndarray
    ) -> Around:
        """tensors: numbers, neighbours, mask, reverse, and the condition of a network that takes one."""
        pairs, (n_atoms, n_slots) = rows.pairs, rows.layout.mask.shape
        arrays = [
            np.ascontiguousarray(each)
            for each in (pairs.positions_ang, pairs.first, pairs.second, pairs.offsets_ang, rows.slot)
        ]
        whole = [each.contiguous() for each in tensors]
        condition = whole[4].data_ptr() if len(whole) > 4 else None
        structure = _Neighbours(
            n_atoms,
            n_slots,
            len(pairs.first),
            *(each.ctypes.data for each in arrays),
            *(each.data_ptr() for each in whole[:4]),
            condition,
            elements.order.data_ptr(),
            elements.runs.ctypes.data,
            len(elements.runs),
        )
        return cls(ctypes.addressof(structure), reference_ev, (structure, arrays, whole, elements))


class Moved:
    """A call to be made: the atoms of a system at other positions_ang (n_atoms, 3), float64 and contiguous.

    `said` tells what became of it. CROSSED: others than the pairs in the rows are within the cutoff, and `near`
    (n_pairs,) says which; MOVED_FAR: some atom is so far from where it was that there may be other pairs; FAILED: the
    pass did, and torch will say why.
    """

    result: np.ndarray  # what `take_out` in kernels.cpp writes

    def __init__(self, around: Around, positions_ang: np.ndarray, squared_leeway: float, near: np.ndarray) -> None:
        self.around, self.positions_ang = around, positions_ang
        self.squared_leeway, self.near = squared_leeway, near
        self.said = FAILED


class _Task(ctypes.Structure):
    """`Task` of kernels.cpp."""

    _fields_ = [
        *((name, _POINTER) for name in ("call", "potential", "around", "positions")),
        ("squared_leeway", _DOUBLE),
        ("near", _POINTER),
        ("result", _POINTER),
        ("is_done", _INT),
        ("said", _INT),
    ]


@dataclass(frozen=True, eq=False)
class Found:
    """energies_ev (n_atoms,) without reference energies; forces_ev_per_ang (n_atoms, 3); virial_ev (3, 3);
    domain_length: the largest of any atom; spreads (n_atoms,): as their classes in `reliability` scale them."""

    energies_ev: np.ndarray
    forces_ev_per_ang: np.ndarray
    virial_ev: np.ndarray
    domain_length: float
    spreads: np.ndarray


class WholeCall:
    """Calls of one potential; safe to call from several threads, which compute at the same time."""

    def __init__(
        self,
        runner: UnlockedRunner,
        kernels: Kernels,
        dtype: torch.dtype,
        cutoff_ang: float,
        domain: TrainingDomain | None,
        uncertainty: ForceUncertainty | None,
    ) -> None:
        """Raises AttributeError if torch has another interface."""
        library = runner.library
        address = {
            name: ctypes.cast(getattr(library, name), _POINTER)
            for name in (
                "AOTInductorModelContainerRun",
                "aoti_torch_create_tensor_from_blob",
                "aoti_torch_delete_tensor_object",
                "aoti_torch_get_data_ptr",
                "aoti_torch_get_sizes",
                "aoti_torch_get_strides",
            )
        }
        types = [
            getattr(library, f"aoti_torch_{name}")()
            for name in (f"dtype_{str(dtype).removeprefix('torch.')}", "dtype_int64", "dtype_bool", "device_type_cpu")
        ]
        means, maps = (None, None) if domain is None else _origins_and_blocks(domain)
        factors = None if uncertainty is None else uncertainty.maps.in_blocks
        self._kept = (runner, means, maps, factors)
        self._potential = _Potential(
            runner.container,
            *address.values(),
            *types,
            cutoff_ang**2,
            None if means is None else means.data_ptr(),
            None if maps is None else maps.data_ptr(),
            0 if maps is None else maps.shape[1],
            None if factors is None else factors.data_ptr(),
            0 if factors is None else factors.shape[1],
            0 if factors is None else factors.shape[2] - 1,
        )
        self._address = ctypes.addressof(self._potential)
        self._call = kernels.whole_call(dtype)
        self._function = ctypes.cast(self._call, _POINTER)
        self.kernels = kernels
        set_threads = getattr(library, "_ZN2at15set_num_threadsEi", None)  # at::set_num_threads(int)
        self.let_torch_use = None if set_threads is None else ctypes.cast(set_threads, _POINTER)
        self._has_spreads = factors is not None

    def __call__(self, moved: Moved) -> Found | None:
        """What was found, None if not HELD: then `moved.said` tells why."""
        moved.said = self._call(*self._arguments(moved))
        return self._found(moved)

    def helpers(self, n: int) -> Helpers | None:
        """So many threads that make calls; None where torch cannot be told to use one thread in them."""
        return None if self.let_torch_use is None else Helpers(self, n)

    def task(self, moved: Moved) -> _Task:
        """The call as helpers take it."""
        return _Task(self._function, *self._arguments(moved), 0, FAILED)

    def _arguments(self, moved: Moved) -> tuple[Any, ...]:
        """What the function takes, with room for its result."""
        n = len(moved.positions_ang)
        moved.result = np.empty(4 * n + 10 + (n if self._has_spreads else 0))
        arrays = moved.near, moved.result
        where = moved.positions_ang.ctypes.data
        return self._address, moved.around.address, where, moved.squared_leeway, *(a.ctypes.data for a in arrays)

    def _found(self, moved: Moved) -> Found | None:
        if moved.said != HELD:
            return None
        n, result = len(moved.positions_ang), moved.result
        forces, rest = result[n : 4 * n].reshape(n, 3), result[4 * n :]
        return Found(result[:n], forces, rest[:9].reshape(3, 3), float(rest[9]), rest[10:])


class Helpers:
    """Threads that make calls in compiled code alone: whoever puts them in does all the Python there is.

    Python's own threads make one another wait for its lock, and fetch its objects from each other's caches.
    """

    def __init__(self, call: WholeCall, n: int) -> None:
        self._call, self._kernels = call, call.kernels
        self._tasks: dict[int, tuple[Moved, _Task]] = {}  # what they may still look at
        self._address = self._kernels.helpers_begin(n, call.let_torch_use)
        if not self._address:
            raise MemoryError("no memory for threads")

    def put(self, moved: Moved) -> None:
        """Let it be called as soon as somebody is free."""
        task = self._call.task(moved)
        self._tasks[id(moved)] = (moved, task)
        self._kernels.helpers_put(self._address, ctypes.byref(task))

    def finish(self, moved: Moved) -> Found | None:
        """See `WholeCall.__call__`; who waits makes others in the meantime."""
        task = self._tasks[id(moved)][1]
        self._kernels.helpers_finish(self._address, ctypes.byref(task))
        moved.said = task.said
        del self._tasks[id(moved)]
        return self._call._found(moved)

    def close(self) -> None:
        """Let nobody begin another call, and wait until all have stopped."""
        self._kernels.helpers_end(self._address)


def _origins_and_blocks(domain: TrainingDomain) -> tuple[torch.Tensor, torch.Tensor]:
    origins, maps = domain.origins_and_maps
    return origins, maps.in_blocks

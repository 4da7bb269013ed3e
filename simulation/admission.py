"""What fits into memory: measured as runs go, predicted for what comes next.

The memory an evaluation takes grows with the atoms and with the slots of their padded neighbour rows. Both rates are
fitted to what was measured, so nothing has to be known of the potential, its precision or the way it is executed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
from scipy.optimize import nnls

from equipot.errors import OutOfMemoryError
from equipot.models.allocation import give_memory_back, kept_bytes

USABLE_SHARE = 0.8  #: of the free memory; the rest is for what was not foreseen
FIRST_SLOTS = 50_000  #: admitted together, and for one system not probed for, before anything is known
LARGEST_GROWTH = 4.0  #: over what has been measured, of what is admitted together
LARGEST_REACH = 8.0  #: over what has been measured, of what is believed of a prediction
PROBED_SHARE = 0.25  #: of a large system, evaluated first; more than 1 / LARGEST_REACH, as a part has a surface
LEAST_SHARE_LEARNED = 0.125  #: of `first_slots`; below, the libraries' own memory outweighs what is measured
MOST_SAMPLES = 32
FAILURES = (
    "out of memory",
    "can't allocate memory",
    "failed to allocate",
    "alloc_failed",
    "bad_alloc",
    "bad allocation",
)


@dataclass(frozen=True)
class Load:
    """The size of an evaluation: atoms, and slots of their neighbour rows, padding included."""

    n_atoms: int
    n_slots: int

    @property
    def row(self) -> int:
        """Slots of one atom."""
        return self.n_slots // max(self.n_atoms, 1)

    def beside(self, other: Load) -> Load:
        """Both in one pass: every row is padded to the longest."""
        n_atoms = self.n_atoms + other.n_atoms
        return Load(n_atoms, n_atoms * max(self.row, other.row))


@dataclass
class Peak:
    """What was measured; None where it cannot be."""

    n_bytes: float | None = None


class Memory(Protocol):
    """The memory evaluations are made in."""

    def free_bytes(self) -> float:
        """What could be had now; infinite where nobody can tell."""

    def measured(self) -> AbstractContextManager[Peak]:
        """After it, the peak says how much was in use at most."""

    def release(self) -> None:
        """Give back what is kept for later."""


@dataclass
class Admission:
    """Says how much is evaluated together, and what is too much even alone."""

    memory: Memory
    first_slots: int = FIRST_SLOTS
    _samples: list[tuple[Load, float]] = field(default_factory=list)
    _rates: tuple[float, float] = (0.0, 0.0)  # bytes per atom, bytes per slot
    _most_slots: float = np.inf  # after a failure
    n_failures: int = 0

    def learn(self, load: Load, n_bytes: float | None) -> None:
        """Take in that an evaluation of this size took so much at its peak."""
        if n_bytes is None or n_bytes <= 0 or load.n_slots < LEAST_SHARE_LEARNED * self.first_slots:
            return
        if abs(self.bytes_of(load) - n_bytes) > 0.1 * n_bytes or load.n_slots > 1.2 * self.largest_slots:
            self._samples = [*self._samples[-MOST_SAMPLES + 1 :], (load, n_bytes)]
            self._rates = _fitted(self._samples)

    def failed(self, load: Load) -> None:
        """Take in that memory ran out at this size: from now on at most half of it is admitted together."""
        self._most_slots = min(self._most_slots, 0.5 * load.n_slots)
        self.n_failures += 1

    @property
    def largest_slots(self) -> int:
        """Of the largest evaluation measured."""
        return max((load.n_slots for load, _ in self._samples), default=0)

    def bytes_of(self, load: Load) -> float:
        """The peak to expect; 0 while nothing was measured."""
        per_atom, per_slot = self._rates
        return per_atom * load.n_atoms + per_slot * load.n_slots

    def knows(self, load: Load) -> bool:
        """Whether an evaluation of this size is harmless, or the prediction for it can be believed."""
        return load.n_slots <= max(self.first_slots, LARGEST_REACH * self.largest_slots)

    def probe_size(self, load: Load) -> int:
        """Atoms of the part by which an evaluation that is not known yet comes within reach."""
        within_reach = LARGEST_REACH * max(self.first_slots, self.largest_slots) / max(load.row, 1)
        return int(min(PROBED_SHARE * load.n_atoms, within_reach))

    def fits(self, load: Load, times: int = 1) -> bool:
        """Whether so many of this size fit into the free memory at a time."""
        return times * self.bytes_of(load) <= USABLE_SHARE * self.memory.free_bytes()

    def chunks(self, loads: Sequence[Load]) -> list[list[int]]:
        """Which are evaluated together: places in `loads`, longest rows first, so that little is padded."""
        most_slots = min(self._most_slots, LARGEST_GROWTH * max(self.first_slots, self.largest_slots))
        usable = USABLE_SHARE * self.memory.free_bytes()
        chunks: list[list[int]] = []
        whole = Load(0, 0)
        for place in sorted(range(len(loads)), key=lambda i: (-loads[i].row, i)):
            together = whole.beside(loads[place])
            if chunks and together.n_slots <= most_slots and self.bytes_of(together) <= usable:
                chunks[-1].append(place)
                whole = together
            else:
                chunks.append([place])
                whole = loads[place]
        return chunks

    def too_large(self, load: Load, failed_at: int | None = None) -> OutOfMemoryError:
        """The refusal of a system that does not fit alone; a part of it of `failed_at` atoms did not fit either."""
        predicted = self.bytes_of(load)
        message = f"There is not enough memory for a system of {load.n_atoms} atoms with {load.row} neighbours each"
        remedy = "Use a smaller system, float32, or a machine with more memory."
        most = (failed_at or load.n_atoms) - 1
        if predicted <= 0.0:
            return OutOfMemoryError(f"{message}.", hint=f"At most {most} atoms of this density fit here. {remedy}")
        usable = max(USABLE_SHARE * self.memory.free_bytes(), 0.0)
        limit = min(int(load.n_atoms * min(usable / predicted, 1.0)), most)
        return OutOfMemoryError(
            f"{message}: that takes about {predicted / 1e9:.1f} GB.",
            hint=f"About {limit} atoms of this density fit here. {remedy}",
        )


def _fitted(samples: Sequence[tuple[Load, float]]) -> tuple[float, float]:
    """Bytes per atom and per slot, neither negative, that fall short of no sample of the larger ones."""
    sizes = np.array([[load.n_atoms, load.n_slots] for load, _ in samples], dtype=np.float64)
    measured = np.array([n_bytes for _, n_bytes in samples])
    rates, _ = nnls(sizes / measured[:, None], np.ones(len(samples)))  # relative errors count
    large = sizes[:, 1] >= 0.25 * sizes[:, 1].max()
    short = float((measured[large] / np.maximum(sizes[large] @ rates, 1e-300)).max())
    return float(rates[0] * max(short, 1.0)), float(rates[1] * max(short, 1.0))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out; the libraries below say so in many ways."""
    return isinstance(error, MemoryError | OutOfMemoryError) or any(f in str(error).lower() for f in FAILURES)


class HostMemory:
    """The memory of this machine, as far as this process may use it. Peaks are known on Linux only."""

    def __init__(self) -> None:
        self._at_rest = np.inf  # the least in use before a measured evaluation

    def free_bytes(self) -> float:
        return min(_free_in_machine(), _free_in_cgroup(), _free_in_address_space()) + kept_bytes()

    @contextmanager
    def measured(self) -> Iterator[Peak]:
        peak = Peak()
        try:
            Path("/proc/self/clear_refs").write_text("5")  # proc(5): the peak starts anew
            self._at_rest = min(self._at_rest, _proc_bytes("/proc/self/status", "VmRSS:"))
        except OSError:
            yield peak
            return
        yield peak
        with suppress(OSError):
            peak.n_bytes = _proc_bytes("/proc/self/status", "VmHWM:") - self._at_rest

    def release(self) -> None:
        give_memory_back()


class CudaMemory:
    """The memory of one GPU; what torch keeps for later counts as free."""

    def __init__(self, device: str) -> None:
        import torch

        self._cuda = torch.cuda
        self._device = torch.device(device)

    def free_bytes(self) -> float:
        free, _ = self._cuda.mem_get_info(self._device)
        return free + self._cuda.memory_reserved(self._device) - self._cuda.memory_allocated(self._device)

    @contextmanager
    def measured(self) -> Iterator[Peak]:
        peak = Peak()
        self._cuda.reset_peak_memory_stats(self._device)
        before = self._cuda.memory_allocated(self._device)
        yield peak
        peak.n_bytes = float(self._cuda.max_memory_allocated(self._device) - before)

    def release(self) -> None:
        self._cuda.empty_cache()


def _proc_bytes(path: str, name: str) -> float:
    """A figure in kB from a file of proc(5). Raises OSError where there is none."""
    for line in Path(path).read_text().splitlines():
        if line.startswith(name):
            return 1024.0 * float(line.split()[1])
    raise OSError(f"{path} has no {name}")


def _free_in_machine() -> float:
    try:
        return _proc_bytes("/proc/meminfo", "MemAvailable:")
    except OSError:
        return np.inf


def _free_in_cgroup() -> float:
    """What a container leaves (cgroup v2); files it keeps in memory can be dropped."""
    folder = Path("/sys/fs/cgroup")
    try:
        most, used = ((folder / name).read_text().strip() for name in ("memory.max", "memory.current"))
        if most == "max":
            return np.inf
        facts = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        return float(most) - float(used) + float(facts["inactive_file"])
    except (OSError, ValueError, KeyError):
        return np.inf


def _free_in_address_space() -> float:
    try:
        import resource

        most, _ = resource.getrlimit(resource.RLIMIT_AS)
        if most == resource.RLIM_INFINITY:
            return np.inf
        return most - _proc_bytes("/proc/self/status", "VmSize:")
    except (ImportError, OSError):
        return np.inf

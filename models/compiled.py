"""The compiled pass: energies, forces and virials traced into one graph, compiled for this machine, kept on disk.

Compiling takes a minute or so, once for each combination of weights, dtype, versions, processor and threads; the result
lies in the user's cache folder and other processes load it in a fraction of a second. What is loaded is compared with
the eager pass before it is used, so a wrong one is never trusted. Any number of atoms and neighbours fits without
compiling anew.
"""

from __future__ import annotations

import copy
import fcntl
import hashlib
import json
import logging
import os
import platform
import stat
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

from equipot.elements import COVALENT_RADII_ANG
from equipot.errors import EquipotError
from equipot.models.graph import AtomGraph, Layout
from equipot.models.neighbours import NeighbourSearch
from equipot.models.network import Network
from equipot.models.potential import PassTensors, eager_pass, graph_tensors
from equipot.models.unlocked import UnlockedRunner

CACHE_VARIABLE = "EQUIPOT_CACHE"
#: largest difference from the eager float64 pass, in units of max(1, largest value) for energies, forces and virials
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4}
#: sizes of the graph that is traced: no two the same, nor the same as a size of any network
EXAMPLE_ATOMS, EXAMPLE_SLOTS = 37, 23

#: whose source shapes the pass
PASS_MODULES = ("network", "radial", "spherical", "tensor_product", "potential", "compiled")

_log = logging.getLogger(__name__)


class CompilationWarning(UserWarning):
    """The potential could not be compiled, or computes something else when compiled; it runs eagerly instead."""


class CompiledPass:
    """`eager_pass` of one network as compiled code; safe to call from several threads."""

    def __init__(self, package: Path) -> None:
        n_runners = max(1, os.cpu_count() or 1)
        self._runner = UnlockedRunner(package, n_runners)

    def __call__(
        self,
        numbers: torch.Tensor,
        vectors_ang: torch.Tensor,
        neighbours: torch.Tensor,
        mask: torch.Tensor,
        reverse: torch.Tensor,
        *condition: torch.Tensor,
    ) -> PassTensors:
        """See `eager_pass`. A lone atom is computed beside another, far away: compiled sizes are two or more."""
        n_atoms, n_slots = neighbours.shape
        inputs = [numbers, vectors_ang, neighbours, mask, reverse, *condition]
        if n_atoms < 2 or n_slots < 2:
            inputs = _padded(inputs)
            energies, forces, virials, descriptors = self._runner.boxed_run(inputs)
            return energies[:n_atoms], forces[:n_atoms], virials[:n_atoms], descriptors[:n_atoms]
        energies, forces, virials, descriptors = self._runner.boxed_run(inputs)
        return energies, forces, virials, descriptors


def compiled_pass(network: Network, name: str, weights_sha256: str, dtype: torch.dtype) -> CompiledPass | None:
    """The compiled pass of a network on the CPU, from the cache or compiled now; None (and a warning) if none works."""
    try:
        package = _cache_folder() / f"{_key(network, weights_sha256, dtype)}.pt2"
        with _locked(package.with_suffix(".lock")):
            if not _is_whole(package):
                print(f"equipot: compiling {name} ({dtype}) for this machine, once ...", file=sys.stderr, flush=True)
                _compile(network, package, dtype)
            loaded = CompiledPass(package)
    except Exception as error:  # the compiler's stack raises nearly anything
        _log.info("compiling failed", exc_info=True)
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        _warn(f"{name} could not be compiled and runs eagerly: {reason}")
        return None
    deviation = largest_deviation(loaded, network)
    if not deviation <= TOLERANCE[dtype]:
        package.unlink(missing_ok=True)
        _warn(f"{name} differs by {deviation:.1e} from the eager float64 pass when compiled; it runs eagerly.")
        return None
    return loaded


def largest_deviation(compiled: Callable[..., PassTensors], network: Network) -> float:
    """How far the compiled pass is from the eager one in float64, on a cluster of the network's elements and on an
    atom alone; relative to the largest value of each quantity, but to no less than 1 (eV, eV/Å)."""
    weights = next(network.parameters())
    exact = copy.deepcopy(network).double()
    worst = 0.0
    for graph in (_cluster(network, 11), _cluster(network, 1)):
        got = compiled(*graph_tensors(graph, weights.dtype, weights.device, network.architecture))
        expected = eager_pass(exact, *graph_tensors(graph, torch.float64, weights.device, network.architecture))
        for a, b in zip(got, expected, strict=True):
            scale = max(1.0, float(b.abs().max()))
            worst = max(worst, float((a.double() - b).abs().max()) / scale)
    return worst


def _cluster(network: Network, n_atoms: int) -> AtomGraph:
    """Atoms of every element of the network in turn, about as far apart as bonds are long."""
    elements = network.architecture.elements
    numbers = np.array([elements[k % len(elements)] for k in range(n_atoms)])
    grid = np.stack(np.meshgrid(*[np.arange(3.0)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)[:n_atoms]
    spacing = 2.2 * COVALENT_RADII_ANG[list(elements)].mean()
    positions = grid * spacing + np.random.default_rng(0).normal(scale=0.1, size=grid.shape)
    return NeighbourSearch(network.architecture.cutoff_ang).graph(numbers, positions, None, (False, False, False))


def _padded(inputs: list[torch.Tensor]) -> list[torch.Tensor]:
    """The same with one atom and one slot more, both empty."""
    numbers, vectors, neighbours, mask, reverse, *condition = inputs
    n_atoms, n_slots = neighbours.shape
    pad = torch.nn.functional.pad
    slot = torch.arange((n_atoms + 1) * (n_slots + 1)).view(n_atoms + 1, n_slots + 1)
    atom, place = reverse.view(n_atoms, n_slots) // n_slots, reverse.view(n_atoms, n_slots) % n_slots
    slot[:n_atoms, :n_slots] = atom * (n_slots + 1) + place
    return [
        torch.cat([numbers, numbers[:1]]),
        pad(vectors, (0, 0, 0, 1, 0, 1)),
        pad(neighbours, (0, 1, 0, 1)),
        pad(mask, (0, 1, 0, 1)),
        slot.flatten(),
        *(torch.cat([rows, rows[:1]]) for rows in condition),
    ]


def _compile(network: Network, package: Path, dtype: torch.dtype) -> None:
    """Trace, compile and write the package and its digest beside it, each in one step."""
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.utils import fresh_cache
    from torch.fx.experimental.proxy_tensor import make_fx

    def traced(*tensors: torch.Tensor) -> PassTensors:
        return eager_pass(network, *tensors)

    get_cpp_compiler()  # raises at once if there is none
    example = _example(network, dtype)
    any_size = torch.export.Dim.DYNAMIC
    row, both = {0: any_size}, {0: any_size, 1: any_size}
    with tempfile.TemporaryDirectory(dir=package.parent) as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with fresh_cache(dir=folder):  # inductor's own cache lies where others may write, and is unpickled
            graph = make_fx(traced, tracing_mode="symbolic", _allow_non_fake_inputs=True)(*example)
            shapes = (row, both, both, both, row, row)[: len(example)]
            exported = torch.export.export(graph, example, dynamic_shapes=shapes, strict=False)
            made = Path(folder) / "made.pt2"
            torch._inductor.aoti_compile_and_package(exported, package_path=str(made))
        note = Path(folder) / "made.sha256"
        note.write_text(hashlib.sha256(made.read_bytes()).hexdigest())
        made.replace(package)
        note.replace(package.with_suffix(".sha256"))


def _example(network: Network, dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
    rng = np.random.default_rng(0)
    n_atoms, n_slots = EXAMPLE_ATOMS, EXAMPLE_SLOTS
    layout = Layout(
        numbers=rng.choice(network.architecture.elements, n_atoms),
        neighbours=rng.integers(n_atoms, size=(n_atoms, n_slots)),
        mask=rng.random((n_atoms, n_slots)) < 0.8,
        reverse=rng.permutation(n_atoms * n_slots),
        system_idx=np.zeros(n_atoms, dtype=np.int64),
    )
    graph = AtomGraph(layout, rng.normal(scale=2.0, size=(n_atoms, n_slots, 3)))
    return graph_tensors(graph, dtype, torch.device("cpu"), network.architecture)


def _key(network: Network, weights_sha256: str, dtype: torch.dtype) -> str:
    """Everything the compiled code depends on, as one digest; our own source stands for our version."""
    sources = hashlib.sha256()
    for module in PASS_MODULES:
        sources.update((Path(__file__).parent / f"{module}.py").read_bytes())
    facts = {
        "weights": weights_sha256,
        "architecture": network.architecture.as_dict(),
        "dtype": str(dtype),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "machine": platform.machine(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "processor": _processor(),
        "source": sources.hexdigest(),
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:40]


def _processor() -> list[str]:
    """Model and instruction set: the code is compiled for this very processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return [platform.processor()]
    return sorted({line for line in lines if line.startswith(("model name", "flags", "Features", "CPU part"))})


def _is_whole(package: Path) -> bool:
    """Whether the package is there and every byte of it is the one that was written: a damaged library would crash."""
    try:
        written = package.with_suffix(".sha256").read_text()
        return hashlib.sha256(package.read_bytes()).hexdigest() == written
    except (OSError, UnicodeDecodeError):
        return False


def _cache_folder() -> Path:
    """The folder of compiled passes: private to the user, because what lies in it is executed."""
    root = os.environ.get(CACHE_VARIABLE) or os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(root) / "equipot" / "compiled"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    about = folder.stat()
    if about.st_uid != os.getuid() or about.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise EquipotError(f"{folder} can be written by others; what is compiled is not kept there.")
    return folder


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Several processes that want the same code compile it once."""
    with path.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _warn(message: str) -> None:
    warnings.warn(message, CompilationWarning, stacklevel=4)

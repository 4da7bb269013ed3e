"""The compiled pass: energies, forces and virials traced into one graph, compiled for this machine, kept on disk.

Compiling takes a minute or so, once for each combination of weights, dtype, versions, processor and threads; the result
lies in the user's cache folder and other processes load it in a fraction of a second. What is loaded is compared with
the eager pass before it is used, so a wrong one is never trusted. Any number of atoms and neighbours fits without
compiling anew.
"""

from __future__ import annotations

import copy
import hashlib
import logging
import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from equipot.elements import COVALENT_RADII_ANG
from equipot.models.code_cache import cached_code
from equipot.models.graph import AtomGraph, Layout
from equipot.models.neighbours import NeighbourSearch
from equipot.models.network import Network
from equipot.models.potential import PassTensors, eager_pass, graph_tensors
from equipot.models.unlocked import UnlockedRunner

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
        self.runner = UnlockedRunner(package, n_runners)

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
        inputs[1] = components_first(inputs[1])
        energies, forces, virials, descriptors = self.runner.boxed_run(inputs)
        return energies[:n_atoms], forces[:n_atoms], virials[:n_atoms], descriptors[:n_atoms]


def compiled_pass(network: Network, name: str, weights_sha256: str, dtype: torch.dtype) -> CompiledPass | None:
    """The compiled pass of a network on the CPU, from the cache or compiled now; None (and a warning) if none works."""
    try:

        def make(folder: Path) -> Path:
            print(f"equipot: compiling {name} ({dtype}) for this machine, once ...", file=sys.stderr, flush=True)
            return _compile(network, folder, dtype)

        package = cached_code(_facts(network, weights_sha256, dtype), ".pt2", make)
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


def components_first(vectors_ang: torch.Tensor) -> torch.Tensor:
    """The same (n_atoms, n_slots, 3), but in memory all x before all y and z: loops over bonds are contiguous."""
    return vectors_ang.permute(2, 0, 1).contiguous().permute(1, 2, 0)


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


def _compile(network: Network, folder: Path, dtype: torch.dtype) -> Path:
    """Trace and compile; the package made in this folder."""
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.utils import fresh_cache
    from torch.fx.experimental.proxy_tensor import make_fx

    def traced(*tensors: torch.Tensor) -> PassTensors:
        return eager_pass(network, *tensors)

    get_cpp_compiler()  # raises at once if there is none
    example = _example(network, dtype)
    any_size = torch.export.Dim.DYNAMIC
    row, both = {0: any_size}, {0: any_size, 1: any_size}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with fresh_cache(dir=str(folder)):  # inductor's own cache lies where others may write, and is unpickled
            graph = make_fx(traced, tracing_mode="symbolic", _allow_non_fake_inputs=True)(*example)
            shapes = (row, both, both, both, row, row)[: len(example)]
            exported = torch.export.export(graph, example, dynamic_shapes=shapes, strict=False)
            made = folder / "made.pt2"
            torch._inductor.aoti_compile_and_package(exported, package_path=str(made))
    return made


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
    numbers, vectors, *others = graph_tensors(graph, dtype, torch.device("cpu"), network.architecture)
    return (numbers, components_first(vectors), *others)


def _facts(network: Network, weights_sha256: str, dtype: torch.dtype) -> dict[str, Any]:
    """What the compiled code depends on beside the machine; our own source stands for our version."""
    sources = hashlib.sha256()
    for module in PASS_MODULES:
        sources.update((Path(__file__).parent / f"{module}.py").read_bytes())
    return {
        "weights": weights_sha256,
        "architecture": network.architecture.as_dict(),
        "dtype": str(dtype),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "source": sources.hexdigest(),
    }


def _warn(message: str) -> None:
    warnings.warn(message, CompilationWarning, stacklevel=4)

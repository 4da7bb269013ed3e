"""Energy + forces of many systems in one pass (`Potential.evaluate_many`): time per atom against the size of the batch.

For GPUs, though it runs anywhere. The share of the peak is that of the matrix products alone, in floating-point
operations counted by torch, over what one large product of the same dtype reaches on this device.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch
from ase.build import bulk
from systems import show

from equipot import load_potential
from equipot.models.graph import AtomGraph, batch_graphs
from equipot.models.neighbours import NeighbourSearch
from equipot.models.potential import Potential


def silicon(potential: Potential, seed: int) -> AtomGraph:
    """A crystal of 64 atoms, each at another place in each copy."""
    atoms = bulk("Si", cubic=True).repeat(2)
    atoms.rattle(0.02, seed=seed)
    return NeighbourSearch(potential.cutoff_ang).graph(atoms.numbers, atoms.positions, np.array(atoms.cell), atoms.pbc)


def finish(device: torch.device) -> float:
    """The time at which everything given to the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def peak_flops(device: torch.device, dtype: torch.dtype) -> float:
    """Operations per second of one large matrix product, the best of five."""
    n = 8192 if device.type == "cuda" else 1024
    a, b = torch.randn(n, n, device=device, dtype=dtype), torch.randn(n, n, device=device, dtype=dtype)
    times_s = []
    for _ in range(6):
        before = finish(device)
        a @ b
        times_s.append(finish(device) - before)
    return 2.0 * n**3 / min(times_s[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="elements")
    parser.add_argument("--device", default=None, help="cpu or cuda (cuda if there is one)")
    parser.add_argument("--dtype", choices=["float64", "float32"], default="float32")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 4, 16, 64, 256], help="systems of 64 atoms")
    given = parser.parse_args()
    potential = load_potential(given.model, device=given.device, dtype=given.dtype)
    device = potential.torch_device
    peak = peak_flops(device, potential.torch_dtype)
    rows = []
    for n_systems in given.batches:
        graph = batch_graphs([silicon(potential, seed) for seed in range(n_systems)])
        with torch.profiler.profile(with_flops=True) as counter:
            potential.evaluate_many(graph)
        n_operations = sum(event.flops for event in counter.key_averages())
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        times_s = []
        for _ in range(5):
            before = finish(device)
            potential.evaluate_many(graph)
            times_s.append(finish(device) - before)
        memory = f"{torch.cuda.max_memory_allocated(device) / graph.n_edges:.0f}" if device.type == "cuda" else ""
        share = n_operations / min(times_s) / peak
        rows.append([str(n_systems), f"{1e6 * min(times_s) / graph.n_atoms:.2f}", memory, f"{100 * share:.0f} %"])
    title = f"{given.model}, {given.dtype}, {device}, {peak / 1e9:.0f} GFLOP/s at most"
    show(title, ["systems of 64 atoms", "µs per atom", "bytes per edge", "share of peak"], rows)


if __name__ == "__main__":
    main()

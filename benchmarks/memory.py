"""Time and memory per atom of energy + forces as crystals of silicon grow: neither should depend on the size."""

from __future__ import annotations

import argparse
import resource
import time

import numpy as np
import torch
from ase.build import bulk
from systems import show

from equipot import EquipotCalculator


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="elements")
    parser.add_argument("--dtype", choices=["float64", "float32"], default="float64")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--repeats", type=int, nargs="+", default=[2, 4, 8, 11], help="cells of 8 atoms along each axis"
    )
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    calculator = EquipotCalculator(given.model, device="cpu", dtype=given.dtype, compile=given.compile)
    start_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    rows = []
    for repeats in given.repeats:
        atoms = bulk("Si", cubic=True).repeat(repeats)
        atoms.calc = calculator
        rng, times_us = np.random.default_rng(0), []
        for _ in range(4):
            atoms.positions += rng.normal(scale=0.01, size=atoms.positions.shape)
            before = time.process_time()
            atoms.get_forces()
            times_us.append(1e6 * (time.process_time() - before) / len(atoms))
        peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        per_atom = 1024 * (peak_mib - start_mib) / len(atoms)
        rows.append([str(len(atoms)), f"{min(times_us[1:]):.0f}", f"{peak_mib:.0f}", f"{per_atom:.0f}"])
    columns = ["atoms", "µs of processor time per atom", "peak of the process, MiB", "KiB per atom"]
    show(f"{given.model}, {given.dtype}, {calculator.potential.execution}, {given.threads} thread(s)", columns, rows)


if __name__ == "__main__":
    main()

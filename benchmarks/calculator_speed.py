"""Milliseconds of one energy + forces call of EquipotCalculator."""

from __future__ import annotations

import argparse
import statistics
import time

import numpy as np
import torch
from ase import Atoms
from systems import show, systems_for

from equipot import EquipotCalculator, load_potential

DISPLACEMENT_ANG = 0.01  # about one step of molecular dynamics; far below the skin
N_WARM_UP = 5


def call_times_ms(atoms: Atoms, calculator: EquipotCalculator, seconds: float) -> list[float]:
    """The time of every call made within `seconds`, each on slightly different positions."""
    rng = np.random.default_rng(0)
    atoms = atoms.copy()
    atoms.calc = calculator
    home = atoms.get_positions()
    times_ms: list[float] = []
    n_calls = 0
    started = time.perf_counter()
    while time.perf_counter() - started < seconds or not times_ms:
        atoms.set_positions(home + rng.normal(scale=DISPLACEMENT_ANG, size=home.shape))
        before = time.perf_counter()
        atoms.get_potential_energy()
        atoms.get_forces()
        n_calls += 1
        if n_calls > N_WARM_UP:
            times_ms.append(1000 * (time.perf_counter() - before))
    return times_ms


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", action="append", help="model name, may be repeated (organic and elements)")
    parser.add_argument("--dtype", choices=["float64", "float32"], action="append", help="may be repeated (both)")
    parser.add_argument("--device", default=None, help="cpu or cuda (cuda if there is one)")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch (1)")
    parser.add_argument("--seconds", type=float, default=5.0, help="how long each system is timed (5)")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    rows = []
    for model in given.model or ["organic", "elements"]:
        for name, atoms in systems_for(load_potential(model).elements).items():
            for dtype in given.dtype or ["float64", "float32"]:
                calculator = EquipotCalculator(model, device=given.device, dtype=dtype)
                times_ms = call_times_ms(atoms, calculator, given.seconds)
                ninth = statistics.quantiles(times_ms, n=10)[-1] if len(times_ms) > 1 else times_ms[0]
                median = statistics.median(times_ms)
                rows.append([model, name, dtype, f"{median:.2f}", f"{ninth:.2f}", str(len(times_ms))])
    columns = ["model", "system", "dtype", "median ms", "90 % below", "calls"]
    show(f"energy + forces, {given.threads} thread(s)", columns, rows)


if __name__ == "__main__":
    main()

"""One contestant of speed.py in a process of its own: it makes a calculator and times calls when it is told to.

    python speed_contestant.py NAME     NAME: FAMILY[:OPTION...], see FAMILIES

It reads one JSON object per line, {"system": {numbers, positions, cell, pbc}, "seconds": s}, and answers with one:
milliseconds per call, of processor time and by the clock (energy and forces, atoms moved a little before each), and its
peak of memory.
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from ase import Atoms

DISPLACEMENT_ANG = 0.01  # about one step of molecular dynamics
ORGANIC_ELEMENTS = [1, 6, 7, 8, 9, 15, 16, 17, 35, 53]


def equipot(model: str, dtype: str, execution: str) -> Any:
    """A potential of ours: NAME:float32|float64:eager|compiled."""
    from equipot import EquipotCalculator

    return EquipotCalculator(model, device="cpu", dtype=dtype, compile=execution == "compiled")


def mace(size: str, dtype: str, cutoff_ang: str) -> Any:
    """MACE with random weights in a published architecture: off-small (MACE-OFF23, 96x0e) or acac (MACE's own
    for AcAc: 256x0e+256x1o+256x2e); float32|float64:cutoff. Silicon is given to it for the timing."""
    torch.serialization.add_safe_globals([slice])  # in the constants of e3nn 0.4.4
    from e3nn import o3
    from mace.calculators import MACECalculator
    from mace.modules import ScaleShiftMACE, interaction_classes

    torch.set_default_dtype(getattr(torch, dtype))
    torch.manual_seed(0)
    numbers = sorted({*(ORGANIC_ELEMENTS if size == "off-small" else [1, 6, 8]), 14})
    block = interaction_classes["RealAgnosticResidualInteractionBlock"]
    model = ScaleShiftMACE(
        r_max=float(cutoff_ang),
        num_bessel=8,
        num_polynomial_cutoff=5,
        max_ell=3,
        interaction_cls=block,
        interaction_cls_first=interaction_classes["RealAgnosticInteractionBlock"],
        num_interactions=2,
        num_elements=len(numbers),
        hidden_irreps=o3.Irreps("96x0e" if size == "off-small" else "256x0e + 256x1o + 256x2e"),
        MLP_irreps=o3.Irreps("16x0e"),
        atomic_energies=np.zeros(len(numbers)),
        avg_num_neighbors=15.0,
        atomic_numbers=numbers,
        correlation=3,
        gate=torch.nn.functional.silu,
        radial_MLP=[64, 64, 64],
        atomic_inter_scale=1.0,
        atomic_inter_shift=0.0,
    )
    return MACECalculator(models=[model], device="cpu", default_dtype=dtype)


def nequip(package: str) -> Any:
    """A NequIP model compiled by `nequip-compile --mode aotinductor`; the path of the .nequip.pt2 file."""
    from nequip.ase import NequIPCalculator  # type: ignore[import-not-found]

    return NequIPCalculator.from_compiled_model(package, device="cpu")


FAMILIES: dict[str, Callable[..., Any]] = {"equipot": equipot, "mace": mace, "nequip": nequip}


def call_times_ms(atoms: Atoms, seconds: float) -> tuple[list[float], list[float]]:
    """Processor time, and time by the clock, of every call made within `seconds`, at least three; not of the first."""
    rng = np.random.default_rng(0)
    home = atoms.get_positions()
    processor_ms: list[float] = []
    clock_ms: list[float] = []
    while sum(clock_ms) < 1000 * seconds or len(clock_ms) < 4:
        atoms.set_positions(home + rng.normal(scale=DISPLACEMENT_ANG, size=home.shape))
        before, clock_before = time.process_time(), time.perf_counter()
        atoms.get_forces()
        atoms.get_potential_energy()
        processor_ms.append(1000 * (time.process_time() - before))
        clock_ms.append(1000 * (time.perf_counter() - clock_before))
    return processor_ms[1:], clock_ms[1:]


def main() -> None:
    warnings.simplefilter("ignore")
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    answers = os.fdopen(os.dup(1), "w")  # what the packages print goes elsewhere
    os.dup2(2, 1)
    family, *options = sys.argv[1].split(":")
    calculator = FAMILIES[family](*options)
    print(json.dumps({"ready": sys.argv[1]}), file=answers, flush=True)
    for line in sys.stdin:
        task = json.loads(line)
        atoms = Atoms(**task["system"], calculator=calculator)
        processor_ms, clock_ms = call_times_ms(atoms, task["seconds"])
        peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        answer = {"ms": statistics.median(processor_ms), "clock_ms": statistics.median(clock_ms), "peak_mib": peak_mib}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()

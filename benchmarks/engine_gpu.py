"""The engine on one device, in a minute: relaxations together and one by one, what sharing a pass changes, and the time
per atom and step against the size of a batch. Prints one JSON object, and writes it with `--out`.

1,000 molecules of 10 to 40 atoms are relaxed together; of those ASE relaxes, on the same device with the same
potential, as many as fit into `--ase-seconds`, and its time is scaled to all by the steps they take. Needs nothing but
what `equipot.relax` needs, so it also runs from a plain source tree (PYTHONPATH=src).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.optimize import FIRE
from systems import molecules

from equipot import EquipotCalculator, load_potential
from equipot.calculator.convert import from_atoms
from equipot.models.potential import Potential
from equipot.params import MDParams, RelaxParams
from equipot.simulation.native import NativeProvider
from equipot.simulation.providers import System
from equipot.simulation.run import Run

FMAX_EV_PER_ANG = 0.05
MAX_STEPS = 200


def finish(potential: Potential) -> float:
    """The time at which everything given to the device is done."""
    if potential.torch_device.type == "cuda":
        torch.cuda.synchronize(potential.torch_device)
    return time.perf_counter()


def together(systems: list[Atoms], provider: NativeProvider, potential: Potential) -> dict[str, Any]:
    """Relax all at once, with the files of a run; where the time went."""
    params = RelaxParams(optimizer="fire", fmax_ev_per_ang=FMAX_EV_PER_ANG, max_steps=MAX_STEPS, save_every=MAX_STEPS)
    in_forces = 0.0
    evaluate = provider.evaluate

    def timed(views: Any) -> Any:
        nonlocal in_forces
        before = time.perf_counter()
        found = evaluate(views)
        in_forces += time.perf_counter() - before
        return found

    provider.evaluate = timed  # type: ignore[method-assign]
    with TemporaryDirectory() as folder:
        before = finish(potential)
        structures = [from_atoms(atoms) for atoms in systems]
        run = Run.start(Path(folder) / "run", kind="relax", structures=structures, params=params, provider=provider)
        with run:
            while run.advance(seconds=1.0):
                pass
            results = run.results
        seconds = finish(potential) - before
    provider.evaluate = evaluate  # type: ignore[method-assign]
    outcomes = [str(result["outcome"]) for result in results]
    return {
        "seconds": seconds,
        "seconds_in_forces": in_forces,
        "n_steps": sum(result["n_steps"] for result in results),
        "steps": [result["n_steps"] for result in results],
        "energies_ev": [result["energy_ev"] for result in results],
        "outcomes": {outcome: outcomes.count(outcome) for outcome in sorted(set(outcomes))},
    }


def one_by_one(systems: list[Atoms], potential: Potential, seconds: float) -> dict[str, Any]:
    """Relax with ASE, one after the other, until the time is used up."""
    begun = before = finish(potential)
    steps, energies = [], []
    for given in systems:
        atoms = given.copy()
        atoms.calc = EquipotCalculator(potential)
        walk = FIRE(atoms, logfile=None)
        walk.run(fmax=FMAX_EV_PER_ANG, steps=MAX_STEPS)
        steps.append(walk.nsteps)
        energies.append(float(atoms.get_potential_energy()))
        before = finish(potential)
        if before - begun > seconds:
            break
    return {"seconds": before - begun, "steps": steps, "energies_ev": energies}


def race(n: int, potential: Potential, ase_seconds: float) -> dict[str, Any]:
    """The time of all together beside that of one by one, scaled by the steps all take."""
    systems = molecules(n, potential.elements)
    together(systems[: max(2, n // 20)], NativeProvider(potential, shared=True), potential)  # what is made once
    one_by_one(systems[:1], potential, 0.0)
    ours = together(systems, NativeProvider(potential, shared=True), potential)
    # spread over all, so that the few stand for the many
    order = [int(i) for i in np.random.default_rng(0).permutation(n)]
    ase = one_by_one([systems[i] for i in order], potential, ase_seconds)
    done = order[: len(ase["steps"])]
    per_evaluation = ase["seconds"] / sum(steps + 1 for steps in ase["steps"])
    scaled = per_evaluation * (ours["n_steps"] + n)
    same = [ours["steps"][i] == steps for i, steps in zip(done, ase["steps"], strict=True)]
    apart = [abs(ours["energies_ev"][i] - e) for i, e in zip(done, ase["energies_ev"], strict=True)]
    n_atoms = float(np.mean([len(atoms) for atoms in systems]))
    return {
        "n_systems": n,
        "mean_atoms": n_atoms,
        "dtype": potential.dtype,
        "optimizer": "fire",
        "fmax_ev_per_ang": FMAX_EV_PER_ANG,
        "together_s": ours["seconds"],
        "together_s_in_forces": ours["seconds_in_forces"],
        "together_steps": ours["n_steps"],
        "together_outcomes": ours["outcomes"],
        "together_us_per_atom_and_step": 1e6 * ours["seconds"] / ((ours["n_steps"] + n) * n_atoms),
        "ase_systems_timed": len(done),
        "ase_s_timed": ase["seconds"],
        "ase_ms_per_step": 1e3 * per_evaluation,
        "ase_s_scaled_to_all_by_steps": scaled,
        "times_faster": scaled / ours["seconds"],
        "ase_same_number_of_steps": f"{sum(same)} of {len(same)}",
        "ase_largest_energy_difference_ev": max(apart),
    }


def differences(n: int, potential: Potential) -> dict[str, Any]:
    """The largest change of a force by sharing the pass with n - 1 others."""
    views = [System.of(from_atoms(atoms), key) for key, atoms in enumerate(molecules(n, potential.elements))]
    shared = NativeProvider(potential, shared=True).evaluate(views)
    alone = NativeProvider(potential, shared=False).evaluate(views)
    pairs = list(zip(shared, alone, strict=True))
    forces = [float(np.abs(a.forces_ev_per_ang - b.forces_ev_per_ang).max()) for a, b in pairs]
    energies = [abs(a.energy_ev - b.energy_ev) for a, b in pairs]
    largest = max(float(np.abs(b.forces_ev_per_ang).max()) for _, b in pairs)
    return {
        "dtype": potential.dtype,
        "n_systems": n,
        "largest_force_ev_per_ang": largest,
        "largest_difference_of_a_force_ev_per_ang": max(forces),
        "largest_difference_of_an_energy_ev": max(energies),
    }


def against_batch(sizes: list[int], potential: Potential, seconds_each: float) -> list[dict[str, Any]]:
    """NVE of a batch of molecules: time per atom and step of the run, and of the forces in it."""
    rows = []
    for size in sizes:
        systems = molecules(size, potential.elements)
        n_atoms = sum(len(atoms) for atoms in systems)
        params = MDParams(ensemble="nve", n_steps=10_000, timestep_fs=0.5, temperature_k=300.0, seed=1)
        params = params.model_copy(update={"save_every": 10_000})
        provider = NativeProvider(potential, shared=True)
        with TemporaryDirectory() as folder:
            structures = [from_atoms(atoms) for atoms in systems]
            run = Run.start(Path(folder) / "run", kind="md", structures=structures, params=params, provider=provider)
            with run:
                run.advance(steps=4)
                before, first = finish(potential), run.progress.step
                run.advance(seconds=seconds_each)
                seconds, steps = finish(potential) - before, run.progress.step - first
                views = [System.of(structure, key) for key, structure in enumerate(structures)]
                provider.evaluate(views)
                before = finish(potential)
                for _ in range(3):
                    provider.evaluate(views)
                forces = (finish(potential) - before) / 3
        rows.append(
            {
                "n_systems": size,
                "n_atoms": n_atoms,
                "dtype": potential.dtype,
                "steps_timed": steps,
                "us_per_atom_and_step": 1e6 * seconds / max(steps, 1) / n_atoms,
                "us_per_atom_in_forces": 1e6 * forces / n_atoms,
            }
        )
    return rows


def surroundings(device: torch.device) -> dict[str, Any]:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    return {
        "device": name,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="organic", help="model name (organic)")
    parser.add_argument("--device", default="cuda", help="cuda or cpu (cuda)")
    parser.add_argument("--n", type=int, default=1000, help="relaxations (1000)")
    parser.add_argument("--dtypes", nargs="+", default=["float32", "float64"], help="of the relaxations (both)")
    parser.add_argument("--ase-seconds", type=float, default=4.0, help="for ASE, for each dtype (4)")
    parser.add_argument(
        "--sizes", type=int, nargs="+", default=[1, 8, 64, 256, 1024], help="of the batches in dynamics"
    )
    parser.add_argument("--out", type=Path, default=None, help="a file for the JSON object")
    given = parser.parse_args()
    begun = time.perf_counter()
    report: dict[str, Any] = {"model": given.model}
    for dtype in given.dtypes:
        potential = load_potential(given.model, device=given.device, dtype=dtype)
        report.setdefault("surroundings", surroundings(potential.torch_device))
        steps = {
            "relaxations": lambda p=potential: race(given.n, p, given.ase_seconds),
            "sharing_a_pass": lambda p=potential: differences(min(given.n, 100), p),
            "batch_sizes": lambda p=potential: against_batch(given.sizes, p, 0.5),
        }
        for name, measure in steps.items():
            try:
                report.setdefault(name, {})[dtype] = measure()
            except Exception as error:  # one that fails must not take the others along
                report.setdefault("errors", {})[f"{name} {dtype}"] = f"{type(error).__name__}: {error}"
            report["seconds_in_all"] = time.perf_counter() - begun
            if given.out is not None:
                given.out.write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()

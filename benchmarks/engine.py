"""The engine beside ASE: its overhead per step, batches of relaxations, and a batch of one; everything in one run.

Each round relaxes the same molecules in every way, one way after the other, in an order that changes from round to
round; ratios are medians over rounds. On a machine that does other things too, only processor times can be compared.
ASE in several processes, each with its share of the molecules, shows what the processor cores give at most. Where there
is a GPU, it is timed as well. `--torch-sim PYTHON` adds TorchSim, run by a Python that has it (0.3.0 is the last for
Python 3.11).
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import subprocess
import tempfile
import time
import warnings
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.build import bulk
from ase.io import read
from ase.optimize import FIRE, LBFGS
from systems import HERE, molecules, show

from equipot import EquipotCalculator, load_potential, relax
from equipot.calculator.base import OutsideTrainingDomainWarning
from equipot.calculator.convert import from_atoms
from equipot.models.potential import Potential
from equipot.params import MDParams
from equipot.simulation.providers import Evaluation, System
from equipot.simulation.run import Run

FMAX_EV_PER_ANG = 0.05
MAX_STEPS = 200
ASE_OPTIMIZER = {"fire": FIRE, "lbfgs": LBFGS}


@dataclass
class Free:
    """Forces that cost nothing."""

    identity: Any = None

    def __post_init__(self) -> None:
        facts = dict.fromkeys(("sha256", "level_of_theory", "elements", "dtype", "device"))
        self.identity = {"model": "free", **facts, "pins": {}}

    def evaluate(self, systems: Sequence[System]) -> list[Evaluation]:
        return [Evaluation(0.0, np.zeros_like(s.positions_ang), domain_distance=0.0) for s in systems]

    def forget(self, key: Hashable) -> None:
        """Nothing is kept."""


@dataclass(frozen=True)
class Cost:
    """What relaxations took: seconds, processor seconds, and steps of all systems."""

    seconds: float
    processor: float
    n_steps: int


def overhead_ms(atoms: Atoms, ensemble: str, n_steps: int = 1000, repeats: int = 5) -> float:
    """Processor time of one step of a dynamics beyond its forces, with its files, ms; the best of some repeats."""
    best = np.inf
    for _ in range(repeats):
        with tempfile.TemporaryDirectory() as folder:
            params = MDParams(ensemble=ensemble, n_steps=n_steps, temperature_k=300.0, timestep_fs=0.5, seed=0)
            provider, structures = Free(), [from_atoms(atoms)]
            with Run.start(
                Path(folder) / "run", kind="md", structures=structures, params=params, provider=provider
            ) as run:
                run.advance(steps=20)
                before = time.process_time()
                run.advance(steps=n_steps - 50)
                best = min(best, 1000.0 * (time.process_time() - before) / (n_steps - 50))
    return best


def show_overhead(potential: Potential) -> None:
    silicon = bulk("Si", cubic=True).repeat(4)[:500]
    rows = []
    for name, atoms in (("aspirin (21 atoms)", read(HERE / "aspirin.xyz")), ("500 atoms", silicon)):
        call_ms = "-"
        if set(atoms.symbols) <= set(potential.elements):
            call_ms = f"{1000.0 * force_call_s(atoms, potential):.2f}"
        for ensemble in ("nve", "nvt"):
            rows.append([name, ensemble, f"{overhead_ms(atoms, ensemble):.3f}", call_ms])
    show(
        f"processor time of an MD step ({potential.name}, {potential.execution})",
        ["system", "ensemble", "beyond the forces, ms", "the forces, ms"],
        rows,
    )


def force_call_s(atoms: Atoms, potential: Potential) -> float:
    """Processor time of one energy and forces, s."""
    atoms = atoms.copy()
    atoms.calc = EquipotCalculator(potential)
    times = []
    for step in range(12):
        atoms.positions[0, 0] += 1e-3 * (-1) ** step
        before = time.process_time()
        atoms.get_forces()
        times.append(time.process_time() - before)
    return statistics.median(times[4:])


def by_ase(systems: Sequence[Atoms], potential: Potential, optimizer: str) -> int:
    """Relax one by one with ASE; gives the steps taken."""
    n_steps = 0
    for given in systems:
        atoms = given.copy()
        atoms.calc = EquipotCalculator(potential)
        walk = ASE_OPTIMIZER[optimizer](atoms, logfile=None)
        walk.run(fmax=FMAX_EV_PER_ANG, steps=MAX_STEPS)
        n_steps += walk.nsteps
    return n_steps


def by_us(systems: Sequence[Atoms], potential: Potential, optimizer: str, n_threads: int | None = None) -> int:
    """Relax together; gives the steps taken."""
    results = relax(
        list(systems),
        potential,
        n_threads=n_threads,
        optimizer=optimizer,
        fmax_ev_per_ang=FMAX_EV_PER_ANG,
        max_steps=MAX_STEPS,
        save_every=MAX_STEPS,
    )
    return sum(result.n_steps for result in results)


class AseProcesses:
    """Relax with ASE in processes that have nothing in common, each its share of the systems one by one."""

    def __init__(self, n: int, model: str, optimizer: str, compile: bool) -> None:
        self._n, self._optimizer = n, optimizer
        context = multiprocessing.get_context("spawn")
        self._pool = ProcessPoolExecutor(n, context, initializer=_load_in_process, initargs=(model, compile))

    def __call__(self, systems: Sequence[Atoms]) -> Cost:
        before = time.perf_counter()
        shares = [list(systems[place :: self._n]) for place in range(self._n)]
        costs = list(self._pool.map(_relax_in_process, shares, [self._optimizer] * self._n))
        seconds = time.perf_counter() - before
        return Cost(seconds, sum(cost.processor for cost in costs), sum(cost.n_steps for cost in costs))


_loaded: list[Potential] = []  # in such a process


def _load_in_process(model: str, compile: bool) -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", OutsideTrainingDomainWarning)
    _loaded.append(load_potential(model, device="cpu", compile=compile))


def _relax_in_process(systems: Sequence[Atoms], optimizer: str) -> Cost:
    before, processor_before = time.perf_counter(), time.process_time()
    n_steps = by_ase(systems, _loaded[0], optimizer)
    return Cost(time.perf_counter() - before, time.process_time() - processor_before, n_steps)


def by_torch_sim(systems: Sequence[Atoms], python: str, model: str, execution: str) -> Cost:
    """Relax together with TorchSim in another process; gives what it took there."""
    with tempfile.TemporaryDirectory() as folder:
        from ase.io import write

        write(f"{folder}/systems.extxyz", list(systems))
        task = {"model": model, "compile": execution == "compiled", "fmax": FMAX_EV_PER_ANG, "max_steps": MAX_STEPS}
        command = [python, str(HERE / "torch_sim_relax.py"), f"{folder}/systems.extxyz", json.dumps(task)]
        answer = subprocess.run(command, capture_output=True, text=True, check=True, env=dict(os.environ))
    return Cost(**json.loads(answer.stdout.splitlines()[-1]))


Way = Callable[[Sequence[Atoms]], "int | Cost"]


def race(ways: dict[str, Way], rounds: Sequence[Sequence[Atoms]]) -> dict[str, list[Cost]]:
    """What every way took in every round."""
    taken: dict[str, list[Cost]] = {name: [] for name in ways}
    for number, systems in enumerate(rounds):
        names = list(ways)
        for name in names[number % len(names) :] + names[: number % len(names)]:
            before, processor_before = time.perf_counter(), time.process_time()
            outcome = ways[name](systems)
            seconds, processor = time.perf_counter() - before, time.process_time() - processor_before
            taken[name].append(outcome if isinstance(outcome, Cost) else Cost(seconds, processor, outcome))
    return taken


def show_race(title: str, taken: dict[str, list[Cost]], rounds: Sequence[Sequence[Atoms]]) -> None:
    """Times of the median round, and how many times as much as ours: median, and extremes."""
    (ours, *_) = taken
    n_atoms = statistics.mean(len(atoms) for systems in rounds for atoms in systems)
    rows = []
    for name, costs in taken.items():
        ratios = sorted(cost.seconds / own.seconds for cost, own in zip(costs, taken[ours], strict=True))
        processor = [cost.processor / own.processor for cost, own in zip(costs, taken[ours], strict=True)]
        per_step = [1e6 * cost.processor / max(cost.n_steps, 1) / n_atoms for cost in costs]
        rows.append(
            [
                name,
                f"{statistics.median(cost.seconds for cost in costs):.2f}",
                f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})",
                f"{statistics.median(cost.processor for cost in costs):.2f}",
                f"{statistics.median(processor):.2f}",
                f"{statistics.median(per_step):.0f}",
            ]
        )
    columns = ["way", "s", "times ours (range)", "processor s", "times ours", "processor µs/atom/step"]
    show(f"{title}; load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores", columns, rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="organic", help="model name (organic)")
    parser.add_argument("--n", type=int, default=1000, help="relaxations in all (1000)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds they are dealt to (5)")
    parser.add_argument("--optimizer", choices=sorted(ASE_OPTIMIZER), default="fire", help="of ours and of ASE (fire)")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of ours; ASE has one (all cores)")
    parser.add_argument("--without-user", action="store_true", help="leave out ASE as a user writes it, which is slow")
    parser.add_argument("--no-compile", action="store_true", help="the eager potential for all")
    parser.add_argument("--torch-sim", default=None, metavar="PYTHON", help="a Python with torch-sim-atomistic")
    given = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", OutsideTrainingDomainWarning)
    user = load_potential(given.model, device="cpu")
    fast = user if given.no_compile else load_potential(given.model, device="cpu", compile=True)
    show_overhead(fast)

    systems = molecules(given.n, user.elements)
    rounds = [systems[number :: given.rounds] for number in range(given.rounds)]
    optimizer = given.optimizer
    ways: dict[str, Way] = {
        f"equipot, {given.threads} threads": lambda s: by_us(s, fast, optimizer, given.threads),
        "equipot, 1 thread": lambda s: by_us(s, fast, optimizer, 1),
        "ASE one by one, same potential": lambda s: by_ase(s, fast, optimizer),
        "ASE one by one, as a user writes it": lambda s: by_ase(s, user, optimizer),
    }
    if given.without_user:
        ways.pop("ASE one by one, as a user writes it")
    if given.threads > 1:
        processes = AseProcesses(given.threads, given.model, optimizer, not given.no_compile)
        ways[f"ASE in {given.threads} processes, same potential"] = processes
    if given.torch_sim:
        ways["TorchSim, same potential"] = lambda s: by_torch_sim(s, given.torch_sim, given.model, fast.execution)
    if torch.cuda.is_available():
        gpu = load_potential(given.model, device="cuda")
        ways["equipot on the GPU"] = lambda s: by_us(s, gpu, optimizer)
        ways["ASE one by one on the GPU"] = lambda s: by_ase(s, gpu, optimizer)
    for way in ways.values():
        way(systems[:2])  # what is made once
    title = f"{given.n} relaxations ({optimizer}, {given.model}, {fast.execution}) in {given.rounds} rounds"
    show_race(title, race(ways, rounds), rounds)

    alone = [[atoms] for atoms in systems[: 4 * given.rounds]]
    pair: dict[str, Way] = {
        "equipot, batch of one": lambda s: by_us(s, fast, optimizer, given.threads),
        "ASE, same potential": lambda s: by_ase(s, fast, optimizer),
    }
    show_race(f"one molecule at a time ({optimizer}, {fast.execution})", race(pair, alone), alone)


if __name__ == "__main__":
    main()

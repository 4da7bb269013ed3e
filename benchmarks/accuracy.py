"""Errors of the potentials in benchmarks/weights on the test sets of the papers, beside what the papers have.

Every test frame goes through EquipotCalculator in float64. Missing weights and data are named at the end. "No copies"
leaves out the test cells of mlearn that are training cells turned or mirrored (sym_dup_in_train).
"""

from __future__ import annotations

import argparse
import json
import statistics
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from ase import Atoms
from ase.io import read
from systems import show

from equipot import EquipotCalculator

HERE = Path(__file__).parent
MEV = 1000.0
MLEARN = ("Li", "Mo", "Si", "Ge", "Cu", "Ni")


@dataclass(frozen=True)
class Task:
    """One test set for one or several potentials: which errors count, and what the best published ones are."""

    title: str
    weights: tuple[str, ...]
    test: str
    measure: str  # rmse or mae
    per_atom: bool
    published: str
    leaves_out_duplicates: bool = False


@dataclass(frozen=True)
class Errors:
    """Energy in meV or meV/atom, force in meV/Å."""

    energy: float
    force: float
    n_frames: int


def _acac(temperature_k: int, published: str) -> Task:
    names = tuple(f"acac-seed{seed}" for seed in range(3))
    return Task(f"AcAc {temperature_k} K", names, f"acac/test_MD_{temperature_k}K.extxyz.xz", "rmse", False, published)


def _rmd17(molecule: str, published: str) -> Task:
    return Task(
        f"rMD17 {molecule}", (f"rmd17-{molecule}",), f"rmd17/{molecule}/test.extxyz.xz", "mae", False, published
    )


#: energies meV/atom, forces meV/Å, as repeated by ACEpotentials (zuobench); the papers' digits are coarse
BEST_MLEARN = {"Li": "0.49/10", "Mo": "2.24/90", "Si": "2.21/60", "Ge": "1.79/50", "Cu": "0.41/10", "Ni": "0.42/10"}


def tasks() -> list[Task]:
    """All rows of the table."""
    rows = [
        _acac(300, "MACE 0.9/5.1, NequIP 0.81/5.9"),
        _acac(600, "MACE 4.6/22.4, NequIP 6.0/27.8"),
        _rmd17("ethanol", "MACE 0.4/2.1, NequIP 0.4/2.8"),
        _rmd17("aspirin", "MACE 2.2/6.6, NequIP 2.3/8.2"),
    ]
    for element in MLEARN:
        for measure in ("mae", "rmse"):
            for without in (False, True):
                published = f"best of GAP, MTP {BEST_MLEARN[element]}"
                test = f"mlearn_{element}/test.extxyz.xz"
                rows.append(Task(f"mlearn {element}", (f"mlearn-{element}",), test, measure, True, published, without))
    return rows


def errors_of(card: Path, frames: list[Atoms], measure: str, per_atom: bool) -> Errors:
    """Errors of the potential behind a card on labelled frames."""
    calculator = EquipotCalculator(str(card), dtype="float64")
    energies, forces = [], []
    for frame in frames:
        atoms = frame.copy()
        atoms.calc = calculator
        difference = atoms.get_potential_energy() - frame.get_potential_energy()
        energies.append(MEV * difference / (len(frame) if per_atom else 1))
        forces.append(MEV * (atoms.get_forces() - frame.get_forces()).ravel())
    return Errors(_mean(np.array(energies), measure), _mean(np.concatenate(forces), measure), len(frames))


def _mean(residuals: np.ndarray, measure: str) -> float:
    return float(np.abs(residuals).mean() if measure == "mae" else np.sqrt((residuals**2).mean()))


def row_of(task: Task, data: Path, weights: Path, missing: set[str]) -> tuple[list[str], dict[str, object]] | None:
    """A row of the table and the numbers in it, None without weights or data; what is not there goes to `missing`."""
    test = data / task.test
    cards = [weights / f"{name}.json" for name in task.weights]
    missing |= {str(path) for path in (test, *cards) if not path.exists()}
    found = [card for card in cards if card.exists()]
    what = f"{task.measure.upper()} {'meV/atom' if task.per_atom else 'meV'}, meV/Å"
    title = task.title + (", no copies" if task.leaves_out_duplicates else "")
    if not found or not test.exists():
        return None
    frames = read(test, index=":")
    if task.leaves_out_duplicates:
        frames = [frame for frame in frames if not frame.info.get("sym_dup_in_train", False)]
    errors = [errors_of(card, frames, task.measure, task.per_atom) for card in found]
    energy, force = [error.energy for error in errors], [error.force for error in errors]
    numbers = {"task": title, "measure": task.measure, "weights": [card.stem for card in found]}
    numbers |= {"energy": energy, "force": force, "n_frames": len(frames)}
    return [title, what, f"{len(found)} of {len(cards)}", _spread(energy), _spread(force), task.published], numbers


def _spread(values: list[float]) -> str:
    mean = f"{statistics.mean(values):.2f}"
    return mean if len(values) == 1 else f"{mean} ± {statistics.stdev(values):.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--data", type=Path, default=Path("data"), help="folder with acac, rmd17, mlearn_Li, ... (data)"
    )
    parser.add_argument("--weights", type=Path, default=HERE / "weights", help="folder with the cards")
    parser.add_argument("--only", default="", help="only rows whose title contains this")
    parser.add_argument("--json", type=Path, help="write the numbers to this file too")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch (1)")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    warnings.filterwarnings("ignore", category=UserWarning)  # test sets at 600 K lie outside the domain, frame by frame
    missing: set[str] = set()
    rows, numbers = [], []
    for task in tasks():
        if given.only.lower() in task.title.lower():
            answer = row_of(task, given.data, given.weights, missing)
            if answer is not None:
                rows.append(answer[0])
                numbers.append(answer[1])
    columns = ["test set", "error", "seeds", "energy", "force", "published, energy/force"]
    show("accuracy, mean over seeds ± standard deviation", columns, rows)
    for path in sorted(missing):
        print(f"missing: {path}")
    if given.json:
        given.json.write_text(json.dumps(numbers, indent=1) + "\n")


if __name__ == "__main__":
    main()

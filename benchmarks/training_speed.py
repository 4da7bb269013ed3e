"""Atoms per second of training steps, for the two kinds of potentials that are shipped."""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import numpy as np
import torch
from ase import Atoms
from systems import show, systems_for

from equipot.models.loading import resolve_device
from equipot.models.network import Sizes
from equipot.models.training.batches import BATCHES_AHEAD
from equipot.models.training.config import DataPart, OptimiserPart, TrainingConfig
from equipot.models.training.datasets import TrainingData
from equipot.models.training.frames import Frame, FrameSet
from equipot.models.training.loop import Trainer
from equipot.models.training.progress import TrainingProgress

N_FRAMES, N_WARM_UP = 64, 3
SIZES = {"organic": Sizes(mean_neighbours=13.0), "elements": Sizes(mean_neighbours=35.0)}
SYSTEMS = {"organic": ("H", "C", "N", "O"), "elements": ("Si",)}


def frames_like(atoms: Atoms, n_frames: int) -> FrameSet:
    """Rattled copies with labels of zero: speed does not depend on them."""
    frames = []
    for seed in range(n_frames):
        moved = atoms.copy()
        moved.rattle(0.1, seed=seed)
        frames.append(
            Frame(
                numbers=moved.numbers.astype(np.int64),
                positions_ang=moved.positions,
                forces_ev_per_ang=np.zeros((len(moved), 3)),
                energy_ev=0.0,
                cell_ang=moved.cell.array,
                pbc=moved.pbc,
                stress_ev_per_ang3=np.zeros(6) if moved.pbc.all() else np.full(6, np.nan),
                config_type="rattled",
                group=moved.get_chemical_formula(),
            )
        )
    return FrameSet.from_frames(frames, "none")


def trainer_for(kind: str, frames: FrameSet, atoms_per_batch: int, device: torch.device) -> Trainer:
    """A training that is stepped by hand and never saved."""
    config = TrainingConfig(
        name=kind,
        level_of_theory="none",
        data=DataPart.model_validate({"train": ["none.npz"], "valid": {"n_frames": 1}}),
        network=SIZES[kind],
        optimiser=OptimiserPart(n_steps=10**9, atoms_per_batch=atoms_per_batch),
    )
    reference_ev = np.full(119, np.nan)
    reference_ev[np.unique(frames.numbers)] = 0.0
    data = TrainingData(frames, frames.select([0]), {}, reference_ev, {}, [])
    return Trainer(config, data, Path("nowhere"), device, TrainingProgress(1, quiet=True))


def atoms_per_s(trainer: Trainer, seconds: float) -> list[tuple[float, float]]:
    """Of every step made within `seconds`: atoms per second, and per CPU second, which others do not slow."""
    speeds: list[tuple[float, float]] = []
    started = time.perf_counter()
    steps = trainer.steps()
    while time.perf_counter() - started < seconds or len(speeds) < N_WARM_UP + 2:
        before, cpu_before = time.perf_counter(), time.process_time()
        made = trainer.advance(steps)
        float(made.loss_sum)  # waits for the device
        wall, cpu = time.perf_counter() - before, time.process_time() - cpu_before
        speeds.append((made.n_atoms / wall, made.n_atoms / cpu))
    steps.close()
    return speeds[N_WARM_UP:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--atoms", type=int, action="append", help="atoms per batch, may be repeated (150)")
    parser.add_argument("--device", default="cpu", help="cpu (default) or cuda")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch (1)")
    parser.add_argument("--seconds", type=float, default=10.0, help="how long each case is timed (10)")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    rows = []
    for kind, elements in SYSTEMS.items():
        name, atoms = next(iter(systems_for(elements).items()))
        for size in given.atoms or [150]:
            n_frames = max(N_FRAMES, (1 + BATCHES_AHEAD) * size // len(atoms))
            trainer = trainer_for(kind, frames_like(atoms, n_frames), size, resolve_device(given.device))
            speeds = atoms_per_s(trainer, given.seconds)
            medians = [f"{statistics.median(column):.0f}" for column in zip(*speeds, strict=True)]
            rows.append([kind, name, str(size), *medians, str(len(speeds))])
    columns = ["sizes of", "system", "atoms/batch", "atoms/s", "atoms/CPU s", "steps"]
    show(f"training steps on {given.device}, {given.threads} thread(s)", columns, rows)


if __name__ == "__main__":
    main()

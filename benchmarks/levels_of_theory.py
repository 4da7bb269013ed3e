"""Which way a potential learns several levels of theory best, and what its first level loses by them.

Trainings of one configuration with `heads:`

- the first level alone, seen as many times as in the others, so in fewer steps; and in as many steps;
- every level with its own readouts, the features the same;
- with its own scale and shift of the features (FiLM) as well, which is what `heads:` does.

    python benchmarks/levels_of_theory.py models/training/configs/organic-3.yaml --steps 1100 --channels 64

Errors are means over the validation frames of each level (all of them, or `n_valid`), meV per atom and meV/Å.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from network_variants import VariantTrainer
from systems import show

from equipot.models.network import Network
from equipot.models.training.config import TrainingConfig
from equipot.models.training.datasets import TrainingData, load_training_data
from equipot.models.training.progress import TrainingProgress


def readouts_alone(network: Network) -> None:
    """The features are the same at every level: their scale and shift by the level stay at nothing."""
    assert network.films is not None
    for film in network.films:
        for name in ("head_scale", "head_shift"):
            zeros = getattr(film, name).detach()
            delattr(film, name)
            film.register_buffer(name, zeros)


ALONE, ALONE_LONGER = "first level alone", "first level alone, as many steps"
WAYS: dict[str, Callable[[Network], None] | None] = {
    ALONE: None,
    ALONE_LONGER: None,
    "readouts": readouts_alone,
    "readouts and FiLM": None,
}


def configuration(given: argparse.Namespace, way: str, n_steps: int) -> TrainingConfig:
    """The configuration with these sizes, to be trained this way."""
    config = TrainingConfig.read(given.config, seed=given.seed)
    heads = [] if way in (ALONE, ALONE_LONGER) else config.heads
    optimiser = {"n_steps": n_steps, "float64_fraction": 0.0, "validate_every": max(n_steps // 4, 1)}
    optimiser |= {"atoms_per_batch": given.atoms_per_batch, "max_seconds": float("inf"), "ema_decay": 0.99}
    return config.model_copy(
        update={
            "heads": heads,
            "network": replace(config.network, n_channels=given.channels),
            "optimiser": config.optimiser.model_copy(update=optimiser),
            "checkpoint_every_s": 1e9,
        }
    )


def n_atoms_of(data: TrainingData) -> int:
    """Atoms in one pass over the frames of all levels."""
    return sum(int(level.train.n_atoms.sum()) for level in data.levels)


def train(way: str, everything: TrainingData, given: argparse.Namespace) -> dict[str, Any]:
    """Errors of one way."""
    n_steps, data = given.steps, everything
    if way in (ALONE, ALONE_LONGER):
        data = replace(everything, others=())
    if way == ALONE:  # as many passes over its frames
        n_steps = math.ceil(given.steps * n_atoms_of(data) / n_atoms_of(everything))
    with tempfile.TemporaryDirectory() as folder:
        trainer = VariantTrainer.of(WAYS[way])(
            configuration(given, way, n_steps),
            data,
            Path(folder),
            torch.device(given.device),
            TrainingProgress(n_steps),
        )
        trainer.run()
        row: dict[str, Any] = {"way": way, "n_steps": n_steps, "seconds": round(trainer.position.seconds, 1)}
        row["passes"] = round(n_steps * given.atoms_per_batch / n_atoms_of(data), 2)
        row["levels"] = {
            level.level_of_theory: {
                "n_training": len(level.train),
                **trainer.judge(trainer.store(level.valid, head)).summary(),
            }
            for head, level in enumerate(data.levels)
        }
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path, help="a training with heads, its data beside where this runs")
    parser.add_argument("--steps", type=int, default=1100)
    parser.add_argument("--channels", type=int, default=64)
    parser.add_argument("--atoms-per-batch", type=int, default=800)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", default=list(WAYS), choices=list(WAYS), help="ways to train")
    parser.add_argument("--out", type=Path, default=Path("levels.json"))
    given = parser.parse_args()
    torch.set_num_threads(1)
    everything = load_training_data(TrainingConfig.read(given.config, seed=given.seed))
    rows = []
    for way in given.only:
        row = train(way, everything, given)
        rows.append(row)
        given.out.write_text(json.dumps(rows, indent=1) + "\n")
        show(
            f"{row['way']}: {row['n_steps']} steps, {row['passes']} passes, {row['seconds']} s",
            ["level of theory", "training frames", "energy MAE, meV/atom", "force MAE, meV/Å"],
            [
                [name, str(e["n_training"]), f"{e['energy_mae_mev_per_atom']:.2f}", f"{e['force_mae_mev_per_ang']:.1f}"]
                for name, e in row["levels"].items()
            ],
        )


if __name__ == "__main__":
    main()

"""The four tensor products inside the potential: errors after the same short training, and time, on one molecule.

Trains one small network for each of --train-with and each seed, for the same number of steps, and judges it on the
test sets. `cg`, `cp` and `vector` are the same function, so the network trained with `cp` is judged with each of them:
the errors must agree, and the times tell what the exchange costs. Times are of the processor, on one thread.

    python benchmarks/tensor_product_ablation.py --data acac --out DIR

--data is a folder with train, isolated_atoms and test_*.extxyz.xz, such as acetylacetone (davkovacs/BOTNet-datasets,
MIT; 500 frames at 300 K, a tenth of them for validation).
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from systems import show

from equipot.models.network import Network
from equipot.models.tensor_product import FACTORISATIONS
from equipot.models.training.batches import FrameStore
from equipot.models.training.config import TrainingConfig
from equipot.models.training.datasets import load_training_data
from equipot.models.training.evaluation import compare, predict
from equipot.models.training.loop import Trainer
from equipot.models.training.progress import TrainingProgress

N_TIMED = 60
#: which networks a trained one is judged with: those of the same function
JUDGED_WITH = {"gaunt": ("gaunt",), **dict.fromkeys(("cg", "cp", "vector"), ("cg", "cp", "vector"))}


def configuration(given: argparse.Namespace, factorisation: str, seed: int) -> TrainingConfig:
    """The same training for every product; the messages are scaled to the data, so that higher powers count."""
    tests = sorted(given.data.glob("test_*.extxyz.xz"))
    return TrainingConfig.model_validate(
        {
            "name": f"{factorisation}-{seed}",
            "level_of_theory": "that of the data",
            "seed": seed,
            "data": {
                "train": [given.data / "train.extxyz.xz", given.data / "isolated_atoms.extxyz.xz"],
                "valid": {"fraction": 0.1},
                "tests": {path.name.removesuffix(".extxyz.xz").removeprefix("test_"): path for path in tests},
            },
            "network": {
                "n_channels": given.channels,
                "n_message_channels": given.channels // 2,
                "l_max": given.l_max,
                "l_hidden": min(2, given.l_max),
                "factorisation": factorisation,
                "is_calibrated": True,
            },
            "optimiser": {
                "n_steps": given.steps,
                "atoms_per_batch": 75,
                "ema_decay": 0.99,
                "validate_every": max(1, given.steps // 4),
            },
        }
    )


def milliseconds(network: Network, store: FrameStore) -> float:
    """Median processor time of energy and forces of one molecule, float32."""
    batch = store.batch([0], torch.float32)
    found = []
    for _ in range(N_TIMED):
        before = time.process_time()
        predict(network, batch, differentiable=False)
        found.append(1000 * (time.process_time() - before))
    return statistics.median(found[10:])


def judge(trainer: Trainer, factorisation: str, tests: dict[str, FrameStore]) -> dict[str, Any]:
    """Root mean square errors in meV (of the molecule) and meV/Å, with the products exchanged."""
    network = Network(replace(trainer.average.architecture, factorisation=factorisation)).float()
    network.load_state_dict(trainer.average.state_dict())
    found: dict[str, Any] = {"ms": milliseconds(network, trainer.valid)}
    for name, store in tests.items():
        summary = compare(network, store).summary()
        found[name] = {
            "energy_mev": summary["energy_rmse_mev"],
            "force_mev_per_ang": summary["force_rmse_mev_per_ang"],
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--train-with", nargs="+", default=["gaunt", "cp"], choices=list(FACTORISATIONS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--channels", type=int, default=32)
    parser.add_argument("--l-max", type=int, default=3)
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for seed in given.seeds:
        for trained_with in given.train_with:
            config = configuration(given, trained_with, seed)
            data = load_training_data(config)
            tests = {
                name: FrameStore(frames, config.network.cutoff_ang, data.reference_ev)
                for name, frames in data.tests.items()
            }
            with TrainingProgress(given.steps) as progress:
                folder = given.out / config.name
                folder.mkdir(parents=True, exist_ok=True)
                trainer = Trainer(config, data, folder, torch.device("cpu"), progress)
                before = time.process_time()
                trainer.run()
            kept = {"trained_with": trained_with, "seed": seed, "training_s": time.process_time() - before}
            for judged_with in JUDGED_WITH[trained_with]:
                rows.append({**kept, "judged_with": judged_with, "errors": judge(trainer, judged_with, tests)})
                (given.out / "ablation.json").write_text(json.dumps(rows, indent=1) + "\n")
    columns = ["trained with", "seed", "judged with", "training s", "ms"]
    columns += [f"{name} {unit}" for name in tests for unit in ("meV", "meV/Å")]
    lines = []
    for row in rows:
        errors = [f"{value:.1f}" for name in tests for value in row["errors"][name].values()]
        head = [row["trained_with"], str(row["seed"]), row["judged_with"]]
        lines.append([*head, f"{row['training_s']:.0f}", f"{row['errors']['ms']:.1f}", *errors])
    show(f"{given.steps} steps, {given.channels} channels, l_max {given.l_max}", columns, lines)


if __name__ == "__main__":
    main()

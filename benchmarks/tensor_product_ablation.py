"""The four tensor products inside the potential: errors after the same short training, and time, on one molecule.

Trains one small network for each of --train-with and each seed, for the same number of steps, and judges it on the
test sets. `cg`, `cp` and `vector` are the same function, so the network trained with `cp` is judged with each of them:
the errors must agree, and the times tell what the exchange costs. Times are of the processor, on one thread.

    python benchmarks/tensor_product_ablation.py --data acac --out DIR

--data is a folder with train, isolated_atoms and test_*.extxyz.xz, such as acetylacetone (davkovacs/BOTNet-datasets,
MIT; 500 frames at 300 K, every tenth of them for validation).
"""

from __future__ import annotations

import argparse
import io
import json
import lzma
import statistics
import time
from dataclasses import replace
from pathlib import Path

import ase.io
import numpy as np
import torch
from systems import show

from equipot.models.network import Network, Sizes
from equipot.models.tensor_product import FACTORISATIONS
from equipot.models.training.batches import LabelledGraph, labelled_graphs, make_batch
from equipot.models.training.config import DataPart, OptimiserPart, TrainingConfig
from equipot.models.training.evaluation import errors_of, predict
from equipot.models.training.frames import FrameSet
from equipot.models.training.loop import Trainer
from equipot.models.training.sources import read_extxyz

LEVEL = "that of the data"
N_TIMED = 60
#: which networks a trained one is judged with: those of the same function
JUDGED_WITH = {"gaunt": ("gaunt",), **dict.fromkeys(("cg", "cp", "vector"), ("cg", "cp", "vector"))}


def free_atoms_ev(path: Path) -> dict[str, float]:
    """Energies of the free atoms in a file of single atoms."""
    text = lzma.decompress(path.read_bytes()).decode()
    return {
        atoms.get_chemical_symbols()[0]: float(atoms.get_potential_energy())
        for atoms in ase.io.read(io.StringIO(text), ":", format="extxyz")
    }


def configuration(given: argparse.Namespace, factorisation: str, seed: int) -> TrainingConfig:
    """The same training for every product."""
    return TrainingConfig(
        name=f"{factorisation}-{seed}", description="ablation", level_of_theory=LEVEL, energy_reference="free atoms",
        isolated_atom_energies_ev=free_atoms_ev(given.data / "isolated_atoms.extxyz.xz"), limits=[], seed=seed,
        data=DataPart(
            train=[given.out / "train.npz"], valid=given.out / "valid.npz", n_valid=50,
            description="", source="", licence="",
        ),
        network=Sizes(
            n_channels=given.channels, n_message_channels=given.channels // 2, l_max=given.l_max,
            l_hidden=min(2, given.l_max), factorisation=factorisation, is_calibrated=True,
        ),
        optimiser=OptimiserPart(
            n_steps=given.steps, atoms_per_batch=75, ema_decay=0.99, validate_every=max(1, given.steps // 4)
        ),
    )  # fmt: skip


def calibrated(trainer: Trainer) -> Trainer:
    """The messages scaled to the data, so that squares and cubes count from the first step on."""
    trainer.network.calibrate(*make_batch(trainer.train[:20]).inputs)
    trainer.average.load_state_dict(trainer.network.state_dict())
    return trainer


def times_ms(network: Network, graphs: list[LabelledGraph]) -> float:
    """Median processor time of energy and forces of one molecule, float32."""
    batch = make_batch(graphs[:1])
    found = []
    for _ in range(N_TIMED):
        before = time.process_time()
        predict(network, batch, differentiable=False)
        found.append(1000 * (time.process_time() - before))
    return statistics.median(found[10:])


def judge(
    trainer: Trainer, factorisation: str, tests: dict[str, list[LabelledGraph]]
) -> dict[str, float | dict[str, float]]:
    """Root mean square errors in meV (of the molecule) and meV/Å, with the products exchanged."""
    architecture = replace(trainer.average.architecture, factorisation=factorisation)
    network = Network(architecture).float()
    network.load_state_dict(trainer.average.state_dict())
    found: dict[str, float | dict[str, float]] = {"ms": times_ms(network, trainer.valid)}
    for name, graphs in tests.items():
        summary = errors_of(network, graphs).summary()
        found[name] = {
            "energy_mev": summary["energy_rmse_mev_per_atom"] * graphs[0].graph.n_atoms,
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
    given.out.mkdir(parents=True, exist_ok=True)
    frames = read_extxyz(given.data / "train.extxyz.xz", LEVEL)
    held_out = np.arange(frames.n_frames) % 10 == 9
    frames.select(~held_out).save(given.out / "train.npz")
    frames.select(held_out).save(given.out / "valid.npz")
    test_frames: dict[str, FrameSet] = {
        path.name.removeprefix("test_").removesuffix(".extxyz.xz"): read_extxyz(path, LEVEL)
        for path in sorted(given.data.glob("test_*.extxyz.xz"))
    }
    rows, columns = [], ["trained with", "seed", "judged with", "training s", "ms"]
    columns += [f"{name} {unit}" for name in test_frames for unit in ("meV", "meV/Å")]
    for seed in given.seeds:
        for trained_with in given.train_with:
            config = configuration(given, trained_with, seed)
            trainer = calibrated(Trainer(config, given.out / config.name))
            before = time.process_time()
            trainer.run()
            seconds = time.process_time() - before
            tests = {
                name: labelled_graphs(frames, config.network.cutoff_ang, trainer.reference_ev)
                for name, frames in test_frames.items()
            }
            for judged_with in JUDGED_WITH[trained_with]:
                found = judge(trainer, judged_with, tests)
                rows.append(
                    {"trained_with": trained_with, "seed": seed, "judged_with": judged_with, "training_s": seconds}
                    | found
                )
                (given.out / "ablation.json").write_text(json.dumps(rows, indent=1) + "\n")
    lines = []
    for row in rows:
        errors = [f"{value:.1f}" for name in test_frames for value in row[name].values()]
        head = [row["trained_with"], str(row["seed"]), row["judged_with"]]
        lines.append([*head, f"{row['training_s']:.0f}", f"{row['ms']:.1f}", *errors])
    show(f"{given.steps} steps, {given.channels} channels, l_max {given.l_max}", columns, lines)


if __name__ == "__main__":
    main()

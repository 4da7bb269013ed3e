"""Training: from frames and a configuration to a potential with its card."""

from __future__ import annotations

import csv
import json
import os
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from rich.console import Console

from equipot.cards import FORMAT_VERSION, PotentialCard, TestError, TrainingData
from equipot.elements import NUMBERS, SYMBOLS
from equipot.models.loading import save_potential
from equipot.models.network import Architecture, Network
from equipot.models.training.batches import (
    Batch,
    LabelledGraph,
    close_pairs,
    labelled_graphs,
    make_batch,
    shuffled_batches,
)
from equipot.models.training.config import TrainingConfig
from equipot.models.training.evaluation import errors_of, fit_domain, predict
from equipot.models.training.frames import FrameSet

PAIRS_PER_BATCH = 8
LEAST_PUSH_EV_PER_ANG = 10.0


def loss_of(network: Network, batch: Batch, config: TrainingConfig) -> torch.Tensor:
    """The weighted sum of what is wrong (LossPart)."""
    energy, forces, virial, _ = predict(network, batch, differentiable=True)
    n, n_force = batch.n_labelled, len(batch.forces_ev_per_ang)
    weights = config.loss
    energy_error = (energy[:n] - batch.energy_ev) / batch.n_atoms
    loss = (
        weights.energy
        * torch.nn.functional.huber_loss(energy_error, torch.zeros_like(energy_error), delta=0.005)
        / 0.005
    )
    force_error = (forces[:n_force] - batch.forces_ev_per_ang).square().sum(-1)
    loss = loss + weights.force * (force_error + 1e-4).sqrt().mean()
    has_virial = ~torch.isnan(batch.virial_ev[:, 0, 0])
    if bool(has_virial.any()):
        error = (virial[:n][has_virial] - batch.virial_ev[has_virial]) / batch.n_atoms[has_virial, None, None]
        loss = loss + weights.virial * (error.square().sum((-1, -2)) + 1e-6).sqrt().mean()
    if batch.n_systems > n:
        push = forces[n_force + 1 :: 2, 2]  # of the second atom of each pair, away from the first
        loss = loss + weights.repulsion * torch.relu(LEAST_PUSH_EV_PER_ANG - push).mean()
    return loss


def fit_binding(graphs: Sequence[LabelledGraph], elements: Sequence[int]) -> np.ndarray:
    """Mean energy of a bound atom of each element relative to the free one, eV, by least squares on compositions.

    Where the compositions do not determine it (one molecule), the solution of least norm shares the energy out.
    """
    counts = np.array([[np.sum(g.graph.numbers == z) for z in elements] for g in graphs], dtype=np.float64)
    energies = np.array([g.energy_ev for g in graphs])
    scale = 1.0 / counts.sum(1)
    solution: np.ndarray = np.linalg.lstsq(counts * scale[:, None], energies * scale, rcond=1e-8)[0]
    return solution


class Trainer:
    """One training run: state that is saved, and the steps that change it."""

    def __init__(self, config: TrainingConfig, folder: Path) -> None:
        self.config, self.folder = config, folder
        self.console = Console()
        folder.mkdir(parents=True, exist_ok=True)
        self.elements = sorted(NUMBERS[symbol] for symbol in config.isolated_atom_energies_ev)
        self.reference_ev = np.full(119, np.nan)
        for symbol, energy_ev in config.isolated_atom_energies_ev.items():
            self.reference_ev[NUMBERS[symbol]] = energy_ev
        self.train = [g for path in config.data.train for g in self._graphs(path)]
        valid = self._graphs(config.data.valid)
        stride = max(1, len(valid) // config.data.n_valid)
        self.valid = valid[::stride]
        torch.manual_seed(config.seed)
        architecture = Architecture(elements=tuple(self.elements), **asdict(config.network))
        self.network = Network(architecture).float()
        self.network.binding_ev.copy_(torch.tensor(fit_binding(self.train, self.elements)))
        self.average = Network(architecture).float()
        self.average.load_state_dict(self.network.state_dict())
        o = config.optimiser
        self.optimiser = torch.optim.AdamW(
            self.network.parameters(), lr=o.learning_rate, weight_decay=o.weight_decay, amsgrad=True
        )
        self.step = 0
        self.seconds = 0.0
        self._resume()

    def _graphs(self, path: Path) -> list[LabelledGraph]:
        frames = FrameSet.load(path)
        graphs = labelled_graphs(frames, self.config.network.cutoff_ang, self.reference_ev)
        limit = self.config.data.max_force_ev_per_ang
        return [g for g in graphs if np.abs(g.forces_ev_per_ang).max() <= limit]

    def run(self) -> None:
        """Train to the last step or second; a killed run goes on from its last validation."""
        o = self.config.optimiser
        rng = np.random.default_rng([self.config.seed, self.step])
        batches = shuffled_batches(self.train, o.atoms_per_batch, rng)
        started, before, n_atoms = time.monotonic(), self.seconds, 0
        while (done := self._share_done()) < 1.0:
            batch = make_batch(next(batches), close_pairs(self.elements, PAIRS_PER_BATCH, rng))
            for group in self.optimiser.param_groups:
                group["lr"] = o.learning_rate * self._schedule(done)
            self.optimiser.zero_grad(set_to_none=True)
            loss_of(self.network, batch, self.config).backward()
            torch.nn.utils.clip_grad_norm_(self.network.parameters(), o.clip_norm)
            self.optimiser.step()
            self.step += 1
            n_atoms += len(batch.forces_ev_per_ang)
            self._update_average()
            self.seconds = before + time.monotonic() - started
            if self.step % o.validate_every == 0 or self._share_done() >= 1.0:
                self._report(n_atoms / (self.seconds - before))
                self._save()
                started, before, n_atoms = time.monotonic(), self.seconds, 0

    def _share_done(self) -> float:
        o = self.config.optimiser
        return max(self.step / o.n_steps, self.seconds / o.max_seconds)

    def _schedule(self, done: float) -> float:
        o = self.config.optimiser
        warm = min(1.0, (self.step + 1) / o.warmup_steps)
        cosine = 0.5 * (1.0 + np.cos(np.pi * min(done, 1.0)))
        return float(warm * (o.final_fraction + (1.0 - o.final_fraction) * cosine))

    def _update_average(self) -> None:
        decay = min(self.config.optimiser.ema_decay, (1.0 + self.step) / (10.0 + self.step))
        with torch.no_grad():
            for mean, new in zip(self.average.parameters(), self.network.parameters(), strict=True):
                mean.lerp_(new, 1.0 - decay)

    def _report(self, atoms_per_s: float) -> None:
        summary = errors_of(self.average, self.valid).summary()
        row = {"step": self.step, "seconds": round(self.seconds), "atoms_per_s": round(atoms_per_s), **summary}
        log = self.folder / "log.csv"
        new = not log.exists()
        with log.open("a", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=list(row))
            if new:
                writer.writeheader()
            writer.writerow(row)
        self.console.print(
            f"step {self.step}/{self.config.optimiser.n_steps}  {self.seconds:.0f} s  {atoms_per_s:.0f} atoms/s  "
            f"validation MAE {summary['energy_mae_mev_per_atom']:.2f} meV/atom, "
            f"{summary['force_mae_mev_per_ang']:.1f} meV/Å"
        )

    def _save(self) -> None:
        state = {
            "network": self.network.state_dict(),
            "average": self.average.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "step": self.step,
            "seconds": self.seconds,
        }
        temporary = self.folder / "state.pt.tmp"
        torch.save(state, temporary)
        os.replace(temporary, self.folder / "state.pt")

    def _resume(self) -> None:
        path = self.folder / "state.pt"
        if not path.exists():
            return
        state = torch.load(path, weights_only=True)
        self.network.load_state_dict(state["network"])
        self.average.load_state_dict(state["average"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.step, self.seconds = int(state["step"]), float(state["seconds"])
        self.console.print(f"Going on from step {self.step}.")

    def export(self, folder: Path) -> PotentialCard:
        """Judge the averaged weights on the test sets and write weights and card."""
        config, network = self.config, self.average
        domain = fit_domain(network, self.train, self.valid)
        card = PotentialCard(
            format_version=FORMAT_VERSION,
            name=config.name,
            aliases=config.aliases,
            description=config.description,
            elements=[SYMBOLS[z] for z in self.elements],
            cutoff_ang=config.network.cutoff_ang,
            level_of_theory=config.level_of_theory,
            has_stress=any(not np.isnan(g.virial_ev[0, 0]) for g in self.train),
            architecture=network.architecture.as_dict(),
            n_parameters=sum(p.numel() for p in network.parameters()),
            energy_reference=config.energy_reference,
            isolated_atom_energies_ev=config.isolated_atom_energies_ev,
            domain_threshold=domain.threshold,
            training_data=TrainingData(
                description=config.data.description,
                source=config.data.source,
                licence=config.data.licence,
                n_frames=len(self.train),
                sha256={path.as_posix(): FrameSet.load(path).sha256() for path in config.data.train},
            ),
            training={
                "configuration": json.loads(config.model_dump_json(include={"seed", "network", "loss", "optimiser"})),
                "n_steps": self.step,
                "wall_time_s": round(self.seconds),
                "hardware": f"{torch.get_num_threads()} CPU thread(s)",
                "torch": torch.__version__,
            },
            test_errors=[self._test(name, path) for name, path in config.data.tests.items()],
            limits=config.limits,
            licence=config.licence,
            weights_sha256="0" * 64,
        )
        return save_potential(folder, card, network, domain)

    def _test(self, name: str, path: Path) -> TestError:
        graphs = labelled_graphs(FrameSet.load(path), self.config.network.cutoff_ang, self.reference_ev)
        errors = errors_of(self.average, graphs)
        return TestError(test_set=name, n_frames=len(graphs), **errors.summary())


def train(config_path: Path, folder: Path | None = None, n_threads: int = 1) -> Path:
    """Train what a YAML file describes; gives the folder with log, state and potential."""
    torch.set_num_threads(n_threads)
    config = TrainingConfig.read(config_path)
    folder = folder or Path("runs") / config.name
    trainer = Trainer(config, folder)
    trainer.run()
    card = trainer.export(folder)
    trainer.console.print(f"Wrote {folder / card.name}.safetensors ({card.n_parameters} parameters).")
    return folder

"""Judging a network: what it says of labelled frames, and how far that is from the labels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from equipot.models.network import Network
from equipot.models.potential import VOIGT, forces_and_virials
from equipot.models.training.batches import Batch, FrameStore
from equipot.units import GPA_PER_EV_PER_ANG3

ALL = "all"
ATOMS_PER_BATCH = {"cpu": 600, "cuda": 20_000}


@dataclass(frozen=True, eq=False)
class Comparison:
    """Labels and predictions of a set of frames; NaN where there is no label.

    Energies are relative to free atoms. energy_ev (n_frames, 2), forces_ev_per_ang (n_total, 3, 2) and
    stress_ev_per_ang3 (n_frames, 6, 2), the label first and the prediction second; n_atoms (n_frames,).
    """

    n_atoms: np.ndarray
    config_type: np.ndarray
    energy_ev: np.ndarray
    forces_ev_per_ang: np.ndarray
    stress_ev_per_ang3: np.ndarray

    def of_frames(self, chosen: np.ndarray) -> Comparison:
        """The frames where a mask (n_frames,) is true."""
        atoms = np.repeat(chosen, self.n_atoms)
        return Comparison(
            self.n_atoms[chosen],
            self.config_type[chosen],
            self.energy_ev[chosen],
            self.forces_ev_per_ang[atoms],
            self.stress_ev_per_ang3[chosen],
        )

    def summary(self) -> dict[str, float]:
        """MAE and RMSE: energy in meV/atom and meV, force components and vectors in meV/Å, stress in GPa.

        A quantity without labels is left out. The MAE of vectors is the mean length of the error, their RMSE the
        root of its mean square.
        """
        error = 1000.0 * (self.energy_ev[:, 1] - self.energy_ev[:, 0])
        force = 1000.0 * (self.forces_ev_per_ang[..., 1] - self.forces_ev_per_ang[..., 0])
        force = force[~np.isnan(self.forces_ev_per_ang[..., 0]).any(axis=1)]
        stress = GPA_PER_EV_PER_ANG3 * (self.stress_ev_per_ang3[..., 1] - self.stress_ev_per_ang3[..., 0])
        stress = stress[~np.isnan(self.stress_ev_per_ang3[..., 0])]
        return {
            "n_frames": len(self.n_atoms),
            **_mae_and_rmse("energy", "mev_per_atom", error / self.n_atoms),
            **_mae_and_rmse("energy", "mev", error),
            **_mae_and_rmse("force", "mev_per_ang", force.ravel()),
            **_mae_and_rmse("force_vector", "mev_per_ang", np.linalg.norm(force, axis=1)),
            **_mae_and_rmse("stress", "gpa", stress),
        }

    def by_config_type(self) -> dict[str, dict[str, float]]:
        """The summary of all frames, and, if there are several config_types, of each."""
        kinds = sorted(set(self.config_type.tolist()))
        summaries = {ALL: self.summary()}
        if len(kinds) > 1:
            summaries |= {kind: self.of_frames(self.config_type == kind).summary() for kind in kinds}
        return summaries


def _mae_and_rmse(name: str, unit: str, error: np.ndarray) -> Mapping[str, float]:
    if not len(error):
        return {}
    return {
        f"{name}_mae_{unit}": float(np.abs(error).mean()),
        f"{name}_rmse_{unit}": float(np.sqrt((error**2).mean())),
    }


def predict(
    network: Network, batch: Batch, *, differentiable: bool
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Energies (n_systems,), forces (n_atoms, 3), virials (n_systems, 3, 3) and descriptors of a batch."""
    numbers, vectors, neighbours, mask, reverse, *condition = batch.inputs
    vectors = vectors.detach().requires_grad_(True)
    out = network(numbers, vectors, neighbours, mask, reverse, *condition)
    atomic = out.learned_ev + out.fixed_ev
    (gradient,) = torch.autograd.grad(atomic.sum(), vectors, create_graph=differentiable)
    forces, virials = forces_and_virials(gradient, vectors.detach(), reverse)
    energy = atomic.new_zeros(batch.n_systems).index_add(0, batch.system_idx, atomic)
    virial = atomic.new_zeros(batch.n_systems, 3, 3).index_add(0, batch.system_idx, virials)
    return energy, forces, virial, out.descriptors


def compare(network: Network, store: FrameStore, atoms_per_batch: int | None = None) -> Comparison:
    """Labels and predictions of all frames of a store, in their order, computed where the network is."""
    weights = next(network.parameters())
    size = atoms_per_batch or ATOMS_PER_BATCH.get(weights.device.type, ATOMS_PER_BATCH["cpu"])
    parts: dict[str, list[np.ndarray]] = {"energy": [], "forces": [], "stress": []}
    for chosen in store.in_batches(size):
        batch = store.batch(chosen, weights.dtype).to(weights.device)
        energy, forces, virial, _ = predict(network, batch, differentiable=False)
        energy, virial = energy[: batch.n_labelled], virial[: batch.n_labelled]
        parts["energy"].append(_side_by_side(batch.energy_ev, energy))
        labelled = np.repeat(store.has_forces[chosen], store.sizes[chosen])
        parts["forces"].append(_without_label(_side_by_side(batch.forces_ev_per_ang, forces), ~labelled))
        both = _side_by_side(batch.virial_ev, 0.5 * (virial + virial.mT)) / store.volume_ang3[chosen, None, None, None]
        stress = np.stack([both[:, a, b] for a, b in VOIGT], axis=1)
        parts["stress"].append(_without_label(stress, ~store.has_virial[chosen]))
    together = {name: np.concatenate(arrays) for name, arrays in parts.items()}
    return Comparison(store.sizes, store.config_type, together["energy"], together["forces"], together["stress"])


def _side_by_side(label: torch.Tensor, predicted: torch.Tensor) -> np.ndarray:
    stacked: np.ndarray = torch.stack([label, predicted.detach()], dim=-1).double().cpu().numpy()
    return stacked


def _without_label(both: np.ndarray, missing: np.ndarray) -> np.ndarray:
    both[missing, ..., 0] = np.nan
    return both

"""Judging a network: its errors on labelled frames, and where its training data end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from equipot.models.network import Network
from equipot.models.potential import TrainingDomain, forces_and_virials
from equipot.models.training.batches import Batch, LabelledGraph, make_batch
from equipot.units import GPA_PER_EV_PER_ANG3


@dataclass(frozen=True)
class Errors:
    """Residuals of a set of frames, in eV, Å."""

    energy_per_atom: np.ndarray  # (n_frames,)
    force: np.ndarray  # (3 n_atoms,)
    stress: np.ndarray  # (n_frames, 9), NaN where there is no label

    def summary(self) -> dict[str, float]:
        """MAE and RMSE in meV/atom and meV/Å, and of the stress in GPa where there is one."""
        e, f = 1000.0 * self.energy_per_atom, 1000.0 * self.force
        stress = GPA_PER_EV_PER_ANG3 * self.stress[~np.isnan(self.stress)]
        return {
            **({"stress_mae_gpa": float(np.abs(stress).mean())} if len(stress) else {}),
            "energy_mae_mev_per_atom": float(np.abs(e).mean()),
            "energy_rmse_mev_per_atom": float(np.sqrt((e**2).mean())),
            "force_mae_mev_per_ang": float(np.abs(f).mean()),
            "force_rmse_mev_per_ang": float(np.sqrt((f**2).mean())),
        }


def predict(
    network: Network, batch: Batch, *, differentiable: bool
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Energies (n_systems,), forces (n_atoms, 3), virials (n_systems, 3, 3) and descriptors of a batch."""
    numbers, vectors, neighbours, mask, reverse = batch.inputs
    vectors = vectors.detach().requires_grad_(True)
    out = network(numbers, vectors, neighbours, mask, reverse)
    atomic = out.learned_ev + out.fixed_ev
    (gradient,) = torch.autograd.grad(atomic.sum(), vectors, create_graph=differentiable)
    forces, virials = forces_and_virials(gradient, vectors.detach(), reverse)
    energy = atomic.new_zeros(batch.n_systems).index_add(0, batch.system_idx, atomic)
    virial = atomic.new_zeros(batch.n_systems, 3, 3).index_add(0, batch.system_idx, virials)
    return energy, forces, virial, out.descriptors


def errors_of(network: Network, graphs: Sequence[LabelledGraph], atoms_per_batch: int = 600) -> Errors:
    """Residuals on a list of frames."""
    energies, forces, stresses = [], [], []
    current: list[LabelledGraph] = []
    for index, item in enumerate(graphs):
        current.append(item)
        if sum(g.graph.n_atoms for g in current) < atoms_per_batch and index < len(graphs) - 1:
            continue
        batch = make_batch(current)
        energy, force, virial, _ = predict(network, batch, differentiable=False)
        energies.append(((energy.detach() - batch.energy_ev) / batch.n_atoms).numpy())
        forces.append((force.detach() - batch.forces_ev_per_ang).numpy().ravel())
        volumes = np.array([item.volume_ang3 for item in current])
        stresses.append((virial.detach() - batch.virial_ev).numpy().reshape(-1, 9) / volumes[:, None])
        current = []
    return Errors(np.concatenate(energies), np.concatenate(forces), np.concatenate(stresses))


def descriptors_of(network: Network, graphs: Sequence[LabelledGraph]) -> tuple[torch.Tensor, torch.Tensor, list[int]]:
    """Invariant features and species of all atoms, and the number of atoms of each frame."""
    features, species, sizes = [], [], []
    with torch.no_grad():
        for start in range(0, len(graphs), 16):
            batch = make_batch(graphs[start : start + 16])
            out = network(*batch.inputs)
            features.append(out.descriptors.double())
            species.append(network.species_of_number[batch.inputs[0]])
            sizes += [g.graph.n_atoms for g in graphs[start : start + 16]]
    return torch.cat(features), torch.cat(species), sizes


def fit_domain(
    network: Network, train: Sequence[LabelledGraph], held_out: Sequence[LabelledGraph], n_frames: int = 3000
) -> TrainingDomain:
    """The ellipsoids of the training environments, scaled so that 99 % of the held-out frames lie inside."""
    stride = max(1, len(train) // n_frames)
    features, species, _ = descriptors_of(network, train[::stride])
    n_elements, n_features = len(network.architecture.elements), features.shape[1]
    mean = torch.zeros(n_elements, n_features, dtype=torch.float64)
    whitening = torch.zeros(n_elements, n_features, n_features, dtype=torch.float64)
    for element in range(n_elements):
        own = features[species == element]
        mean[element] = own.mean(0)
        values, vectors = torch.linalg.eigh(torch.cov(own.T))
        whitening[element] = vectors / (values + 1e-3 * values.mean()).sqrt()
    domain = TrainingDomain(mean, whitening, 1.0)
    features, species, sizes = descriptors_of(network, held_out)
    largest = [float(part.max()) for part in torch.split(domain.distances(features, species), sizes)]
    return TrainingDomain(mean, whitening, float(np.quantile(largest, 0.99)))

"""Where the training data end, for the warning on everything beyond (potential.TrainingDomain)."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch

from equipot.models.network import Network
from equipot.models.reliability import ByElement, TrainingDomain
from equipot.models.training.batches import FrameStore
from equipot.models.training.evaluation import ATOMS_PER_BATCH

MAX_FRAMES = 3000
HELD_OUT_SHARE = 0.99


def fit_domain(network: Network, train: FrameStore, held_out: FrameStore) -> TrainingDomain:
    """The ellipsoids of the training environments, scaled so that 99 % of the held-out frames lie inside."""
    stride = max(1, len(train) // MAX_FRAMES)
    features, species, _ = _descriptors(network, train, np.arange(0, len(train), stride))
    n_elements, n_features = len(network.architecture.elements), features.shape[1]
    mean = torch.zeros(n_elements, n_features, dtype=torch.float64)
    whitening = torch.zeros(n_elements, n_features, n_features, dtype=torch.float64)
    for element in range(n_elements):
        own = features[species == element]
        if len(own) < 2:
            continue  # nothing is known of it: its distance stays zero
        mean[element] = own.mean(0)
        values, vectors = torch.linalg.eigh(torch.cov(own.T))
        whitening[element] = vectors / (values + 1e-3 * values.mean() + 1e-12).sqrt()
    domain = TrainingDomain(mean, whitening, 1.0)
    features, species, sizes = _descriptors(network, held_out, np.arange(len(held_out)))
    elements = ByElement.of(species.numpy(), features.device)
    largest = [float(part.max()) for part in torch.split(domain.distances(features, elements), sizes)]
    return TrainingDomain(mean, whitening, float(np.quantile(largest, HELD_OUT_SHARE)))


def _descriptors(
    network: Network, store: FrameStore, chosen: Iterable[int]
) -> tuple[torch.Tensor, torch.Tensor, list[int]]:
    """Invariant features and species of all atoms, on the CPU in float64, and the number of atoms of each frame."""
    weights = next(network.parameters())
    per_batch = ATOMS_PER_BATCH.get(weights.device.type, ATOMS_PER_BATCH["cpu"])
    frames = np.asarray(list(chosen), dtype=np.int64)
    n_batches = max(1, int(store.sizes[frames].sum()) // per_batch)
    features, species = [], []
    with torch.no_grad():
        for part in np.array_split(frames, min(n_batches, len(frames))):
            batch = store.batch(part, weights.dtype).to(weights.device)
            out = network(*batch.inputs)
            features.append(out.descriptors.double().cpu())
            species.append(network.species_of_number[batch.inputs[0]].cpu())
    return torch.cat(features), torch.cat(species), store.sizes[frames].tolist()

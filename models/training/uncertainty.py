"""Expected errors of forces for a finished potential: fitted on training frames, calibrated on molecules held out.

    python -m equipot.models.training.uncertainty CARD.json --train train.npz --held-out valid.npz [--out FOLDER]

The potential is written anew with the factors among its weights and the calibration on its card. Frames for
calibration must be new to the potential; half of them fit the scale, the other half (other molecules) judge it.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from equipot.cards import PotentialCard, Uncertainty
from equipot.models.loading import load_potential, save_potential
from equipot.models.potential import Potential
from equipot.models.reliability import ByElement, ForceUncertainty
from equipot.models.training.batches import FrameStore
from equipot.models.training.evaluation import predict
from equipot.models.training.frames import FrameSet

METHOD = "last layer, Gaussian (Laplace)"
MAX_TRAINING_FRAMES = 20_000
ATOMS_PER_BATCH = 1500
#: added to the second moments of the features, in units of their mean; relative to the number of atoms
RIDGE = 1e-6
TENTHS = 10


@dataclass(frozen=True, eq=False)
class AtomTable:
    """What is known of the atoms of some frames: features, species, error of the force (eV/Å), domain distance."""

    features: torch.Tensor
    species: torch.Tensor
    error_ev_per_ang: np.ndarray
    distance: np.ndarray
    frame: np.ndarray


def table_of(potential: Potential, frames: FrameSet) -> AtomTable:
    """Features and errors of every atom of the frames."""
    network, a = potential.network, potential.network.architecture
    head = np.full(len(frames), potential.head)
    store = FrameStore(frames, potential.cutoff_ang, potential.reference_ev, a, head)
    parts: dict[str, list[Any]] = {name: [] for name in ("features", "species", "error", "distance")}
    weights = next(network.parameters())
    for chosen in store.in_batches(ATOMS_PER_BATCH):
        batch = store.batch(chosen, weights.dtype).to(weights.device)
        _, forces, _, descriptors = predict(network, batch, differentiable=False)
        n = len(batch.forces_ev_per_ang)
        species = network.species_of_number[batch.inputs[0]][:n]
        parts["features"].append(descriptors[:n, : a.n_layers * a.n_channels].detach().double().cpu())
        parts["species"].append(species.cpu())
        parts["error"].append((forces[:n] - batch.forces_ev_per_ang).detach().norm(dim=1).double().cpu().numpy())
        distance = np.zeros(n)
        if potential.domain is not None:
            elements = ByElement.of(species.cpu().numpy(), species.device)
            far = potential.domain.distances(descriptors[:n].detach(), elements)
            distance = far.double().cpu().numpy()
        parts["distance"].append(distance)
    return AtomTable(
        torch.cat(parts["features"]),
        torch.cat(parts["species"]),
        np.concatenate(parts["error"]),
        np.concatenate(parts["distance"]),
        np.repeat(np.arange(len(frames)), frames.n_atoms),
    )


def fit_factors(table: AtomTable, n_elements: int) -> torch.Tensor:
    """(n_elements, n, n) L with |L φ|² = φᵀ (Φᵀ Φ / N + λ)⁻¹ φ, from the training atoms of each element."""
    phi = torch.cat([table.features, torch.ones(len(table.features), 1, dtype=torch.float64)], dim=1)
    n = phi.shape[1]
    factors = torch.zeros(n_elements, n, n, dtype=torch.float64)
    for element in range(n_elements):
        own = phi[table.species == element]
        if not len(own):
            factors[element] = torch.eye(n, dtype=torch.float64) / RIDGE**0.5  # nothing is known of it
            continue
        second = own.T @ own / len(own)
        ridge = RIDGE * second.diagonal().mean() * (1.0 + 1e4 / len(own))
        values, vectors = torch.linalg.eigh(second + ridge * torch.eye(n, dtype=torch.float64))
        factors[element] = (vectors / values.clamp(min=float(ridge)).sqrt()).T
    return factors


def power_law(spread: np.ndarray, error_ev_per_ang: np.ndarray) -> tuple[float, float, float]:
    """(factor, power, least) of error = max(least, factor s^power), so that mean errors in bins of s are met."""
    order = np.argsort(spread)
    bins = [part for part in np.array_split(order, 40) if len(part)]
    s = np.array([np.exp(np.log(np.maximum(spread[part], 1e-9)).mean()) for part in bins])
    e = np.array([max(error_ev_per_ang[part].mean(), 1e-6) for part in bins])
    power, shift = np.polyfit(np.log(s), np.log(e), 1)
    return float(np.exp(shift)), float(max(power, 0.0)), float(e.min())


def rank_correlation(x: np.ndarray, y: np.ndarray) -> float:
    """Spearman's."""
    a, b = (np.argsort(np.argsort(values)) - 0.5 * (len(values) - 1) for values in (x, y))
    return float((a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum()))


def calibration(expected: np.ndarray, error: np.ndarray, n_frames: int, scales: tuple[float, ...]) -> Uncertainty:
    """How expected errors compare with those found, on atoms that were not used to fit them."""
    curve = [
        (round(1000.0 * float(expected[part].mean()), 1), round(1000.0 * float(error[part].mean()), 1))
        for part in np.array_split(np.argsort(expected), TENTHS)
    ]
    within = {f"{k:g}": round(float((error <= k * expected).mean()), 3) for k in (1.0, 2.0, 3.0)}
    return Uncertainty(
        method=METHOD,
        scales_ev_per_ang=list(scales),
        spearman=round(rank_correlation(expected, error), 3),
        share_within=within,
        curve=curve,
        n_frames=n_frames,
    )


def halves(frames: FrameSet) -> tuple[np.ndarray, np.ndarray]:
    """Two masks of frames that share no group."""
    names = sorted(set(frames.group.tolist()))
    first = set(names[::2])
    mask = np.array([group in first for group in frames.group.tolist()])
    return mask, ~mask


def fit(
    potential: Potential, train: FrameSet, held_out: FrameSet
) -> tuple[ForceUncertainty, Uncertainty, dict[str, float]]:
    """The uncertainty, its calibration for the card, and Spearman's rank correlation of it and of the alternatives."""
    stride = max(1, len(train) // MAX_TRAINING_FRAMES)
    known = table_of(potential, train.select(np.arange(0, len(train), stride)))
    factors = fit_factors(known, len(potential.network.architecture.elements))
    unfitted = ForceUncertainty(factors, (1.0, 1.0, 0.0))
    new = table_of(potential, held_out)
    spread = unfitted.spreads(new.features, ByElement.of(new.species.numpy(), new.features.device)).numpy()
    fitting, judging = (np.isin(new.frame, np.flatnonzero(mask)) for mask in halves(held_out))
    scales = power_law(spread[fitting], new.error_ev_per_ang[fitting])
    expected = np.maximum(scales[0] * spread[judging] ** scales[1], scales[2])
    found = calibration(expected, new.error_ev_per_ang[judging], len(held_out), scales)
    ranks = {
        METHOD: rank_correlation(spread[judging], new.error_ev_per_ang[judging]),
        "distance from the training environments": rank_correlation(
            new.distance[judging], new.error_ev_per_ang[judging]
        ),
    }
    return ForceUncertainty(factors, scales), found, ranks


def add_to(
    card_path: Path, train: FrameSet, held_out: FrameSet, folder: Path
) -> tuple[PotentialCard, dict[str, float]]:
    """Fit, and write the potential with its uncertainty to a folder; its card, and how the measures compare."""
    potential = load_potential(card_path, device="cpu", dtype="float32")
    uncertainty, found, ranks = fit(potential, train, held_out)
    card = potential.card.model_copy(update={"uncertainty": found})
    card = save_potential(folder, card, potential.network, potential.domain, uncertainty)
    return card, ranks


def main(argv: Sequence[str] | None = None) -> None:
    """Command line: give a finished potential its expected errors of forces."""
    parser = argparse.ArgumentParser(prog="python -m equipot.models.training.uncertainty", description=main.__doc__)
    parser.add_argument("card", type=Path)
    parser.add_argument("--train", type=Path, required=True)
    parser.add_argument("--held-out", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=None, help="folder to write to; if absent that of the card")
    arguments = parser.parse_args(argv)
    train, held_out = FrameSet.load(arguments.train), FrameSet.load(arguments.held_out)
    card, ranks = add_to(arguments.card, train, held_out, arguments.out or arguments.card.parent)
    assert card.uncertainty is not None
    for name, rank in ranks.items():
        print(f"rank correlation with the error found, {name}: {rank:.3f}")
    print("errors within 1, 2, 3 times the expected one:", card.uncertainty.share_within)
    print("expected | found, meV/Å:", *(f"{a:g} | {b:g}" for a, b in card.uncertainty.curve), sep="\n  ")


if __name__ == "__main__":
    main()

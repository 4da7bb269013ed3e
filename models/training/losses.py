"""What a training makes small: the weighted sum of what is wrong (config.LossPart)."""

from __future__ import annotations

import torch

from equipot.models.network import Network
from equipot.models.training.batches import Batch
from equipot.models.training.config import FinalStage, LossPart, Penalty
from equipot.models.training.evaluation import predict

#: pairs of atoms closer than a bond should push each other apart at least this hard
LEAST_PUSH_EV_PER_ANG = 10.0


def loss_of(network: Network, batch: Batch, loss: LossPart) -> torch.Tensor:
    """The loss of a batch, a scalar; nothing here waits for the device."""
    energy, forces, virial, _ = predict(network, batch, differentiable=True)
    n, n_force = batch.n_labelled, len(batch.forces_ev_per_ang)
    n_atoms = batch.n_atoms.clamp(min=1.0)
    energy_error = (energy[:n] - batch.energy_ev) / n_atoms
    energy_penalty = _of_numbers(energy_error, loss) * batch.energy_weight
    total = loss.energy * energy_penalty.sum() / batch.n_frames

    force_square = (forces[:n_force] - batch.forces_ev_per_ang).square().sum(-1)
    force_penalty = _of_squares(force_square, loss.force_penalty, loss.force_delta_ev_per_ang)
    weight = torch.cat([batch.force_weight, batch.force_weight.new_zeros(batch.n_pairs + 1)])  # of every system
    total = total + loss.force * (force_penalty * weight[batch.system_idx[:n_force]]).sum() / batch.n_atoms.sum()

    if batch.has_virials and loss.virial:
        virial_error = (virial[:n] - batch.virial_ev) / n_atoms[:, None, None]
        penalty = _of_squares(virial_error.square().sum((-1, -2)), loss.virial_penalty, loss.virial_delta_ev)
        total = total + loss.virial * (penalty * batch.virial_weight).sum() / batch.n_with_virial.clamp(min=1)
    if batch.n_pairs:
        push = forces[n_force + 1 :: 2, 2]  # of the second atom of each pair, away from the first
        total = total + loss.repulsion * _of_missing_push(push).mean()
    return total


def _of_missing_push(push_ev_per_ang: torch.Tensor) -> torch.Tensor:
    """Penalty of pairs that repel too little. It grows as a logarithm: no frame holds a pair that close, so at high
    rates some pair attracts by millions of eV/Å for a while, and its gradient must not drown that of the frames."""
    missing = torch.relu(LEAST_PUSH_EV_PER_ANG - push_ev_per_ang) / LEAST_PUSH_EV_PER_ANG
    return LEAST_PUSH_EV_PER_ANG * torch.log1p(missing)


def of_stage(loss: LossPart, stage: FinalStage | None) -> LossPart:
    """The loss with the weights of a stage over its own."""
    if stage is None:
        return loss
    changes = {name: getattr(stage, name) for name in ("energy", "force", "virial")}
    return loss.model_copy(update={name: value for name, value in changes.items() if value is not None})


def _of_numbers(error: torch.Tensor, loss: LossPart) -> torch.Tensor:
    """Penalty of energies; l1 and huber are the same here: quadratic within delta."""
    if loss.energy_penalty == "l2":
        return error.square()
    delta = loss.energy_delta_ev
    return torch.nn.functional.huber_loss(error, torch.zeros_like(error), delta=delta, reduction="none") / delta


def _of_squares(square: torch.Tensor, penalty: Penalty, delta: float) -> torch.Tensor:
    """Penalty of vectors and matrices by their squared norm, differentiable at zero."""
    if penalty == "l2":
        return square
    if penalty == "l1":
        return (square + delta**2).sqrt()
    inside = square < delta**2
    norm = torch.where(inside, delta**2, square).sqrt()
    return torch.where(inside, 0.5 * square / delta, norm - 0.5 * delta)

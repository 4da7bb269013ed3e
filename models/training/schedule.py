"""What changes in the course of a training: learning rate, loss, average, precision. Functions of how far it is."""

from __future__ import annotations

from math import cos, pi

import torch

from equipot.models.training.config import FinalStage, LossPart, OptimiserPart, TrainingConfig
from equipot.models.training.losses import of_stage
from equipot.models.training.state import Position


def share_done(position: Position, o: OptimiserPart) -> float:
    """How much of the training is done; by the clock only where the configuration sets max_seconds."""
    return max(position.step / o.n_steps, position.seconds / o.max_seconds)


def final_stage(config: TrainingConfig, done: float) -> FinalStage | None:
    """The final stage, once it has begun."""
    return config.final_stage if config.final_stage is not None and done >= config.final_stage.start else None


def learning_rate(config: TrainingConfig, position: Position, done: float) -> float:
    """The learning rate of the next step."""
    o, stage = config.optimiser, final_stage(config, done)
    if stage is not None and stage.learning_rate is not None:
        return stage.learning_rate
    warm = min(1.0, (position.step + 1) / o.warmup_steps)
    if o.schedule == "cosine":
        left = o.final_fraction + (1.0 - o.final_fraction) * 0.5 * (1.0 + cos(pi * min(done, 1.0)))
    elif o.schedule == "plateau":
        left = max(position.plateau_rate, o.final_fraction)
    else:
        left = 1.0
    return o.learning_rate * warm * left


def loss_part(config: TrainingConfig, done: float) -> LossPart:
    """The weights of the next step's loss."""
    return of_stage(config.loss, final_stage(config, done))


def precision(o: OptimiserPart, done: float) -> torch.dtype:
    """float32, and float64 in the last part."""
    return torch.float64 if done >= 1.0 - o.float64_fraction and o.float64_fraction else torch.float32


def is_averaged_uniformly(config: TrainingConfig, done: float) -> bool:
    """Whether the weights of a step at this place count the same in the average as those before them."""
    stage = final_stage(config, done)
    return stage is not None and stage.average == "uniform"


def average_decay(config: TrainingConfig, position: Position, done: float) -> float:
    """How much of the average stays when the weights of the next step are added to it."""
    if is_averaged_uniformly(config, done):
        return 1.0 - 1.0 / (position.n_averaged + 1)
    n_steps = position.step + 1
    return min(config.optimiser.ema_decay, (1.0 + n_steps) / (10.0 + n_steps))


def pass_steps(config: TrainingConfig, position: Position, n_steps: int) -> None:
    """Count steps that were made, all in one stage."""
    if is_averaged_uniformly(config, share_done(position, config.optimiser)):
        position.n_averaged += n_steps
    position.step += n_steps


def note_validation(config: TrainingConfig, position: Position, validation_loss: float) -> None:
    """Lower the rate of the plateau schedule when validation has not improved for a while."""
    o = config.optimiser
    if validation_loss < position.plateau_best:
        position.plateau_best, position.plateau_bad = validation_loss, 0
        return
    position.plateau_bad += 1
    if position.plateau_bad > o.plateau_patience:
        position.plateau_rate, position.plateau_bad = position.plateau_rate * o.plateau_factor, 0

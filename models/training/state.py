"""The state of a training on disk: everything that decides the next step, and nothing that does not.

One safetensors file holds the weights, their average and the optimiser's memory; its metadata hold the rest as JSON.
Batches and random pairs are functions of the seed and the step, so the place in them is all there is to keep. The
state before the last is kept as well.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import save

from equipot.errors import NotResumableError
from equipot.models.training.files import write_whole

STATE, PREVIOUS = "state.safetensors", "state.previous.safetensors"
FORMAT_VERSION = 1


@dataclass
class Position:
    """How far a training is."""

    step: int = 0
    pass_number: int = 0
    batch_in_pass: int = 0
    seconds: float = 0.0
    #: share of the learning rate left by the plateau schedule, its best validation loss and how long ago that was
    plateau_rate: float = 1.0
    plateau_best: float = float("inf")
    plateau_bad: int = 0
    #: steps of the final stage whose weights are in the average
    n_averaged: int = 0
    #: losses since the last validation
    loss_sum: float = 0.0
    n_losses: int = 0
    #: what else a resumed run must find: digests of data, versions
    origin: dict[str, Any] = field(default_factory=dict)


def write_state(folder: Path, position: Position, tensors: dict[str, torch.Tensor]) -> None:
    """Replace the state; the last one becomes the previous one."""
    meta = {"format_version": FORMAT_VERSION, **asdict(position)}
    contiguous = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    content = save(contiguous, metadata={"position": json.dumps(meta)})
    newest = folder / STATE
    staged = folder / f".{STATE}.next"
    write_whole(staged, content)
    if newest.exists():
        newest.replace(folder / PREVIOUS)
    staged.replace(newest)


def has_state(folder: Path) -> bool:
    """Whether a training was begun here."""
    return (folder / STATE).exists() or (folder / PREVIOUS).exists()


def read_state(folder: Path) -> tuple[Position, dict[str, torch.Tensor], bool] | None:
    """The newest state that is whole, and whether it is the newest; None where there is none.

    Raises NotResumableError when none is whole, or it is of a newer format.
    """
    damaged = ""
    for name in (STATE, PREVIOUS):
        path = folder / name
        if not path.exists():
            continue
        try:
            with safetensors.safe_open(path, framework="pt") as file:
                meta = json.loads(file.metadata()["position"])
                tensors = {key: file.get_tensor(key).clone() for key in file.keys()}  # noqa: SIM118 (not a mapping)
        except (OSError, safetensors.SafetensorError, KeyError, TypeError, ValueError) as error:
            damaged = damaged or f"{path} is damaged: {error}."
            continue
        if meta.pop("format_version") > FORMAT_VERSION:
            raise NotResumableError(f"{path} is of a newer version of equipot.", hint="Upgrade equipot.")
        return Position(**meta), tensors, not damaged
    if damaged:
        raise NotResumableError(damaged, hint="Begin again in another folder.")
    return None

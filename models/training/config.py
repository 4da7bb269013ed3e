"""A training run, described wholly by one YAML file, which ends up in the card."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from equipot.errors import InvalidParameterError
from equipot.models.network import Sizes


class Part(BaseModel):
    """Base of the sections: frozen, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class DataPart(Part):
    """Where the frames are; paths are relative to the working directory."""

    train: list[Path]
    valid: Path
    tests: dict[str, Path] = {}
    n_valid: int = Field(300, description="validation frames looked at while training")
    max_force_ev_per_ang: float = Field(30.0, description="frames with a larger force are left out")
    description: str
    source: str
    licence: str


class LossPart(Part):
    """Weights of the mean absolute errors: energy per atom, force vector, stress times volume per atom."""

    energy: float = 10.0
    force: float = 1.0
    virial: float = 2.0
    repulsion: float = Field(0.02, description="of the part of the push that pairs of atoms lack at short range")


class OptimiserPart(Part):
    """AdamW with warm-up and a cosine, and a running average of the weights."""

    n_steps: int
    max_seconds: float = Field(float("inf"), description="end, and end the cosine, after this much training time")
    atoms_per_batch: int = 400
    learning_rate: float = 5e-3
    final_fraction: float = 0.005
    warmup_steps: int = 200
    weight_decay: float = 1e-6
    clip_norm: float = 5.0
    ema_decay: float = 0.999
    validate_every: int = 1000


class TrainingConfig(Part):
    """Everything a run depends on, beside the data themselves."""

    name: str
    aliases: list[str] = []
    description: str
    level_of_theory: str
    energy_reference: str
    isolated_atom_energies_ev: dict[str, float]
    limits: list[str]
    licence: str = "MIT"
    seed: int = 0
    data: DataPart
    network: Sizes = Sizes()
    loss: LossPart = LossPart()
    optimiser: OptimiserPart

    @classmethod
    def read(cls, path: Path) -> Self:
        """The configuration in a YAML file; InvalidParameterError names the key that is wrong."""
        try:
            raw: Any = yaml.safe_load(path.read_text())
            return cls.model_validate(raw)
        except (OSError, yaml.YAMLError) as error:
            raise InvalidParameterError(f"{path} cannot be read: {error}") from error
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(str(part) for part in first["loc"])
            raise InvalidParameterError(f"{path}: {where}: {first['msg']}.", pointer=f"/{where}") from error

"""A training run, described wholly by one YAML file, which ends up in the card."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from equipot.errors import InvalidParameterError
from equipot.models.network import Sizes
from equipot.models.training.conventions import Keys, Units
from equipot.models.training.reading import FileSpec, as_file_spec

File = Annotated[FileSpec, BeforeValidator(as_file_spec)]
Penalty = Literal["l1", "l2", "huber"]
SEED_PLACE = "{seed}"


class Part(BaseModel):
    """Base of the sections: frozen, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Split(Part):
    """Validation frames taken out of the training frames at random: a share or a number of them."""

    fraction: float | None = Field(None, gt=0.0, lt=1.0)
    n_frames: int | None = Field(None, ge=1)

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if (self.fraction is None) == (self.n_frames is None):
            raise ValueError("give either fraction or n_frames")
        return self


class DataPart(Part):
    """Where the frames are; paths are relative to the working directory.

    A file is a path, or a mapping of `path` and what is special about it (FileSpec).
    """

    train: list[File] = Field(min_length=1)
    valid: Split | File
    tests: dict[str, File] = {}
    n_valid: int = Field(300, ge=1, description="frames of a validation file looked at while training")
    split_seed: int = Field(0, description="of the random validation split; seeds of the network share it")
    keys: Keys = Keys()
    units: Units = Units()
    max_force_ev_per_ang: float = Field(30.0, gt=0, description="training frames with a larger force are left out")
    skip_bad_frames: bool = Field(False, description="leave out frames that cannot be used instead of refusing all")
    trust_units: bool = Field(False, description="do not refuse data whose units look wrong")
    description: str = ""
    source: str = "not stated"
    licence: str = "not stated"


class Weights(Part):
    """Factors on the loss of some frames."""

    energy: float = Field(1.0, ge=0)
    force: float = Field(1.0, ge=0)
    virial: float = Field(1.0, ge=0)


class LossPart(Part):
    """Weights and kinds of the terms: energy per atom (eV), force vector (eV/Å), virial per atom (eV).

    l1 is the mean of absolute values (of vector and matrix norms), smooth within the deltas; l2 that of squares;
    huber is l2 below delta and l1 above, in the units of l1.
    """

    energy: float = Field(10.0, ge=0)
    force: float = Field(1.0, ge=0)
    virial: float = Field(2.0, ge=0)
    repulsion: float = Field(0.02, ge=0, description="of the part of the push that pairs of atoms lack close together")
    energy_penalty: Penalty = "l1"
    force_penalty: Penalty = "l1"
    virial_penalty: Penalty = "l1"
    energy_delta_ev: float = Field(0.005, gt=0)
    force_delta_ev_per_ang: float = Field(0.01, gt=0)
    virial_delta_ev: float = Field(0.001, gt=0)
    by_config_type: dict[str, Weights] = Field({}, description="factors on the weights of frames of a config_type")


class FinalStage(Part):
    """The last part of a training with other weights: energies up, learning rate down."""

    start: float = Field(0.75, gt=0, lt=1, description="share of the training after which it begins")
    energy: float | None = Field(None, ge=0)
    force: float | None = Field(None, ge=0)
    virial: float | None = Field(None, ge=0)
    learning_rate: float | None = Field(None, gt=0, description="constant from then on; None: the schedule goes on")
    average: Literal["ema", "uniform"] = Field("ema", description="uniform: mean of all weights of the stage (SWA)")


class OptimiserPart(Part):
    """AdamW or Muon with warm-up and a schedule, and a running average of the weights."""

    kind: Literal["adamw", "muon"] = Field("adamw", description="muon: matrices step by their orthogonal part")
    n_steps: int = Field(ge=1)
    max_seconds: float = Field(
        float("inf"), gt=0, description="end, and end the schedule, after this much training time: not reproducible"
    )
    atoms_per_batch: int = Field(400, ge=1)
    edges_per_batch: int | None = Field(None, ge=1, description="limit batches by neighbours instead of atoms")
    learning_rate: float = Field(5e-3, gt=0)
    schedule: Literal["cosine", "plateau", "constant"] = "cosine"
    final_fraction: float = Field(0.005, ge=0, le=1, description="of the learning rate, where cosine and plateau end")
    plateau_factor: float = Field(0.8, gt=0, lt=1)
    plateau_patience: int = Field(5, ge=0, description="validations without improvement before the rate goes down")
    warmup_steps: int = Field(200, ge=1)
    weight_decay: float = Field(1e-6, ge=0)
    clip_norm: float = Field(5.0, gt=0)
    ema_decay: float = Field(0.999, ge=0, lt=1)
    float64_fraction: float = Field(0.0, ge=0, le=1, description="last share of the training in double precision")
    validate_every: int = Field(1000, ge=1)
    compile: bool = Field(False, description="compile steps on a CPU: for frames of one or few sizes")


class HeadPart(Part):
    """Another level of theory, learned together with the first by readouts of its own."""

    level_of_theory: str
    isolated_atom_energies_ev: dict[str, float] | Literal["frames", "fit"] = "frames"
    data: DataPart
    weight: float = Field(1.0, gt=0, description="factor on the loss of its frames")


class TrainingConfig(Part):
    """Everything a run depends on, beside the data themselves."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._{}-]*$")
    aliases: list[str] = []
    description: str = ""
    level_of_theory: str
    energy_reference: str = ""
    isolated_atom_energies_ev: dict[str, float] | Literal["frames", "fit"] = "frames"
    limits: list[str] = []
    heads: list[HeadPart] = Field([], description="further levels of theory, each with its own data")
    is_told_charge: bool = Field(False, description="condition on the total charges that are in the training data")
    licence: str = "MIT"
    seed: int = Field(0, ge=0)
    data: DataPart
    network: Sizes = Sizes()
    loss: LossPart = LossPart()
    final_stage: FinalStage | None = None
    optimiser: OptimiserPart
    checkpoint_every_s: float = Field(60.0, gt=0, description="how often the state is written; changes no number")

    @property
    def full_name(self) -> str:
        """The name of the potential, with the seed in its place."""
        return self.name.replace(SEED_PLACE, str(self.seed))

    @property
    def learns_stress(self) -> bool:
        """Whether virials have a weight at any time."""
        return self.loss.virial > 0 or bool(self.final_stage and self.final_stage.virial)

    @property
    def is_reproducible(self) -> bool:
        """Whether the result is independent of how fast the machine is."""
        return self.optimiser.max_seconds == float("inf")

    @classmethod
    def read(cls, path: Path, **changes: Any) -> Self:
        """The configuration in a YAML file; InvalidParameterError names the key that is wrong."""
        return cls.from_text(read_yaml(path, **changes), str(path))

    @classmethod
    def from_text(cls, text: str, where: str) -> Self:
        """The configuration in YAML text that came from `where`."""
        try:
            return cls.model_validate(yaml.safe_load(text))
        except yaml.YAMLError as error:
            raise InvalidParameterError(f"{where} cannot be read: {error}") from error
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            place = ".".join(str(part) for part in first["loc"])
            raise InvalidParameterError(
                f"{where}: {place}: {first['msg']}.",
                pointer="/" + place.replace(".", "/"),
                hint="The keys are described in docs/training.md.",
            ) from error


def read_yaml(path: Path, **changes: Any) -> str:
    """The text of a YAML file, `changes` written over its keys: `data__skip_bad_frames` is one in a section."""
    try:
        text = path.read_text(encoding="utf-8")
        changes = {name: value for name, value in changes.items() if value is not None}
        if not changes:
            return text
        content = yaml.safe_load(text)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InvalidParameterError(f"{path} cannot be read: {error}") from error
    for name, value in changes.items():
        *sections, key = name.split("__")
        place = content
        for section in sections:
            place = place.setdefault(section, {}) if isinstance(place, dict) else {}
        if isinstance(place, dict):
            place[key] = value
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True)


def yaml_sha256(text: str) -> str:
    """Digest of a configuration's text."""
    return hashlib.sha256(text.encode()).hexdigest()

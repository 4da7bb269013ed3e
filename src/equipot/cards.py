"""The card of a potential and the registry of model names. No torch: the API reads this.

A potential is two files beside each other: `NAME.safetensors` holds the weights and nothing else, `NAME.json` the
card that says what they are. A model name is an alias (`organic`) or the full name (`organic-1`); records keep
the full name and the sha256 of the weights.
"""

from __future__ import annotations

import difflib
import hashlib
import os
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from equipot.errors import InvalidParameterError, InvalidWeightsError, UnknownModelError

FORMAT_VERSION = 1
MAX_CARD_BYTES = 1_000_000
SHIPPED_WEIGHTS = Path(__file__).parent / "models" / "weights"
MODEL_PATH_VARIABLE = "EQUIPOT_MODEL_PATH"


class Card(BaseModel):
    """Base of the parts of a card: frozen, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class TrainingData(Card):
    """Where a potential learned from."""

    description: str
    source: str
    licence: str
    n_frames: int
    sha256: dict[str, str]


class TestError(Card):
    """Errors on one named test set, of energies per atom and of whole frames, of force components and vectors."""

    test_set: str
    n_frames: int
    energy_mae_mev_per_atom: float
    energy_rmse_mev_per_atom: float
    force_mae_mev_per_ang: float
    force_rmse_mev_per_ang: float
    energy_mae_mev: float | None = None
    energy_rmse_mev: float | None = None
    force_vector_mae_mev_per_ang: float | None = None
    force_vector_rmse_mev_per_ang: float | None = None
    stress_mae_gpa: float | None = None
    stress_rmse_gpa: float | None = None
    by_config_type: dict[str, dict[str, float]] = {}


class LevelOfTheory(Card):
    """One of several levels of theory that a potential speaks: free atoms, charges and number of training frames."""

    level_of_theory: str
    isolated_atom_energies_ev: dict[str, float]
    charges: list[int]
    n_frames: int


class Uncertainty(Card):
    """How the expected error of forces was calibrated: by which measure, and what it is worth on unseen molecules.

    `curve` has a row for each tenth of the held-out atoms by their uncertainty: expected and found mean error of the
    force vector, meV/Å.
    """

    method: str
    scales_ev_per_ang: list[float]
    spearman: float
    share_within: dict[str, float]
    curve: list[tuple[float, float]]
    n_frames: int


class Crystal(Card):
    """A crystal of an element: lattice constant (Å), elastic constants, energy of a vacancy, and the lowest
    phonon frequency at the wave vectors of a 4 x 4 x 4 supercell (imaginary ones are negative)."""

    a_ang: float
    c11_gpa: float
    c12_gpa: float
    c44_gpa: float
    vacancy_ev: float
    lowest_phonon_thz: float | None = None


class CrystalCheck(Card):
    """A crystal of the potential beside its reference (which, says benchmarks/sanity.py)."""

    found: Crystal
    reference: Crystal


class Sanity(Card):
    """Physics that a potential was held against, by benchmarks/sanity.py.

    `attractive_pairs`: two elements and the distance (Å) from which on they attract each other below 0.65 of a bond,
    down to 0.5 Å; `additivity_error_ev` is |E(A + B, 30 Å apart) - E(A) - E(B)|; `nve_drift_ev_per_atom` the slope of a
    linear fit to what velocity Verlet keeps, to second order in its step of 0.5 fs, times 50 ps.
    """

    attractive_pairs: list[tuple[str, str, float]]
    n_pairs: int
    additivity_error_ev: float
    nve_drift_ev_per_atom: float | None = None
    crystals: dict[str, CrystalCheck] = {}


class PotentialCard(Card):
    """What a potential is: enough to build it, to trust it and to know where it ends."""

    format_version: int
    name: str
    aliases: list[str] = []
    description: str
    elements: list[str]
    cutoff_ang: float
    level_of_theory: str
    has_stress: bool
    architecture: dict[str, Any]
    n_parameters: int
    energy_reference: str
    isolated_atom_energies_ev: dict[str, float]
    levels: list[LevelOfTheory] = []  # none: the one level above, neutral closed-shell systems
    charges: list[int] = []  # that it was told in training; none: it knows nothing of charges
    domain_threshold: float | None = None
    uncertainty: Uncertainty | None = None
    sanity: Sanity | None = None
    training_data: TrainingData
    training: dict[str, Any]
    test_errors: list[TestError]
    limits: list[str]
    licence: str
    weights_sha256: str

    @property
    def level_names(self) -> list[str]:
        """Every level of theory it speaks, the one it speaks by itself first."""
        return [level.level_of_theory for level in self.levels] or [self.level_of_theory]

    def head_of(self, level_of_theory: str | None) -> int:
        """Where a level of theory stands among those it speaks. Raises InvalidParameterError for another one."""
        if level_of_theory is None:
            return 0
        known = {name.casefold(): index for index, name in enumerate(self.level_names)}
        if level_of_theory.casefold() not in known:
            raise InvalidParameterError(
                f"The potential {self.name!r} does not know the level of theory {level_of_theory!r}.",
                pointer="/level_of_theory",
                hint=f"It knows {', '.join(self.level_names)}.",
            )
        return known[level_of_theory.casefold()]

    def named_at(self, head: int) -> str:
        """What it is called in a complaint: its name, with the level of theory if that is not its first."""
        return f"{self.name} at {self.level_names[head]}" if head else self.name

    def charges_of(self, head: int) -> list[int]:
        """Total charges that a level of theory was trained on."""
        return self.levels[head].charges if self.levels else self.charges or [0]

    def elements_of(self, head: int) -> list[str]:
        """Elements that a level of theory was trained on."""
        return list(self.levels[head].isolated_atom_energies_ev) if self.levels else self.elements

    def summary(self) -> dict[str, Any]:
        """What a list of models shows."""
        chosen = "name aliases description elements cutoff_ang level_of_theory has_stress n_parameters limits".split()
        levels = [
            {"level_of_theory": name, "charges": self.charges_of(head), "elements": self.elements_of(head)}
            for head, name in enumerate(self.level_names)
        ]
        return {
            "sha256": self.weights_sha256,
            **self.model_dump(include={*chosen, "licence"}),
            "levels": levels,
            "spin_multiplicities": [1],
        }


def read_card(path: Path) -> PotentialCard:
    """The card at `path`.

    Raises InvalidWeightsError if it is missing, too large, not a card, or of a format this version cannot read.
    """
    try:
        if path.stat().st_size > MAX_CARD_BYTES:
            raise InvalidWeightsError(f"{path.name} is larger than a card can be ({MAX_CARD_BYTES} bytes).")
        card = PotentialCard.model_validate_json(path.read_bytes())
    except OSError as error:
        raise InvalidWeightsError(f"The card {path} cannot be read: {error.strerror}.") from error
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise InvalidWeightsError(f"{path.name} is not the card of a potential: {where}: {first['msg']}.") from error
    if card.format_version > FORMAT_VERSION:
        raise InvalidWeightsError(
            f"{path.name} has format {card.format_version}; this version reads up to {FORMAT_VERSION}.",
            hint="Upgrade equipot.",
        )
    return card


def checked_weights(card_path: Path, card: PotentialCard) -> bytes:
    """The bytes of the weights beside a card, refused unless their sha256 is the one the card names."""
    path = card_path.with_suffix(".safetensors")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InvalidWeightsError(f"The weights {path} cannot be read: {error.strerror}.") from error
    digest = hashlib.sha256(data).hexdigest()
    if digest != card.weights_sha256:
        raise InvalidWeightsError(
            f"{path.name} is damaged or foreign: its sha256 is {digest[:12]}…, "
            f"the card says {card.weights_sha256[:12]}….",
            hint="Copy both files again from where they came.",
        )
    return data


def registry() -> dict[str, tuple[Path, PotentialCard]]:
    """Every registered potential by its full name: the shipped ones and those in EQUIPOT_MODEL_PATH."""
    return dict(_registry(os.environ.get(MODEL_PATH_VARIABLE, "")))


@lru_cache(maxsize=8)
def _registry(model_path: str) -> tuple[tuple[str, tuple[Path, PotentialCard]], ...]:
    folders = [Path(part) for part in model_path.split(os.pathsep) if part] + [SHIPPED_WEIGHTS]
    found: dict[str, tuple[Path, PotentialCard]] = {}
    for path in _card_paths(folders):
        card = read_card(path)
        found.setdefault(card.name, (path, card))
    return tuple(found.items())


def _card_paths(folders: list[Path]) -> Iterator[Path]:
    for folder in folders:
        yield from sorted(folder.glob("*.json"))


def find_model(name: str) -> tuple[Path, PotentialCard]:
    """Path of the card and the card behind a model name or alias.

    Raises UnknownModelError, suggesting the nearest name.
    """
    known = registry()
    if name in known:
        return known[name]
    for path, card in known.values():
        if name in card.aliases:
            return path, card
    names = sorted({*known, *(alias for _, card in known.values() for alias in card.aliases)})
    near = difflib.get_close_matches(name, names, n=1)
    guess = f"Did you mean {near[0]!r}? " if near else ""
    raise UnknownModelError(
        f"There is no model {name!r}.", pointer="/model", hint=f"{guess}Known: {', '.join(names) or 'none'}."
    )

"""Every model by its name: a potential of ours, a calculator that a package announces, and either with dispersion.

A name is `organic`, the path of a card, `sevennet-0`, or one of them with `+d3` behind it: Grimme's D3 with the damping
of the functional that the model was trained on, or of the one named, as in `elements+d3:pbe`.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from equipot.calculator.plugins import CalculatorPlugin, find_calculators, load_calculator, options_of
from equipot.cards import PotentialCard, find_model, read_card
from equipot.errors import InvalidParameterError, UnknownModelError

if TYPE_CHECKING:
    from ase.calculators.calculator import BaseCalculator

D3_SUFFIX = "+d3"


@dataclass(frozen=True)
class KnownModel:
    """What is known of a model before anything heavy is loaded."""

    name: str
    base: str  #: the name without its dispersion
    elements: tuple[str, ...]
    level_of_theory: str
    sha256: str | None = None
    plugin: CalculatorPlugin | None = None
    d3_functional: str | None = None
    charges: tuple[int, ...] = (0,)  #: total charges it was trained on, e
    chosen_level: str | None = None  #: which of several levels of theory was asked for
    title: str = ""  #: what it is called in a complaint

    @property
    def is_potential(self) -> bool:
        """Whether it is a potential of ours as it is, which systems share passes of."""
        return self.plugin is None and self.d3_functional is None

    def load_calculator(self, device: str | None = None, dtype: str | None = None) -> BaseCalculator:
        """An ASE calculator of it; device None or "auto" is CUDA if there is one and the model can use it.

        Raises InvalidParameterError if the model cannot be computed on that device or a package is missing.
        """
        calculator = self._base_calculator(device, dtype)
        if self.d3_functional is None:
            return calculator
        from equipot.calculator.d3 import DispersionCalculator

        return DispersionCalculator(calculator, self.d3_functional)

    def _base_calculator(self, device: str | None, dtype: str | None) -> BaseCalculator:
        if self.plugin is None:
            from equipot.calculator.ase import EquipotCalculator

            return EquipotCalculator(self.base, device=device, dtype=dtype, level_of_theory=self.chosen_level)
        options: dict[str, Any] = {}
        if self.plugin.is_installed:
            offered = options_of(self.plugin)
            options = {k: v for k, v in (("device", device), ("dtype", dtype)) if v is not None and k in offered}
            if device not in (None, "auto", "cpu") and "device" not in offered:
                raise InvalidParameterError(
                    f"{self.base} cannot be computed on {device}.", pointer="/device", hint='Choose "auto" or "cpu".'
                )
        return load_calculator(self.base, **options)


def find_known(name: str, level_of_theory: str | None = None) -> KnownModel:
    """What is known of the model of this name or with its card at this path, at one of its levels of theory.

    Raises UnknownModelError, or InvalidParameterError for a level that it was not trained on, and for dispersion that
    is in the model already or of which it is not known which functional it is for.
    """
    base, has_d3, given = name.partition(D3_SUFFIX)
    if not has_d3 or (given and not given.startswith(":")):
        return _without_dispersion(name, name, level_of_theory)
    known = _without_dispersion(base, name, level_of_theory)
    functional = given[1:] or _functional_of(known)
    return KnownModel(
        name=name,
        base=base,
        elements=known.elements,
        level_of_theory=f"{known.level_of_theory} + D3(BJ) for {functional}",
        sha256=known.sha256,
        plugin=known.plugin,
        d3_functional=functional,
        charges=known.charges,
        chosen_level=known.chosen_level,
        title=name,
    )


def _without_dispersion(base: str, name: str, level_of_theory: str | None) -> KnownModel:
    if base.endswith(".json"):
        return _of_card(read_card(Path(base)), base, name, level_of_theory)
    try:
        return _of_card(find_model(base)[1], base, name, level_of_theory)
    except UnknownModelError as error:
        plugins = find_calculators()
        if base not in plugins:
            near = difflib.get_close_matches(base, plugins, n=1)
            guess = f"Did you mean {near[0]!r}? " if near and "Did you mean" not in error.hint else ""
            others = ", ".join(sorted(plugins))
            raise UnknownModelError(
                error.detail, pointer="/model", hint=f"{guess}{error.hint} Of other packages: {others}."
            ) from error
    plugin = plugins[base]
    if level_of_theory not in (None, plugin.level_of_theory):
        raise InvalidParameterError(
            f"{base} does not know the level of theory {level_of_theory!r}.",
            pointer="/level_of_theory",
            hint=f"It knows {plugin.level_of_theory}.",
        )
    return KnownModel(name, base, plugin.elements, plugin.level_of_theory, plugin=plugin, title=name)


def _of_card(card: PotentialCard, base: str, name: str, level_of_theory: str | None) -> KnownModel:
    head = card.head_of(level_of_theory)
    return KnownModel(
        name,
        base,
        tuple(card.elements_of(head)),
        card.level_names[head],
        card.weights_sha256,
        charges=tuple(card.charges_of(head)),
        chosen_level=level_of_theory,
        title=card.named_at(head),
    )


def _functional_of(known: KnownModel) -> str:
    """The functional whose damping fits. Raises InvalidParameterError."""
    if known.plugin is not None:
        functional = known.plugin.functional
    else:
        functional = "pbe" if known.level_of_theory.lower().startswith("pbe ") else None
    if functional is None:
        raise InvalidParameterError(
            f"{known.base} was trained on {known.level_of_theory}, which has dispersion of its own or is no functional "
            "that D3 is known to have parameters for.",
            pointer="/model",
            hint=f"Use {known.base} as it is, or name a functional: {known.base}+d3:pbe.",
        )
    return functional

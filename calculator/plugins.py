"""Other calculators by name: any package can announce one under the entry-point group `equipot.calculators`.

    [project.entry-points."equipot.calculators"]
    mace-mp-0 = "my_package.equipot_plugin:ANNOUNCEMENT"

The entry point is a mapping `{"name", "elements", "level_of_theory", "factory": "module:function"}` in a module that
imports neither torch nor the calculator itself, so that listing what there is costs nothing. The factory gives an ASE
calculator; it is called with the keyword arguments that `load_calculator` was given, of which `device` and `dtype` may
be there for users to choose. Does your calculator keep what it promises? `equipot.calculator.contract` says.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Mapping
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from equipot.elements import NUMBERS
from equipot.errors import EquipotError, InvalidParameterError, UnknownModelError

if TYPE_CHECKING:
    from ase.calculators.calculator import BaseCalculator

GROUP = "equipot.calculators"


class CalculatorPlugin(BaseModel):
    """What a package says of a calculator it offers."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(min_length=1, max_length=100)
    elements: tuple[str, ...] = Field(min_length=1)
    level_of_theory: str = Field(min_length=1)
    factory: str = Field(pattern=r"^[\w.]+:\w+$")
    functional: str | None = None  #: whose D3 parameters `NAME+d3` takes; None where dispersion is in the model
    licence: str | None = None
    requires: str | None = Field(None, pattern=r"^\w+$")  #: a module that must be installed, if not the announcing one
    extra: str | None = Field(None, pattern=r"^[\w-]+$")  #: the extra of equipot that installs it

    @property
    def is_installed(self) -> bool:
        """Whether what it requires is there. Nothing is imported."""
        return self.requires is None or find_spec(self.requires) is not None

    @property
    def how_to_install(self) -> str:
        """The command that installs what is missing."""
        return f"pip install 'equipot[{self.extra}]'" if self.extra else f"pip install {self.requires}"


def find_calculators() -> dict[str, CalculatorPlugin]:
    """Every announced calculator by name. None of them is imported.

    Raises InvalidParameterError naming the package whose announcement is broken, or two that use one name.
    """
    found: dict[str, CalculatorPlugin] = {}
    for entry in entry_points(group=GROUP):
        plugin = _announcement(entry)
        if found.setdefault(plugin.name, plugin) != plugin:
            raise InvalidParameterError(
                f"Two packages announce a calculator {plugin.name!r}.", hint="Uninstall one of them."
            )
    return found


def load_calculator(name: str, **options: Any) -> BaseCalculator:
    """The announced calculator of this name, made by its factory with `options`.

    Raises UnknownModelError, InvalidParameterError when its package is missing, or EquipotError when the
    factory fails or gives no ASE calculator.
    """
    from ase.calculators.calculator import BaseCalculator

    known = find_calculators()
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        guess = f"Did you mean {near[0]!r}? " if near else ""
        raise UnknownModelError(
            f"No installed package announces a calculator {name!r}.",
            pointer="/model",
            hint=f"{guess}Known: {', '.join(sorted(known)) or 'none'}.",
        )
    plugin = known[name]
    if not plugin.is_installed:
        raise InvalidParameterError(
            f"The package {plugin.requires!r}, which {name} needs, is not installed.",
            pointer="/model",
            hint=f"Install it: {plugin.how_to_install}",
        )
    module, _, function = plugin.factory.partition(":")
    try:
        calculator = getattr(import_module(module), function)(**options)
    except EquipotError:
        raise
    except Exception as error:
        raise EquipotError(
            f"The calculator {name!r} could not be made: {type(error).__name__}: {error}",
            hint="Are the package that announces it and what it needs installed?",
        ) from error
    if not isinstance(calculator, BaseCalculator):
        raise EquipotError(f"The factory of {name!r} gave a {type(calculator).__name__}, not an ASE calculator.")
    return calculator


def options_of(plugin: CalculatorPlugin) -> tuple[str, ...]:
    """The names of what its factory lets users choose. Imports the factory's module."""
    module, _, function = plugin.factory.partition(":")
    try:
        return tuple(inspect.signature(getattr(import_module(module), function)).parameters)
    except (TypeError, ValueError):  # a builtin says nothing of itself
        return ()


def _announcement(entry: EntryPoint) -> CalculatorPlugin:
    owner = entry.dist.name if entry.dist is not None else entry.module
    try:
        announced = entry.load()
        if not isinstance(announced, Mapping):
            raise TypeError("it is not a mapping")
        plugin = CalculatorPlugin.model_validate(dict(announced))
    except (ImportError, AttributeError, TypeError, ValidationError) as error:
        reason = str(error).splitlines()[0]
        raise InvalidParameterError(
            f"The calculator {entry.name!r} of the package {owner} is announced wrongly: {reason}.",
            hint='An announcement is {"name", "elements", "level_of_theory", "factory": "module:function"}.',
        ) from error
    if unknown := [symbol for symbol in plugin.elements if symbol not in NUMBERS]:
        raise InvalidParameterError(f"The calculator {plugin.name!r} of {owner} lists {unknown[0]!r} as an element.")
    return plugin

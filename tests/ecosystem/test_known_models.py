"""Models by name: announced ones that are not installed, their devices, and what lists say of them."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from importlib.util import find_spec
from pathlib import Path

import pytest
from ase.build import bulk

from equipot import relax
from equipot.calculator.foundation import announcements
from equipot.calculator.known import find_known
from equipot.calculator.plugins import CalculatorPlugin, find_calculators, load_calculator, options_of
from equipot.errors import InvalidParameterError, UnknownModelError

FOUNDATION = {name: plugin for name, plugin in find_calculators().items() if plugin.extra}
MISSING = sorted(name for name, plugin in FOUNDATION.items() if not plugin.is_installed)


def test_every_family_of_foundation_models_is_announced() -> None:
    assert {plugin.extra for plugin in FOUNDATION.values()} == {
        "sevennet", "chgnet", "mace", "nequip", "orb", "mattersim", "fairchem",
    }  # fmt: skip


def test_every_announcement_in_the_module_is_an_entry_point_and_every_extra_exists(repository: Path) -> None:
    announced = {
        value["name"] for value in vars(announcements).values() if isinstance(value, dict) and "factory" in value
    }
    assert announced == set(FOUNDATION)
    extras = tomllib.loads((repository / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert {plugin.extra for plugin in FOUNDATION.values()} <= set(extras)


@pytest.mark.parametrize("name", sorted(FOUNDATION))
def test_a_factory_exists_and_lets_the_device_be_chosen(name: str) -> None:
    assert "device" in options_of(FOUNDATION[name])


@pytest.mark.parametrize("name", MISSING)
def test_a_model_whose_package_is_missing_says_how_to_install_it(name: str) -> None:
    extra = FOUNDATION[name].extra
    with pytest.raises(InvalidParameterError, match=rf"pip install 'equipot\[{extra}\]'"):
        load_calculator(name)
    with pytest.raises(InvalidParameterError, match=rf"equipot\[{extra}\]"):
        relax(bulk("Cu"), name)


def test_a_model_of_another_package_computes_by_name_in_python() -> None:
    (result,) = relax([bulk("Cu", cubic=True, a=3.7)], "emt", cell_filter="frechet")
    assert result.converged
    assert result.model == "emt"


def test_a_misspelt_name_of_any_package_is_guessed() -> None:
    with pytest.raises(UnknownModelError, match="Did you mean 'sevennet-0'"):
        find_known("sevenet-0")


def test_a_gpu_is_refused_for_a_calculator_that_has_no_device() -> None:
    with pytest.raises(InvalidParameterError, match="cannot be computed on cuda"):
        find_known("emt").load_calculator(device="cuda")


def test_compiling_a_model_of_another_package_is_refused() -> None:
    with pytest.raises(InvalidParameterError, match="cannot be compiled"):
        relax(bulk("Cu"), "emt", compile=True)


def test_looking_a_name_up_imports_neither_torch_nor_ase_nor_the_package() -> None:
    code = (
        "import sys; from equipot.calculator.known import find_known; find_known('sevennet-0+d3'); "
        "sys.exit(bool({'torch', 'ase', 'sevenn', 'tad_dftd3'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_list_of_models_says_which_are_installed_and_how_to_get_the_others() -> None:
    run = [sys.executable, "-m", "equipot.service.cli", "models"]
    listed = json.loads(subprocess.run([*run, "--json"], check=True, capture_output=True).stdout)["calculators"]
    assert {item["name"]: item["is_installed"] for item in listed if item["extra"] == "sevennet"} == {
        "sevennet-0": find_spec("sevenn") is not None,
        "sevennet-l3i5": find_spec("sevenn") is not None,
    }
    one = subprocess.run([*run, "mace-mp-0"], check=True, capture_output=True, text=True).stdout
    assert "mace-mp-0+d3 adds D3(BJ) for pbe" in one


def test_an_announcement_that_requires_nothing_is_installed() -> None:
    plugin = CalculatorPlugin(name="x", elements=("H",), level_of_theory="none", factory="a:b")
    assert plugin.is_installed
    assert not plugin.model_copy(update={"requires": "surely_not_there"}).is_installed

"""Calculators announced by installed packages."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path

import pytest
from ase.build import bulk
from ase.calculators.emt import EMT, parameters

from equipot.calculator.plugins import find_calculators, load_calculator
from equipot.errors import EquipotError, InvalidParameterError, UnknownModelError

Announce = Callable[[str], None]

PACKAGE = """
GOOD = {"name": "other", "elements": ["Ar"], "level_of_theory": "Lennard-Jones", "factory": "announcing:make"}
NOT_A_CALCULATOR = GOOD | {"name": "odd", "factory": "builtins:dict"}
MISSPELT = GOOD | {"name": "misspelt", "element": ["Ar"]}
NO_ELEMENT = GOOD | {"name": "xx", "elements": ["Xx"]}
TWIN = GOOD | {"name": "emt"}

def make(epsilon=1.0):
    from ase.calculators.lj import LennardJones
    return LennardJones(epsilon=epsilon)
"""


@pytest.fixture
def announce(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Announce:
    """Install a small package that announces one of the values above, by putting its metadata on the path."""

    def install(attribute: str) -> None:
        (tmp_path / "announcing.py").write_text(PACKAGE)
        info = tmp_path / "announcing-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: announcing\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[equipot.calculators]\nname = announcing:{attribute}\n")
        monkeypatch.syspath_prepend(str(tmp_path))
        monkeypatch.delitem(sys.modules, "announcing", raising=False)

    return install


def test_emt_is_announced_by_the_package_itself_and_gives_ases_energy() -> None:
    assert any(entry.name == "emt" for entry in entry_points(group="equipot.calculators"))
    atoms = bulk("Cu", cubic=True)
    atoms.calc = load_calculator("emt")
    reference = bulk("Cu", cubic=True)
    reference.calc = EMT()
    assert atoms.get_potential_energy() == reference.get_potential_energy()


def test_emt_announces_the_elements_ase_has_parameters_for() -> None:
    assert set(find_calculators()["emt"].elements) == set(parameters)


def test_listing_calculators_imports_neither_torch_nor_ase() -> None:
    code = (
        "import sys; from equipot.calculator.plugins import find_calculators; assert find_calculators(); "
        "sys.exit(bool({'torch', 'ase'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_another_package_can_announce_a_calculator_and_gets_its_options(announce: Announce) -> None:
    announce("GOOD")
    assert find_calculators()["other"].level_of_theory == "Lennard-Jones"
    assert load_calculator("other", epsilon=2.0).parameters["epsilon"] == 2.0


def test_an_unknown_name_suggests_the_nearest() -> None:
    with pytest.raises(UnknownModelError, match="Did you mean 'emt'"):
        load_calculator("emd")


@pytest.mark.parametrize("attribute", ["MISSPELT", "NO_ELEMENT", "ABSENT", "TWIN"])
def test_a_broken_announcement_is_refused_naming_it(announce: Announce, attribute: str) -> None:
    announce(attribute)
    with pytest.raises(InvalidParameterError, match="announc"):
        find_calculators()


def test_a_factory_that_gives_something_else_is_refused(announce: Announce) -> None:
    announce("NOT_A_CALCULATOR")
    with pytest.raises(EquipotError, match="not an ASE calculator"):
        load_calculator("odd")


def test_a_factory_that_fails_keeps_its_cause(announce: Announce) -> None:
    announce("GOOD")
    with pytest.raises(EquipotError, match="TypeError") as caught:
        load_calculator("other", nonsense=1)
    assert isinstance(caught.value.__cause__, TypeError)

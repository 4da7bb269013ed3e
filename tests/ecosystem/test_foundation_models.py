"""Foundation models whose packages carry their weights, for real: `make test-calculators` installs and tries them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from ase.build import bulk
from ase.io import read

from equipot import relax
from equipot.calculator.contract import CHECKS, Tolerances
from equipot.calculator.known import find_known
from equipot.calculator.plugins import find_calculators

pytestmark = pytest.mark.filterwarnings("ignore")  # of their packages

WITH_WEIGHTS = ["sevennet-0", "sevennet-l3i5", "chgnet", "chgnet-r2scan"]
INSTALLED = [name for name in WITH_WEIGHTS if find_calculators()[name].is_installed]
if not INSTALLED:
    pytest.skip("no foundation model is installed: make test-calculators tries them", allow_module_level=True)

#: lattice constants in Å by experiment; PBE-like potentials are within 2 %
EXPERIMENT = {"NaCl": ("rocksalt", 5.640), "MgO": ("rocksalt", 4.212), "Si": ("diamond", 5.431), "Al": ("fcc", 4.050)}


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", INSTALLED)
def test_it_keeps_the_contract_in_single_precision(name: str, check: object) -> None:
    known = find_known(name)
    calculator = known.load_calculator(device="cpu")  # loading takes seconds; reset stands for a new one
    atoms = bulk("MgO", "rocksalt", a=4.2, cubic=True)
    atoms.rattle(0.05, seed=0)

    def make() -> object:
        calculator.reset()
        return calculator

    check(make, atoms, Tolerances.single())  # type: ignore[operator]


@pytest.mark.parametrize("name", INSTALLED)
def test_it_knows_the_elements_that_are_announced(name: str) -> None:
    known = find_known(name)
    calculator = known.load_calculator(device="cpu")
    if hasattr(calculator, "type_map"):  # SevenNet tells
        from ase.data import atomic_numbers

        assert set(calculator.type_map) == {atomic_numbers[symbol] for symbol in known.elements}


@pytest.mark.parametrize("formula", EXPERIMENT)
@pytest.mark.parametrize("name", INSTALLED)
def test_lattice_constants_are_those_of_experiment_within_two_per_cent(name: str, formula: str) -> None:
    structure, constant = EXPERIMENT[formula]
    atoms = bulk(formula, structure, a=1.03 * constant)
    (result,) = relax([atoms], name, cell_filter="frechet", fmax_ev_per_ang=0.02, optimizer="lbfgs")
    assert result.converged
    ratio = (result.atoms.get_volume() / atoms.get_volume()) ** (1 / 3)
    assert 1.03 * ratio == pytest.approx(1.0, abs=0.02)


@pytest.mark.parametrize("name", [INSTALLED[0], f"{INSTALLED[0]}+d3"])
def test_the_command_line_relaxes_a_crystal_of_elements_that_ours_do_not_know(name: str, tmp_path: Path) -> None:
    bulk("NaCl", "rocksalt", a=5.8, cubic=True).write(tmp_path / "salt.cif")
    words = ["relax", "salt.cif", "--model", name, "--cell-filter", "frechet", "-o", "out"]
    run = subprocess.run(
        [sys.executable, "-m", "equipot.service.cli", *words], cwd=tmp_path, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    relaxed = read(tmp_path / "out" / "final.extxyz")
    assert 5.4 < relaxed.cell.lengths()[0] < 5.8

"""The contract of calculators: ours keep it, and each planted fault breaks the promise it should."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.calculator import all_changes
from ase.calculators.emt import EMT

from equipot import EquipotCalculator
from equipot.calculator.contract import CHECKS, ContractError, Tolerances, check_calculator, main
from equipot.models.loading import load_potential


def rattled_copper() -> Atoms:
    atoms = bulk("Cu", cubic=True)
    atoms.rattle(0.05, seed=0)
    return atoms


def acetic_acid() -> Atoms:
    atoms = molecule("CH3COOH")
    atoms.rattle(0.05, seed=0)
    return atoms


class Faulty(EMT):  # type: ignore[misc]  # ASE is not typed
    """EMT with a fault."""

    fault: Callable[[Faulty, Atoms, dict[str, Any]], None]

    def calculate(self, atoms: Any = None, properties: Any = ("energy",), system_changes: Any = all_changes) -> None:
        super().calculate(atoms, properties, system_changes)
        type(self).fault(self, atoms, self.results)


def _forces(calc: Faulty, atoms: Atoms, results: dict[str, Any]) -> None:
    results["forces"] = results["forces"] * 1.001


def _stress(calc: Faulty, atoms: Atoms, results: dict[str, Any]) -> None:
    results["stress"] = -results["stress"]


def _rotation(calc: Faulty, atoms: Atoms, results: dict[str, Any]) -> None:
    results["energy"] += 1e-4 * float(atoms.cell[0, 0])


def _order(calc: Faulty, atoms: Atoms, results: dict[str, Any]) -> None:
    results["energy"] += 1e-4 * float(atoms.get_distance(0, 1))


def _place(calc: Faulty, atoms: Atoms, results: dict[str, Any]) -> None:
    results["energy"] += 1e-4 * float(atoms.positions[:, 0].sum())


def _images(calc: Faulty, atoms: Atoms, results: dict[str, Any]) -> None:
    results["energy"] += 1e-4


def _history(calc: Faulty, atoms: Atoms, results: dict[str, Any]) -> None:
    calc.n_calls = getattr(calc, "n_calls", 0) + 1
    results["energy"] += 1e-4 * calc.n_calls


def _mutation(calc: Faulty, atoms: Atoms, results: dict[str, Any]) -> None:
    atoms.info["seen"] = True


FAULTS = {
    "forces are the derivative of the energy": _forces,
    "stress is the derivative of the energy": _stress,
    "rotation turns forces and keeps the energy": _rotation,
    "order of atoms does not matter": _order,
    "place does not matter": _place,
    "images of atoms are atoms": _images,
    "what was asked before does not matter": _history,
    "atoms are left as they were": _mutation,
}


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize(("model", "make_atoms"), [("organic", acetic_acid), ("elements", rattled_copper)])
def test_ours_keeps_the_contract(check: Any, model: str, make_atoms: Callable[[], Atoms]) -> None:
    potential = load_potential(model)
    check(lambda: EquipotCalculator(potential), make_atoms(), Tolerances())


def test_emt_breaks_the_contract_nowhere_but_where_its_results_are_handed_out() -> None:
    broken = [f.promise for f in check_calculator(EMT, [rattled_copper()]) if f.broken]
    assert set(broken) <= {"atoms are left as they were"}


@pytest.mark.parametrize("promise", FAULTS)
def test_a_planted_fault_breaks_its_promise(promise: str) -> None:
    faulty = type("Planted", (Faulty,), {"fault": staticmethod(FAULTS[promise])})
    check = next(check for check in CHECKS if check.__name__ == promise.replace(" ", "_"))
    with pytest.raises(ContractError):
        check(faulty, rattled_copper(), Tolerances())


def test_every_check_has_a_fault_that_shows_it_works() -> None:
    assert {check.__name__.replace("_", " ") for check in CHECKS} == set(FAULTS)


def test_not_a_number_is_never_near() -> None:
    def fault(calc: Faulty, atoms: Atoms, results: dict[str, Any]) -> None:
        results["energy"] = np.nan

    faulty = type("Planted", (Faulty,), {"fault": staticmethod(fault)})
    assert any(finding.broken for finding in check_calculator(faulty, [rattled_copper()]))


def test_the_contract_is_a_command_for_announced_calculators(tmp_path: Any, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "copper.vasp"
    bulk("Cu", cubic=True).write(file)
    assert main(["elements", str(file)]) == 0
    printed = capsys.readouterr().out
    assert printed.count("ok") == len(CHECKS)
    assert main([]) == 2

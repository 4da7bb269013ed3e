"""What contradicts itself is refused before anything runs, with the field and the remedy, wherever it is said."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ase import Atoms
from ase.build import bulk, fcc111, molecule
from ase.calculators.emt import EMT
from ase.io import write
from pydantic import ValidationError

from equipot.calculator.convert import from_atoms
from equipot.errors import InputError, InvalidParameterError, InvalidStructureError
from equipot.params import JOB_OF_KIND, JOB_REQUEST, invalid_parameters, parse_params
from equipot.service import cli
from equipot.simulation.api import relax
from equipot.simulation.verdicts import Outcome

ALL_BUT_ONE = [True, True, True, True, True]

#: the parameters, the field that is pointed at, and a word of the remedy
CONTRADICTIONS: dict[str, tuple[dict[str, Any], str, str]] = {
    "short mask": ({"cell_filter": "frechet", "cell_mask": ALL_BUT_ONE}, "cell_mask", "which strains"),
    "long mask": ({"cell_filter": "frechet", "cell_mask": [True] * 7}, "cell_mask", "which strains"),
    "empty mask": ({"cell_filter": "frechet", "cell_mask": [False] * 6}, "cell_mask", "cell_filter to none"),
    "pressure on a fixed cell": ({"pressure_gpa": 1.0}, "pressure_gpa", "Set cell_filter"),
    "mask on a fixed cell": ({"cell_mask": [True] * 6}, "cell_mask", "Set cell_filter"),
    "hydrostatic fixed cell": ({"hydrostatic": True}, "hydrostatic", "Set cell_filter"),
    "constant volume of a fixed cell": ({"constant_volume": True}, "constant_volume", "Set cell_filter"),
    "hydrostatic at constant volume": (
        {"cell_filter": "unit_cell", "hydrostatic": True, "constant_volume": True},
        "constant_volume",
        "one of the two",
    ),
    "pressure at constant volume": (
        {"cell_filter": "unit_cell", "pressure_gpa": 1.0, "constant_volume": True},
        "pressure_gpa",
        "constant_volume",
    ),
    "masked and hydrostatic": (
        {"cell_filter": "frechet", "hydrostatic": True, "cell_mask": [True, False, True, True, True, True]},
        "cell_mask",
        "one of the two",
    ),
    "one length at constant volume": (
        {"cell_filter": "frechet", "constant_volume": True, "cell_mask": [False, True, False, False, False, False]},
        "cell_mask",
        "one of the two",
    ),
    "unknown optimizer": ({"optimizer": "bfgs"}, "optimizer", "minimiser"),
    "unknown filter": ({"cell_filter": "exp"}, "cell_filter", "exponential map"),
    "no tolerance": ({"fix_symmetry": True, "symmetry_tolerance_ang": 0.0}, "symmetry_tolerance_ang", "how far"),
}


@pytest.mark.parametrize("name", CONTRADICTIONS)
def test_contradicting_parameters_are_refused_in_python(name: str) -> None:
    params, field, remedy = CONTRADICTIONS[name]
    with pytest.raises(InvalidParameterError) as refused:
        relax(bulk("Cu"), EMT(), **params)
    assert refused.value.culprits[0].pointer == f"/{field}"
    assert remedy in refused.value.hint


@pytest.mark.parametrize("name", CONTRADICTIONS)
def test_contradicting_parameters_are_refused_in_a_job(name: str) -> None:
    params, field, remedy = CONTRADICTIONS[name]
    structure = from_atoms(bulk("Cu")).to_json()
    with pytest.raises(ValidationError) as refused:
        JOB_REQUEST.validate_python({"kind": "relax", "structures": [structure], "params": params})
    error = invalid_parameters(refused.value, known=JOB_OF_KIND["relax"])
    assert error.culprits[0].pointer == f"/params/{field}"
    assert remedy in error.hint


@pytest.mark.parametrize("name", ["short mask", "pressure on a fixed cell", "hydrostatic at constant volume"])
def test_contradicting_parameters_are_refused_on_the_command_line(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    params, field, _ = CONTRADICTIONS[name]
    write(tmp_path / "crystal.extxyz", bulk("Cu"))
    words = [word for key, value in params.items() for word in _option(key, value)]
    monkeypatch.setattr(sys, "argv", ["equipot", "relax", str(tmp_path / "crystal.extxyz"), "-m", "tiny", *words])
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(tmp_path)
    assert cli._run() == 2
    said = capsys.readouterr().err
    assert field in said
    assert [path.name for path in tmp_path.iterdir()] == ["crystal.extxyz"]


def _option(key: str, value: Any) -> list[str]:
    flag = "--" + key.replace("_", "-")
    if isinstance(value, bool):
        return [flag]
    return [flag, json.dumps(value) if isinstance(value, list) else str(value)]


def slab() -> Atoms:
    atoms: Atoms = fcc111("Cu", (1, 1, 3), vacuum=6.0)
    atoms.pbc = (True, True, False)
    return atoms


@pytest.mark.parametrize("cell_filter", ["frechet", "unit_cell"])
@pytest.mark.parametrize(("atoms", "pointer"), [(molecule("H2O"), "cell"), (slab(), "pbc")], ids=["molecule", "slab"])
def test_a_cell_filter_needs_a_cell_that_is_periodic_in_all_directions(
    atoms: Atoms, pointer: str, cell_filter: str
) -> None:
    with pytest.raises(InvalidStructureError, match="moves the cell") as refused:
        relax(atoms, EMT(), cell_filter=cell_filter)
    assert refused.value.culprits[0].pointer == f"/structures/0/{pointer}"
    rejected, done = relax([atoms, bulk("Cu")], EMT(), cell_filter=cell_filter)
    assert (rejected.outcome, done.outcome) == (Outcome.REJECTED, Outcome.CONVERGED)
    assert isinstance(rejected.reason, InputError)


def test_the_command_relaxes_a_cell_with_every_parameter_the_library_knows(tmp_path: Path) -> None:
    write(tmp_path / "crystal.extxyz", bulk("Si", a=5.2))
    words = "--optimizer lbfgs --cell-filter frechet --fix-symmetry --pressure-gpa 1 --fmax-ev-per-ang 0.1".split()
    command = [str(Path(sys.executable).with_name("equipot")), "relax", "crystal.extxyz", "-m", "tiny", *words]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert "converged" in done.stdout


def test_parameters_that_fit_are_taken_as_they_are() -> None:
    asked = {"optimizer": "lbfgs", "cell_filter": "frechet", "cell_mask": [True] * 6, "hydrostatic": True}
    params = parse_params("relax", asked)
    assert {name: getattr(params, name) for name in asked} == asked

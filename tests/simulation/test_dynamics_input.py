"""Dynamics that contradicts itself is refused before anything runs, with the field and the remedy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, fcc111, molecule
from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.emt import EMT
from ase.constraints import FixAtoms

from equipot.errors import EquipotError, InvalidParameterError, InvalidStructureError
from equipot.simulation.api import run_md

COPPER = bulk("Cu", cubic=True)
SLAB = fcc111("Cu", (1, 1, 2), vacuum=5.0)
RAMP_K = [{"time_ps": 0, "temperature_k": 100}, {"time_ps": 5, "temperature_k": 300}]
RAMP_GPA = [{"time_ps": 0, "pressure_gpa": 0}, {"time_ps": 5, "pressure_gpa": 1}]


def held() -> Atoms:
    atoms = bulk("Cu", cubic=True)
    atoms.set_constraint(FixAtoms([0]))
    return atoms


class Counting(EMT):
    """EMT that says how often it was asked."""

    n_calls = 0

    def calculate(self, atoms: Any = None, properties: Any = None, system_changes: Any = all_changes) -> None:
        type(self).n_calls += 1
        super().calculate(atoms, ["energy"], system_changes)


REFUSED: list[tuple[Atoms, dict[str, Any], str, str]] = [
    (COPPER, {"ensemble": "nve", "thermostat": {"type": "bussi"}}, "/thermostat", "nvt"),
    (COPPER, {"duration_ps": 1.0}, "/duration_ps", "exactly one"),
    (COPPER, {"n_steps": None}, "", "exactly one"),
    (COPPER, {"timestep_fs": 12.0}, "/timestep_fs", "allow_large_timestep"),
    (COPPER, {"temperature_k": RAMP_K}, "/temperature_k/1/time_ps", "longer"),
    (COPPER, {"ensemble": "npt", "barostat": {"pressure_gpa": RAMP_GPA}}, "/barostat/pressure_gpa/1/time_ps", "longer"),
    (COPPER, {"temperature_k": RAMP_K[1:]}, "/temperature_k", "time_ps"),
    (COPPER, {"ensemble": "nve", "temperature_k": RAMP_K}, "/temperature_k", "nvt"),
    (COPPER, {"barostat": {"pressure_gpa": 1.0}}, "/barostat", "npt"),
    (COPPER, {"ensemble": "npt", "temperature_k": 0.0}, "/temperature_k", "above 0 K"),
    (COPPER, {"thermostat": {"type": "nose_hoover"}, "temperature_k": 0.0}, "/temperature_k", "langevin"),
    (COPPER, {"thermostat": {"type": "andersen"}}, "/thermostat", ""),
    (COPPER, {"thermostat": {"type": "bussi", "tdamp_fs": 5.0}}, "/thermostat/tdamp_fs", "tau_fs"),
    (molecule("H2O"), {"ensemble": "npt"}, "/cell", "keep the cell fixed"),
    (SLAB, {"ensemble": "npt"}, "/pbc", "keep the cell fixed"),
    (held(), {"ensemble": "npt"}, "/fixed_atoms", "nvt"),
    (COPPER, {"velocities": "given"}, "/velocities", "maxwell_boltzmann"),
]


@pytest.mark.parametrize(("atoms", "given", "pointer", "remedy"), REFUSED)
def test_a_contradiction_is_refused_with_the_field_and_the_remedy(
    atoms: Atoms, given: dict[str, Any], pointer: str, remedy: str, tmp_path: Path
) -> None:
    Counting.n_calls = 0
    with pytest.raises((InvalidParameterError, InvalidStructureError)) as caught:
        run_md(atoms, Counting(), **{"n_steps": 5, **given})
    assert Counting.n_calls == 0, "it ran"
    if pointer:
        assert caught.value.culprits[0].pointer.endswith(pointer)
    assert remedy in str(caught.value)


class WithoutStress(Calculator):
    """A calculator that has energy and forces only."""

    implemented_properties = ["energy", "forces"]  # noqa: RUF012

    def calculate(self, atoms: Any = None, properties: Any = None, system_changes: Any = all_changes) -> None:
        super().calculate(atoms, properties, system_changes)
        self.results = {"energy": 0.0, "forces": np.zeros((len(atoms), 3))}


@pytest.mark.parametrize("thermostat", ["langevin", "nose_hoover", "bussi"])
def test_npt_without_stress_fails_at_once_and_says_so(thermostat: str) -> None:
    (result,) = run_md([COPPER], WithoutStress(), ensemble="npt", n_steps=5, thermostat={"type": thermostat})
    assert (result.outcome, result.n_steps) == ("failed", 0)
    assert isinstance(result.reason, EquipotError)
    assert "stress" in str(result.reason)
    assert "nvt" in str(result.reason)


def test_nvt_without_stress_runs_and_has_a_volume_but_no_pressure() -> None:
    (result,) = run_md([COPPER], WithoutStress(), n_steps=5, seed=1)
    assert result.outcome == "completed"
    assert result.volume_ang3 == pytest.approx(3.61**3)
    assert result.pressure_gpa is None


def test_dynamics_of_a_crystal_tells_volume_and_pressure_and_that_of_a_molecule_does_not() -> None:
    crystal, water = run_md([COPPER, molecule("H2O")], EMT(), n_steps=5, seed=[1, 2], timestep_fs=0.5)
    assert crystal.volume_ang3 == pytest.approx(3.61**3)
    atoms = crystal.atoms
    assert atoms is not None
    stress = atoms.get_stress(include_ideal_gas=True)
    assert crystal.pressure_gpa == pytest.approx(-stress[:3].mean() * 160.21766208, rel=1e-6)
    assert (water.volume_ang3, water.pressure_gpa) == (None, None)


def test_a_barostat_gives_back_the_cell_it_made() -> None:
    (result,) = run_md(
        [COPPER],
        EMT(),
        ensemble="npt",
        n_steps=20,
        timestep_fs=2.0,
        seed=1,
        save_every=5,
        thermostat={"type": "bussi"},
        barostat={"pressure_gpa": 5.0, "pdamp_fs": 100.0, "isotropic": False},
    )
    assert result.outcome == "completed"
    assert result.atoms is not None
    assert result.atoms.get_volume() == pytest.approx(result.volume_ang3)
    volumes = [frame.get_volume() for frame in result.trajectory]
    assert len(set(volumes)) == 5
    assert volumes[-1] == pytest.approx(result.volume_ang3)


def test_a_cell_that_a_barostat_tears_apart_diverges_and_leaves_the_others_alone() -> None:
    """A damping time of a hundredth of a step: the failure is that of one system, and it has a reason."""
    given: dict[str, Any] = {"ensemble": "npt", "n_steps": 200, "timestep_fs": 5.0, "seed": [1, 2]}
    for thermostat in ("langevin", "nose_hoover", "bussi"):
        for isotropic in (True, False):
            barostat = {"pressure_gpa": 500.0, "pdamp_fs": 0.05, "isotropic": isotropic}
            results = run_md(
                [COPPER, COPPER], EMT(), **given, thermostat={"type": thermostat}, barostat=barostat, guards={}
            )
            assert {result.outcome for result in results} <= {"diverged", "failed"}
            assert all(result.reason is not None for result in results)


@pytest.mark.parametrize(
    ("thermostat", "isotropic", "warns"),
    [("nose_hoover", False, True), ("nose_hoover", True, False), ("bussi", False, False)],
)
def test_a_chain_that_would_hold_a_flexible_cell_is_warned_of(thermostat: str, isotropic: bool, warns: bool) -> None:
    """It samples no ensemble there (test_npt.py), which nobody would see in temperature and pressure."""
    barostat = {"isotropic": isotropic}
    (result,) = run_md(
        [COPPER], EMT(), ensemble="npt", n_steps=1, thermostat={"type": thermostat}, barostat=barostat, seed=1
    )
    assert any("Nosé-Hoover" in sentence for sentence in result.warnings) == warns

"""D3(BJ): the energy of the paper's own programs for molecules, and its images, forces and stress for crystals."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from ase.units import Bohr, Hartree

from equipot import EquipotCalculator, relax, singlepoint
from equipot.calculator.contract import CHECKS, Tolerances
from equipot.calculator.d3 import Dispersion, DispersionCalculator
from equipot.calculator.known import find_known
from equipot.errors import InvalidParameterError, UnsupportedElementError
from equipot.models.loading import load_potential

tad_dftd3 = pytest.importorskip("tad_dftd3")

# Methanol beside water, in Bohr: the example in the documentation of tad-dftd3, with its interaction energy.
DIMER = Atoms(
    "OH2OHCH3",
    np.array(
        [
            [-4.224363834, +0.270465696, +0.527578960],
            [-5.011768887, +1.780116228, +1.143194385],
            [-2.468758653, +0.479766200, +0.982905589],
            [+1.146167671, +0.452771215, +1.257722311],
            [+1.841554378, -0.628298322, +2.538065200],
            [+2.024899840, -0.438480095, -1.127412563],
            [+1.210773578, +0.791908575, -2.550591723],
            [+4.077073644, -0.342495506, -1.267841745],
            [+1.404422261, -2.365753991, -1.503620411],
        ]
    )
    * Bohr,
)
R2SCAN_INTERACTION_HARTREE = -0.0003964


def test_the_interaction_of_water_and_methanol_is_the_published_one() -> None:
    d3 = Dispersion("r2scan")
    whole, water, methanol = (d3.evaluate(part)[0] for part in (DIMER, DIMER[:3], DIMER[3:]))
    assert (whole - water - methanol) / Hartree == pytest.approx(R2SCAN_INTERACTION_HARTREE, abs=5e-8)


@pytest.mark.parametrize("functional", ["pbe", "b3lyp", "r2scan"])
@pytest.mark.parametrize("name", ["C6H6", "CH3COOH", "SiH4"])
def test_the_energy_of_a_molecule_is_that_of_tad_dftd3(functional: str, name: str) -> None:
    atoms = molecule(name)
    parameters = tad_dftd3.param.get_functional_params(functional, damping="bj", dtype=torch.float64)
    parameters["s9"] = torch.tensor(0.0, dtype=torch.float64)
    numbers, positions = torch.tensor(atoms.numbers), torch.tensor(atoms.positions / Bohr)
    reference = tad_dftd3.dftd3(numbers, positions, parameters).sum().item() * Hartree
    assert Dispersion(functional).evaluate(atoms)[0] == pytest.approx(reference, rel=1e-10)


def test_a_crystal_has_the_energy_of_an_atom_inside_a_large_piece_of_it() -> None:
    """All images within the cutoff, and no more: the atoms around one, as a molecule, have the same energy there.

    The energy of the middle atom of the piece is half what its pairs give; without the change of coordination numbers
    at the surface the two agree to how far an exponential counting function reaches.
    """
    neon = bulk("Ne", a=8.0)  # far apart: coordination numbers are nearly zero everywhere
    piece = neon.repeat((11, 11, 11))
    middle = len(piece) // 2
    without = piece[[i for i in range(len(piece)) if i != middle]]
    d3 = Dispersion("pbe")
    piece.pbc = without.pbc = False
    inside = 0.5 * (d3.evaluate(piece)[0] - d3.evaluate(without)[0])
    assert d3.evaluate(neon)[0] == pytest.approx(inside, rel=2e-3)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_a_potential_with_dispersion_keeps_the_contract(check: Any) -> None:
    atoms = bulk("Si", cubic=True)
    atoms.rattle(0.05, seed=0)
    potential = load_potential("elements")
    check(lambda: DispersionCalculator(EquipotCalculator(potential), "pbe"), atoms, Tolerances())


def test_a_model_name_takes_dispersion_in_python_and_the_result_says_so() -> None:
    copper = bulk("Cu", cubic=True, a=3.6)
    (plain,), (with_d3,) = singlepoint([copper], "elements"), singlepoint([copper], "elements+d3")
    energy, _, virial = Dispersion("pbe").evaluate(copper)
    assert with_d3.energy_ev == pytest.approx(plain.energy_ev + energy, abs=1e-10)
    assert plain.stress_ev_per_ang3 is not None
    assert with_d3.stress_ev_per_ang3 is not None
    assert with_d3.stress_ev_per_ang3[0] - plain.stress_ev_per_ang3[0] == pytest.approx(
        virial[0, 0] / copper.get_volume()
    )
    assert with_d3.model_sha256 == plain.model_sha256
    assert find_known("elements+d3").level_of_theory.endswith("+ D3(BJ) for pbe")


def test_dispersion_contracts_a_crystal() -> None:
    settings: dict[str, Any] = {"cell_filter": "frechet", "fmax_ev_per_ang": 0.01, "optimizer": "lbfgs"}
    (plain,), (with_d3,) = (
        relax([bulk("Cu", cubic=True)], model, **settings) for model in ("elements", "elements+d3:pbe")
    )
    assert with_d3.converged
    assert with_d3.atoms.get_volume() < 0.98 * plain.atoms.get_volume()


def test_a_model_with_dispersion_of_its_own_gets_none_unless_a_functional_is_named() -> None:
    with pytest.raises(InvalidParameterError, match=r"GFN2-xTB.*organic\+d3:pbe"):
        find_known("organic+d3")
    assert find_known("organic+d3:b3lyp").d3_functional == "b3lyp"


def test_an_unknown_functional_is_refused_by_name() -> None:
    with pytest.raises(InvalidParameterError, match="'pbexx'"):
        Dispersion("pbexx")


def test_a_lone_atom_has_no_dispersion_and_one_without_data_is_refused() -> None:
    energy, forces, _ = Dispersion("pbe").evaluate(Atoms("Ar", [[0, 0, 0]]))
    assert energy == 0.0
    assert not forces.any()
    with pytest.raises(UnsupportedElementError):
        Dispersion("pbe").evaluate(Atoms([104], [[0, 0, 0]]))

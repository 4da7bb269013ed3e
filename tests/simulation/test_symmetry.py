"""A relaxation that keeps the space group ends in it, whatever the forces would like."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
import pytest
import spglib
from ase import Atoms
from ase.build import bulk
from ase.calculators.calculator import BaseCalculator
from ase.calculators.emt import EMT
from ase.constraints import FixAtoms, FixSymmetry
from ase.filters import FrechetCellFilter
from hypothesis import given, settings
from hypothesis import strategies as st

from equipot.calculator.convert import from_atoms
from equipot.errors import EquipotError, InvalidStructureError
from equipot.simulation.api import relax
from equipot.simulation.motions.symmetry import Symmetry, space_group
from equipot.simulation.verdicts import Outcome

from .relaxation_set import ASE_OPTIMIZERS, boxed, perovskite, rock_salt, soft_spheres, tiny

TIGHT_ANG = 1e-5  # at which the space group must still be there at the end


def hexagonal() -> Atoms:
    found: Atoms = bulk("Cu", "hcp", a=2.6, c=4.5)
    return found


#: name: a structure off its minimum but in its space group, the group, a calculator
CRYSTALS: dict[str, tuple[Callable[[], Atoms], int, Callable[[], BaseCalculator]]] = {
    "rock salt": (rock_salt, 225, soft_spheres),
    "diamond": (lambda: bulk("Si", a=5.2), 227, tiny),
    "hcp": (hexagonal, 194, EMT),
    "perovskite": (lambda: perovskite(4.4), 221, soft_spheres),
    "supercell": (lambda: bulk("Ni", cubic=True, a=3.4).repeat((2, 1, 1)), 225, EMT),
    "molecule in a cell": (lambda: boxed("CH4", 5.0), 215, EMT),
}


def number_of(atoms: Atoms, tolerance_ang: float) -> int:
    found = space_group(from_atoms(atoms), tolerance_ang)
    assert found is not None
    return int(found.split("(")[1].rstrip(")"))


@pytest.mark.parametrize("name", CRYSTALS)
@pytest.mark.parametrize(
    ("optimizer", "cell_filter"), [("fire", "frechet"), ("lbfgs", "unit_cell"), ("lbfgs", "none")], ids=str
)
def test_the_space_group_is_the_same_at_the_end(name: str, optimizer: str, cell_filter: str) -> None:
    build, number, calculator = CRYSTALS[name]
    start = build()
    start.rattle(0.001, seed=3)
    assert number_of(start, TIGHT_ANG) in (1, 2)  # two atoms always have a centre between them
    assert number_of(start, 0.01) == number
    (result,) = relax(
        start,
        calculator(),
        optimizer=optimizer,
        cell_filter=cell_filter,
        fix_symmetry=True,
        fmax_ev_per_ang=0.02,
    )
    assert result.outcome == Outcome.CONVERGED
    assert result.atoms is not None
    assert number_of(result.atoms, TIGHT_ANG) == number
    assert result.space_group is not None
    assert result.space_group.endswith(f"({number})")
    assert np.abs(result.atoms.get_all_distances(mic=True) - start.get_all_distances(mic=True)).max() < 1.0
    if cell_filter != "none":
        assert abs(result.atoms.get_volume() / start.get_volume() - 1.0) > 1e-4


def test_without_it_the_same_rattled_structure_loses_its_space_group() -> None:
    start = hexagonal()
    start.rattle(0.001, seed=3)
    (result,) = relax(start, EMT(), cell_filter="frechet")
    assert result.space_group is None
    assert result.atoms is not None
    assert number_of(result.atoms, TIGHT_ANG) < 194


def test_symmetry_holds_a_structure_on_a_saddle_that_it_would_leave() -> None:
    """Simple cubic copper falls into a denser lattice unless it is kept."""
    start = bulk("Cu", "sc", a=2.4).repeat((2, 2, 2))
    start.rattle(0.001, seed=1)
    params: dict[str, Any] = {"cell_filter": "frechet", "fmax_ev_per_ang": 0.01, "max_steps": 1000}
    (kept,), (free,) = relax(start, EMT(), fix_symmetry=True, **params), relax(start, EMT(), **params)
    assert kept.outcome == free.outcome == Outcome.CONVERGED
    assert kept.space_group == "Pm-3m (221)"
    assert kept.energy_ev is not None
    assert free.energy_ev is not None
    assert free.energy_ev < kept.energy_ev - 0.5


@pytest.mark.parametrize("name", ["rock salt", "hcp", "perovskite", "supercell"])
def test_the_path_and_the_end_are_those_of_ase_with_fixsymmetry(name: str) -> None:
    build, _, calculator = CRYSTALS[name]
    theirs = build()
    theirs.calc = calculator()
    theirs.set_constraint(FixSymmetry(theirs))
    descent = ASE_OPTIMIZERS["lbfgs"](FrechetCellFilter(theirs), logfile=None)
    descent.run(fmax=0.01, steps=300)
    (ours,) = relax(
        build(), calculator(), optimizer="lbfgs", cell_filter="frechet", fix_symmetry=True, fmax_ev_per_ang=0.01
    )
    assert ours.atoms is not None
    assert ours.n_steps == descent.nsteps
    assert np.abs(ours.atoms.cell.array - theirs.cell.array).max() < 1e-6
    assert np.abs(ours.atoms.positions - theirs.positions).max() < 1e-6


def test_fixed_atoms_are_another_kind_of_atom() -> None:
    """One fixed corner of the cubic cell leaves the tetragonal or cubic group about it, and it stays where it is."""
    start = bulk("Cu", cubic=True, a=3.5)
    start.set_constraint(FixAtoms(indices=[0]))
    (result,) = relax(start, EMT(), fix_symmetry=True, cell_filter="unit_cell")
    assert result.space_group == "Pm-3m (221)"
    assert result.atoms is not None
    assert np.abs(result.atoms.positions[0] - start.positions[0]).max() < 1e-14
    assert np.abs(result.atoms.cell.array - start.cell.array).max() > 1e-3


def test_symmetry_and_mask_together_leave_what_both_allow() -> None:
    start = hexagonal()
    length: dict[str, Any] = {
        "cell_mask": [False, False, True, False, False, False],
        "cell_filter": "frechet",
        "fix_symmetry": True,
    }
    (along_c,) = relax(start, EMT(), **length)
    assert along_c.atoms is not None
    change = np.linalg.solve(start.cell.array, along_c.atoms.cell.array).T - np.eye(3)
    assert abs(change[2, 2]) > 1e-3
    change[2, 2] = 0.0
    assert np.abs(change).max() < 1e-12
    (nothing,) = relax(start, EMT(), **{**length, "cell_mask": [True, False, False, False, False, False]})
    assert nothing.atoms is not None
    assert np.abs(nothing.atoms.cell.array - start.cell.array).max() < 1e-12
    assert nothing.outcome == Outcome.CONVERGED


@settings(max_examples=24, deadline=None, derandomize=True)
@given(st.sampled_from(sorted(CRYSTALS)), st.integers(0, 2**32 - 1))
def test_averages_are_those_over_every_operation_one_by_one(name: str, seed: int) -> None:
    """Against the plain sum over all operations and atoms, which large cells could not afford."""
    atoms = CRYSTALS[name][0]()
    symmetry = Symmetry.of(from_atoms(atoms), 0.01)
    vectors = np.random.default_rng(seed).normal(size=(len(atoms), 3))
    expected = np.zeros_like(vectors)
    cell, places = symmetry.cell_ang, symmetry.positions_ang @ np.linalg.inv(symmetry.cell_ang)
    operations = spglib_operations(cell, places, atoms.numbers)
    for turn, shift in operations:
        rotation = cell.T @ turn @ np.linalg.inv(cell.T)
        for atom in range(len(atoms)):
            away = places - (turn @ places[atom] + shift)
            image = int(np.abs(away - np.round(away)).max(axis=1).argmin())
            expected[image] += rotation @ vectors[atom] / len(operations)
    found = symmetry.of_vectors(vectors)
    assert np.abs(found - expected).max() < 1e-12
    assert np.abs(symmetry.of_vectors(found) - found).max() < 1e-12


def spglib_operations(*crystal: Any) -> list[tuple[Any, Any]]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        found = spglib.get_symmetry(crystal, symprec=1e-4)
    assert found is not None
    return list(zip(found["rotations"], found["translations"], strict=True))


@pytest.mark.parametrize("name", CRYSTALS)
def test_a_shaken_and_strained_crystal_is_put_where_its_group_wants_it(name: str) -> None:
    build, number, _ = CRYSTALS[name]
    atoms = build()
    atoms.rattle(0.002, seed=1)
    strain = np.random.default_rng(1).normal(0.0, 2e-4, (3, 3))
    atoms.set_cell(atoms.cell.array @ (np.eye(3) + strain), scale_atoms=True)
    symmetry = Symmetry.of(from_atoms(atoms), 0.02)
    exact = atoms.copy()
    exact.set_cell(symmetry.cell_ang)
    exact.set_positions(symmetry.positions_ang)
    assert number_of(exact, 1e-8) == number
    assert np.abs(exact.positions - atoms.positions).max() < 0.02
    rotations = symmetry.rotations
    assert np.abs(rotations @ rotations.transpose(0, 2, 1) - np.eye(3)).max() < 1e-13
    for one, other in product(rotations[:6], rotations[:6]):
        assert np.abs(rotations - one @ other).max(axis=(1, 2)).min() < 1e-12


@pytest.mark.parametrize(("pbc", "cell"), [((True, True, False), True), ((False, False, False), False)], ids=str)
def test_a_structure_without_a_space_group_is_refused(pbc: tuple[bool, bool, bool], cell: bool) -> None:
    atoms = Atoms("Cu2", [(0, 0, 0), (0, 0, 2.5)], cell=[3, 3, 9] if cell else None, pbc=pbc)
    with pytest.raises(InvalidStructureError, match="fix_symmetry keeps a space group") as refused:
        relax(atoms, EMT(), fix_symmetry=True)
    assert refused.value.culprits[0].pointer == "/structures/0/pbc"


def test_a_tolerance_that_makes_atoms_one_fails_that_system_only_and_says_why() -> None:
    close = Atoms("Cu2", [(0, 0, 0), (0.8, 0, 0)], cell=[6, 6, 6], pbc=True)
    results = relax([close, bulk("Cu")], EMT(), fix_symmetry=True, symmetry_tolerance_ang=1.0)
    assert [result.outcome for result in results] == [Outcome.FAILED, Outcome.CONVERGED]
    assert isinstance(results[0].reason, EquipotError)
    assert results[0].reason.culprits[0].pointer == "/params/symmetry_tolerance_ang"

"""Structure to ASE Atoms and back."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from ase import Atoms, units
from ase.constraints import FixAtoms, FixBondLength, FixCartesian, FixScaled
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from equipot.calculator.convert import from_atoms, to_atoms
from equipot.errors import InvalidStructureError
from equipot.structure import Structure

LENGTHS = st.floats(-1e4, 1e4, allow_nan=False)
#: one multiplication and one division by the mass, one each by the unit of time
VELOCITY_RTOL = 1e-14


@st.composite
def structures(draw: st.DrawFn) -> Structure:
    n = draw(st.integers(1, 6))
    optional_rows = st.none() | hnp.arrays(np.float64, (n, 3), elements=st.floats(-1, 1, allow_nan=False))
    cell = draw(st.none() | hnp.arrays(np.float64, (3, 3), elements=LENGTHS))
    return Structure(
        numbers=np.array(draw(st.lists(st.integers(1, 118), min_size=n, max_size=n))),
        positions_ang=draw(hnp.arrays(np.float64, (n, 3), elements=LENGTHS)),
        cell_ang=cell if cell is not None and np.any(cell) else None,
        pbc=draw(st.tuples(st.booleans(), st.booleans(), st.booleans())),
        velocities_ang_per_fs=draw(optional_rows),
        masses_u=draw(st.none() | hnp.arrays(np.float64, (n,), elements=st.floats(0.5, 300))),
        charge_e=draw(st.sampled_from([0.0, -1.0, 2.0])),
        spin_multiplicity=draw(st.sampled_from([None, 1, 3])),
        fixed_atoms=tuple(sorted(draw(st.sets(st.integers(0, n - 1))))),
        info=draw(st.dictionaries(st.sampled_from(["name", "tag"]), st.integers() | st.sampled_from(["", "Å"]))),
    )


@given(structures())
def test_a_structure_survives_the_way_through_ase_atoms(structure: Structure) -> None:
    back = from_atoms(to_atoms(structure))
    assert back.to_json() | {"velocities": None} == structure.to_json() | {"velocities": None}
    velocities, expected = back.velocities_ang_per_fs, structure.velocities_ang_per_fs
    assert (velocities is None) == (expected is None)
    if velocities is not None and expected is not None:
        np.testing.assert_allclose(velocities, expected, rtol=VELOCITY_RTOL, atol=1e-300)


def test_velocities_in_ang_per_fs_are_what_ase_means_by_them() -> None:
    structure = Structure(np.array([18]), np.zeros((1, 3)), velocities_ang_per_fs=np.array([[0.01, 0.0, -0.02]]))
    atoms = to_atoms(structure)
    np.testing.assert_allclose(atoms.get_velocities() * units.fs, [[0.01, 0.0, -0.02]], rtol=1e-9)


def test_velocities_of_fixed_atoms_are_not_zeroed_on_the_way() -> None:
    structure = Structure(np.array([1]), np.zeros((1, 3)), velocities_ang_per_fs=np.ones((1, 3)), fixed_atoms=(0,))
    velocities = from_atoms(to_atoms(structure)).velocities_ang_per_fs
    assert velocities is not None
    np.testing.assert_allclose(velocities, np.ones((1, 3)))


def test_atoms_without_momenta_give_no_velocities() -> None:
    assert from_atoms(Atoms("H")).velocities_ang_per_fs is None


def test_unwrapped_positions_and_left_handed_cells_are_left_alone() -> None:
    cell = [[0.0, 3.0, 0.0], [3.0, 0.0, 0.0], [0.0, 0.0, 3.0]]
    structure = from_atoms(Atoms("H", positions=[[100.0, -7.0, 0.1]], cell=cell, pbc=True))
    assert structure.cell_ang is not None
    assert structure.cell_ang.tolist() == cell
    assert structure.positions_ang.tolist() == [[100.0, -7.0, 0.1]]


def test_standard_masses_are_not_written_down_and_custom_ones_are() -> None:
    atoms = Atoms("H2", positions=[[0, 0, 0], [0, 0, 1]])
    assert from_atoms(atoms).masses_u is None
    atoms.set_masses([2.014, 1.008])
    masses = from_atoms(atoms).masses_u
    assert masses is not None
    assert masses.tolist() == [2.014, 1.008]


@pytest.mark.parametrize(
    ("constraint", "fixed"),
    [
        (FixAtoms([1]), (1,)),
        (FixAtoms(mask=[True, False]), (0,)),
        (FixCartesian(1), (1,)),
        (FixCartesian([0, 1]), (0, 1)),
        (FixCartesian(0, mask=[False, False, False]), ()),
    ],
)
def test_atoms_fixed_in_every_direction_are_fixed_atoms(constraint: Any, fixed: tuple[int, ...]) -> None:
    atoms = Atoms("H2", positions=[[0, 0, 0], [0, 0, 1]], constraint=constraint)
    assert from_atoms(atoms).fixed_atoms == fixed


@pytest.mark.parametrize(
    "constraint", [FixCartesian(0, mask=[True, False, False]), FixScaled(0, [True, False, False]), FixBondLength(0, 1)]
)
def test_every_other_constraint_is_refused_by_name(constraint: Any) -> None:
    atoms = Atoms("H2", positions=[[0, 0, 0], [0, 0, 1]], cell=[5, 5, 5], constraint=constraint)
    with pytest.raises(InvalidStructureError, match=type(constraint).__name__):
        from_atoms(atoms)


def test_initial_charges_and_moments_are_guesses_and_say_nothing_of_the_system() -> None:
    atoms = Atoms("O2", positions=[[0, 0, 0], [0, 0, 1.2]], charges=[-1, 0], magmoms=[1, 1])
    structure = from_atoms(atoms)
    assert structure.charge_e == 0.0
    assert structure.spin_multiplicity is None


def test_charge_and_multiplicity_in_info_are_the_systems() -> None:
    atoms = Atoms("O2", positions=[[0, 0, 0], [0, 0, 1.2]])
    atoms.info.update(charge=np.int64(-1), spin_multiplicity=np.int64(2), name="superoxide")
    structure = from_atoms(atoms)
    assert (structure.charge_e, structure.spin_multiplicity) == (-1.0, 2)
    assert structure.info == {"name": "superoxide"}


@pytest.mark.parametrize(("key", "value"), [("charge", "minus one"), ("spin_multiplicity", 1.5)])
def test_a_charge_or_multiplicity_that_is_none_is_refused(key: str, value: Any) -> None:
    atoms = Atoms("H")
    atoms.info[key] = value
    with pytest.raises(InvalidStructureError, match=key):
        from_atoms(atoms)


def test_placeholder_atoms_are_refused_by_index() -> None:
    with pytest.raises(InvalidStructureError, match="Atom 1"):
        from_atoms(Atoms("HX", positions=[[0, 0, 0], [0, 0, 1]]))


def test_info_that_json_cannot_hold_is_left_behind() -> None:
    atoms = Atoms("H")
    atoms.info.update(good=np.arange(2), bad=object(), worse=float("nan"))
    assert from_atoms(atoms).info == {"good": [0, 1]}

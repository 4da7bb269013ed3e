"""EquipotCalculator: the physics of its numbers, and its manners as an ASE calculator."""

from __future__ import annotations

import copy
import pickle
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, make_supercell, molecule
from ase.calculators.calculator import PropertyNotImplementedError
from ase.calculators.fd import calculate_numerical_forces, calculate_numerical_stress
from ase.io import read
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

import equipot
from equipot.calculator.ase import EquipotCalculator, OutsideTrainingDomainWarning
from equipot.errors import EquipotError, InvalidParameterError, InvalidStructureError, UnsupportedElementError
from equipot.models.loading import load_potential
from equipot.models.potential import Potential, Prediction

pytestmark = pytest.mark.filterwarnings("ignore::equipot.calculator.ase.OutsideTrainingDomainWarning")

#: float64: sums of some hundred terms of order 1 eV and 1 eV/Å, in another order
ROUNDING_EV = 1e-9
ROUNDING_EV_PER_ANG = 1e-10
#: central differences of 1e-4 Å: truncation error h² times third derivatives, rounding error 1e-12 eV / h
DIFFERENCE_EV_PER_ANG = 1e-5
DIFFERENCE_EV_PER_ANG3 = 1e-6
#: float32 against float64, relative to the largest force
FLOAT32 = 1e-4


@pytest.fixture(scope="module")
def potential() -> Potential:
    return load_potential("tiny")


@pytest.fixture
def calculator(potential: Potential) -> EquipotCalculator:
    return EquipotCalculator(potential)


def ethanol() -> Atoms:
    atoms: Atoms = molecule("CH3CH2OH")
    atoms.rattle(0.05, seed=1)
    return atoms


def triclinic() -> Atoms:
    """Three elements in a small, skewed, strained cell: shorter than the cutoff in every direction."""
    cell = [[2.9, 0.1, 0.2], [1.1, 3.1, -0.2], [0.4, 0.9, 3.3]]
    return Atoms(
        "SiOCu", scaled_positions=[[0.02, 0.0, 0.05], [0.45, 0.5, 0.4], [0.1, 0.55, 0.52]], cell=cell, pbc=True
    )


def slab() -> Atoms:
    atoms: Atoms = bulk("Cu", cubic=True) * (2, 2, 1)
    atoms.center(vacuum=4.0, axis=2)
    atoms.pbc = (True, True, False)
    atoms.rattle(0.05, seed=2)
    return atoms


SYSTEMS = {"molecule": ethanol, "triclinic crystal": triclinic, "slab": slab}


@pytest.mark.parametrize("name", SYSTEMS)
def test_forces_are_the_derivative_of_the_energy(calculator: EquipotCalculator, name: str) -> None:
    atoms = SYSTEMS[name]()
    atoms.calc = calculator
    forces = atoms.get_forces()
    some = range(min(len(atoms), 4))
    numerical = calculate_numerical_forces(atoms, eps=1e-4, iatoms=list(some))
    assert np.abs(forces).max() > 0.1
    np.testing.assert_allclose(forces[: len(some)], numerical, atol=DIFFERENCE_EV_PER_ANG)


@pytest.mark.parametrize("name", ["triclinic crystal", "slab"])
def test_stress_is_the_derivative_of_the_energy_in_ases_sign_and_order(
    calculator: EquipotCalculator, name: str
) -> None:
    atoms = SYSTEMS[name]()
    atoms.calc = calculator
    stress = atoms.get_stress()
    numerical = calculate_numerical_stress(atoms, eps=1e-5, force_consistent=False)
    assert np.abs(stress).max() > 1e-3
    np.testing.assert_allclose(stress, numerical, atol=DIFFERENCE_EV_PER_ANG3)


@pytest.mark.parametrize("name", SYSTEMS)
@given(quaternion=st.tuples(*[st.floats(-1, 1)] * 4).filter(lambda q: np.linalg.norm(q) > 0.1), improper=st.booleans())
@settings(max_examples=8, deadline=None)
def test_rotations_and_reflections_leave_the_energy_and_turn_the_forces(
    potential: Potential, name: str, quaternion: tuple[float, ...], improper: bool
) -> None:
    matrix = Rotation.from_quat(quaternion).as_matrix() * (-1 if improper else 1)
    atoms = SYSTEMS[name]()
    turned = Atoms(atoms.numbers, atoms.positions @ matrix.T, cell=atoms.cell.array @ matrix.T, pbc=atoms.pbc)
    atoms.calc, turned.calc = EquipotCalculator(potential), EquipotCalculator(potential)
    assert turned.get_potential_energy() == pytest.approx(atoms.get_potential_energy(), abs=ROUNDING_EV)
    np.testing.assert_allclose(turned.get_forces(), atoms.get_forces() @ matrix.T, atol=ROUNDING_EV_PER_ANG)


@pytest.mark.parametrize("name", SYSTEMS)
def test_moving_everything_changes_nothing(potential: Potential, name: str) -> None:
    atoms = SYSTEMS[name]()
    moved = atoms.copy()
    moved.positions += [12.3, -45.6, 0.7]
    atoms.calc, moved.calc = EquipotCalculator(potential), EquipotCalculator(potential)
    assert moved.get_potential_energy() == pytest.approx(atoms.get_potential_energy(), abs=ROUNDING_EV)
    np.testing.assert_allclose(moved.get_forces(), atoms.get_forces(), atol=ROUNDING_EV_PER_ANG)


@pytest.mark.parametrize("name", SYSTEMS)
def test_the_order_of_atoms_does_not_matter(potential: Potential, name: str) -> None:
    atoms = SYSTEMS[name]()
    order = np.random.default_rng(3).permutation(len(atoms))
    shuffled = atoms[order]
    atoms.calc, shuffled.calc = EquipotCalculator(potential), EquipotCalculator(potential)
    assert shuffled.get_potential_energy() == pytest.approx(atoms.get_potential_energy(), abs=ROUNDING_EV)
    np.testing.assert_allclose(shuffled.get_forces(), atoms.get_forces()[order], atol=ROUNDING_EV_PER_ANG)
    np.testing.assert_allclose(
        shuffled.get_potential_energies(), atoms.get_potential_energies()[order], atol=ROUNDING_EV
    )


def test_energies_of_atoms_add_up_and_forces_to_nothing(calculator: EquipotCalculator) -> None:
    atoms = ethanol()
    atoms.calc = calculator
    assert atoms.get_potential_energies().sum() == pytest.approx(atoms.get_potential_energy(), abs=ROUNDING_EV)
    assert atoms.get_potential_energy(force_consistent=True) == atoms.get_potential_energy()
    np.testing.assert_allclose(atoms.get_forces().sum(0), 0.0, atol=ROUNDING_EV_PER_ANG)


def test_two_molecules_far_apart_have_the_sum_of_their_energies(potential: Potential) -> None:
    one, other = ethanol(), molecule("H2O")
    other.positions += 100.0
    both = one + other
    for atoms in (one, other, both):
        atoms.calc = EquipotCalculator(potential)
    apart = one.get_potential_energy() + other.get_potential_energy()
    assert both.get_potential_energy() == pytest.approx(apart, abs=ROUNDING_EV)


@pytest.mark.parametrize("symbol", ["H", "C", "N", "O", "Si", "Cu"])
def test_an_isolated_atom_has_an_energy_and_no_force(potential: Potential, symbol: str) -> None:
    atoms, boxed = Atoms(symbol), Atoms(symbol, cell=[30, 30, 30], pbc=True)
    atoms.calc, boxed.calc = EquipotCalculator(potential), EquipotCalculator(potential)
    assert np.isfinite(atoms.get_potential_energy())
    assert boxed.get_potential_energy() == atoms.get_potential_energy()
    assert not atoms.get_forces().any()
    assert not boxed.get_stress().any()


SUPERCELL = np.array([[2, 1, 0], [0, 2, 0], [-1, 0, 2]])


@pytest.mark.parametrize(
    "primitive", [triclinic(), bulk("Cu", "fcc", a=3.5), bulk("Si", a=5.5)], ids=["triclinic", "one atom", "diamond"]
)
def test_a_cell_smaller_than_the_cutoff_is_as_good_as_its_supercell(potential: Potential, primitive: Atoms) -> None:
    big = make_supercell(primitive, SUPERCELL)
    n_copies = len(big) // len(primitive)
    small = primitive.copy()
    small.calc, big.calc = EquipotCalculator(potential), EquipotCalculator(potential)
    assert big.get_potential_energy() == pytest.approx(n_copies * small.get_potential_energy(), abs=ROUNDING_EV)
    np.testing.assert_allclose(big.get_stress(), small.get_stress(), atol=ROUNDING_EV_PER_ANG)
    np.testing.assert_allclose(
        np.linalg.norm(big.get_forces(), axis=1).sum(),
        n_copies * np.linalg.norm(small.get_forces(), axis=1).sum(),
        atol=1e-8,
    )


def test_atoms_outside_their_cell_feel_the_same(potential: Potential) -> None:
    atoms = triclinic()
    outside = atoms.copy()
    outside.positions += np.array([[3, 0, -2], [0, 7, 0], [-1, 0, 0]]) @ atoms.cell.array
    atoms.calc, outside.calc = EquipotCalculator(potential), EquipotCalculator(potential)
    assert outside.get_potential_energy() == pytest.approx(atoms.get_potential_energy(), abs=ROUNDING_EV)
    np.testing.assert_allclose(outside.get_forces(), atoms.get_forces(), atol=ROUNDING_EV_PER_ANG)


def test_a_left_handed_cell_is_the_same_crystal(potential: Potential) -> None:
    atoms = triclinic()
    mirrored = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell.array[[1, 0, 2]], pbc=True)
    assert mirrored.cell.handedness == -1
    atoms.calc, mirrored.calc = EquipotCalculator(potential), EquipotCalculator(potential)
    assert mirrored.get_potential_energy() == pytest.approx(atoms.get_potential_energy(), abs=ROUNDING_EV)
    np.testing.assert_allclose(mirrored.get_forces(), atoms.get_forces(), atol=ROUNDING_EV_PER_ANG)
    np.testing.assert_allclose(mirrored.get_stress(), atoms.get_stress(), atol=ROUNDING_EV_PER_ANG)


def test_a_missing_lattice_vector_of_a_slab_is_no_obstacle(potential: Potential) -> None:
    atoms, bare = slab(), slab()
    bare.cell[2] = 0.0
    atoms.calc, bare.calc = EquipotCalculator(potential), EquipotCalculator(potential)
    assert bare.get_potential_energy() == pytest.approx(atoms.get_potential_energy(), abs=ROUNDING_EV)
    with pytest.raises(PropertyNotImplementedError, match="no volume"):
        bare.get_stress()


def test_stress_without_a_cell_is_refused_in_words(calculator: EquipotCalculator) -> None:
    atoms = ethanol()
    atoms.calc = calculator
    with pytest.raises(PropertyNotImplementedError, match="no volume"):
        atoms.get_stress()
    assert calculator.get_property("stress", atoms, allow_calculation=False) is None
    assert np.isfinite(atoms.get_potential_energy())


class Counting(EquipotCalculator):
    """Counts how often the potential is asked."""

    n_calls = 0

    def calculate(self, *args: Any, **kwargs: Any) -> None:
        self.n_calls += 1
        super().calculate(*args, **kwargs)


def test_nothing_is_computed_twice(potential: Potential) -> None:
    atoms = triclinic()
    atoms.calc = calculator = Counting(potential)
    for _ in range(2):
        atoms.get_potential_energy()
        atoms.get_forces()
        atoms.get_stress()
        atoms.get_potential_energies()
    assert calculator.n_calls == 1
    atoms.set_initial_magnetic_moments([1.0, 0.0, 0.0])  # means nothing to this potential
    atoms.get_forces()
    assert calculator.n_calls == 1


@pytest.mark.parametrize(
    "change",
    [
        lambda atoms: atoms.positions.__iadd__([[0.01, 0, 0], [0, 0, 0], [0, 0, 0]]),
        lambda atoms: atoms.set_cell(atoms.cell.array * 1.01),
        lambda atoms: setattr(atoms, "pbc", [True, True, False]),
        lambda atoms: atoms.numbers.__setitem__(0, 29),
    ],
    ids=["positions", "cell", "pbc", "elements"],
)
def test_what_changes_the_energy_is_computed_anew(potential: Potential, change: Any) -> None:
    atoms = triclinic()
    atoms.calc = Counting(potential)
    before = atoms.get_potential_energy()
    change(atoms)
    fresh = atoms.copy()
    fresh.calc = EquipotCalculator(potential)
    assert atoms.get_potential_energy() == fresh.get_potential_energy()
    assert atoms.get_potential_energy() != before


def test_a_charge_in_info_is_refused_even_after_a_first_calculation(calculator: EquipotCalculator) -> None:
    atoms = ethanol()
    atoms.calc = calculator
    neutral = atoms.get_potential_energy()
    atoms.info["charge"] = -1
    with pytest.raises(InvalidParameterError, match="charge of -1"):
        atoms.get_potential_energy()
    atoms.info["charge"] = 0
    assert atoms.get_potential_energy() == neutral
    atoms.info["spin_multiplicity"] = 3
    with pytest.raises(InvalidParameterError, match="multiplicity 3"):
        atoms.get_forces()


def test_unknown_elements_are_refused_by_name(calculator: EquipotCalculator) -> None:
    atoms = Atoms("OU", positions=[[0, 0, 0], [0, 0, 2]])
    atoms.calc = calculator
    with pytest.raises(UnsupportedElementError, match="does not know U"):
        atoms.get_potential_energy()
    assert atoms[:1].get_chemical_formula() == "O"


@pytest.mark.parametrize(
    ("atoms", "says"),
    [
        (Atoms("H", positions=[[np.nan, 0, 0]]), "not finite"),
        (Atoms("H", pbc=True), "periodic along a lattice vector"),
        (Atoms("H", cell=[[1, 0, 0], [2, 0, 0], [0, 0, 3]], pbc=True), "singular"),
    ],
    ids=["nan", "no cell", "singular cell"],
)
def test_what_cannot_be_computed_is_refused(calculator: EquipotCalculator, atoms: Atoms, says: str) -> None:
    atoms = atoms.copy()
    atoms.calc = calculator
    with pytest.raises(InvalidStructureError, match=says):
        atoms.get_potential_energy()


@pytest.mark.parametrize("name", SYSTEMS)
def test_the_users_atoms_are_never_changed(calculator: EquipotCalculator, name: str) -> None:
    atoms = SYSTEMS[name]()
    atoms.info["name"] = "mine"
    before = copy.deepcopy(atoms)
    atoms.calc = calculator
    forces = atoms.get_forces()
    forces += 1.0  # what was handed out is the caller's own
    assert np.abs(atoms.get_forces() - forces).min() > 0.5
    assert atoms == before
    assert atoms.info == before.info
    assert set(atoms.arrays) == set(before.arrays)


def test_numbers_do_not_depend_on_what_was_computed_before(potential: Potential) -> None:
    atoms, used = triclinic(), EquipotCalculator(potential)
    rng = np.random.default_rng(5)
    for _ in range(5):
        atoms.positions += rng.normal(scale=0.03, size=(3, 3))
        atoms.calc = used
        forces = atoms.get_forces()
        atoms.calc = EquipotCalculator(potential)
        assert np.array_equal(atoms.get_forces(), forces)


def test_copies_share_the_weights_and_nothing_else(calculator: EquipotCalculator) -> None:
    atoms = ethanol()
    atoms.calc = calculator
    energy = atoms.get_potential_energy()
    for duplicate in (copy.copy(calculator), copy.deepcopy(calculator)):
        assert duplicate.potential is calculator.potential
        assert not duplicate.results
        twin = atoms.copy()
        twin.calc = duplicate
        twin.positions[0] += 0.1
        assert twin.get_potential_energy() != energy
        assert atoms.get_potential_energy() == energy
    assert copy.deepcopy(atoms).get_potential_energy() == energy


def test_a_calculator_made_from_a_name_goes_to_another_process_by_its_name() -> None:
    calculator = EquipotCalculator("tiny", dtype="float32", skin_ang=0.3)
    data = pickle.dumps(calculator)
    assert len(data) < 300  # no weights
    back = pickle.loads(data)
    assert back.todict() == calculator.todict()
    with pytest.raises(TypeError, match="model name"):
        pickle.dumps(EquipotCalculator(calculator.potential))


def test_results_written_by_ase_say_what_computed_them(calculator: EquipotCalculator, tmp_path: Path) -> None:
    atoms = triclinic()
    atoms.calc = calculator
    energy, stress = atoms.get_potential_energy(), atoms.get_stress()
    for name in ("a.traj", "a.extxyz", "a.json"):
        atoms.write(tmp_path / name)
        back = read(tmp_path / name)
        assert isinstance(back, Atoms)
        assert back.get_potential_energy() == pytest.approx(energy, abs=1e-7)
        np.testing.assert_allclose(back.get_stress(), stress, atol=1e-7)
    back = read(tmp_path / "a.traj")
    assert isinstance(back, Atoms)
    assert back.calc is not None
    assert back.calc.name == "equipot"
    assert calculator.todict() | {"model": "tiny-1", "dtype": "float64", "device": "cpu"} == calculator.todict()


def test_float32_is_close_to_float64_and_stays_the_calculators_own(potential: Potential) -> None:
    import torch

    atoms = ethanol()
    atoms.calc = EquipotCalculator(potential)
    reference = atoms.get_forces()
    atoms.calc = EquipotCalculator("tiny", dtype="float32")
    forces = atoms.get_forces()
    assert 0 < np.abs(forces - reference).max() < FLOAT32 * max(1.0, np.abs(reference).max())
    assert forces.dtype == np.float64
    assert torch.get_default_dtype() is torch.float32


def test_a_model_may_be_a_name_an_alias_a_card_or_a_potential(data_dir: Path, potential: Potential) -> None:
    for model in ("tiny-1", "tiny", str(data_dir / "potentials" / "tiny-1.json"), potential):
        assert EquipotCalculator(model).potential.sha256 == potential.sha256
    assert EquipotCalculator(data_dir / "potentials" / "tiny-1.json").potential.name == "tiny-1"
    assert equipot.EquipotCalculator is EquipotCalculator


@pytest.mark.parametrize(
    "arguments",
    [{"model": "tini"}, {"dtype": "float16"}, {"device": "mps"}, {"model": "tiny.json"}],
    ids=["name", "dtype", "device", "card"],
)
def test_wrong_arguments_are_refused_at_once(arguments: dict[str, Any]) -> None:
    with pytest.raises(EquipotError):
        EquipotCalculator(**({"model": "tiny"} | arguments))


def test_a_loaded_potential_keeps_its_dtype(potential: Potential) -> None:
    with pytest.raises(InvalidParameterError, match="float64"):
        EquipotCalculator(potential, dtype="float32")


def test_settings_cannot_be_changed_behind_the_results(calculator: EquipotCalculator) -> None:
    with pytest.raises(InvalidParameterError, match="skin_ang"):
        calculator.set(skin_ang=1.0)


class Stranger(Potential):
    """A potential that finds everything strange."""

    def __init__(self, inner: Potential, distance: float | None) -> None:
        self.__dict__.update(inner.__dict__)
        self._distance = distance

    def evaluate(self, graph: Any) -> Prediction:
        prediction = super().evaluate(graph)
        return Prediction(
            prediction.energy_ev,
            prediction.energies_ev,
            prediction.forces_ev_per_ang,
            prediction.virial_ev,
            self._distance,
        )


@pytest.mark.parametrize(("distance", "n_warnings"), [(1.5, 2), (0.9, 0), (None, 0)])
def test_a_structure_outside_the_training_domain_is_warned_about_once(
    potential: Potential, distance: float | None, n_warnings: int
) -> None:
    calculator = EquipotCalculator(Stranger(potential, distance))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for atoms in (ethanol(), molecule("H2O")):
            atoms.calc = calculator
            for _ in range(3):
                atoms.positions += np.random.default_rng(1).normal(scale=0.01, size=atoms.positions.shape)
                atoms.get_forces()
            assert calculator.results["domain_distance"] == distance
    found = [warning for warning in caught if warning.category is OutsideTrainingDomainWarning]
    assert len(found) == n_warnings
    assert all(warning.filename == __file__ for warning in found)

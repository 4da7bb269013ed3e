"""What a relaxing cell must do by any optimizer: keep what it is told to keep, and end where it feels no force."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.emt import EMT
from ase.constraints import FixAtoms
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import expm, logm

from equipot.calculator.convert import from_atoms, to_atoms
from equipot.params import RelaxParams
from equipot.simulation.api import provider_for, relax
from equipot.simulation.motions.base import Bodies, State
from equipot.simulation.motions.moving_cell import AtomsAndCell, FrechetCell, logarithm
from equipot.simulation.providers import AseProvider, System
from equipot.simulation.results import RelaxResult
from equipot.simulation.run import Run
from equipot.simulation.trajectory import read_frames, read_thermo
from equipot.simulation.verdicts import Outcome
from equipot.units import GPA_PER_EV_PER_ANG3

from .relaxation_set import argon, rattled, skewed

FILTERS = ("frechet", "unit_cell")
OPTIMIZERS = ("fire", "lbfgs")
BOTH = [(optimizer, cell_filter) for optimizer in OPTIMIZERS for cell_filter in FILTERS]
FEW = settings(max_examples=4, deadline=None, derandomize=True)
SAME_ANG = 1e-7


def copper(strain: float = 0.02, seed: int = 1) -> Atoms:
    return rattled(bulk("Cu", cubic=True), strain, seed)


def relaxed(atoms: Atoms, **params: Any) -> RelaxResult:
    """The relaxation by EMT, which must converge."""
    (result,) = relax(atoms, EMT(), **{"fmax_ev_per_ang": 0.005, "optimizer": "lbfgs", **params})
    assert result.outcome == Outcome.CONVERGED
    assert result.atoms is not None
    return result


def deformation(before: Atoms, result: RelaxResult) -> np.ndarray:
    assert result.atoms is not None
    found: np.ndarray = np.linalg.solve(before.cell.array, result.atoms.cell.array).T
    return found


# -- the coordinates


@pytest.mark.parametrize("cell_filter", FILTERS)
@pytest.mark.parametrize(
    "asked", [{}, {"pressure_gpa": 20.0}, {"cell_mask": [True, False, True, True, False, True]}], ids=str
)
def test_generalised_forces_are_the_derivatives_of_the_enthalpy(cell_filter: str, asked: dict[str, Any]) -> None:
    """By central differences along every coordinate the parameters leave free, far from the start cell."""
    structure = from_atoms(copper())
    params = RelaxParams.model_validate({"cell_filter": cell_filter, **asked})
    coordinates = (FrechetCell if cell_filter == "frechet" else AtomsAndCell)(
        structure, Bodies.of(structure), None, params
    )
    provider = provider_for(EMT())

    def state(positions: np.ndarray, cell: np.ndarray | None) -> State:
        (evaluation,) = provider.evaluate([System.of(structure, "copper", positions, cell)])
        return State(1, positions, cell, evaluation=evaluation)

    origin = state(structure.positions_ang, structure.cell_ang)
    random = np.random.default_rng(5)
    here = state(*coordinates.after(origin, 0.3 * random.normal(size=(coordinates.n_rows, 3))))
    forces = coordinates.forces(here)
    for row, column in [(0, 1), (2, 2), *((structure.n_atoms + i, j) for i in range(3) for j in range(3))]:
        step = np.zeros_like(forces)
        step[row, column] = 1e-4
        up, down = (coordinates.observables(state(*coordinates.after(here, s)))["enthalpy_ev"] for s in (step, -step))
        assert forces[row, column] == pytest.approx((down - up) / 2e-4, abs=2e-6)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.integers(0, 2**32 - 1), st.floats(1e-9, 1.5))
def test_the_logarithm_is_the_inverse_of_the_exponential(seed: int, size: float) -> None:
    matrix = size * np.random.default_rng(seed).uniform(-1.0, 1.0, (3, 3))
    image = expm(matrix)
    found = logarithm(image)
    assert np.abs(expm(found) - image).max() < 1e-12 * max(1.0, np.abs(image).max())
    assert np.abs(found - logm(image)).max() < 1e-10


def test_where_there_is_no_real_logarithm_there_is_none() -> None:
    assert np.isnan(logarithm(np.diag([-1.0, -1.0, 1.0]))).all()


# -- what the parameters promise


@pytest.mark.parametrize(("optimizer", "cell_filter"), BOTH)
def test_a_relaxed_cell_feels_the_target_pressure_and_nothing_else(optimizer: str, cell_filter: str) -> None:
    result = relaxed(copper(), optimizer=optimizer, cell_filter=cell_filter, pressure_gpa=4.0, fmax_ev_per_ang=2e-4)
    assert result.stress_ev_per_ang3 is not None
    assert result.stress_ev_per_ang3[:3] * GPA_PER_EV_PER_ANG3 == pytest.approx([-4.0] * 3, abs=1e-2)
    assert result.stress_ev_per_ang3[3:] * GPA_PER_EV_PER_ANG3 == pytest.approx([0.0] * 3, abs=1e-2)
    assert result.pressure_gpa == pytest.approx(4.0, abs=1e-2)
    assert result.atoms is not None
    assert result.volume_ang3 == pytest.approx(result.atoms.get_volume(), rel=1e-12)
    pressure_ev_per_ang3 = 4.0 / GPA_PER_EV_PER_ANG3
    assert result.energy_ev is not None
    assert result.volume_ang3 is not None
    assert result.enthalpy_ev == pytest.approx(result.energy_ev + pressure_ev_per_ang3 * result.volume_ang3, abs=1e-12)


@FEW
@given(st.sampled_from(BOTH), st.floats(1.0, 15.0))
def test_pressure_shrinks_a_crystal_and_tension_widens_it(how: tuple[str, str], pressure_gpa: float) -> None:
    start = bulk("Cu", cubic=True)
    volumes = [
        relaxed(start, optimizer=how[0], cell_filter=how[1], pressure_gpa=p).volume_ang3
        for p in (pressure_gpa, 0.0, -0.3 * pressure_gpa)
    ]
    assert volumes[0] is not None
    assert volumes == sorted(volumes, key=lambda v: v or 0.0)


@FEW
@given(st.sampled_from(BOTH), st.integers(0, 1000))
def test_a_hydrostatic_cell_keeps_its_shape(how: tuple[str, str], seed: int) -> None:
    start = copper(0.04, seed)
    found = deformation(start, relaxed(start, optimizer=how[0], cell_filter=how[1], hydrostatic=True))
    assert np.abs(found - np.eye(3) * found[0, 0]).max() < 1e-12
    assert abs(found[0, 0] - 1.0) > 1e-4


@FEW
@given(st.sampled_from(BOTH), st.integers(0, 1000))
def test_a_cell_of_constant_volume_keeps_it_and_ends_where_only_pressure_is_left(
    how: tuple[str, str], seed: int
) -> None:
    start = copper(0.04, seed)
    result = relaxed(start, optimizer=how[0], cell_filter=how[1], constant_volume=True, fmax_ev_per_ang=1e-3)
    assert result.volume_ang3 == pytest.approx(start.get_volume(), rel=1e-12)
    assert np.abs(deformation(start, result) - np.eye(3)).max() > 1e-3
    assert result.stress_ev_per_ang3 is not None
    pressure = result.stress_ev_per_ang3[:3].mean()
    assert result.stress_ev_per_ang3 == pytest.approx([pressure] * 3 + [0.0] * 3, abs=2e-4)


@FEW
@given(st.sampled_from(BOTH), st.lists(st.booleans(), min_size=6, max_size=6).filter(any), st.booleans())
def test_masked_strains_stay_as_they_are(how: tuple[str, str], mask: list[bool], constant_volume: bool) -> None:
    if constant_volume and sum(mask) == sum(mask[:3]) == 1:
        return  # refused: nothing could change
    start = copper(0.03)
    (result,) = relax(
        start,
        EMT(),
        optimizer=how[0],
        cell_filter=how[1],
        cell_mask=mask,
        constant_volume=constant_volume,
        max_steps=40,
    )
    found = deformation(start, result) - np.eye(3)
    xx, yy, zz, yz, xz, xy = mask
    allowed = np.array([[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]])
    assert np.abs(found[~allowed]).max(initial=0.0) < 1e-13
    assert np.abs(found[allowed]).max() > (0.0 if constant_volume else 1e-4)
    if constant_volume:
        assert result.volume_ang3 == pytest.approx(start.get_volume(), rel=1e-12)


@pytest.mark.parametrize(("optimizer", "cell_filter"), BOTH)
def test_fixed_atoms_follow_the_cell_and_nothing_else(optimizer: str, cell_filter: str) -> None:
    start = rattled(bulk("Cu", cubic=True).repeat((2, 1, 1)))
    start.set_constraint(FixAtoms(indices=[0, 3]))
    result = relaxed(start, optimizer=optimizer, cell_filter=cell_filter)
    assert result.atoms is not None
    before, after = (atoms.get_scaled_positions(wrap=False) for atoms in (start, result.atoms))
    assert np.abs(before - after)[[0, 3]].max() < 1e-14
    assert np.abs(before - after)[[1, 2, 4]].max() > 1e-3
    assert np.abs(start.cell.array - result.atoms.cell.array).max() > 1e-3


# -- symmetry of the path


@pytest.mark.parametrize(("optimizer", "cell_filter"), [*BOTH, ("fire", "none"), ("lbfgs", "none")])
def test_a_rotated_crystal_takes_the_rotated_path(optimizer: str, cell_filter: str) -> None:
    start, turned = copper(), copper()
    rotation = expm(np.cross(np.eye(3), [0.3, -0.7, 0.5]))
    turned.set_cell(start.cell.array @ rotation.T, scale_atoms=True)
    params: dict[str, Any] = {
        "optimizer": optimizer,
        "cell_filter": cell_filter,
        "max_steps": 12,
        "fmax_ev_per_ang": 1e-6,
    }
    (one,), (other,) = relax(start, EMT(), **params), relax(turned, EMT(), **params)
    assert one.atoms is not None
    assert other.atoms is not None
    assert np.abs(one.atoms.positions - start.positions).max() > 0.01
    assert np.abs(one.atoms.positions @ rotation.T - other.atoms.positions).max() < SAME_ANG
    assert np.abs(one.atoms.cell.array @ rotation.T - other.atoms.cell.array).max() < SAME_ANG


@pytest.mark.parametrize(("optimizer", "cell_filter"), [("lbfgs", f) for f in ("none", *FILTERS)])
def test_a_supercell_relaxes_like_the_cell(optimizer: str, cell_filter: str) -> None:
    start = copper()
    params: dict[str, Any] = {"optimizer": optimizer, "cell_filter": cell_filter, "fmax_ev_per_ang": 1e-4}
    one, many = relaxed(start, **params), relaxed(start.repeat((2, 1, 1)), **params)
    assert one.energy_ev is not None
    assert many.energy_ev == pytest.approx(2 * one.energy_ev, abs=1e-6)
    if cell_filter != "none":
        assert many.volume_ang3 == pytest.approx(2 * (one.volume_ang3 or 0.0), rel=1e-5)


@pytest.mark.parametrize("cell_filter", FILTERS)
def test_left_handed_and_skewed_cells_relax_to_the_density_of_the_plain_one(cell_filter: str) -> None:
    plain = bulk("Ar", a=5.3)
    mirrored = plain.copy()
    mirrored.set_cell(plain.cell.array[[1, 0, 2]])
    params: dict[str, Any] = {
        "optimizer": "lbfgs",
        "cell_filter": cell_filter,
        "fmax_ev_per_ang": 1e-4,
        "max_steps": 2000,
    }
    results = relax([plain, mirrored, skewed(plain)], argon(), **params)
    assert {result.outcome for result in results} == {Outcome.CONVERGED}
    densities = [len(result.atoms or []) / (result.volume_ang3 or 1.0) for result in results]
    assert densities == pytest.approx([densities[0]] * 3, rel=1e-4)


# -- verdicts and what goes wrong


def test_the_verdict_names_the_generalised_force_and_can_be_found_again_from_the_returned_structure() -> None:
    start = copper()
    result = relaxed(start, cell_filter="frechet", fmax_ev_per_ang=0.02)
    assert result.criterion == ("largest generalised force on atoms and cell (cell_filter frechet) < 0.02 eV/Å")
    assert result.atoms is not None
    again = result.atoms.copy()
    again.calc = EMT()
    assert np.linalg.norm(again.get_forces(), axis=1).max() == pytest.approx(result.fmax_ev_per_ang, abs=1e-10)
    structure = from_atoms(start)
    coordinates = FrechetCell(structure, Bodies.of(structure), None, RelaxParams(cell_filter="frechet"))
    ((evaluation),) = AseProvider(EMT()).evaluate([System.of(from_atoms(again), 0)])
    state = State(1, again.positions, again.cell.array, evaluation=evaluation)
    rows = np.linalg.norm(coordinates.forces(state), axis=1)
    assert rows[len(again) :].max() == pytest.approx(result.cell_force_ev_per_ang, abs=1e-10)
    assert rows.max() == pytest.approx(result.generalised_force_ev_per_ang, abs=1e-10)
    assert 0.0 < rows.max() < 0.02


def test_a_cell_that_is_not_relaxed_keeps_a_structure_from_being_converged() -> None:
    squeezed = bulk("Cu", cubic=True, a=3.4)  # by symmetry there is no force on any atom
    (fixed,) = relax(squeezed, EMT())
    (free,) = relax(squeezed, EMT(), cell_filter="frechet", max_steps=0)
    assert (fixed.outcome, free.outcome) == (Outcome.CONVERGED, Outcome.MAX_STEPS)
    assert free.fmax_ev_per_ang == pytest.approx(0.0, abs=1e-10)
    assert (free.cell_force_ev_per_ang or 0.0) > 0.05


def test_frames_and_thermo_follow_the_cell(tmp_path: Path) -> None:
    structure = from_atoms(copper())
    params = RelaxParams(cell_filter="unit_cell", pressure_gpa=1.0)
    with Run.start(tmp_path, kind="relax", structures=[structure], params=params, provider=AseProvider(EMT())) as run:
        while run.advance():
            pass
    rows, frames = list(read_thermo(tmp_path)), list(read_frames(tmp_path))
    assert len(rows) == len(frames) == run.results[0]["n_steps"] + 1
    for row, frame in zip(rows, frames, strict=True):
        assert row["volume_ang3"] == pytest.approx(frame.structure.volume_ang3, rel=1e-12)
        assert row["enthalpy_ev"] == pytest.approx(
            row["energy_ev"] + row["volume_ang3"] / GPA_PER_EV_PER_ANG3, abs=1e-10
        )
    assert rows[0]["volume_ang3"] != rows[-1]["volume_ang3"]
    assert rows[-1]["cell_force_ev_per_ang"] == run.results[0]["cell_force_ev_per_ang"] < 0.05


class Attraction(Calculator):
    """A potential without a floor: the energy is proportional to the volume, or to minus it."""

    implemented_properties: list[str] = ["energy", "forces", "stress"]  # noqa: RUF012  # declared so by ASE

    def calculate(self, atoms: Any = None, properties: Any = None, system_changes: Any = all_changes) -> None:
        super().calculate(atoms, properties, system_changes)
        assert self.atoms is not None
        sign = 1.0 if 29 in self.atoms.numbers else -1.0
        stress = sign * 50.0 * np.array([1.0, 1.0, 1.0, 0.0, 0.0, 0.0])
        if 18 in self.atoms.numbers:
            stress = np.zeros(6)
        volume = self.atoms.get_volume()
        self.results = {
            "energy": sign * 50.0 * volume,
            "forces": np.zeros((len(self.atoms), 3)),
            "stress": stress,
        }


@pytest.mark.parametrize(("optimizer", "cell_filter"), BOTH)
def test_a_cell_that_collapses_or_explodes_diverges_alone(optimizer: str, cell_filter: str) -> None:
    structures = [bulk("Cu"), bulk("Ag"), bulk("Ar", a=5.3)]
    results = relax(
        structures,
        Attraction(),
        optimizer=optimizer,
        cell_filter=cell_filter,
        max_steps=3000,
    )
    assert [result.outcome for result in results] == [Outcome.DIVERGED, Outcome.DIVERGED, Outcome.CONVERGED]
    for result in results[:2]:
        assert "The cell collapsed or exploded at step" in str(result.reason)
        assert result.atoms is not None
        assert np.isfinite(result.atoms.cell.array).all()


class Forces(Attraction):
    """A calculator that knows no stress."""

    implemented_properties: list[str] = ["energy", "forces"]  # noqa: RUF012


def test_a_calculator_without_stress_cannot_relax_a_cell_and_the_error_says_so() -> None:
    (result,) = relax([bulk("Ar", a=5.3)], Forces(), cell_filter="frechet")
    assert (result.outcome, result.n_steps) == (Outcome.FAILED, 0)
    assert result.reason is not None
    assert "gives no stress" in result.reason.detail
    assert result.reason.culprits[0].pointer == "/params/cell_filter"
    (fixed,) = relax([bulk("Ar", a=5.3)], Forces())
    assert fixed.outcome == Outcome.CONVERGED


def test_a_potential_that_never_saw_stresses_relaxes_cells_with_a_warning() -> None:
    class Untrained(AseProvider):
        @property
        def identity(self) -> dict[str, Any]:
            return {**super().identity, "trained_on_stress": False}

    (moving,) = relax(copper(), Untrained(EMT()), cell_filter="frechet")
    (fixed,) = relax(copper(), Untrained(EMT()))
    assert [("was not trained on stresses" in w) for w in moving.warnings] == [True]
    assert not fixed.warnings


def test_the_potential_behind_a_name_says_whether_it_was_trained_on_stress_and_gives_it_always() -> None:
    (result,) = relax(bulk("Si"), "tiny", max_steps=0, cell_filter="frechet")
    assert result.stress_ev_per_ang3 is not None
    provider = provider_for("tiny")
    assert provider.identity["trained_on_stress"] in (True, False)
    assert any("trained on stresses" in w for w in result.warnings) != provider.identity["trained_on_stress"]


def test_vacuum_in_a_relaxing_cell_is_warned_of_unless_it_is_masked() -> None:
    slab = bulk("Cu", cubic=True)
    slab.center(vacuum=6.0, axis=2)
    (free,) = relax(slab, EMT(), cell_filter="frechet", max_steps=0)
    assert [("gap of 12.0 Å" in w and "along c" in w) for w in free.warnings] == [True]
    mask = [True, True, False, False, False, True]
    (masked,) = relax(slab, EMT(), cell_filter="frechet", max_steps=0, cell_mask=mask)
    (fixed,) = relax(slab, EMT(), max_steps=0)
    (dense,) = relax(copper(), EMT(), cell_filter="frechet", max_steps=0)
    assert not masked.warnings
    assert not fixed.warnings
    assert not dense.warnings
    assert to_atoms(from_atoms(slab)).cell.array == pytest.approx(slab.cell.array)

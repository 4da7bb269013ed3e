"""Stresses that disagree with the energies by a constant pressure are found out by strained crystals alone."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from ase import units
from ase.build import bulk
from ase.calculators.emt import EMT

from equipot.models.training.frames import Frame, FrameSet
from equipot.models.training.pressure import pressure_offset_ev_per_ang3
from equipot.models.training.sources import consistent, pressure_offsets_gpa

STRAINS = (-0.015, -0.008, 0.0, 0.008, 0.015)


def strained_copper(strain: np.ndarray, pressure_gpa: float, config_type: str = "made_Cu:Elastic") -> Frame:
    """Four atoms of EMT's copper under a strain, their stress off by a pressure."""
    atoms = bulk("Cu", cubic=True)
    atoms.set_cell(atoms.cell.array @ (np.eye(3) + strain), scale_atoms=True)
    atoms.calc = EMT()
    stress = atoms.get_stress()
    stress[:3] -= pressure_gpa * units.GPa
    return Frame(
        numbers=atoms.numbers.astype(np.int64),
        positions_ang=atoms.positions,
        forces_ev_per_ang=atoms.get_forces(),
        energy_ev=atoms.get_potential_energy(),
        cell_ang=atoms.cell.array,
        pbc=np.ones(3, dtype=np.bool_),
        stress_ev_per_ang3=stress,
        config_type=config_type,
        group="Cu",
    )


def crystals(pressure_gpa: float) -> list[Frame]:
    """Stretched along one and along two axes."""
    return [strained_copper(np.diag([a, b, 0.0]), pressure_gpa) for a, b in itertools.product(STRAINS, STRAINS)]


@pytest.mark.parametrize("pressure_gpa", [0.0, 2.4, -1.0])
def test_the_pressure_is_found_by_the_work_between_strained_copies(pressure_gpa: float) -> None:
    found = pressure_offset_ev_per_ang3(FrameSet.from_frames(crystals(pressure_gpa), "EMT"))
    assert found is not None
    assert found / units.GPa == pytest.approx(pressure_gpa, abs=0.05)


def test_shears_and_a_handful_of_cells_tell_nothing() -> None:
    shears = [strained_copper(np.array([[0, a, 0], [a, 0, 0], [0, 0, 0]]), 2.4) for a in np.linspace(-0.01, 0.01, 12)]
    assert pressure_offset_ev_per_ang3(FrameSet.from_frames(shears, "EMT")) is None
    assert pressure_offset_ev_per_ang3(FrameSet.from_frames(crystals(2.4)[:5], "EMT")) is None


def test_all_frames_of_the_source_are_shifted_and_no_others() -> None:
    hot = strained_copper(np.diag([0.01, 0.0, 0.0]), 2.4, "made_Cu:AIMD")
    other = strained_copper(np.diag([0.01, 0.0, 0.0]), 0.0, "other_Cu:AIMD")
    frames = FrameSet.from_frames([*crystals(2.4), hot, other], "EMT")
    offsets = pressure_offsets_gpa(frames)
    assert offsets == {"made_Cu:": pytest.approx(2.4, abs=0.05)}
    shifted = consistent(frames, offsets)
    right = FrameSet.from_frames([*crystals(0.0), hot, other], "EMT").stress_ev_per_ang3
    right[-2] = strained_copper(np.diag([0.01, 0.0, 0.0]), 0.0).stress_ev_per_ang3
    np.testing.assert_allclose(shifted.stress_ev_per_ang3, right, atol=0.05 * units.GPa)
    assert pressure_offsets_gpa(shifted) == {}
    np.testing.assert_array_equal(shifted.energy_ev, frames.energy_ev)

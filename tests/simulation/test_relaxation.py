"""Relaxation takes the steps ASE's FIRE takes, to the minimum ASE finds."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from ase.calculators.emt import EMT
from ase.optimize import FIRE

from equipot.calculator.convert import to_atoms
from equipot.params import RelaxParams
from equipot.simulation.api import relax
from equipot.simulation.engine import Engine, Moving
from equipot.simulation.motions.fire import Fire
from equipot.simulation.providers import AseProvider
from equipot.simulation.verdicts import Outcome
from equipot.structure import Structure

NAMES = ("crystal", "slab", "cluster", "water")
SAME_STEPS_ANG = 1e-6  # rounding grows along the way; the steps themselves are the same formulas
N_COMPARED = 50


def ase_positions(structure: Structure, n_steps: int, fmax: float = 1e-12) -> tuple[list[np.ndarray], Any]:
    atoms = to_atoms(structure)
    atoms.calc = EMT()
    places = [atoms.get_positions()]
    optimizer = FIRE(atoms, logfile=None, maxstep=0.2)
    for converged in optimizer.irun(fmax=fmax, steps=n_steps):
        places.append(atoms.get_positions())
        if converged:
            break
    return places[1:], optimizer


@pytest.mark.parametrize("name", NAMES)
def test_the_first_fifty_steps_are_those_of_ase(forces: Any, name: str) -> None:
    structure = forces.copper_structures()[name]
    expected, _ = ase_positions(structure, N_COMPARED)
    engine = Engine(AseProvider(EMT()))
    motion = Fire(structure, RelaxParams(fmax_ev_per_ang=1e-12, max_steps=N_COMPARED))
    engine.add(Moving(0, structure, motion, motion.start()))
    for step, places in enumerate(expected):
        (event,) = engine.step()
        assert event.system.state.step == step
        assert np.abs(event.system.state.positions_ang - places).max() < SAME_STEPS_ANG, f"step {step}"
    assert step == N_COMPARED


@pytest.mark.parametrize("name", NAMES)
def test_the_minimum_and_the_number_of_steps_are_those_of_ase(forces: Any, name: str) -> None:
    structure = forces.copper_structures()[name]
    places, optimizer = ase_positions(structure, 500, fmax=0.01)
    (result,) = relax(structure, EMT(), fmax_ev_per_ang=0.01)
    assert result.outcome == Outcome.CONVERGED
    assert abs(result.n_steps - optimizer.nsteps) <= 1
    assert result.atoms is not None
    assert np.abs(result.atoms.positions - places[-1]).max() < 1e-4
    assert result.energy_ev == pytest.approx(optimizer.atoms.get_potential_energy(), abs=1e-6)
    free = [i for i in range(structure.n_atoms) if i not in structure.fixed_atoms]
    assert result.forces_ev_per_ang is not None
    assert result.fmax_ev_per_ang == np.linalg.norm(result.forces_ev_per_ang[free], axis=1).max() < 0.01


def test_fixed_atoms_do_not_move_by_a_bit(forces: Any) -> None:
    structure = forces.copper_structures()["slab"]
    (result,) = relax(structure, EMT())
    fixed = list(structure.fixed_atoms)
    assert fixed
    assert result.atoms is not None
    assert np.array_equal(result.atoms.positions[fixed], structure.positions_ang[fixed])


def test_a_relaxation_that_runs_out_of_steps_is_not_called_converged(forces: Any) -> None:
    (result,) = relax(forces.copper_structures()["crystal"], EMT(), max_steps=3)
    assert result.outcome == Outcome.MAX_STEPS
    assert result.converged is False
    assert result.n_steps == 3
    assert result.fmax_ev_per_ang is not None
    assert result.fmax_ev_per_ang > 0.05


def test_a_relaxed_structure_is_converged_at_step_zero_even_with_no_steps_allowed(forces: Any) -> None:
    (first,) = relax(forces.copper_structures()["crystal"], EMT())
    assert first.atoms is not None
    (again,) = relax(first.atoms, EMT(), max_steps=0)
    assert (again.outcome, again.n_steps, again.energy_ev) == (Outcome.CONVERGED, 0, first.energy_ev)
    assert "0.05 eV/Å" in again.criterion


def test_a_structure_whose_atoms_are_all_fixed_is_converged(forces: Any) -> None:
    structure = forces.copper_structures()["water"]
    frozen = Structure(structure.numbers, structure.positions_ang, fixed_atoms=(0, 1, 2))
    (result,) = relax(frozen, EMT())
    assert (result.outcome, result.fmax_ev_per_ang) == (Outcome.CONVERGED, 0.0)

"""Start velocities are those of the temperature asked for, in the degrees of freedom that are left."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from ase import units as ase_units
from scipy import stats

from equipot.calculator.convert import to_atoms
from equipot.params import MDParams
from equipot.simulation.motions.base import Bodies
from equipot.simulation.motions.velocities import (
    degrees_of_freedom,
    kinetic_energy_ev,
    start_velocities_ang_per_fs,
    temperature_k,
)
from equipot.structure import Structure

N_SEEDS = 400


def params(**given: Any) -> MDParams:
    return MDParams(**{"n_steps": 1, "timestep_fs": 1.0, "temperature_k": 250.0, "ensemble": "nve", **given})


def small(n_atoms: int = 4, **more: Any) -> Structure:
    positions = np.random.default_rng(n_atoms).normal(0.0, 2.0, (n_atoms, 3))
    return Structure(np.array([1, 6, 8, 18, 29])[:n_atoms], positions, **more)


@pytest.mark.parametrize(
    ("structure", "given", "n_degrees"),
    [
        (small(), {"remove_com": False}, 12),
        (small(), {}, 9),
        (small(), {"remove_rotation": True}, 6),
        (small(2), {"remove_rotation": True}, 1),
        (small(fixed_atoms=(0, 2)), {}, 6),
        (small(), {"ensemble": "nvt"}, 12),
    ],
)
def test_the_mean_temperature_of_drawn_velocities_is_the_one_asked_for(
    structure: Structure, given: dict[str, Any], n_degrees: int
) -> None:
    """Kinetic energy over kT/2 follows chi² with the degrees of freedom that drawing leaves."""
    bodies, chosen = Bodies.of(structure), params(**given)
    assert degrees_of_freedom(chosen, bodies, structure.positions_ang) == n_degrees
    drawn = degrees_of_freedom(params(**{**given, "ensemble": "nve"}), bodies, structure.positions_ang)
    energies = [
        kinetic_energy_ev(bodies.masses_u, start_velocities_ang_per_fs(structure, bodies, chosen, seed))
        for seed in range(N_SEEDS)
    ]
    scaled = 2.0 * np.array(energies) / (ase_units.kB * 250.0)
    assert stats.kstest(scaled, "chi2", args=(drawn,)).pvalue > 1e-3
    assert stats.kstest(scaled, "chi2", args=(drawn + 3,)).pvalue < 1e-3, "this test cannot tell degrees of freedom"


def test_drift_and_rotation_are_gone_and_fixed_atoms_rest() -> None:
    structure = small(5)
    atoms = to_atoms(structure)
    chosen = params(remove_rotation=True)
    atoms.set_velocities(start_velocities_ang_per_fs(structure, Bodies.of(structure), chosen, 3) / ase_units.fs)
    assert np.abs(atoms.get_momenta().sum(axis=0)).max() < 1e-12
    assert np.abs(atoms.get_angular_momentum()).max() < 1e-12
    held = small(5, fixed_atoms=(1, 3))
    velocities = start_velocities_ang_per_fs(held, Bodies.of(held), params(), 3)
    assert not velocities[[1, 3]].any()
    assert velocities[[0, 2, 4]].all()


def test_kinetic_energy_and_temperature_are_those_of_ase() -> None:
    structure = small(5)
    velocities = start_velocities_ang_per_fs(structure, Bodies.of(structure), params(remove_com=False), 8)
    atoms = to_atoms(structure)
    atoms.set_velocities(velocities / ase_units.fs)
    kinetic = kinetic_energy_ev(Bodies.of(structure).masses_u, velocities)
    assert kinetic == pytest.approx(atoms.get_kinetic_energy(), rel=1e-12)
    assert temperature_k(kinetic, 15) == pytest.approx(atoms.get_temperature(), rel=1e-12)


def test_given_velocities_are_used_to_the_last_bit_and_zero_means_zero() -> None:
    velocities = np.random.default_rng(0).normal(0.0, 0.01, (4, 3))
    structure = small(4, velocities_ang_per_fs=velocities)
    bodies = Bodies.of(structure)
    assert np.array_equal(start_velocities_ang_per_fs(structure, bodies, params(velocities="given"), 1), velocities)
    assert not start_velocities_ang_per_fs(structure, bodies, params(velocities="zero"), 1).any()


def test_a_single_atom_without_drift_has_no_temperature() -> None:
    structure = Structure(np.array([18]), np.zeros((1, 3)))
    bodies = Bodies.of(structure)
    assert degrees_of_freedom(params(), bodies, structure.positions_ang) == 0
    assert temperature_k(1.0, 0) == 0.0

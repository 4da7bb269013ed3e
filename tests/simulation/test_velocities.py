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
from equipot.simulation.motions.dynamics import dynamics
from equipot.simulation.motions.velocities import (
    degrees_of_freedom,
    kinetic_energy_ev,
    start_velocities_ang_per_fs,
    temperature_k,
)
from equipot.simulation.motions.velocity_verlet import VelocityVerlet
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
        (small(), {"ensemble": "nvt", "thermostat": {"type": "bussi"}}, 9),
        (small(), {"ensemble": "nvt", "thermostat": {"type": "nose_hoover"}, "remove_rotation": True}, 6),
        (small(cell_ang=9 * np.eye(3), pbc=(True,) * 3), {"remove_rotation": True}, 9),
        (small(cell_ang=9 * np.eye(3), pbc=(True,) * 3), {"ensemble": "npt"}, 12),
        (small(cell_ang=9 * np.eye(3), pbc=(True,) * 3), {"ensemble": "npt", "thermostat": {"type": "bussi"}}, 9),
        (small(fixed_atoms=(0, 2)), {"ensemble": "nvt", "thermostat": {"type": "bussi"}}, 6),
    ],
)
def test_the_mean_temperature_of_drawn_velocities_is_the_one_asked_for(
    structure: Structure, given: dict[str, Any], n_degrees: int
) -> None:
    """Kinetic energy over kT/2 follows chi² with the degrees of freedom that drawing leaves."""
    bodies, chosen = Bodies.of(structure), params(**given)
    start = start_velocities_ang_per_fs(structure, bodies, chosen, 0)
    motion = dynamics(structure, chosen.resolved([structure.numbers]), 0)
    assert isinstance(motion, VelocityVerlet)
    assert degrees_of_freedom(bodies, structure.positions_ang, start, motion.keeps_momentum) == n_degrees
    assert motion.temperature_k(motion.start()) == pytest.approx(
        2.0 * kinetic_energy_ev(bodies.masses_u, start) / (n_degrees * ase_units.kB)
    )
    drawn = degrees_of_freedom(bodies, structure.positions_ang, start, True)
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
    assert degrees_of_freedom(Bodies.of(structure), structure.positions_ang, np.zeros((1, 3)), True) == 0
    assert temperature_k(1.0, 0) == 0.0


def test_given_velocities_without_drift_or_rotation_leave_out_the_same_degrees_as_drawn_ones() -> None:
    structure = small(5)
    bodies = Bodies.of(structure)
    calm = start_velocities_ang_per_fs(structure, bodies, params(remove_rotation=True), 3)
    rotating = start_velocities_ang_per_fs(structure, bodies, params(), 3)
    drift = np.array([1e-3, 0.0, 0.0])
    for velocities, n_degrees in ((calm, 9), (rotating, 12), (calm + drift, 12), (rotating + drift, 15)):
        for digits in (6, 17):  # as a file has them
            rounded = np.array([[float(f"{v:.{digits}g}") for v in row] for row in velocities])
            assert degrees_of_freedom(bodies, structure.positions_ang, rounded, True) == n_degrees
    assert degrees_of_freedom(bodies, structure.positions_ang, calm, False) == 15

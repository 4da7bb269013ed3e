"""Every thermostat samples its ensemble, and each check would notice if it did not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from ase.build import molecule
from ase.data import atomic_masses
from scipy import stats

from equipot.simulation.motions import velocity_verlet
from equipot.simulation.motions.noise import normals
from equipot.simulation.motions.velocities import degrees_of_freedom
from equipot.simulation.providers import System
from equipot.structure import Structure
from equipot.units import EV_PER_U_ANG2_PER_FS2, KB_EV_PER_K
from tests.simulation.conftest import LennardJones, Springs, anchors_ang, argon_cluster, oscillators
from tests.simulation.sampling import (
    LEAST_P,
    PLANTED_P,
    Argon,
    Bonds,
    IdealGas,
    argon_crystal,
    decorrelated,
    md_params,
    motion_of,
    p_of_kinetic_energy,
    p_of_mean,
    p_of_slope,
    rows,
    states,
    two_sided,
)

ARGON_U = 39.95
TIGHT: dict[str, dict[str, Any]] = {  # they forget within some 20 fs, so that few steps make many samples
    "langevin": {"type": "langevin", "friction_per_fs": 0.05},
    "nose_hoover": {"type": "nose_hoover", "tdamp_fs": 20.0},
    "bussi": {"type": "bussi", "tau_fs": 20.0},
}


def cluster_forces(positions_ang: np.ndarray, cell_ang: np.ndarray | None) -> Any:
    return LennardJones().forces(System(np.full(len(positions_ang), 18), positions_ang, None, (False,) * 3, 0))


def spring_forces(stiffness: float) -> Any:
    springs = Springs(stiffness_ev_per_ang2=stiffness)
    return lambda positions, cell: springs.forces(System(np.full(len(positions), 18), positions, None, (False,) * 3, 0))


def cluster_kinetic_ev(thermostat: str, n_steps: int, seed: int = 1) -> np.ndarray:
    """Decorrelated kinetic energies of eight argon atoms at 20 K, without drift and rotation at the start."""
    structure = argon_cluster(8)
    params = md_params(structure, temperature_k=20.0, thermostat=TIGHT[thermostat], remove_rotation=True)
    motion = motion_of(structure, params, seed)
    return rows(cluster_forces, motion, n_steps, every=15, skip=500)["kinetic_ev"]


@pytest.mark.parametrize(("thermostat", "n_degrees"), [("langevin", 24), ("nose_hoover", 18), ("bussi", 18)])
def test_kinetic_energy_is_that_of_the_degrees_of_freedom_a_thermostat_leaves(thermostat: str, n_degrees: int) -> None:
    """All of them under Langevin; no drift and no rotation under those that keep momentum."""
    kinetic = cluster_kinetic_ev(thermostat, 8000)
    assert p_of_kinetic_energy(kinetic, n_degrees, 20.0) > LEAST_P
    for wrong in (n_degrees - 3, n_degrees + 3):
        assert p_of_kinetic_energy(kinetic, wrong, 20.0) < PLANTED_P, "this test cannot tell degrees of freedom"


@pytest.mark.parametrize("thermostat", ["nose_hoover", "bussi"])
def test_a_thermostat_with_three_degrees_of_freedom_too_many_would_be_noticed(
    thermostat: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(velocity_verlet, "degrees_of_freedom", lambda *given: degrees_of_freedom(*given) + 3)
    assert p_of_kinetic_energy(cluster_kinetic_ev(thermostat, 8000), 18, 20.0) < PLANTED_P


@pytest.mark.parametrize("thermostat", TIGHT)
def test_fixed_atoms_stay_and_the_others_have_their_temperature(thermostat: str) -> None:
    """Three degrees for each free atom: what is fixed holds the drift too."""
    fixed = list(range(0, 32, 2))
    structure = argon_crystal(fixed_atoms=tuple(fixed))
    motion = motion_of(structure, md_params(structure, temperature_k=40.0, thermostat=TIGHT[thermostat]))
    degrees = []
    for state in states(Argon(), motion, 3000):
        if state.step >= 500 and state.step % 5 == 0:
            degrees.append(2.0 * motion.kinetic_ev(state) / (KB_EV_PER_K * 40.0))
    assert np.array_equal(state.positions_ang[fixed], structure.positions_ang[fixed])
    assert p_of_mean(np.array(degrees), 48) > LEAST_P
    assert p_of_mean(np.array(degrees), 42) < PLANTED_P


@pytest.mark.parametrize("ensemble", ["nvt", "npt"])
@pytest.mark.parametrize("thermostat", TIGHT)
def test_a_start_at_rest_and_a_single_atom_are_no_accident(thermostat: str, ensemble: str) -> None:
    """Rescaling has no direction to go in where nothing moves: the forces begin, and one atom alone stays."""
    given = {"ensemble": ensemble, "thermostat": TIGHT[thermostat], "velocities": "zero"}
    crystal, alone = argon_crystal(), Structure(np.array([18]), np.zeros((1, 3)), 9.5 * np.eye(3), (True,) * 3)
    places = crystal.positions_ang + np.random.default_rng(0).normal(0.0, 0.1, (32, 3))
    for structure in (crystal.moved_to(places, None, crystal.cell_ang), alone):
        motion = motion_of(structure, md_params(structure, **given))
        found = rows(Argon(cutoff_ang=4.0), motion, 20, every=1)
        assert found["temperature_k"][0] == 0.0
        assert all(np.isfinite(column).all() for column in found.values())
        moves = structure.n_atoms > 1 or thermostat == "langevin"
        assert (found["temperature_k"][-1] > 0.0) == moves


def many_atoms_kinetic_ev(thermostat: str) -> np.ndarray:
    """Kinetic energies of a thousand atoms of an ideal gas at 150 K, whose only motion is that of the thermostat."""
    structure = oscillators(1000)
    motion = motion_of(structure, md_params(structure, temperature_k=150.0, thermostat=TIGHT[thermostat]))
    return rows(IdealGas(), motion, 1500, every=30, skip=100)["kinetic_ev"]


@pytest.mark.parametrize(("thermostat", "n_degrees"), [("langevin", 3000), ("bussi", 2997)])
def test_noise_two_percent_too_strong_would_be_noticed(
    thermostat: str, n_degrees: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert p_of_kinetic_energy(many_atoms_kinetic_ev(thermostat), n_degrees, 150.0) > LEAST_P
    monkeypatch.setattr(f"equipot.simulation.motions.{thermostat}.normals", lambda *given: 1.02 * normals(*given))
    assert p_of_kinetic_energy(many_atoms_kinetic_ev(thermostat), n_degrees, 150.0) < PLANTED_P


STIFF = 18.0  # eV/Å²
STIFF_PER_FS = float(np.sqrt(STIFF / (ARGON_U * EV_PER_U_ANG2_PER_FS2)))


@pytest.mark.parametrize("timestep_fs", [10.0, 5.0])
def test_the_kinetic_temperature_of_baoab_is_low_by_a_quarter_of_the_squared_phase_of_a_step(
    timestep_fs: float,
) -> None:
    """(ω dt)²/4 for a harmonic oscillator (Leimkuhler and Matthews, 2013): a right code is wrong by just so much."""
    structure = oscillators(1000)
    thermostat = {"type": "langevin", "friction_per_fs": 0.05}
    params = md_params(structure, temperature_k=150.0, timestep_fs=timestep_fs, thermostat=thermostat)
    found = rows(spring_forces(STIFF), motion_of(structure, params), 800, every=round(80 / timestep_fs), skip=100)
    scaled = 2.0 * decorrelated(found["kinetic_ev"]) / (KB_EV_PER_K * 150.0)

    def p_at(factor: float) -> float:
        return two_sided(stats.chi2.cdf(scaled.sum() / factor, 3000 * scaled.size))

    low = (STIFF_PER_FS * timestep_fs) ** 2 / 4
    assert p_at(1.0 - low) > LEAST_P
    assert p_at(1.0) < PLANTED_P, "too few samples to see it"


def test_the_kinetic_energy_of_verlet_is_low_by_the_same_share() -> None:
    structure = oscillators(200)
    for timestep_fs in (10.0, 5.0):
        params = md_params(structure, ensemble="nve", temperature_k=150.0, timestep_fs=timestep_fs)
        found = rows(spring_forces(STIFF), motion_of(structure, params), 4000, every=1)
        ratio = found["kinetic_ev"].mean() / found["energy_ev"].mean()
        assert ratio == pytest.approx(1.0 - (STIFF_PER_FS * timestep_fs) ** 2 / 4, abs=1e-3)


def group_energies_ev(temperature_k: float, n_steps: int, seed: int) -> np.ndarray:
    """Potential energies of independent groups of eight oscillators under Langevin dynamics, decorrelated."""
    structure = oscillators(1000)
    params = md_params(structure, temperature_k=temperature_k, timestep_fs=4.0, thermostat=TIGHT["langevin"])
    motion, found = motion_of(structure, params, seed), []
    for state in states(spring_forces(2.0), motion, n_steps):
        if state.step >= 100 and state.step % 40 == 0:
            away = state.positions_ang - anchors_ang(1000)
            found.append((away * away).sum(axis=1).reshape(-1, 8).sum(axis=1))
    return np.concatenate(found)


def test_energies_at_two_temperatures_differ_by_the_boltzmann_factor(monkeypatch: pytest.MonkeyPatch) -> None:
    """Slope of ln(p2/p1) over the energy is 1/kT1 - 1/kT2: no knowledge of the density of states is needed."""
    expected = 1.0 / (KB_EV_PER_K * 150.0) - 1.0 / (KB_EV_PER_K * 190.0)
    first, second = group_energies_ev(150.0, 2600, 1), group_energies_ev(190.0, 2600, 2)
    assert p_of_slope(first, second, expected) > LEAST_P
    monkeypatch.setattr("equipot.simulation.motions.langevin.normals", lambda *given: 1.1 * normals(*given))
    first, second = group_energies_ev(150.0, 2600, 1), group_energies_ev(190.0, 2600, 2)
    assert p_of_slope(first, second, expected) < PLANTED_P


def methane() -> tuple[Structure, Bonds]:
    """A carbon with four hydrogens on springs: bonds of 30 eV/Å², hydrogens 4 eV/Å² apart."""
    atoms = molecule("CH4")
    stiffness = np.full((5, 5), 4.0)
    stiffness[0] = stiffness[:, 0] = 30.0
    return Structure(atoms.numbers, atoms.positions), Bonds(stiffness, atoms.get_all_distances())


def largest_frequency_per_fs(structure: Structure, forces: Bonds) -> float:
    """From the second derivatives by differences."""
    n, step = structure.n_atoms, 1e-4
    hessian = np.zeros((3 * n, 3 * n))
    for i in range(3 * n):
        shift = np.zeros(3 * n)
        shift[i] = step
        ahead, behind = (
            forces(structure.positions_ang + sign * shift.reshape(n, 3), None).forces_ev_per_ang for sign in (1, -1)
        )
        hessian[i] = (behind - ahead).ravel() / (2.0 * step)
    masses = np.repeat(atomic_masses[structure.numbers], 3) * EV_PER_U_ANG2_PER_FS2
    return float(np.sqrt(np.linalg.eigvalsh(hessian / np.sqrt(np.outer(masses, masses))).max()))


@pytest.mark.parametrize(("thermostat", "n_degrees"), [("langevin", 15), ("bussi", 9)])
def test_a_molecule_at_a_tenth_of_a_phase_per_step_has_its_kinetic_energy(thermostat: str, n_degrees: int) -> None:
    structure, forces = methane()
    timestep_fs = 0.1 / largest_frequency_per_fs(structure, forces)
    given = {"thermostat": TIGHT[thermostat], "temperature_k": 300.0, "remove_rotation": True}
    motion = motion_of(structure, md_params(structure, timestep_fs=timestep_fs, **given))
    kinetic = rows(forces, motion, 15_000, every=100, skip=2000)["kinetic_ev"]
    assert p_of_kinetic_energy(kinetic, n_degrees, 300.0) > LEAST_P
    assert p_of_kinetic_energy(kinetic, n_degrees + 6, 300.0) < PLANTED_P


@pytest.mark.long
@pytest.mark.parametrize(("thermostat", "n_degrees"), [("langevin", 96), ("nose_hoover", 93), ("bussi", 93)])
def test_argon_at_two_temperatures_has_the_right_kinetic_and_potential_energies(
    thermostat: str, n_degrees: int, record_property: Any
) -> None:
    """Dense argon of 32 atoms at 2 fs: kinetic energies at both temperatures, and the slope between the potential."""
    structure, temperatures, found = argon_crystal(), (100.0, 125.0), []
    for seed, temperature_k in enumerate(temperatures):
        params = md_params(structure, temperature_k=temperature_k, thermostat=TIGHT[thermostat])
        columns = rows(Argon(), motion_of(structure, params, seed), 40_000, every=10, skip=1000)
        kinetic = columns["kinetic_ev"]
        p_kinetic = p_of_kinetic_energy(kinetic, n_degrees, temperature_k)
        record_property(f"p of the kinetic energy at {temperature_k:g} K", p_kinetic)
        assert p_kinetic > LEAST_P
        assert p_of_kinetic_energy(kinetic, n_degrees + 3, temperature_k) < PLANTED_P
        assert p_of_kinetic_energy(kinetic, n_degrees - 3, temperature_k) < PLANTED_P
        found.append(columns["energy_ev"])
    expected = 1.0 / (KB_EV_PER_K * temperatures[0]) - 1.0 / (KB_EV_PER_K * temperatures[1])
    p_slope = p_of_slope(found[0], found[1], expected)
    record_property("p of the slope", p_slope)
    assert p_slope > LEAST_P
    assert p_of_slope(found[0], found[1], 2.0 * expected) < PLANTED_P


@pytest.mark.long
@pytest.mark.parametrize(("thermostat", "n_degrees"), [("langevin", 15), ("nose_hoover", 9), ("bussi", 9)])
def test_a_molecule_has_its_kinetic_energy_at_a_step_and_at_half_of_it(
    thermostat: str, n_degrees: int, record_property: Any
) -> None:
    """Only the mean under a chain: it never mixes what is so nearly harmonic."""
    structure, forces = methane()
    longest_fs = 0.1 / largest_frequency_per_fs(structure, forces)
    for timestep_fs in (longest_fs, 0.5 * longest_fs):
        given = {"thermostat": TIGHT[thermostat], "temperature_k": 300.0, "remove_rotation": True}
        motion = motion_of(structure, md_params(structure, timestep_fs=timestep_fs, **given))
        n_steps = round(15_000 / timestep_fs)
        kinetic = rows(forces, motion, n_steps, every=round(50 / timestep_fs), skip=5000)["kinetic_ev"]
        if thermostat == "nose_hoover":
            p_value = p_of_mean(2.0 * kinetic / (KB_EV_PER_K * 300.0), n_degrees)
        else:
            p_value = p_of_kinetic_energy(kinetic, n_degrees, 300.0)
        record_property(f"p at {timestep_fs:.3f} fs", p_value)
        assert p_value > LEAST_P
        assert p_of_kinetic_energy(kinetic, n_degrees + 3, 300.0) < PLANTED_P

"""Dynamics is ASE's velocity Verlet, conserves energy, and samples the temperature it is asked for."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from ase import units as ase_units
from ase.calculators.emt import EMT
from ase.md.verlet import VelocityVerlet as AseVelocityVerlet
from scipy import stats

from equipot.calculator.convert import to_atoms
from equipot.params import LangevinThermostat, MDParams
from equipot.simulation.engine import Engine, Moving
from equipot.simulation.motions.base import State
from equipot.simulation.motions.dynamics import dynamics
from equipot.simulation.motions.noise import Stream, normals
from equipot.simulation.motions.velocities import thermal_speeds_ang_per_fs
from equipot.simulation.providers import AseProvider, ForceProvider
from equipot.structure import Structure
from equipot.units import EV_PER_U_ANG2_PER_FS2, KB_EV_PER_K

SAME_STEP_ANG = 1e-10  # the same formulas in other units: rounding, grown over the steps compared
ARGON_U = 39.95


def params(**given: Any) -> MDParams:
    chosen = {"n_steps": 10, "timestep_fs": 2.0, "temperature_k": 100.0, **given}
    return MDParams(**chosen).resolved([np.array([18])])


def states(provider: ForceProvider, structure: Structure, chosen: MDParams, seed: int = 1) -> list[tuple[Any, State]]:
    """Every state of a run from step 0 on, with its motion."""
    motion = dynamics(structure, chosen, seed)
    engine = Engine(provider)
    engine.add(Moving(0, structure, motion, motion.start()))
    found = []
    while engine.systems:
        (event,) = engine.step()
        found.append((motion, event.system.state))
    return found


def speeds_of(state: State) -> np.ndarray:
    assert state.velocities_ang_per_fs is not None
    return state.velocities_ang_per_fs


@pytest.mark.parametrize("name", ["crystal", "slab", "water"])
def test_every_step_of_nve_is_that_of_ases_velocity_verlet(forces: Any, name: str) -> None:
    structure = forces.copper_structures()[name]
    chosen = params(ensemble="nve", timestep_fs=1.0, n_steps=30, temperature_k=600)
    run = states(AseProvider(EMT()), structure, chosen)
    atoms = to_atoms(structure)
    atoms.calc = EMT()
    atoms.set_velocities(speeds_of(run[0][1]) / ase_units.fs)
    ases = AseVelocityVerlet(atoms, 1.0 * ase_units.fs)
    for motion, state in run:
        assert np.abs(state.positions_ang - atoms.positions).max() < SAME_STEP_ANG, f"step {state.step}"
        assert np.abs(speeds_of(state) - atoms.get_velocities() * ase_units.fs).max() < SAME_STEP_ANG
        assert motion.conserved_ev(state) == pytest.approx(atoms.get_total_energy(), abs=1e-9)
        ases.run(1)
    assert state.step == 30


def energy_error_ev(forces: Any, timestep_fs: float) -> float:
    """Root mean square deviation of the total energy over 2 ps of a cluster of argon."""
    chosen = params(ensemble="nve", timestep_fs=timestep_fs, n_steps=round(2000 / timestep_fs), temperature_k=30)
    run = states(forces.LennardJones(), forces.argon_cluster(13), chosen)
    energies = np.array([motion.conserved_ev(state) for motion, state in run])
    return float(np.sqrt(((energies - energies.mean()) ** 2).mean()))


def test_the_energy_error_of_nve_falls_with_the_square_of_the_timestep(forces: Any) -> None:
    errors = [energy_error_ev(forces, dt) for dt in (8.0, 4.0, 2.0)]
    assert errors[0] / errors[1] == pytest.approx(4.0, rel=0.15)
    assert errors[1] / errors[2] == pytest.approx(4.0, rel=0.15)
    assert errors[2] / 13 < 1e-6


def test_nve_has_no_drift_of_energy_momentum_or_angular_momentum(forces: Any) -> None:
    structure = forces.argon_cluster(13)
    run = states(forces.LennardJones(), structure, params(ensemble="nve", n_steps=3000, temperature_k=30))
    energies = np.array([motion.conserved_ev(state) for motion, state in run])
    slope = np.polyfit(np.arange(len(energies)), energies, 1)[0] * len(energies) / 13
    assert abs(slope) < 1e-6, "eV/atom over 6 ps"
    assert np.abs(speeds_of(run[-1][1]).sum(axis=0)).max() < 1e-14
    start, end = (np.cross(s.positions_ang, speeds_of(s)).sum(axis=0) for _, s in (run[0], run[-1]))
    assert np.abs(start - end).max() < 1e-12


def test_nve_run_backwards_comes_home(forces: Any) -> None:
    structure = forces.argon_cluster(8)
    there = states(forces.LennardJones(), structure, params(ensemble="nve", n_steps=200, temperature_k=20))[-1][1]
    turned = structure.moved_to(there.positions_ang, -speeds_of(there))
    back = states(forces.LennardJones(), turned, params(ensemble="nve", n_steps=200, velocities="given"))[-1][1]
    assert np.abs(back.positions_ang - structure.positions_ang).max() < 1e-9


STIFFNESS = 2.0  # eV/Å², of Springs
FREQUENCY_PER_FS = float(np.sqrt(STIFFNESS / (ARGON_U * EV_PER_U_ANG2_PER_FS2)))
TEMPERATURE_K = 150.0


def oscillator_samples(forces: Any, timestep_fs: float, n_atoms: int = 300) -> tuple[np.ndarray, np.ndarray]:
    """Positions and velocities of independent oscillators under Langevin dynamics, decorrelated, each of unit variance
    if the dynamics is right: BAOAB samples the positions of a harmonic oscillator exactly, and its velocities with
    variance kT/m (1 - (ω dt / 2)²) (Leimkuhler and Matthews, 2013)."""
    chosen = params(
        timestep_fs=timestep_fs,
        n_steps=round(3000 / timestep_fs),
        temperature_k=TEMPERATURE_K,
        thermostat=LangevinThermostat(friction_per_fs=0.02),
    )
    run = states(forces.Springs(stiffness_ev_per_ang2=STIFFNESS), forces.oscillators(n_atoms), chosen)
    picked = [s for _, s in run[round(600 / timestep_fs) :: round(400 / timestep_fs)]]  # friction forgets in 50 fs
    away = np.stack([s.positions_ang - forces.anchors_ang(n_atoms) for s in picked])
    speeds = np.stack([speeds_of(s) for s in picked])
    discrete = 1.0 - (0.5 * FREQUENCY_PER_FS * timestep_fs) ** 2
    thermal = thermal_speeds_ang_per_fs(TEMPERATURE_K, np.array(ARGON_U))
    return away / np.sqrt(KB_EV_PER_K * TEMPERATURE_K / STIFFNESS), speeds / (thermal * np.sqrt(discrete))


def p_value_of_unit_variance(samples: np.ndarray) -> float:
    """Two-sided p-value of the sum of squares under chi²."""
    below = stats.chi2.cdf((samples**2).sum(), samples.size)
    return float(2.0 * min(below, 1.0 - below))


@pytest.mark.parametrize("timestep_fs", [2.0, 10.0])
def test_langevin_samples_positions_and_velocities_of_oscillators_as_it_should(forces: Any, timestep_fs: float) -> None:
    positions, speeds = oscillator_samples(forces, timestep_fs)
    for samples in (positions, speeds):
        assert p_value_of_unit_variance(samples) > 1e-3
        assert stats.kstest(samples.ravel(), "norm").pvalue > 1e-3
    correlation = float((positions * speeds).mean()) * np.sqrt(positions.size)
    assert abs(correlation) < 4.0, "positions and velocities are independent in equilibrium"


def test_the_statistics_would_notice_noise_that_is_five_percent_too_strong(
    forces: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_strong(seed: int, stream: Stream, step: int, n_atoms: int) -> np.ndarray:
        return 1.05 * normals(seed, stream, step, n_atoms)

    monkeypatch.setattr("equipot.simulation.motions.langevin.normals", too_strong)
    positions, speeds = oscillator_samples(forces, 2.0)
    assert p_value_of_unit_variance(positions) < 1e-6
    assert p_value_of_unit_variance(speeds) < 1e-6


def test_langevin_keeps_a_cluster_of_argon_at_its_temperature(forces: Any) -> None:
    """Anharmonic, coupled: the mean kinetic temperature of 24 independent clusters, by Student's t."""
    means = []
    for seed in range(24):
        chosen = params(n_steps=500, temperature_k=20.0, thermostat=LangevinThermostat(friction_per_fs=0.02))
        run = states(forces.LennardJones(), forces.argon_cluster(7, seed), chosen, seed=100 + seed)
        means.append(np.mean([motion.temperature_k(state) for motion, state in run[150:]]))
    assert stats.ttest_1samp(means, 20.0).pvalue > 1e-3
    assert np.std(means) / np.sqrt(len(means)) < 0.5, "K; otherwise this proves nothing"


def test_langevin_conserves_energy_less_heat_and_better_with_a_smaller_timestep(forces: Any) -> None:
    def wander(timestep_fs: float) -> float:
        chosen = params(n_steps=round(1000 / timestep_fs), timestep_fs=timestep_fs, temperature_k=TEMPERATURE_K)
        run = states(forces.Springs(), forces.oscillators(20), chosen)
        conserved = np.array([motion.conserved_ev(state) for motion, state in run])
        total = np.array([motion.conserved_ev(s) + s.tensors["heat_ev"] for motion, s in run])
        assert np.ptp(conserved) < 0.1 * np.ptp(total)
        return float(np.ptp(conserved))

    assert wander(1.0) < 0.5 * wander(4.0)


def test_langevin_with_fixed_atoms_moves_the_others_only_and_keeps_their_temperature(forces: Any) -> None:
    base = forces.oscillators(200)
    structure = Structure(base.numbers, base.positions_ang, fixed_atoms=tuple(range(0, 200, 2)))
    chosen = params(n_steps=600, temperature_k=TEMPERATURE_K, thermostat=LangevinThermostat(friction_per_fs=0.02))
    run = states(forces.Springs(), structure, chosen)
    fixed = list(structure.fixed_atoms)
    assert np.array_equal(run[-1][1].positions_ang[fixed], base.positions_ang[fixed])
    temperatures = [motion.temperature_k(state) for motion, state in run[200::100]]
    # kT fluctuates by sqrt(2/300) over 300 degrees of freedom, once for each of five samples
    assert np.mean(temperatures) == pytest.approx(TEMPERATURE_K, abs=4 * TEMPERATURE_K * np.sqrt(2 / 300 / 5))


@pytest.mark.long
def test_langevin_statistics_hold_over_many_seeds_and_frictions(forces: Any) -> None:
    """The p-values of many runs are uniform, as they are if the dynamics is right and not only nearly right."""
    p_values = []
    for seed in range(60):
        friction = (0.002, 0.02, 0.2)[seed % 3]
        thermostat = LangevinThermostat(friction_per_fs=friction)
        chosen = params(n_steps=4000, timestep_fs=4.0, temperature_k=TEMPERATURE_K, thermostat=thermostat)
        run = states(forces.Springs(), forces.oscillators(100), chosen, seed=seed)
        step = round(12 / friction) if friction < 0.1 else 1500  # overdamped oscillators forget slowly
        picked = [s.positions_ang - forces.anchors_ang(100) for _, s in run[min(step, 1500) :: min(step, 1500)]]
        samples = np.stack(picked) / np.sqrt(KB_EV_PER_K * TEMPERATURE_K / STIFFNESS)
        p_values.append(stats.chi2.cdf((samples**2).sum(), samples.size))
    assert stats.kstest(p_values, "uniform").pvalue > 1e-3

"""A cell that moves has the right volume, pressure and temperature, and each check would notice if it had not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import stats

from equipot.params import MDParams
from equipot.simulation.motions.mtk import MartynaTobiasKlein, StochasticMTK
from equipot.simulation.motions.strain import FlexibleStrain, IsotropicStrain
from equipot.simulation.motions.velocities import kinetic_energy_ev
from equipot.structure import Structure
from equipot.units import GPA_PER_EV_PER_ANG3, KB_EV_PER_K
from tests.simulation.sampling import (
    LEAST_P,
    PLANTED_P,
    Argon,
    IdealGas,
    Medium,
    argon_crystal,
    block_means,
    decorrelated,
    md_params,
    motion_of,
    p_of_distribution,
    p_of_kinetic_energy,
    p_of_mean,
    p_of_slope,
    rows,
    states,
    variance_and_error,
)

TIGHT: dict[str, dict[str, Any]] = {
    "langevin": {"type": "langevin", "friction_per_fs": 0.02},
    "nose_hoover": {"type": "nose_hoover", "tdamp_fs": 50.0},
    "bussi": {"type": "bussi", "tau_fs": 50.0},
}

GAS_K, GAS_GPA = 100.0, 0.02
GAS_VOLUME_ANG3 = KB_EV_PER_K * GAS_K / (GAS_GPA / GPA_PER_EV_PER_ANG3)  # for each atom


def npt_params(structure: Structure, thermostat: str, isotropic: bool, pressure_gpa: float, **more: Any) -> MDParams:
    barostat = {"pressure_gpa": pressure_gpa, "isotropic": isotropic, "pdamp_fs": more.pop("pdamp_fs", 100.0)}
    return md_params(structure, ensemble="npt", thermostat=TIGHT[thermostat], barostat=barostat, **more)


def gas_columns(
    isotropic: bool, pressure_gpa: float, n_steps: int, seed: int = 1, thermostat: str = "langevin"
) -> np.ndarray:
    """Volumes of an ideal gas of eight atoms over kT/P."""
    edge = (9.0 * GAS_VOLUME_ANG3) ** (1 / 3)
    places = np.random.default_rng(seed).uniform(0.0, edge, (8, 3))
    structure = Structure(np.full(8, 18), places, edge * np.eye(3), (True, True, True))
    params = npt_params(structure, thermostat, isotropic, pressure_gpa, temperature_k=GAS_K, pdamp_fs=20.0)
    motion = motion_of(structure, params, seed)
    return rows(IdealGas(), motion, n_steps, every=20, skip=160)["volume_ang3"] / GAS_VOLUME_ANG3


@pytest.mark.parametrize(
    ("thermostat", "isotropic", "power"), [("langevin", True, 8), ("langevin", False, 8), ("bussi", True, 7)]
)
def test_the_volume_of_an_ideal_gas_follows_the_gamma_distribution(
    thermostat: str, isotropic: bool, power: int
) -> None:
    """exp(-P V / kT) V^N has no free parameter: it decides about every term of the barostat, N kT/V and the mass of
    the cell included. It is V^(N - 1) where the centre of mass rests. A gas gives a flexible cell no shape to come
    back to, so there many short runs are taken."""
    if isotropic:
        volumes = decorrelated(gas_columns(True, GAS_GPA, 8000, thermostat=thermostat))
    else:
        volumes = np.array([gas_columns(False, GAS_GPA, 160, seed)[-1] for seed in range(40)])
    assert stats.kstest(volumes, "gamma", args=(power + 1,)).pvalue > LEAST_P
    for wrong in (power - 4, power + 5):
        assert stats.kstest(volumes, "gamma", args=(wrong,)).pvalue < PLANTED_P, "too few samples to tell"


def test_volumes_at_two_pressures_differ_by_the_boltzmann_factor(monkeypatch: pytest.MonkeyPatch) -> None:
    """Slope of ln(p2/p1) over the volume is (P1 - P2)/kT."""

    def p_value() -> float:
        first, second = (gas_columns(True, factor * GAS_GPA, 5000) for factor in (1.0, 1.5))
        return p_of_slope(first, second, -0.5)

    assert p_value() > LEAST_P

    right = IsotropicStrain.pulled

    def one_third(self: Any, rate: Any, masses: Any, speeds: Any, virial: Any, pressure_ev: float, time: float) -> Any:
        return right(self, rate, masses, speeds, virial, pressure_ev / 3.0, time)

    monkeypatch.setattr(IsotropicStrain, "pulled", one_third)
    assert p_value() < PLANTED_P


def swinging_cell(
    thermostat: str, isotropic: bool, phase: float, n_steps: int = 8000, timestep_fs: float = 2.0
) -> tuple[np.ndarray, Any, np.ndarray]:
    """Volumes of eight atoms in a medium whose cell swings by so large a phase in 2 fs; their distribution as it should
    be; and the cell's own kinetic energies in units of kT/2."""
    structure = Structure(np.full(8, 18), np.zeros((8, 3)), 10.0 * np.eye(3), (True, True, True))
    given = {"pdamp_fs": 20.0, "temperature_k": GAS_K, "timestep_fs": timestep_fs}
    motion = motion_of(structure, npt_params(structure, thermostat, isotropic, 0.0, **given))
    assert isinstance(motion, MartynaTobiasKlein)
    kt, power = KB_EV_PER_K * GAS_K, 8 if thermostat == "langevin" else 7
    mass = (3.0 * power + 3.0) * kt * 20.0**2  # of all three lengths
    bulk = (0.5 * phase) ** 2 * mass / 9.0 / 1000.0
    medium = Medium(bulk, shear_ev=1125.0 * bulk)  # which swings like the volume
    volumes, cell_degrees = [], []
    for state in states(medium, motion, n_steps):
        if state.step >= 400 and state.step % 4 == 0:
            assert state.cell_ang is not None
            volumes.append(float(np.linalg.det(state.cell_ang)))
            cell_degrees.append(2.0 * motion.cell_kinetic_ev(state) / kt)
    return np.array(volumes), medium.volumes(power, kt), np.array(cell_degrees)


def p_of_swinging_cell(thermostat: str, isotropic: bool, phase: float) -> float:
    volumes, expected, _ = swinging_cell(thermostat, isotropic, phase)
    return p_of_distribution(volumes, *expected)


@pytest.mark.parametrize("isotropic", [True, False], ids=["isotropic", "flexible"])
@pytest.mark.parametrize("thermostat", ["langevin", "bussi"])
def test_a_cell_that_swings_fast_has_the_right_volumes_at_any_step(thermostat: str, isotropic: bool) -> None:
    """A radian in a step. Its kinetic energy is low, by (ω dt)²/4, as that of any vibration under BAOAB."""
    volumes, expected, cell_degrees = swinging_cell(thermostat, isotropic, 1.0)
    assert p_of_distribution(volumes, *expected) > LEAST_P
    n_degrees = 1.0 if isotropic else 6.0
    assert 0.55 < cell_degrees.mean() / n_degrees < 0.9


def test_the_kinetic_energy_of_a_cell_is_right_where_its_swing_is_slow() -> None:
    for isotropic, n_degrees in ((True, 1.0), (False, 6.0)):
        _, _, cell_degrees = swinging_cell("bussi", isotropic, 0.3)
        assert p_of_mean(cell_degrees, n_degrees) > LEAST_P
    assert p_of_mean(cell_degrees, 9.0) < PLANTED_P


def test_a_thermostat_at_the_beginning_of_the_step_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """There the volume of a cell that swings a radian in a step is wide by a third."""
    monkeypatch.setattr(StochasticMTK, "_first", StochasticMTK._stirred)
    monkeypatch.setattr(StochasticMTK, "_drifted", MartynaTobiasKlein._drifted)
    assert p_of_swinging_cell("bussi", False, 1.0) < PLANTED_P


def test_a_chain_shares_no_energy_among_the_ways_a_flexible_cell_swings() -> None:
    """A limit of Nosé-Hoover chains on harmonic motion, not of the step: the cell has all its kinetic energy and yet
    wrong volumes, at a step and at a quarter of it; a run says so in a warning (test_dynamics_input.py)."""
    for timestep_fs, n_steps in ((2.0, 6000), (0.5, 24_000)):
        volumes, (_, variance, _), cell_degrees = swinging_cell("nose_hoover", False, 0.5, n_steps, timestep_fs)
        assert volumes.var() > 1.5 * variance
        assert cell_degrees.mean() == pytest.approx(6.0, rel=0.05)


# dense and disordered, as it is not at 100 K: there it may freeze or melt while it is watched
WARM: dict[str, Any] = {"temperature_k": 150.0, "pressure_gpa": 0.4, "isotropic": True}
# a crystal: it gives the cell its shape
COLD: dict[str, Any] = {"temperature_k": 40.0, "pressure_gpa": 1.0, "isotropic": False}


def argon_columns(thermostat: str, n_steps: int, seed: int = 1, **given: Any) -> dict[str, np.ndarray]:
    """Every tenth thermo row of 32 atoms of argon, and the cell's own kinetic energy in units of kT/2."""
    structure = argon_crystal(a_ang=5.5 if given["isotropic"] else 5.0)
    motion = motion_of(structure, npt_params(structure, thermostat, **given), seed)
    assert isinstance(motion, MartynaTobiasKlein)
    kt, found = KB_EV_PER_K * given["temperature_k"], []
    for state in states(Argon(), motion, n_steps):
        if state.step >= n_steps // 6 and state.step % 10 == 0:
            cell = motion.cell_kinetic_ev(state)
            found.append({**motion.observables(state), "cell_degrees": 2.0 * cell / kt})
    return {name: np.array([row[name] for row in found]) for name in found[0]}


def p_of_pressure(columns: dict[str, np.ndarray], given: dict[str, Any]) -> float:
    return p_of_mean(columns["pressure_gpa"], given["pressure_gpa"])


@pytest.mark.parametrize("given", [WARM, COLD], ids=["isotropic", "flexible"])
@pytest.mark.parametrize("thermostat", TIGHT)
def test_argon_has_the_pressure_and_the_temperature_it_is_asked_for(thermostat: str, given: dict[str, Any]) -> None:
    columns = argon_columns(thermostat, 3000, **given)
    n_degrees = 96 if thermostat == "langevin" else 93
    degrees = 2.0 * columns["kinetic_ev"] / (KB_EV_PER_K * given["temperature_k"])
    assert p_of_mean(degrees, n_degrees) > LEAST_P
    assert p_of_pressure(columns, given) > LEAST_P
    assert p_of_mean(columns["cell_degrees"], 1.0 if given["isotropic"] else 6.0) > LEAST_P


def test_a_barostat_that_forgets_the_motion_of_the_atoms_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    right = IsotropicStrain.pulled

    def still(self: Any, rate: Any, masses: Any, speeds: Any, virial: Any, pressure: float, time: float) -> Any:
        motion = 2.0 / 3.0 * kinetic_energy_ev(masses, speeds) * np.array([1, 1, 1, 0, 0, 0])
        return right(self, rate, masses, speeds, virial + motion, pressure, time)

    columns = argon_columns("langevin", 2500, **WARM)
    kinetic = 2.0 / 3.0 * columns["kinetic_ev"] / columns["volume_ang3"] * GPA_PER_EV_PER_ANG3
    assert p_of_pressure({"pressure_gpa": columns["pressure_gpa"] - kinetic}, WARM) < PLANTED_P, "nor in a report"
    monkeypatch.setattr(IsotropicStrain, "pulled", still)
    assert p_of_pressure(argon_columns("langevin", 2500, **WARM), WARM) < PLANTED_P


def test_a_flexible_cell_counted_with_nine_degrees_of_freedom_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A symmetric strain rate has six; a chain that counts nine heats the cell to one and a half times the target."""
    monkeypatch.setattr(FlexibleStrain, "n_degrees", 9)
    monkeypatch.setattr(FlexibleStrain, "first_chain_mass", 9.0)
    columns = argon_columns("nose_hoover", 3000, **COLD)
    assert p_of_mean(columns["cell_degrees"], 6.0) < PLANTED_P
    assert p_of_mean(columns["cell_degrees"], 9.0) > LEAST_P


@pytest.mark.long
@pytest.mark.parametrize(
    ("thermostat", "given"),
    [
        pytest.param("langevin", WARM, id="langevin-isotropic"),
        pytest.param("nose_hoover", WARM, id="nose_hoover-isotropic"),
        pytest.param("bussi", WARM, id="bussi-isotropic"),
        pytest.param("langevin", COLD, id="langevin-flexible"),
        pytest.param("bussi", COLD, id="bussi-flexible"),
    ],
)
def test_volumes_and_enthalpies_of_argon_have_the_slopes_of_their_ensemble(
    thermostat: str, given: dict[str, Any], record_property: Any
) -> None:
    """Volumes at two pressures, enthalpies at two temperatures; kinetic energy and pressure in each of the runs.

    A Nosé-Hoover chain does not mix the vibrations of a cold crystal, so it is tried where argon is disordered. The
    cell of the crystal swings half a radian in a step, so its own kinetic energy is low; it is looked at where that is
    told apart (test_the_kinetic_energy_of_a_cell_is_right_where_its_swing_is_slow).
    """
    p, t, kt = given["pressure_gpa"], given["temperature_k"], KB_EV_PER_K * given["temperature_k"]
    higher_p, higher_t = p + 0.1, 1.25 * t  # two standard deviations apart
    asked = [given, {**given, "pressure_gpa": higher_p}, {**given, "temperature_k": higher_t}]
    runs = [argon_columns(thermostat, 60_000, seed, **each) for seed, each in enumerate(asked)]
    n_degrees = 96 if thermostat == "langevin" else 93
    found = {}
    for columns, each in zip(runs, asked, strict=True):
        at = f"{each['temperature_k']:g} K, {each['pressure_gpa']:g} GPa"
        kinetic = columns["kinetic_ev"]
        found[f"kinetic energy at {at}"] = p_of_kinetic_energy(kinetic, n_degrees, each["temperature_k"])
        found[f"pressure at {at}"] = p_of_pressure(columns, each)
        if given["isotropic"]:
            found[f"kinetic energy of the cell at {at}"] = p_of_mean(columns["cell_degrees"], 1.0)
    volumes = [columns["volume_ang3"] for columns in runs[:2]]
    slope = (p - higher_p) / GPA_PER_EV_PER_ANG3 / kt
    found["slope of volumes"] = p_of_slope(volumes[0], volumes[1], slope)
    enthalpies = [c["energy_ev"] + p / GPA_PER_EV_PER_ANG3 * c["volume_ang3"] for c in (runs[0], runs[2])]
    slope_t = 1.0 / kt - 1.0 / (KB_EV_PER_K * higher_t)
    found["slope of enthalpies"] = p_of_slope(enthalpies[0], enthalpies[1], slope_t)
    for name, value in found.items():
        record_property(f"p of {name}", value)
    assert min(found.values()) > LEAST_P, found
    assert p_of_slope(volumes[0], volumes[1], 2.0 * slope) < PLANTED_P
    assert p_of_slope(enthalpies[0], enthalpies[1], 3.0 * slope_t) < PLANTED_P


@pytest.mark.long
@pytest.mark.parametrize("thermostat", TIGHT)
def test_the_volume_fluctuates_as_the_compressibility_from_runs_at_constant_volume_says(
    thermostat: str, record_property: Any
) -> None:
    """Var V = -kT dV/dP, with dP/dV from two NVT runs a standard deviation of V to each side of the mean."""
    columns = argon_columns(thermostat, 70_000, 5, **WARM)
    volumes = columns["volume_ang3"]
    variance, variance_error = variance_and_error(volumes)
    mean, spread, pressures = volumes.mean(), float(np.sqrt(variance)), []
    for seed, volume in enumerate((mean - spread, mean + spread)):
        structure = argon_crystal(a_ang=(volume / 8.0) ** (1 / 3))
        params = md_params(structure, temperature_k=WARM["temperature_k"], thermostat=TIGHT["langevin"])
        found = rows(Argon(), motion_of(structure, params, seed), 40_000, every=10, skip=2000)["pressure_gpa"]
        pressures.append(block_means(found) / GPA_PER_EV_PER_ANG3)
    slope = (pressures[1].mean() - pressures[0].mean()) / (2.0 * spread)
    slope_error = np.sqrt(sum(each.var(ddof=1) / each.size for each in pressures)) / (2.0 * spread)
    ratio = -slope * variance / (KB_EV_PER_K * WARM["temperature_k"])
    error = ratio * np.sqrt((slope_error / slope) ** 2 + (variance_error / variance) ** 2)
    p_value = float(2.0 * stats.norm.sf(abs(ratio - 1.0) / error))
    record_property(f"var V over kT kappa V: {ratio:.3f} +- {error:.3f}, p", p_value)
    assert p_value > LEAST_P
    assert error < 0.2, "otherwise this proves nothing"

"""Ramps are followed from corner to corner, and what is conserved is conserved on them too."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import stats

from equipot.units import KB_EV_PER_K
from tests.simulation.conftest import oscillators
from tests.simulation.sampling import (
    LEAST_P,
    Argon,
    IdealGas,
    argon_crystal,
    md_params,
    motion_of,
    rows,
    states,
    two_sided,
)

THERMOSTATS: dict[str, dict[str, Any]] = {
    "langevin": {"type": "langevin", "friction_per_fs": 0.01},
    "nose_hoover": {"type": "nose_hoover", "tdamp_fs": 60.0},
    "bussi": {"type": "bussi", "tau_fs": 60.0},
}
HEATING = [{"time_ps": 0, "temperature_k": 40}, {"time_ps": 0.2, "temperature_k": 90}]
SQUEEZING = [{"time_ps": 0, "pressure_gpa": 0.5}, {"time_ps": 0.2, "pressure_gpa": 1.5}]
ALL: dict[str, dict[str, Any]] = {
    "nve": {"ensemble": "nve", "temperature_k": 60.0},
    **{f"nvt {name}": {"thermostat": given, "temperature_k": HEATING} for name, given in THERMOSTATS.items()},
    **{
        f"npt {name} {'isotropic' if isotropic else 'flexible'}": {
            "ensemble": "npt",
            "thermostat": given,
            "temperature_k": HEATING,
            "barostat": {"pressure_gpa": SQUEEZING, "pdamp_fs": 200.0, "isotropic": isotropic},
        }
        for name, given in THERMOSTATS.items()
        for isotropic in (True, False)
    },
}


def wander_ev(given: dict[str, Any], timestep_fs: float) -> tuple[float, float]:
    """How far the conserved quantity of a crystal of argon strays in 0.3 ps, and how far its energy does."""
    structure = argon_crystal(a_ang=5.1)
    motion = motion_of(structure, md_params(structure, timestep_fs=timestep_fs, **given))
    found = rows(Argon(cutoff_ang=4.4), motion, round(300 / timestep_fs), every=1)
    return float(np.ptp(found["conserved_ev"])), float(np.ptp(found["energy_ev"] + found["kinetic_ev"]))


@pytest.mark.parametrize("name", ALL)
def test_what_is_conserved_strays_by_the_square_of_the_timestep_on_ramps_too(name: str) -> None:
    """Whatever a bath or a ramp puts in is accounted for: the rest is the error of the integrator, of second order."""
    coarse, energy = wander_ev(ALL[name], 8.0)
    fine, _ = wander_ev(ALL[name], 4.0)
    assert coarse / fine > 2.5
    if name != "nve":
        assert fine < 0.01 * energy


def test_an_atom_under_strong_friction_has_the_temperature_of_the_ramp_at_any_time() -> None:
    """Up, level, and down; a thousand atoms of an ideal gas that forget within 5 fs."""
    ramp = [(0.0, 100.0), (0.2, 500.0), (0.3, 500.0), (0.5, 0.0)]
    structure = oscillators(1000)
    corners = [{"time_ps": t, "temperature_k": k} for t, k in ramp]
    thermostat = {"type": "langevin", "friction_per_fs": 1.0}
    params = md_params(structure, temperature_k=corners, timestep_fs=1.0, n_steps=600, thermostat=thermostat)
    motion = motion_of(structure, params)
    for state in states(IdealGas(), motion, 600):
        time_ps = state.step / 1000.0
        row = motion.observables(state)
        target = float(np.interp(time_ps, [t for t, _ in ramp], [k for _, k in ramp]))
        assert row["target_temperature_k"] == pytest.approx(target)
        if state.step and state.step % 100 == 50 and target:
            # friction forgets with exp(-2 t / fs): the temperature is that of a moment ago
            ago = float(np.interp(time_ps - 0.0005, [t for t, _ in ramp], [k for _, k in ramp]))
            below = stats.chi2.cdf(2.0 * row["kinetic_ev"] / (KB_EV_PER_K * ago), 3000)
            assert two_sided(below) > LEAST_P
    assert row["temperature_k"] < 1e-3, "the ramp ended at rest"


def test_a_pressure_ramp_squeezes_the_cell_and_the_thermo_rows_tell_the_target() -> None:
    given = ALL["npt langevin isotropic"]
    structure = argon_crystal(a_ang=5.3)
    motion = motion_of(structure, md_params(structure, timestep_fs=4.0, **given))
    found = rows(Argon(cutoff_ang=4.4), motion, 400, every=1)
    targets = np.interp(np.arange(401) * 0.004, [0.0, 0.2], [0.5, 1.5])
    assert found["target_pressure_gpa"] == pytest.approx(targets)
    assert found["volume_ang3"][300:].mean() < 0.95 * found["volume_ang3"][0]
    assert found["pressure_gpa"][200:].mean() == pytest.approx(1.5, abs=0.1)
    constant = motion_of(structure, md_params(structure, ensemble="npt"))
    state = next(states(Argon(cutoff_ang=4.4), constant, 0))
    assert not [name for name in constant.observables(state) if name.startswith("target")]

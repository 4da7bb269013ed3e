"""Dynamics that contradicts itself is refused over HTTP as it is in Python: with a pointer and a hint."""

from __future__ import annotations

from typing import Any

import pytest

from .conftest import WATER, LiveApi

SILICON = {
    "symbols": ["Si", "Si"],
    "positions": [[0.0, 0.0, 0.0], [1.3575, 1.3575, 1.3575]],
    "cell": [[0.0, 2.715, 2.715], [2.715, 0.0, 2.715], [2.715, 2.715, 0.0]],
    "pbc": [True, True, True],
}
RAMP = [{"time_ps": 0, "temperature_k": 100}, {"time_ps": 5, "temperature_k": 300}]


@pytest.mark.parametrize(
    ("structure", "params", "pointer", "hint"),
    [
        (SILICON, {"ensemble": "nve", "thermostat": {"type": "bussi"}}, "/params/thermostat", "nvt"),
        (SILICON, {"duration_ps": 1.0}, "/params/duration_ps", "exactly one"),
        (SILICON, {"timestep_fs": 12.0}, "/params/timestep_fs", "allow_large_timestep"),
        (SILICON, {"temperature_k": RAMP}, "/params/temperature_k/1/time_ps", "longer"),
        (SILICON, {"ensemble": "npt", "temperature_k": 0}, "/params/temperature_k", "above 0 K"),
        (SILICON, {"barostat": {"pressure_gpa": 1}}, "/params/barostat", "npt"),
        (WATER, {"ensemble": "npt"}, "/structures/0/cell", "keep the cell fixed"),
        ({**SILICON, "fixed_atoms": [0]}, {"ensemble": "npt"}, "/structures/0/fixed_atoms", "nvt"),
    ],
)
def test_a_contradiction_is_refused_with_the_field_and_the_remedy(
    api: LiveApi, structure: dict[str, Any], params: dict[str, Any], pointer: str, hint: str
) -> None:
    body = {"kind": "md", "model": "tiny", "structures": [structure], "params": {"n_steps": 5, **params}}
    answer = api.http.post("/v1/jobs", json=body)
    assert answer.status_code == 422
    (error,) = answer.json()["errors"]
    assert error["pointer"] == pointer
    assert hint in error["hint"]
    assert api.n_jobs() == 0

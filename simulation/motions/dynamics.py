"""Which integrator the parameters of a dynamics name."""

from __future__ import annotations

from equipot.params import MDParams
from equipot.simulation.motions.base import Motion
from equipot.simulation.motions.bussi import Bussi
from equipot.simulation.motions.langevin import Langevin
from equipot.simulation.motions.mtk import BussiMTK, LangevinMTK, NoseHooverMTK
from equipot.simulation.motions.nose_hoover import NoseHoover
from equipot.simulation.motions.velocity_verlet import VelocityVerlet
from equipot.structure import Structure

INTEGRATORS: dict[tuple[str, str | None], type[VelocityVerlet]] = {
    ("nve", None): VelocityVerlet,
    ("nvt", "langevin"): Langevin,
    ("nvt", "nose_hoover"): NoseHoover,
    ("nvt", "bussi"): Bussi,
    ("npt", "langevin"): LangevinMTK,
    ("npt", "nose_hoover"): NoseHooverMTK,
    ("npt", "bussi"): BussiMTK,
}


def dynamics(structure: Structure, params: MDParams, seed: int) -> Motion:
    """How this structure moves; `params` are resolved."""
    thermostat = params.thermostat.type if params.thermostat else None
    return INTEGRATORS[params.ensemble, thermostat](structure, params, seed)

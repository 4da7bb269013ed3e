"""Which integrator the parameters of a dynamics name."""

from __future__ import annotations

from equipot.params import MDParams
from equipot.simulation.motions.base import Motion
from equipot.simulation.motions.langevin import Langevin
from equipot.simulation.motions.velocity_verlet import VelocityVerlet
from equipot.structure import Structure


def dynamics(structure: Structure, params: MDParams, seed: int) -> Motion:
    """How this structure moves; `params` are resolved."""
    integrator = VelocityVerlet if params.ensemble == "nve" else Langevin
    return integrator(structure, params, seed)

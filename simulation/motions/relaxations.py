"""Which optimiser the parameters of a relaxation name."""

from __future__ import annotations

from equipot.params import RelaxParams
from equipot.simulation.motions.base import Motion
from equipot.simulation.motions.fire import Fire
from equipot.simulation.motions.lbfgs import Lbfgs
from equipot.structure import Structure


def relaxation(structure: Structure, params: RelaxParams) -> Motion:
    """How this structure is relaxed."""
    optimizer = Lbfgs if params.optimizer == "lbfgs" else Fire
    return optimizer(structure, params)

"""Which optimiser the parameters of a relaxation name."""

from __future__ import annotations

from equipot.params import RelaxParams
from equipot.simulation.motions.base import Motion
from equipot.simulation.motions.fire import Fire
from equipot.structure import Structure


def relaxation(structure: Structure, params: RelaxParams) -> Motion:
    """How this structure is relaxed."""
    return Fire(structure, params)

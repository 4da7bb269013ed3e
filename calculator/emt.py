"""ASE's effective medium theory, announced as a plug-in: fast metals, and the example to follow for other packages."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ase.calculators.calculator import BaseCalculator

ANNOUNCEMENT = {
    "name": "emt",
    "elements": ["H", "C", "N", "O", "Al", "Ni", "Cu", "Pd", "Ag", "Pt", "Au"],
    "level_of_theory": "effective medium theory (Jacobsen, Stoltze, Nørskov, Surf. Sci. 366, 394, 1996), as in ASE",
    "factory": "equipot.calculator.emt:make",
}


def make() -> BaseCalculator:
    """ASE's EMT calculator."""
    from ase.calculators.emt import EMT

    return EMT()

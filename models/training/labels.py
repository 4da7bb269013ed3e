"""GFN2-xTB single points, with tblite: the energies and forces that the `organic` potential learns from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from equipot.models.training.frames import Floats, Ints

LEVEL = "GFN2-xTB"
HARTREE_EV, BOHR_ANG = 27.211386245988, 0.529177210903  # CODATA 2018, which tblite counts in
SYMBOLS = {1: "H", 6: "C", 7: "N", 8: "O", 9: "F", 15: "P", 16: "S", 17: "Cl", 35: "Br"}
# ground-state terms 2S, 3P, 4S, 3P, 2P, 4S, 3P, 2P, 2P
UNPAIRED = {1: 1, 6: 2, 7: 3, 8: 2, 9: 1, 15: 3, 16: 2, 17: 1, 35: 1}
SCF_ACCURACY = 1.0  # tblite's scale; forces then move by 0.05 meV/Å, rms, when it is made ten times tighter
MAX_ITERATIONS = 100

Surface = Callable[[Floats], tuple[float, Floats]]  # positions (n_atoms, 3) in Å to energy (eV) and forces (eV/Å)


class LabelError(RuntimeError):
    """The electronic structure of a geometry did not converge."""


@dataclass(frozen=True, eq=False)
class Point:
    """A geometry (n_atoms, 3) in Å with its energy (eV) and forces (n_atoms, 3) (eV/Å)."""

    positions_ang: Floats
    energy_ev: float
    forces_ev_per_ang: Floats


class Gfn2:
    """GFN2-xTB energies and forces of one molecule or cluster, each geometry computed from scratch."""

    def __init__(self, numbers: Ints, unpaired: int = 0, charge: int = 0) -> None:
        from tblite.interface import Calculator

        self.numbers, self.charge = numbers, charge
        start = np.arange(3.0 * len(numbers)).reshape(-1, 3)
        self._calculator = Calculator("GFN2-xTB", numbers, start, charge=float(charge), uhf=unpaired)
        self._calculator.set("verbosity", 0)
        self._calculator.set("accuracy", SCF_ACCURACY)
        self._calculator.set("max-iter", MAX_ITERATIONS)

    def __call__(self, positions_ang: Floats) -> tuple[float, Floats]:
        """Energy (eV) and forces (n_atoms, 3) (eV/Å). Raises LabelError when the SCF does not converge."""
        self._calculator.update(np.ascontiguousarray(positions_ang / BOHR_ANG))
        try:
            result = self._calculator.singlepoint()
        except RuntimeError as error:
            raise LabelError(str(error)) from error
        energy = float(result.get("energy")) * HARTREE_EV
        forces = -np.asarray(result.get("gradient"), dtype=np.float64) * (HARTREE_EV / BOHR_ANG)
        if not (np.isfinite(energy) and np.isfinite(forces).all()):
            raise LabelError("energy or forces are not finite")
        return energy, forces


def isolated_atom_energies_ev() -> dict[str, float]:
    """GFN2-xTB energy (eV) of each free atom with the number of unpaired electrons of its ground state."""
    return {SYMBOLS[z]: Gfn2(np.array([z]), unpaired)(np.zeros((1, 3)))[0] for z, unpaired in UNPAIRED.items()}

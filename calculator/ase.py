"""EquipotCalculator: a potential of ours as an ASE calculator."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from ase import Atoms

from equipot.calculator.base import OutsideTrainingDomainWarning, PotentialCalculator, charge_and_spin, has_volume
from equipot.calculator.convert import CHARGE_KEY, from_atoms
from equipot.errors import InvalidParameterError
from equipot.models.loading import load_potential
from equipot.models.potential import Potential
from equipot.structure import check_against_model

__all__ = ["EquipotCalculator", "OutsideTrainingDomainWarning"]


class EquipotCalculator(PotentialCalculator):
    """Energy, forces and stress of a potential, for ASE.

        atoms.calc = EquipotCalculator("organic")

    `model` is a name, an alias, the path of a card (.json) or a loaded Potential; `device` None means CUDA if there is
    one, else the CPU; `dtype` is "float64" (default) or "float32". Neighbours are searched anew when an atom has moved
    half of `skin_ang`, which changes no result. `compile` makes it several times faster on a CPU and takes a minute the
    first time (`load_potential`).

    Energies are in eV, forces in eV/Å, stress in eV/Å³ with ASE's sign and order (xx, yy, zz, yz, xz, xy). Beside ASE's
    properties, `results["domain_distance"]` tells how far the structure is from the training data: above 1 it is
    outside, and an OutsideTrainingDomainWarning is given once for each new system. `results["uncertainties"]` is the
    expected error of the force on each atom (eV/Å) and `results["uncertainty"]` the largest (None where the potential
    was not calibrated). The Atoms are never changed.

    `level_of_theory` chooses one that the potential was trained on, None the first. `charge` is the total charge in e
    of atoms whose `info` says none.

    Raises UnsupportedElementError for an element the potential does not know and InvalidParameterError for a `charge`
    or `spin_multiplicity` in `atoms.info` it was not trained for.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | Potential = "organic",
        device: str | None = None,
        dtype: str | None = None,
        skin_ang: float = 0.5,
        compile: bool = False,
        level_of_theory: str | None = None,
        charge: int | None = None,
    ) -> None:
        if isinstance(model, Potential):
            _refuse_conflict(model, device, dtype, compile, level_of_theory)
            self.potential = model
        else:
            self.potential = load_potential(
                model, device=device, dtype=dtype, compile=compile, level_of_theory=level_of_theory
            )
        self.charge = charge
        self.skin_ang = skin_ang
        self._origin = self.potential if isinstance(model, Potential) else os.fspath(model)
        self._search = self.potential.neighbour_search(skin_ang)
        self._accepted: tuple[Any, ...] = ()
        super().__init__()
        self.parameters.update(self.todict())  # workflow managers keep them beside the numbers

    @property
    def _model_name(self) -> str:
        return self.potential.name

    def _evaluate(self, atoms: Atoms) -> dict[str, Any]:
        self._check_against_model(atoms)
        cell = np.array(atoms.cell.complete()) if atoms.pbc.any() else None
        where = (atoms.numbers, atoms.positions, cell, tuple(atoms.pbc))
        charge = self._info(atoms).get(CHARGE_KEY) or 0.0
        prediction = self.potential.evaluate_moved(self._search, *where, charge)
        if prediction is None:
            prediction = self.potential.evaluate(self._search.graph(*where).with_charge(charge))
        results = {
            "energy": prediction.energy_ev,
            "energies": prediction.energies_ev,
            "forces": prediction.forces_ev_per_ang,
            "domain_distance": prediction.domain_distance,
            "uncertainty": prediction.uncertainty_ev_per_ang,
            "uncertainties": prediction.uncertainties_ev_per_ang,
            "level_of_theory": self.potential.level_of_theory,
        }
        if has_volume(atoms):
            results["stress"] = prediction.stress_ev_per_ang3(atoms.cell.volume)
        return results

    def todict(self, skip_default: bool = True) -> dict[str, Any]:
        """What made the numbers, in plain values: it goes into ASE's trajectories and databases."""
        return {
            "model": self.potential.name,
            "sha256": self.potential.sha256,
            "dtype": self.potential.dtype,
            "device": self.potential.device,
            "skin_ang": self.skin_ang,
            "execution": self.potential.execution,
            "level_of_theory": self.potential.level_of_theory,
        }

    def __copy__(self) -> EquipotCalculator:
        """Another calculator on the same (immutable) potential, without results."""
        return type(self)(self.potential, skin_ang=self.skin_ang, charge=self.charge)

    def __deepcopy__(self, memo: dict[int, Any]) -> EquipotCalculator:
        return self.__copy__()

    def __reduce__(self) -> tuple[Any, ...]:
        if isinstance(self._origin, Potential):
            raise TypeError("A calculator made from a loaded Potential cannot be pickled: make it from a model name.")
        device, dtype = self.potential.device, self.potential.dtype
        compiled, level = self.potential.execution == "compiled", self.potential.level_of_theory
        return type(self), (self._origin, device, dtype, self.skin_ang, compiled, level, self.charge)

    def _info(self, atoms: Atoms) -> dict[str, Any]:
        """Charge and spin of the atoms; what they say of themselves counts more than the calculator's own charge."""
        return charge_and_spin(atoms.info, self.charge)

    def _check_against_model(self, atoms: Atoms) -> None:
        """Elements and charge are looked at when they change."""
        key = (atoms.numbers.tobytes(), self._info(atoms))
        if key != self._accepted:
            structure = from_atoms(Atoms(atoms.numbers, atoms.positions, info=self._info(atoms)))
            p = self.potential
            check_against_model(structure, p.elements, p.card.named_at(p.head), charges=p.charges)
            self._accepted = key


def _refuse_conflict(
    potential: Potential, device: str | None, dtype: str | None, compile: bool, level_of_theory: str | None
) -> None:
    if potential.card.head_of(level_of_theory) not in (0, potential.head):
        raise InvalidParameterError(
            f"The potential is loaded for {potential.level_of_theory} already.",
            pointer="/level_of_theory",
            hint="Give the model's name, or load it with this level_of_theory.",
        )
    other = dtype not in (None, potential.dtype) or device not in (None, "auto", potential.device)
    if other or (compile and potential.execution != "compiled"):
        raise InvalidParameterError(
            f"The potential is loaded as {potential.dtype} on {potential.device}, {potential.execution}, already.",
            hint="Leave out device, dtype and compile, or give the model's name.",
        )

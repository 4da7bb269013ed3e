"""EquipotCalculator: a potential of ours as an ASE calculator."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, PropertyNotImplementedError, all_changes

from equipot.calculator.convert import CHARGE_KEY, SPIN_KEY, from_atoms
from equipot.errors import InvalidParameterError, InvalidStructureError
from equipot.models.loading import load_potential
from equipot.models.neighbours import NeighbourSearch
from equipot.models.potential import Potential, Prediction
from equipot.structure import SMALLEST_CELL_ANGLE_SINE, check_against_model


class OutsideTrainingDomainWarning(UserWarning):
    """Some atom sits in surroundings unlike anything the potential was trained on."""


class EquipotCalculator(Calculator):
    """Energy, forces and stress of a potential, for ASE.

        atoms.calc = EquipotCalculator("organic")

    `model` is a name, an alias, the path of a card (.json) or a loaded Potential; `device` None means CUDA if there is
    one, else the CPU; `dtype` is "float64" (default) or "float32". Neighbours are searched anew when an atom has moved
    half of `skin_ang`, which changes no result.

    Energies are in eV, forces in eV/Å, stress in eV/Å³ with ASE's sign and order (xx, yy, zz, yz, xz, xy). Beside ASE's
    properties, `results["domain_distance"]` tells how far the structure is from the training data: above 1 it is
    outside, and an OutsideTrainingDomainWarning is given once for each new system. The Atoms are never changed.

    Raises UnsupportedElementError for an element the potential does not know and InvalidParameterError for a `charge`
    or `spin_multiplicity` in `atoms.info` it was not trained for.
    """

    implemented_properties: list[str] = ["energy", "free_energy", "energies", "forces", "stress"]  # noqa: RUF012  # declared so by ASE
    ignored_changes: set[str] = {"initial_charges", "initial_magmoms"}  # noqa: RUF012

    def __init__(
        self,
        model: str | os.PathLike[str] | Potential = "organic",
        device: str | None = None,
        dtype: str | None = None,
        skin_ang: float = 0.5,
    ) -> None:
        if isinstance(model, Potential):
            _refuse_conflict(model, device, dtype)
            self.potential = model
        else:
            self.potential = load_potential(model, device=device, dtype=dtype)
        self.skin_ang = skin_ang
        self._origin = self.potential if isinstance(model, Potential) else os.fspath(model)
        self._search = NeighbourSearch(self.potential.cutoff_ang, skin_ang)
        self._accepted: tuple[Any, ...] = ()
        self._warned_of: bytes = b""
        super().__init__()

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = all_changes,
    ) -> None:
        """Compute every property at once: they all come out of the same pass."""
        super().calculate(atoms, list(properties), list(system_changes))
        atoms = self.atoms
        assert atoms is not None
        self._check(atoms)
        cell = np.array(atoms.cell.complete()) if atoms.pbc.any() else None
        graph = self._search.graph(atoms.numbers, atoms.positions, cell, tuple(atoms.pbc))
        prediction = self.potential.evaluate(graph)
        self._warn_outside_domain(atoms, prediction)
        self.results = {
            "energy": prediction.energy_ev,
            "free_energy": prediction.energy_ev,
            "energies": prediction.energies_ev,
            "forces": prediction.forces_ev_per_ang,
            "domain_distance": prediction.domain_distance,
        }
        if _has_volume(atoms):
            self.results["stress"] = prediction.stress_ev_per_ang3(atoms.cell.volume)

    def get_property(self, name: str, atoms: Atoms | None = None, allow_calculation: bool = True) -> Any:
        """One property, computed only if the atoms have changed since the last time."""
        target = self.atoms if atoms is None else atoms
        if name == "stress" and target is not None and not _has_volume(target):
            if not allow_calculation:
                return None
            raise PropertyNotImplementedError(
                "There is no stress: the cell has no volume. Give the atoms a cell of three vectors first."
            )
        return super().get_property(name, atoms, allow_calculation)

    def check_state(self, atoms: Atoms, tol: float = 1e-15) -> list[str]:
        """What changed since the last calculation; charge and spin in info count."""
        changes: list[str] = list(super().check_state(atoms, tol=tol))
        if self.atoms is not None and _charge_and_spin(atoms) != _charge_and_spin(self.atoms):
            changes.append("info")
        return changes

    def _get_name(self) -> str:
        return "equipot"  # ASE writes it into trajectories

    def set(self, **kwargs: Any) -> dict[str, Any]:
        """Refuse to be changed: a setting that differs makes another calculator."""
        if kwargs:
            raise InvalidParameterError(
                f"The settings of an EquipotCalculator cannot be changed ({', '.join(kwargs)}).",
                hint="Make another EquipotCalculator.",
            )
        return {}

    def todict(self, skip_default: bool = True) -> dict[str, Any]:
        """What made the numbers, in plain values: it goes into ASE's trajectories and databases."""
        return {
            "model": self.potential.name,
            "sha256": self.potential.sha256,
            "dtype": self.potential.dtype,
            "device": self.potential.device,
            "skin_ang": self.skin_ang,
        }

    def __copy__(self) -> EquipotCalculator:
        """Another calculator on the same (immutable) potential, without results."""
        return type(self)(self.potential, skin_ang=self.skin_ang)

    def __deepcopy__(self, memo: dict[int, Any]) -> EquipotCalculator:
        return self.__copy__()

    def __reduce__(self) -> tuple[Any, ...]:
        if isinstance(self._origin, Potential):
            raise TypeError("A calculator made from a loaded Potential cannot be pickled: make it from a model name.")
        device, dtype = self.potential.device, self.potential.dtype
        return type(self), (self._origin, device, dtype, self.skin_ang)

    def _check(self, atoms: Atoms) -> None:
        """Refuse what cannot be computed; elements and charge are looked at when they change."""
        if not np.isfinite(atoms.positions).all():
            raise InvalidStructureError("Positions are not finite.", pointer="/positions")
        if atoms.pbc.any() and not _spans_periodic_directions(atoms):
            raise InvalidStructureError(
                "The structure is periodic along a lattice vector it does not have, or its cell is singular.",
                pointer="/cell",
                hint="Give the lattice vectors in Å, or set pbc to False.",
            )
        key = (atoms.numbers.tobytes(), _charge_and_spin(atoms))
        if key != self._accepted:
            structure = from_atoms(Atoms(atoms.numbers, atoms.positions, info=_charge_and_spin(atoms)))
            check_against_model(structure, self.potential.elements, self.potential.name)
            self._accepted = key

    def _warn_outside_domain(self, atoms: Atoms, prediction: Prediction) -> None:
        distance = prediction.domain_distance
        system = atoms.numbers.tobytes()
        if distance is None or distance <= 1.0 or system == self._warned_of:
            return
        self._warned_of = system
        warnings.warn(
            f"{atoms.get_chemical_formula()} is outside the training domain of {self.potential.name} "
            f"(domain_distance {distance:.1f}, limit 1): its energy and forces may be wrong.",
            OutsideTrainingDomainWarning,
            stacklevel=7,  # the line that calls atoms.get_forces() or the like
        )


def _has_volume(atoms: Atoms) -> bool:
    return bool(atoms.cell.rank == 3 and abs(atoms.cell.volume) > 1e-8)


def _spans_periodic_directions(atoms: Atoms) -> bool:
    """Whether every periodic direction has a lattice vector and no two of them coincide."""
    cell = np.array(atoms.cell.complete())
    unit = cell / np.linalg.norm(cell, axis=1, keepdims=True)
    complete = not bool(np.any(atoms.pbc & (atoms.cell.lengths() < 1e-8)))
    return complete and abs(float(np.linalg.det(unit))) > SMALLEST_CELL_ANGLE_SINE**2


def _charge_and_spin(atoms: Atoms) -> dict[str, Any]:
    return {key: atoms.info[key] for key in (CHARGE_KEY, SPIN_KEY) if key in atoms.info}


def _refuse_conflict(potential: Potential, device: str | None, dtype: str | None) -> None:
    if dtype not in (None, potential.dtype) or device not in (None, "auto", potential.device):
        raise InvalidParameterError(
            f"The potential is loaded as {potential.dtype} on {potential.device} already.",
            hint="Leave out device and dtype, or give the model's name.",
        )

"""The manners of an ASE calculator of ours, wherever its numbers come from. No torch."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, PropertyNotImplementedError, all_changes

from equipot.calculator.convert import CHARGE_KEY, SPIN_KEY
from equipot.errors import InvalidParameterError, InvalidStructureError
from equipot.structure import SMALLEST_CELL_ANGLE_SINE


class OutsideTrainingDomainWarning(UserWarning):
    """Some atom sits in surroundings unlike anything the potential was trained on."""


@dataclass(frozen=True)
class _Seen:
    """Atoms as they were at a calculation, bit by bit. ASE takes as long for a copy as all else around a small pass."""

    positions: bytes
    numbers: bytes
    cell: bytes
    pbc: bytes
    info: dict[str, Any]

    @classmethod
    def of(cls, atoms: Atoms) -> _Seen:
        positions, numbers, cell, pbc = (array.tobytes() for array in _arrays(atoms))
        return cls(positions, numbers, cell, pbc, dict(atoms.info))

    def changes(self, atoms: Atoms) -> list[str]:
        """What is another now, as ASE calls it; of `info` charge and spin count."""
        positions, numbers, cell, pbc = _arrays(atoms)
        same = {
            "positions": positions.tobytes() == self.positions,
            "numbers": numbers.tobytes() == self.numbers,
            "cell": cell.tobytes() == self.cell,
            "pbc": pbc.tobytes() == self.pbc,
            "info": charge_and_spin(atoms.info) == charge_and_spin(self.info),
        }
        return [name for name, is_same in same.items() if not is_same]

    def atoms(self) -> Atoms:
        """Atoms of their own."""
        return Atoms(
            numbers=np.frombuffer(self.numbers, dtype=np.int64),
            positions=np.frombuffer(self.positions).reshape(-1, 3),
            cell=np.frombuffer(self.cell).reshape(3, 3),
            pbc=np.frombuffer(self.pbc, dtype=np.bool_),
            info=self.info,
        )


def _arrays(atoms: Atoms) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    return atoms.positions, atoms.numbers, atoms.cell.array, atoms.pbc


class PotentialCalculator(Calculator):
    """What EquipotCalculator and RemoteCalculator have in common.

    A subclass says `_evaluate`, which gives every property at once, and `_model_name`.
    """

    implemented_properties: list[str] = ["energy", "free_energy", "energies", "forces", "stress"]  # noqa: RUF012  # declared so by ASE
    ignored_changes: set[str] = {"initial_charges", "initial_magmoms"}  # noqa: RUF012

    def __init__(self) -> None:
        self._warned_of: bytes = b""
        self._seen: _Seen | None = None
        super().__init__()

    @property
    def atoms(self) -> Atoms | None:
        """Those of the last calculation: numbers, positions, cell, periods and info."""
        return None if self._seen is None else self._seen.atoms()

    @atoms.setter
    def atoms(self, atoms: Atoms | None) -> None:
        self._seen = None if atoms is None else _Seen.of(atoms)

    @property
    def _model_name(self) -> str:
        raise NotImplementedError

    def _evaluate(self, atoms: Atoms) -> dict[str, Any]:
        """energy, energies, forces, domain_distance, and stress if the atoms have a volume; ASE's names and units."""
        raise NotImplementedError

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = all_changes,
    ) -> None:
        """Compute every property at once: they all come out of the same pass."""
        if atoms is None:
            atoms = self.atoms
            assert atoms is not None
        else:
            self.atoms = atoms
        _check_geometry(atoms)
        results = self._evaluate(atoms)
        self._warn_outside_domain(atoms, results["domain_distance"])
        self.results = {**results, "free_energy": results["energy"]}

    def get_property(self, name: str, atoms: Atoms | None = None, allow_calculation: bool = True) -> Any:
        """One property, computed only if the atoms have changed since the last time."""
        target = self.atoms if atoms is None else atoms
        if name == "stress" and target is not None and not has_volume(target):
            if not allow_calculation:
                return None
            raise PropertyNotImplementedError(
                "There is no stress: the cell has no volume. Give the atoms a cell of three vectors first."
            )
        return super().get_property(name, atoms, allow_calculation)

    def check_state(self, atoms: Atoms, tol: float = 1e-15) -> list[str]:
        """What changed since the last calculation, by however little (`tol` is of ASE); charge and spin count."""
        return list(all_changes) if self._seen is None else self._seen.changes(atoms)

    def _get_name(self) -> str:
        return "equipot"  # ASE writes it into trajectories

    def set(self, **kwargs: Any) -> dict[str, Any]:
        """Refuse to be changed: a setting that differs makes another calculator."""
        if kwargs:
            name = type(self).__name__
            raise InvalidParameterError(
                f"The settings of an {name} cannot be changed ({', '.join(kwargs)}).", hint=f"Make another {name}."
            )
        return {}

    def _warn_outside_domain(self, atoms: Atoms, distance: float | None) -> None:
        system = atoms.numbers.tobytes()
        if distance is None or distance <= 1.0 or system == self._warned_of:
            return
        self._warned_of = system
        warnings.warn(
            f"{atoms.get_chemical_formula()} is outside the training domain of {self._model_name} "
            f"(domain_distance {distance:.1f}, limit 1): its energy and forces may be wrong.",
            OutsideTrainingDomainWarning,
            stacklevel=7,  # the line that calls atoms.get_forces() or the like
        )


def has_volume(atoms: Atoms) -> bool:
    """Whether there is a cell that stress can refer to."""
    cell = atoms.cell
    return bool(cell.array.any() and cell.rank == 3 and abs(cell.volume) > 1e-8)


def charge_and_spin(info: Mapping[str, Any], charge: int | None = None) -> dict[str, Any]:
    """What `info` says of charge and spin, else `charge`."""
    default = {} if charge is None else {CHARGE_KEY: charge}
    return default | {key: info[key] for key in (CHARGE_KEY, SPIN_KEY) if key in info}


def _check_geometry(atoms: Atoms) -> None:
    if not np.isfinite(atoms.positions).all():
        raise InvalidStructureError("Positions are not finite.", pointer="/positions")
    if atoms.pbc.any() and not _spans_periodic_directions(atoms):
        raise InvalidStructureError(
            "The structure is periodic along a lattice vector it does not have, or its cell is singular.",
            pointer="/cell",
            hint="Give the lattice vectors in Å, or set pbc to False.",
        )


def _spans_periodic_directions(atoms: Atoms) -> bool:
    """Whether every periodic direction has a lattice vector and no two of them coincide."""
    cell = np.array(atoms.cell.complete())
    unit = cell / np.linalg.norm(cell, axis=1, keepdims=True)
    complete = not bool(np.any(atoms.pbc & (atoms.cell.lengths() < 1e-8)))
    return complete and abs(float(np.linalg.det(unit))) > SMALLEST_CELL_ANGLE_SINE**2

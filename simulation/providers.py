"""Where forces come from: one small interface, and any ASE calculator behind it (a potential of ours: `native`)."""

from __future__ import annotations

import platform
from collections.abc import Hashable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

from equipot.errors import EquipotError, OutOfMemoryError
from equipot.simulation.admission import is_out_of_memory
from equipot.structure import Structure

if TYPE_CHECKING:
    from ase.calculators.calculator import BaseCalculator

LARGEST_NUMBER = 1.0e100  # of an energy in eV or a force in eV/Å; what is larger has overflown


@dataclass(frozen=True, eq=False)
class System:
    """A system as a force provider sees it: numbers (n_atoms,), positions_ang (n_atoms, 3), cell_ang (3, 3) or None.

    `key` is the same for the same system from step to step, so that a provider may keep neighbour lists by it.
    """

    numbers: np.ndarray
    positions_ang: np.ndarray
    cell_ang: np.ndarray | None
    pbc: tuple[bool, bool, bool]
    key: Hashable
    charge_e: float = 0.0
    spin_multiplicity: int | None = None

    @classmethod
    def of(
        cls,
        structure: Structure,
        key: Hashable,
        positions_ang: np.ndarray | None = None,
        cell_ang: np.ndarray | None = None,
    ) -> System:
        """The view of a structure, perhaps with its atoms elsewhere and in another cell."""
        return cls(
            structure.numbers,
            structure.positions_ang if positions_ang is None else positions_ang,
            structure.cell_ang if cell_ang is None else cell_ang,
            structure.pbc,
            key,
            structure.charge_e,
            structure.spin_multiplicity,
        )


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Energy and forces of one system, or the error that kept them from being computed.

    energies_ev (n_atoms,) or None; forces_ev_per_ang (n_atoms, 3); stress_ev_per_ang3 (6,) in Voigt order and ASE's
    sign, or None; domain_distance > 1 is outside the training domain, None if the provider cannot tell.
    """

    energy_ev: float
    forces_ev_per_ang: np.ndarray
    energies_ev: np.ndarray | None = None
    stress_ev_per_ang3: np.ndarray | None = None
    domain_distance: float | None = None
    uncertainty_ev_per_ang: float | None = None  # largest expected error of a force, None if the provider cannot tell
    error: EquipotError | None = None

    @classmethod
    def failed(cls, error: EquipotError, n_atoms: int) -> Evaluation:
        """No numbers, only the reason."""
        return cls(energy_ev=np.nan, forces_ev_per_ang=np.full((n_atoms, 3), np.nan), error=error)

    @property
    def is_finite(self) -> bool:
        """Whether energy, forces and, if there is one, stress are numbers whose squares are numbers too."""
        stress = self.stress_ev_per_ang3
        return (
            abs(self.energy_ev) < LARGEST_NUMBER
            and below(self.forces_ev_per_ang, LARGEST_NUMBER)
            and below(stress, LARGEST_NUMBER)
        )


def below(array: np.ndarray | None, limit: float) -> bool:
    """Whether every number is smaller than the limit; False for NaN too."""
    return array is None or bool(np.maximum.reduce(np.abs(array), axis=None, initial=0.0) < limit)


class ForceProvider(Protocol):
    """Forces for many systems at once. What a system gets never depends on which others it is computed with."""

    @property
    def identity(self) -> dict[str, Any]:
        """What the numbers stand on: model, sha256, dtype, device, level_of_theory, elements, and `pins`."""

    def evaluate(self, systems: Sequence[System]) -> list[Evaluation]:
        """One evaluation for each system, in order; a system that cannot be computed carries its error."""

    def forget(self, key: Hashable) -> None:
        """The system of this key will not come again."""


class EvaluationLine(Protocol):
    """Systems that are put in one by one; their evaluations are taken out in the same order, computed ahead."""

    n_ahead: int  #: systems that are well kept in it

    def put(self, item: System) -> None: ...

    def take(self) -> Evaluation:
        """The evaluation of the system that was put in first."""


@runtime_checkable
class TakesOneByOne(Protocol):
    """A force provider that computes while its caller does something else."""

    def line(self, sizes: Sequence[int]) -> AbstractContextManager[EvaluationLine | None]:
        """A line for systems of so many atoms; None: better `evaluate` them together."""


class AseProvider:
    """Forces from any ASE calculator, one system after the other.

    The calculator is reset before each call: what it remembers of earlier calls (neighbour lists, wave functions)
    would make the last digits depend on history, and a resumed run would no longer be the uninterrupted one. It finds
    charge and spin multiplicity in `atoms.info`, where they are usually looked for.
    """

    def __init__(
        self,
        calculator: BaseCalculator,
        name: str | None = None,
        elements: Sequence[str] | None = None,
        level_of_theory: str | None = None,
        sha256: str | None = None,
    ) -> None:
        """elements None: the calculator is asked for whatever comes, and says itself what it does not know."""
        self._calculator = calculator
        self._elements = None if elements is None else list(elements)
        self._level_of_theory = level_of_theory
        self._sha256 = sha256
        self._name = name or str(getattr(calculator, "name", None) or type(calculator).__name__).lower()

    @property
    def identity(self) -> dict[str, Any]:
        return {
            "model": self._name,
            "sha256": self._sha256,
            "level_of_theory": self._level_of_theory,
            "elements": self._elements,
            "dtype": None,
            "device": None,
            "pins": {"execution": "ase", **numpy_pins(), "ase": version("ase")},
        }

    def evaluate(self, systems: Sequence[System]) -> list[Evaluation]:
        return [self._evaluate_one(system) for system in systems]

    def forget(self, key: Hashable) -> None:
        """Nothing is kept."""

    def _evaluate_one(self, system: System) -> Evaluation:
        from ase import Atoms
        from ase.calculators.calculator import PropertyNotImplementedError
        from ase.stress import full_3x3_to_voigt_6_stress

        calculator = self._calculator
        try:
            if hasattr(calculator, "reset"):
                calculator.reset()
            atoms = Atoms(
                system.numbers, system.positions_ang, cell=system.cell_ang, pbc=system.pbc, calculator=calculator
            )
            if system.charge_e:
                atoms.info["charge"] = system.charge_e
            if system.spin_multiplicity is not None:
                atoms.info["spin_multiplicity"] = system.spin_multiplicity
            forces = np.array(atoms.get_forces(), dtype=np.float64)
            energy = float(atoms.get_potential_energy())
            stress = None
            if all(system.pbc):
                try:
                    stress = np.array(calculator.get_property("stress", atoms), dtype=np.float64)
                    stress = full_3x3_to_voigt_6_stress(stress) if stress.shape == (3, 3) else stress
                except (PropertyNotImplementedError, NotImplementedError, KeyError):
                    stress = None
            energies = getattr(calculator, "results", {}).get("energies")
        except Exception as error:
            return Evaluation.failed(as_equipot_error(error), len(system.numbers))
        return Evaluation(
            energy_ev=energy,
            forces_ev_per_ang=forces,
            energies_ev=None if energies is None else np.array(energies, dtype=np.float64),
            stress_ev_per_ang3=stress,
        )


def as_equipot_error(error: Exception) -> EquipotError:
    """What went wrong in a calculation, in our words."""
    if isinstance(error, EquipotError):
        return error
    if is_out_of_memory(error):
        wrapped: EquipotError = OutOfMemoryError(
            "There is not enough memory for this system.", hint="Use a smaller system."
        )
    else:
        wrapped = EquipotError(f"The forces could not be computed: {type(error).__name__}: {error}")
    wrapped.__cause__ = error
    return wrapped


def numpy_pins() -> dict[str, Any]:
    """What decides the last bit of a result of numpy, and of those that moving cells and symmetry stand on."""
    simd = np.show_config(mode="dicts")["SIMD Extensions"]
    versions = {name: installed_version(name) for name in ("numpy", "scipy", "spglib")}
    return {"machine": platform.machine(), "simd": sorted(simd.get("found", [])), **versions}


@cache  # reading it takes milliseconds
def installed_version(name: str) -> str | None:
    """Of a package; None where it is not installed, as spglib need not be where no symmetry is asked for."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None

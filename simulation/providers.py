"""Where forces come from: a potential of ours or any ASE calculator, behind one small interface."""

from __future__ import annotations

import platform
from collections.abc import Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from equipot.errors import EquipotError, OutOfMemoryError
from equipot.structure import Structure

if TYPE_CHECKING:
    from ase.calculators.calculator import BaseCalculator

    from equipot.models.neighbours import NeighbourSearch
    from equipot.models.potential import Potential


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
    error: EquipotError | None = None

    @classmethod
    def failed(cls, error: EquipotError, n_atoms: int) -> Evaluation:
        """No numbers, only the reason."""
        return cls(energy_ev=np.nan, forces_ev_per_ang=np.full((n_atoms, 3), np.nan), error=error)

    @property
    def is_finite(self) -> bool:
        return bool(np.isfinite(self.energy_ev) and np.isfinite(self.forces_ev_per_ang).all())


class ForceProvider(Protocol):
    """Forces for many systems at once. What a system gets never depends on which others it is computed with."""

    @property
    def identity(self) -> dict[str, Any]:
        """What the numbers stand on: model, sha256, dtype, device, level_of_theory, elements, and `pins`."""

    def evaluate(self, systems: Sequence[System]) -> list[Evaluation]:
        """One evaluation for each system, in order; a system that cannot be computed carries its error."""

    def forget(self, key: Hashable) -> None:
        """The system of this key will not come again."""


class NativeProvider:
    """Forces from a potential of ours.

    Every system is computed by its own call, so that batched equals alone to the last bit; `n_threads` systems are
    computed at a time.
    """

    def __init__(self, potential: Potential, n_threads: int = 1) -> None:
        from equipot.models.neighbours import NeighbourSearch

        self._potential = potential
        self._new_search = lambda: NeighbourSearch(potential.cutoff_ang)
        self._searches: dict[Hashable, NeighbourSearch] = {}
        self._pool = ThreadPoolExecutor(n_threads, thread_name_prefix="forces") if n_threads > 1 else None

    @property
    def identity(self) -> dict[str, Any]:
        import torch

        return {
            "model": self._potential.name,
            "sha256": self._potential.sha256,
            "level_of_theory": self._potential.card.level_of_theory,
            "elements": list(self._potential.card.elements),
            "dtype": str(self._potential.dtype).removeprefix("torch."),
            "device": str(self._potential.device),
            "pins": {
                "execution": "native eager",
                "threads": torch.get_num_threads(),
                "cpu": torch.backends.cpu.get_cpu_capability(),
                **_numpy_pins(),
                "torch": version("torch"),
                "vesin": version("vesin"),
            },
        }

    def evaluate(self, systems: Sequence[System]) -> list[Evaluation]:
        for system in systems:
            if system.key not in self._searches:
                self._searches[system.key] = self._new_search()
        if self._pool is None or len(systems) == 1:
            return [self._evaluate_one(system) for system in systems]
        return list(self._pool.map(self._evaluate_one, systems))

    def forget(self, key: Hashable) -> None:
        self._searches.pop(key, None)

    def _evaluate_one(self, system: System) -> Evaluation:
        try:
            search = self._searches[system.key]
            graph = search.graph(system.numbers, system.positions_ang, system.cell_ang, system.pbc)
            prediction = self._potential.evaluate(graph)
        except Exception as error:
            return Evaluation.failed(_as_equipot_error(error, len(system.numbers)), len(system.numbers))
        stress = None
        if all(system.pbc) and system.cell_ang is not None and self._potential.card.has_stress:
            stress = prediction.stress_ev_per_ang3(float(abs(np.linalg.det(system.cell_ang))))
        return Evaluation(
            energy_ev=float(prediction.energy_ev),
            energies_ev=prediction.energies_ev,
            forces_ev_per_ang=np.asarray(prediction.forces_ev_per_ang, dtype=np.float64),
            stress_ev_per_ang3=stress,
            domain_distance=prediction.domain_distance,
        )


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
    ) -> None:
        """elements None: the calculator is asked for whatever comes, and says itself what it does not know."""
        self._calculator = calculator
        self._elements = None if elements is None else list(elements)
        self._level_of_theory = level_of_theory
        self._name = name or str(getattr(calculator, "name", None) or type(calculator).__name__).lower()

    @property
    def identity(self) -> dict[str, Any]:
        return {
            "model": self._name,
            "sha256": None,
            "level_of_theory": self._level_of_theory,
            "elements": self._elements,
            "dtype": None,
            "device": None,
            "pins": {"execution": "ase", **_numpy_pins(), "ase": version("ase")},
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
            return Evaluation.failed(_as_equipot_error(error, len(system.numbers)), len(system.numbers))
        return Evaluation(
            energy_ev=energy,
            forces_ev_per_ang=forces,
            energies_ev=None if energies is None else np.array(energies, dtype=np.float64),
            stress_ev_per_ang3=stress,
        )


def _as_equipot_error(error: Exception, n_atoms: int) -> EquipotError:
    if isinstance(error, EquipotError):
        return error
    if isinstance(error, MemoryError) or "out of memory" in str(error).lower():
        wrapped: EquipotError = OutOfMemoryError(
            f"There is not enough memory for a system of {n_atoms} atoms.", hint="Use a smaller system."
        )
    else:
        wrapped = EquipotError(f"The forces could not be computed: {type(error).__name__}: {error}")
    wrapped.__cause__ = error
    return wrapped


def _numpy_pins() -> dict[str, Any]:
    """What decides the last bit of a numpy result."""
    simd = np.show_config(mode="dicts")["SIMD Extensions"]
    return {"machine": platform.machine(), "simd": sorted(simd.get("found", [])), "numpy": np.__version__}

"""RemoteCalculator: a potential of a service as an ASE calculator. Needs no torch here and no potential."""

from __future__ import annotations

import weakref
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import PropertyNotImplementedError

from equipot.calculator.base import PotentialCalculator, charge_and_spin
from equipot.errors import error_from_problem
from equipot.params import Device, Dtype
from equipot.service.client import Client


class RemoteCalculator(PotentialCalculator):
    """Energy, forces and stress of a potential that runs in a service, for ASE.

        atoms.calc = RemoteCalculator("http://gpu-box:8000", "organic")

    The numbers are those of EquipotCalculator there, to the last bit: eV, eV/Å, and eV/Å³ with ASE's sign and order;
    the stress is given for systems that are periodic in all directions. `dtype` is "float64" or "float32"; `device` is
    "auto", "cpu" or "cuda"; `level_of_theory` chooses one that the potential was trained on, None the first; `charge`
    is the total charge in e of atoms whose `info` says none. A call is tried again for `patience_s` when the service is
    away. Each call costs a round trip: relax and run dynamics with `Client` instead, which sends the structure once.

    Raises what the service answers, typed: UnsupportedElementError, AtomsTooCloseError, UnknownModelError, and
    InvalidParameterError for a level of theory or a charge that the potential was not trained on.
    """

    def __init__(
        self,
        url: str | None = None,
        model: str = "organic",
        dtype: Dtype = "float64",
        device: Device = "auto",
        api_key: str | None = None,
        patience_s: float = 30.0,
        level_of_theory: str | None = None,
        charge: int | None = None,
    ) -> None:
        self.model, self.dtype, self.device = model, dtype, device
        self.level_of_theory, self.charge = level_of_theory, charge
        self._client = Client(url, api_key, patience_s=patience_s)
        self.url = self._client.url
        self._made_by = (self.url, model, dtype, device, api_key, patience_s, level_of_theory, charge)
        weakref.finalize(self, self._client.close)  # nobody closes a calculator
        self._answered: dict[str, Any] = {}
        super().__init__()

    @property
    def _model_name(self) -> str:
        return str(self._answered.get("model", self.model))

    def _evaluate(self, atoms: Atoms) -> dict[str, Any]:
        cell = atoms.cell if atoms.pbc.any() else None
        info = charge_and_spin(atoms.info, self.charge)
        bare = Atoms(atoms.numbers, atoms.positions, cell=cell, pbc=atoms.pbc, info=info)
        answer = self._client.evaluate(
            [bare], self.model, dtype=self.dtype, device=self.device, level_of_theory=self.level_of_theory
        )
        [item] = answer.pop("items")
        if item["error"] is not None:
            raise error_from_problem(item["error"])
        self._answered = answer
        results = {
            "energy": item["energy_ev"],
            "energies": np.array(item["energies_ev"]),
            "forces": np.array(item["forces_ev_per_ang"]).reshape(-1, 3),
            "domain_distance": item["domain_distance"],
            "uncertainty": item["uncertainty_ev_per_ang"],
            "level_of_theory": answer["level_of_theory"],
        }
        if item["stress_ev_per_ang3"] is not None:
            results["stress"] = np.array(item["stress_ev_per_ang3"])
        return results

    def get_property(self, name: str, atoms: Atoms | None = None, allow_calculation: bool = True) -> Any:
        """One property, computed only if the atoms have changed since the last time."""
        target = self.atoms if atoms is None else atoms
        if name == "stress" and target is not None and target.pbc.any() and not target.pbc.all():
            if not allow_calculation:
                return None
            raise PropertyNotImplementedError("A service gives the stress of systems periodic in all directions only.")
        return super().get_property(name, atoms, allow_calculation)

    def todict(self, skip_default: bool = True) -> dict[str, Any]:
        """What made the numbers, in plain values: it goes into ASE's trajectories and databases."""
        about: dict[str, Any] = {"url": self.url, "model": self.model, "dtype": self.dtype, "device": self.device}
        told = ("model", "device", "level_of_theory")
        known: dict[str, Any] = {name: self._answered[name] for name in told if name in self._answered}
        sha256 = {"sha256": self._answered["model_sha256"]} if self._answered else {}
        return {**about, **known, **sha256}

    def __copy__(self) -> RemoteCalculator:
        """Another calculator on the same service, without results."""
        return type(self)(*self._made_by)

    def __deepcopy__(self, memo: dict[int, Any]) -> RemoteCalculator:
        return self.__copy__()

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), self._made_by

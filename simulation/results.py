"""What `relax`, `run_md` and `singlepoint` give back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, overload

import numpy as np

from equipot.errors import EquipotError, error_from_problem
from equipot.simulation.trajectory import RunFrames
from equipot.simulation.verdicts import Outcome
from equipot.structure import Structure

if TYPE_CHECKING:
    from ase import Atoms


@dataclass(frozen=True, eq=False, kw_only=True)
class SinglepointResult:
    """The numbers of one structure.

    `atoms` is a new object with these numbers in its calculator, None for a rejected structure. forces_ev_per_ang
    (n_atoms, 3); stress_ev_per_ang3 (6,) in ASE's sign and Voigt order, None if the system is not periodic in all
    directions. Numbers that were never computed are None, and `reason` says why.
    """

    system_idx: int
    atoms: Atoms | None
    outcome: Outcome
    criterion: str
    energy_ev: float | None
    energies_ev: np.ndarray | None
    forces_ev_per_ang: np.ndarray | None
    stress_ev_per_ang3: np.ndarray | None
    fmax_ev_per_ang: float | None
    n_steps: int
    domain_distance: float | None
    reason: EquipotError | None
    uncertainty_ev_per_ang: float | None = None  #: the largest expected error of a force seen, if calibrated
    guard: Mapping[str, Any] | None = None  #: that stopped it: {name, limit, value, step}
    warnings: tuple[str, ...]
    model: str | None
    model_sha256: str | None
    level_of_theory: str | None
    dtype: str | None
    device: str | None
    bitwise: bool

    @classmethod
    def from_record(cls, record: dict[str, Any], atoms: Atoms | None, **more: Any) -> Self:
        """The result behind one record of a run (see verdicts.SystemResult)."""
        values = {f.name: record[f.name] for f in fields(cls) if f.name in record}
        values["outcome"] = Outcome(record["outcome"])
        values["reason"] = error_from_problem(record["reason"]) if record["reason"] else None
        values["warnings"] = tuple(record["warnings"])
        for name in ("energies_ev", "forces_ev_per_ang", "stress_ev_per_ang3"):
            values[name] = None if record[name] is None else np.array(record[name])
        return cls(**values, atoms=atoms, **more)


@dataclass(frozen=True, eq=False, kw_only=True)
class RelaxResult(SinglepointResult):
    """A relaxed structure: converged or not, and by which criterion.

    Where the cell relaxes: the largest generalised force on atoms and cell, by which convergence is judged, and on the
    cell alone; the volume, the pressure, and the enthalpy E + p V at the target pressure. Where the symmetry is kept:
    the space group at the end, as in "Fm-3m (225)".
    """

    converged: bool
    generalised_force_ev_per_ang: float | None = None
    cell_force_ev_per_ang: float | None = None
    volume_ang3: float | None = None
    pressure_gpa: float | None = None
    enthalpy_ev: float | None = None
    space_group: str | None = None


@dataclass(frozen=True, eq=False, kw_only=True)
class MDResult(SinglepointResult):
    """The end of a dynamics, and the way there: `trajectory` holds the saved frames as Atoms."""

    time_fs: float | None
    temperature_k: float | None
    volume_ang3: float | None = None
    pressure_gpa: float | None = None
    seed: int | None
    trajectory: Sequence[Atoms]


class SavedTrajectory(Sequence["Atoms"]):
    """The saved frames of one system of a run, each read from its directory when it is asked for."""

    def __init__(self, directory: Path, system: int) -> None:
        self._directory = directory
        self._system = system

    @cached_property
    def frames(self) -> RunFrames:
        """The same as frames, without ASE."""
        return RunFrames(self._directory, self._system)

    def __len__(self) -> int:
        return len(self.frames)

    @overload
    def __getitem__(self, index: int) -> Atoms: ...
    @overload
    def __getitem__(self, index: slice) -> list[Atoms]: ...
    def __getitem__(self, index: int | slice) -> Atoms | list[Atoms]:
        if isinstance(index, slice):
            return [frame.to_atoms() for frame in self.frames[index]]
        return self.frames[index].to_atoms()


def final_structure(data: Mapping[str, Any]) -> Structure:
    """The structure in a record, not checked: a run that diverged may have ended anywhere."""
    return Structure(
        numbers=data["numbers"],
        positions_ang=data["positions"],
        cell_ang=data["cell"],
        pbc=tuple(data["pbc"]),
        velocities_ang_per_fs=data.get("velocities"),
        masses_u=data.get("masses"),
        charge_e=data.get("charge", 0.0),
        spin_multiplicity=data.get("spin_multiplicity"),
        fixed_atoms=tuple(data.get("fixed_atoms", ())),
        info=data.get("info", {}),
    )

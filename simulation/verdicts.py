"""How a system ended: one outcome with the numbers behind it. No torch: the API reads these."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from equipot.errors import EquipotError


class Outcome(StrEnum):
    """The end of one system."""

    CONVERGED = "converged"
    MAX_STEPS = "max_steps"
    COMPLETED = "completed"
    GUARD_STOPPED = "guard_stopped"
    DIVERGED = "diverged"
    REJECTED = "rejected"
    CANCELLED = "cancelled"
    FAILED = "failed"


SENTENCES: Mapping[Outcome, str] = {
    Outcome.CONVERGED: "The relaxation met its criterion.",
    Outcome.MAX_STEPS: "The relaxation used up its steps before it met its criterion; it is not converged.",
    Outcome.COMPLETED: "Everything that was asked for was done.",
    Outcome.GUARD_STOPPED: "A guard stopped the system because it crossed a limit.",
    Outcome.DIVERGED: "Energy, forces or positions stopped being finite while the system ran.",
    Outcome.REJECTED: "The structure cannot be computed; nothing was run.",
    Outcome.CANCELLED: "The run was cancelled before the system ended; what was computed is kept.",
    Outcome.FAILED: "The forces could not be computed.",
}

#: outcomes that give the user what was asked for, or an honest part of it
USABLE = frozenset({Outcome.CONVERGED, Outcome.MAX_STEPS, Outcome.COMPLETED})


@dataclass(frozen=True)
class GuardReport:
    """The guard that stopped a system: its name, its limit, the value that crossed it, and the step."""

    name: str
    limit: float
    value: float
    step: int


@dataclass(frozen=True)
class Verdict:
    """An outcome, the rule it was judged by, and the problem or the guard behind it if there is one."""

    outcome: Outcome
    criterion: str
    reason: EquipotError | None = None
    guard: GuardReport | None = None

    @property
    def sentence(self) -> str:
        return SENTENCES[self.outcome]


@dataclass(frozen=True)
class SystemResult:
    """All that is known of a system that has ended; one line of `results.jsonl`.

    Arrays are nested lists: forces_ev_per_ang (n_atoms, 3), without the forces on fixed atoms taken out;
    stress_ev_per_ang3 (6,) in Voigt order xx, yy, zz, yz, xz, xy, positive under tension; structure is canonical
    JSON. Numbers that were never computed are None. fmax_ev_per_ang is the largest force on a free atom.
    """

    system_idx: int
    outcome: str
    converged: bool | None  #: None where the question makes no sense (md, singlepoint)
    criterion: str
    reason: dict[str, Any] | None
    n_steps: int
    time_fs: float | None
    energy_ev: float | None
    energies_ev: list[float] | None
    forces_ev_per_ang: list[list[float]] | None
    stress_ev_per_ang3: list[float] | None
    fmax_ev_per_ang: float | None
    temperature_k: float | None
    domain_distance: float | None  #: the largest seen; above 1 is outside the training domain
    structure: dict[str, Any] | None
    uncertainty_ev_per_ang: float | None = None  #: the largest expected error of a force seen, if calibrated
    guard: dict[str, Any] | None = None  #: that stopped it: {name, limit, value, step}
    volume_ang3: float | None = None  #: of a fully periodic system in a dynamics, or one whose cell relaxes
    pressure_gpa: float | None = None  #: kinetic and virial, if the model gives the stress
    generalised_force_ev_per_ang: float | None = None  #: what convergence was judged by, where a cell relaxes
    cell_force_ev_per_ang: float | None = None  #: the part of it that acts on the cell
    enthalpy_ev: float | None = None  #: E + p V at the target pressure, where a cell relaxes
    space_group: str | None = None  #: at the end, as in "Fm-3m (225)", where it was to be kept
    seed: int | None = None
    warnings: list[str] = field(default_factory=list)
    model: str | None = None
    model_sha256: str | None = None
    level_of_theory: str | None = None
    dtype: str | None = None
    device: str | None = None
    bitwise: bool = True  #: False after a resume that could not be exact

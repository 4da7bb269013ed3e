"""What a run was asked to do: checked, resolved, and kept in `request.json`."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from equipot import __version__
from equipot.checks import check_against_params, doubts, moves_cell
from equipot.errors import (
    ConflictError,
    EquipotError,
    InvalidParameterError,
    NotResumableError,
    error_from_problem,
)
from equipot.params import AnyParams, Guards, JobKind, MDParams, RelaxParams, SinglepointParams, parse_params
from equipot.simulation.disk import LASTING, Disk
from equipot.simulation.motions.base import Motion
from equipot.simulation.motions.dynamics import dynamics
from equipot.simulation.motions.relaxations import relaxation
from equipot.simulation.motions.single_point import SinglePoint
from equipot.simulation.trajectory import REQUEST, read_request
from equipot.structure import Structure, check_against_model, check_structure, structure_from_json

FORMAT_VERSION = 1
NO_GUARDS = Guards()


@dataclass(frozen=True, eq=False)
class RunRequest:
    """Everything a run depends on. A structure that cannot be computed is kept as the error that says why.

    `params` are resolved; `provider` is the identity of the force provider the run was begun with; system i of the
    run is number `system_offset + i` of its job.
    """

    kind: JobKind
    params: AnyParams
    structures: tuple[Structure | EquipotError, ...]
    provider: Mapping[str, Any]
    system_offset: int = 0

    @classmethod
    def prepare(
        cls,
        kind: JobKind,
        structures: Sequence[Structure | EquipotError],
        params: AnyParams,
        provider: Mapping[str, Any],
        system_offset: int = 0,
    ) -> Self:
        """Resolve the parameters and check every structure, alone and against the potential."""
        numbers = [s.numbers for s in structures if isinstance(s, Structure)]
        if isinstance(params, MDParams) and isinstance(params.seed, list) and len(params.seed) != len(structures):
            raise InvalidParameterError(
                f"seed has {len(params.seed)} entries for {len(structures)} structures.",
                pointer="/params/seed",
                hint="Give one integer, or one for each structure.",
            )
        resolved = _resolved(params, numbers, len(structures))
        checked = [
            _checked(s, resolved, provider, f"/structures/{system_offset + i}") for i, s in enumerate(structures)
        ]
        return cls(kind, resolved, tuple(checked), {**provider, "equipot": __version__}, system_offset)

    @classmethod
    def read(cls, directory: Path) -> Self:
        """The request a run directory holds. Raises JobNotFoundError or NotResumableError."""
        data = read_request(directory)
        if data["format_version"] > FORMAT_VERSION:
            raise NotResumableError(f"{REQUEST} has format {data['format_version']}.", hint="Upgrade equipot.")
        structures: list[Structure | EquipotError] = [
            error_from_problem(entry["error"]) if "error" in entry else structure_from_json(entry)
            for entry in data["structures"]
        ]
        params = parse_params(data["kind"], data["params"])
        return cls(data["kind"], params, tuple(structures), data["provider"], data["system_offset"])

    def write(self, directory: Path, disk: Disk = LASTING) -> None:
        """Make the directory a run's. Raises ConflictError if it is one already."""
        data = {
            "format_version": FORMAT_VERSION,
            "kind": self.kind,
            "params": self.params.model_dump(mode="json"),
            "provider": self.provider,
            "system_offset": self.system_offset,
            "structures": [
                {"error": s.as_problem()} if isinstance(s, EquipotError) else s.to_json() for s in self.structures
            ],
        }
        temporary = directory / f".{REQUEST}.{os.getpid()}.tmp"
        with temporary.open("w", encoding="utf-8") as file:
            file.write(json.dumps(data))  # json.dump is five times slower
            disk.sync(file)
        try:
            os.link(temporary, directory / REQUEST)  # unlike a rename, this refuses to replace
        except FileExistsError:
            raise ConflictError(
                f"{directory} already holds a run.", hint="Resume it, or choose another output folder."
            ) from None
        finally:
            temporary.unlink()
        disk.sync_folder(directory)

    @property
    def n_steps(self) -> int:
        """The most steps a system can take."""
        if isinstance(self.params, MDParams):
            return self.params.n_steps or 0
        return self.params.max_steps if isinstance(self.params, RelaxParams) else 0

    @property
    def guards(self) -> Guards:
        return NO_GUARDS if isinstance(self.params, SinglepointParams) else self.params.guards

    @property
    def save_every(self) -> int:
        return 1 if isinstance(self.params, SinglepointParams) else self.params.save_every or 1

    @property
    def thermo_every(self) -> int:
        return self.params.thermo_every if isinstance(self.params, MDParams) else 1

    @property
    def checkpoint_every_s(self) -> float:
        return 10.0 if isinstance(self.params, SinglepointParams) else self.params.checkpoint_every_s

    def structure(self, idx: int) -> Structure:
        """The structure of a system that was not rejected, by its number in the job."""
        structure = self.structures[idx - self.system_offset]
        assert isinstance(structure, Structure)
        return structure

    def seed(self, idx: int) -> int | None:
        """The seed of a system, None where nothing is drawn."""
        if not isinstance(self.params, MDParams) or self.params.seed is None:
            return None
        seed = self.params.seed
        return seed[idx - self.system_offset] if isinstance(seed, list) else seed

    def motion(self, idx: int) -> Motion:
        """How a system moves."""
        structure = self.structure(idx)
        if isinstance(self.params, RelaxParams):
            return relaxation(structure, self.params)
        if isinstance(self.params, MDParams):
            return dynamics(structure, self.params, self.seed(idx) or 0)
        return SinglePoint(structure)

    def start_warnings(self, idx: int) -> list[str]:
        """What can be said of a system before it runs."""
        warnings = []
        if idx in self._twins:
            warnings.append(
                f"System {idx} is identical to system {self._twins[idx]} and has the same seed, so both run the same "
                "trajectory; give a list of seeds."
            )
        rotates = isinstance(self.params, MDParams) and self.params.remove_rotation
        if rotates and self.structure(idx).is_periodic:
            warnings.append("remove_rotation was left out: a periodic system does not rotate.")
        if moves_cell(self.params) and self.provider.get("trained_on_stress") is False:
            warnings.append(
                f"{self.provider['model']} was not trained on stresses. The stress is the exact derivative of its "
                "energy, but the cell it leads to has not been tested: compare with a calculation of your own."
            )
        return [*warnings, *doubts(self.structure(idx), self.params)]

    @cached_property
    def _twins(self) -> dict[int, int]:
        """Systems of a dynamics that are the same as an earlier one, seed and all: {system: earlier}."""
        first: dict[tuple[str, int | None], int] = {}
        twins = {}
        if isinstance(self.params, MDParams):
            for idx, structure in enumerate(self.structures, self.system_offset):
                if isinstance(structure, Structure):
                    earlier = first.setdefault((structure.sha256(), self.seed(idx)), idx)
                    if earlier != idx:
                        twins[idx] = earlier
        return twins


def _resolved(params: AnyParams, numbers: Sequence[Any], n_structures: int) -> AnyParams:
    """Resolved, though a list of seeds also counts structures that could not be read."""
    if isinstance(params, MDParams) and isinstance(params.seed, list) and len(numbers) != n_structures:
        return params.model_copy(update={"seed": 0}).resolved(numbers).model_copy(update={"seed": params.seed})
    return params.resolved(numbers)


def _checked(
    structure: Structure | EquipotError, params: AnyParams, provider: Mapping[str, Any], pointer: str
) -> Structure | EquipotError:
    if isinstance(structure, EquipotError):
        return structure
    try:
        structure = check_structure(structure, pointer)
        if provider["elements"] is not None:
            charges = provider.get("charges", (0,))
            check_against_model(structure, provider["elements"], provider["model"], pointer, charges)
        check_against_params(structure, params, pointer)
    except EquipotError as error:
        return error
    return structure

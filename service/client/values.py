"""What goes to a service and what comes back: structures as JSON, records as results."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from equipot.errors import EquipotError, InvalidParameterError
from equipot.params import JobKind
from equipot.service.records import JobRecord
from equipot.service.records import Progress as RecordedProgress
from equipot.service.states import JobState
from equipot.simulation.progress import Progress
from equipot.structure import Structure

if TYPE_CHECKING:
    from ase import Atoms

    from equipot.simulation.results import SinglepointResult

OneStructure: TypeAlias = "Atoms | Structure | Mapping[str, Any]"
Structures: TypeAlias = "OneStructure | Sequence[OneStructure]"

REJECTED, CANCELLED, FAILED = "rejected", "cancelled", "failed"
REJECTED_BY = "a structure the potential can compute"


def is_one(structures: Any) -> bool:
    """Whether this is one structure and not many."""
    return isinstance(structures, Structure | Mapping) or hasattr(structures, "get_positions")


def structure_text(structure: OneStructure) -> str:
    """A structure as JSON text; NaN goes through, the service says where it is. Raises InvalidStructureError."""
    if isinstance(structure, Mapping):
        return json.dumps(dict(structure))
    if isinstance(structure, Structure):
        return json.dumps(structure.to_json())
    from equipot.calculator.convert import from_atoms

    return json.dumps(from_atoms(structure).to_json())


def job_body(texts: Sequence[str], fields: Mapping[str, Any]) -> bytes:
    """The body of a request whose structures are text already."""
    rest = json.dumps(dict(fields))
    comma = ", " if fields else ""
    return f'{{"structures": [{", ".join(texts)}]{comma}{rest[1:]}'.encode()


def given_fields(
    device: str | None, dtype: str | None, reproducible: bool, level_of_theory: str | None
) -> dict[str, Any]:
    """What a job says of how it is computed, from the arguments of `relax`. Raises InvalidParameterError."""
    if reproducible and device == "cuda":
        raise InvalidParameterError(
            "A service does not compute systems one by one on a GPU.",
            pointer="/reproducible",
            hint='On a CPU every job is reproducible: device="cpu".',
        )
    fields = {"device": "cpu" if reproducible else device, "dtype": dtype}
    fields["level_of_theory"] = level_of_theory
    return {name: value for name, value in fields.items() if value is not None}


def job_record(data: Mapping[str, Any]) -> JobRecord:
    """The record in an answer; what a newer service says beside it is left out."""
    return JobRecord.model_validate({name: data[name] for name in JobRecord.model_fields if name in data})


def progress_of(record: JobRecord) -> Progress:
    """How far a job is, as a run here would say it."""
    return Progress(**record.progress.model_dump(), n_max_steps=record.outcomes.get("max_steps", 0))


def complete(record: Mapping[str, Any], job: JobRecord) -> dict[str, Any]:
    """A record of a system with every field a result has, whatever the service said of it."""
    from equipot.simulation.verdicts import SystemResult

    seed = job.params.get("seed")
    empty: dict[str, Any] = {
        **dict.fromkeys(SystemResult.__dataclass_fields__),
        "n_steps": 0,
        "warnings": [],
        "bitwise": True,
        "converged": False if job.kind == "relax" else None,
        "criterion": "",
        "reason": record.get("error"),
        "seed": seed[record["system_idx"]] if isinstance(seed, list) else seed,
        "model": job.model,
        "model_sha256": job.model_sha256,
        "level_of_theory": job.level_of_theory,
        "dtype": job.dtype,
        "device": job.device,
    }
    return {**empty, **record}


def without_numbers(system_idx: int, job: JobRecord, error: EquipotError | None) -> dict[str, Any]:
    """The record of a system of which the service says nothing: refused before it was sent, or never begun."""
    outcome = REJECTED if error is not None else CANCELLED if job.state.value == CANCELLED else FAILED
    reason = job.error if error is None else error.as_problem()
    record = complete({"system_idx": system_idx, "outcome": outcome, "error": reason}, job)
    return {**record, "criterion": REJECTED_BY if outcome == REJECTED else ""}


def result_of(
    kind: str, record: Mapping[str, Any], given: OneStructure | None, trajectory: Sequence[Atoms] = ()
) -> SinglepointResult:
    """The result behind a complete record, of the class that a run here gives."""
    from equipot.simulation.results import MDResult, RelaxResult, SinglepointResult, final_atoms

    atoms = final_atoms(given, record)
    values = dict(record)
    if kind == "md":
        return MDResult.from_record(values, atoms, trajectory=trajectory)
    return (RelaxResult if kind == "relax" else SinglepointResult).from_record(values, atoms)


def unsent_record(kind: JobKind, params: Mapping[str, Any], card: Mapping[str, Any]) -> JobRecord:
    """What there is to say of a job none of whose structures could be sent; `card` is as a service lists models."""
    return JobRecord(
        id="",
        kind=kind,
        model=card.get("name", ""),
        model_sha256=card.get("sha256", ""),
        level_of_theory=card.get("level_of_theory", ""),
        state=JobState.FAILED,
        params=dict(params),
        dtype="float64",
        device="auto",
        progress=RecordedProgress(n_systems=0),
        created_at="",
    )

"""From the bytes of a request to a job that can be queued, or a problem that says where it is wrong.

No ASE and no torch on this path: it takes milliseconds. Files inside a request go through `uploads`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from equipot.cards import PotentialCard, find_model
from equipot.checks import check_against_params
from equipot.errors import (
    Culprit,
    InvalidParameterError,
    InvalidStructureError,
    PayloadTooLargeError,
    SystemTooLargeError,
)
from equipot.params import (
    JOB_OF_KIND,
    JOB_REQUEST,
    PARAMS_OF_KIND,
    AnyParams,
    MDJob,
    RelaxJob,
    SinglepointJob,
    invalid_parameters,
)
from equipot.service.api.uploads import FileReader, format_named
from equipot.service.records import JobWarning
from equipot.service.settings import Settings
from equipot.structure import Structure, check_against_model, structure_from_json

AnyJob = SinglepointJob | RelaxJob | MDJob
FIELDS = (
    *("tags", "name", "priority", "dtype", "device", "level_of_theory", "reproducible", "compile"),
    *("max_wall_time_s", "webhook_url", "use_cache"),
)
CHARGES = ("charge", "spin_multiplicity")  #: may stand beside a structure_id or a text


@dataclass(frozen=True)
class Submission:
    """A job that has passed every check."""

    job: AnyJob
    card: PotentialCard
    structures: list[Structure]
    params: AnyParams  #: resolved
    warnings: list[JobWarning]

    @property
    def fields(self) -> dict[str, Any]:
        """What the job says beside kind, model, structures and parameters."""
        return {name: getattr(self.job, name) for name in FIELDS}


def parse_json(body: bytes) -> dict[str, Any]:
    """The JSON object in a body. Raises InvalidParameterError, never with the body in it."""
    try:
        data = json.loads(body)
        if b"\\ud" in body.lower():  # half of a surrogate pair is JSON but not text
            json.dumps(data, ensure_ascii=False).encode()
    except json.JSONDecodeError as error:
        raise InvalidParameterError(
            f"The body is not JSON: {error.msg} at line {error.lineno}, column {error.colno}.",
            hint="Send a JSON object; /docs has an example for each kind of job.",
        ) from error
    except (ValueError, RecursionError) as error:  # not UTF-8, numbers without end, nesting without end
        raise InvalidParameterError("The body is not JSON that can be read.", hint="UTF-8, flat, finite.") from error
    if not isinstance(data, dict):
        raise InvalidParameterError("The body is not a JSON object.", hint='Send {"kind": ..., "structures": [...]}.')
    return data


def parse_job(data: Mapping[str, Any], settings: Settings) -> AnyJob:
    """The job a body asks for. Raises InvalidParameterError or PayloadTooLargeError."""
    structures = data.get("structures")
    if isinstance(structures, list) and len(structures) > settings.max_structures:
        raise PayloadTooLargeError(
            f"The job has {len(structures)} structures; at most {settings.max_structures} are accepted.",
            pointer="/structures",
            hint="Split it into several jobs.",
        )
    try:
        return JOB_REQUEST.validate_python(data)
    except ValidationError as error:
        raise _pointed(error, data) from error


def prepare(data: Mapping[str, Any], settings: Settings, reader: FileReader, stored: StructureSource) -> Submission:
    """Everything checked and resolved, in this order: fields, model, structures, model against structures, parameters.

    Raises an InputError with pointers into the body.
    """
    job = parse_job(data, settings)
    _, card = find_model(job.model)
    head = card.head_of(job.level_of_theory)
    structures, warnings = read_structures(job.structures, card, settings, reader, stored, head)
    for index, structure in enumerate(structures):
        check_against_params(structure, job.params, f"/structures/{index}")
    return Submission(job, card, structures, _resolved(job, structures), warnings)


def read_structures(
    given_structures: Sequence[Mapping[str, Any]],
    card: PotentialCard,
    settings: Settings,
    reader: FileReader,
    stored: StructureSource,
    head: int = 0,
) -> tuple[list[Structure], list[JobWarning]]:
    """The structures of a request, each checked by itself and against the model, and remarks on them.

    Raises an InputError with pointers into the body.
    """
    structures: list[Structure] = []
    warnings: list[JobWarning] = []
    for index, given in enumerate(given_structures):
        pointer = f"/structures/{index}"
        structure, remarks = _structure(given, pointer, reader, stored)
        if structure.n_atoms > settings.max_atoms:
            raise SystemTooLargeError(
                f"The structure has {structure.n_atoms} atoms; at most {settings.max_atoms} are accepted.",
                pointer=f"{pointer}/positions",
                hint="Submit a smaller cell or cluster.",
            )
        check_against_model(structure, card.elements_of(head), card.named_at(head), pointer, card.charges_of(head))
        structures.append(structure)
        warnings += [JobWarning(message=remark, system_idx=index) for remark in remarks]
    return structures, warnings


def _structure(
    given: Mapping[str, Any], pointer: str, reader: FileReader, stored: StructureSource
) -> tuple[Structure, list[str]]:
    if "structure_id" in given:
        _refuse_others(given, {"structure_id"}, pointer, CHARGES)
        structure_id = given["structure_id"]
        if not isinstance(structure_id, str):
            raise InvalidStructureError(
                "structure_id must be a string.",
                pointer=f"{pointer}/structure_id",
                hint="POST /v1/structures gives one.",
            )
        return _charged(_by_id(structure_id, f"{pointer}/structure_id", stored), given, pointer), []
    if "text" in given or "format" in given:
        _refuse_others(given, {"format", "text"}, pointer, CHARGES)
        structure, remarks = _from_text(given, pointer, reader)
        return _charged(structure, given, pointer), remarks
    return structure_from_json(given, pointer), []


def _by_id(structure_id: str, pointer: str, stored: StructureSource) -> Structure:
    try:
        return stored(structure_id)
    except InvalidStructureError as error:
        raise InvalidStructureError(error.detail, pointer=pointer, hint=error.hint) from error


def _from_text(given: Mapping[str, Any], pointer: str, reader: FileReader) -> tuple[Structure, list[str]]:
    for key in ("format", "text"):
        if not isinstance(given.get(key), str):
            raise InvalidStructureError(
                f"{key} must be a string.",
                pointer=f"{pointer}/{key}",
                hint='For example {"format": "cif", "text": "..."}.',
            )
    file_format = format_named(given["format"], f"{pointer}/format")
    read = reader.read(given["text"], file_format, f"{pointer}/text")
    if len(read.structures) > 1:
        raise InvalidStructureError(
            f"The text holds {len(read.structures)} structures; an entry of `structures` is one.",
            pointer=f"{pointer}/text",
            hint="Upload the file to /v1/structures and submit each of its structure_ids.",
        )
    return read.structures[0], list(read.warnings)


def _charged(structure: Structure, given: Mapping[str, Any], pointer: str) -> Structure:
    """The structure with the charge and spin that stand beside it: few files can say them."""
    beside = {name: given[name] for name in CHARGES if name in given}
    return structure_from_json({**structure.to_json(), **beside}, pointer) if beside else structure


def _refuse_others(given: Mapping[str, Any], known: set[str], pointer: str, optional: Collection[str] = ()) -> None:
    if others := sorted(set(given) - known - set(optional)):
        raise InvalidStructureError(
            f"{others[0][:60]!r} cannot stand beside {' and '.join(sorted(known))}.",
            pointer=f"{pointer}/{others[0]}",
            hint='A structure is {"structure_id"}, {"format", "text"} or numbers, positions and so on.',
        )


def _resolved(job: AnyJob, structures: list[Structure]) -> AnyParams:
    try:
        return job.params.resolved([s.numbers for s in structures])
    except InvalidParameterError as error:
        raise error.moved_under("/params") from error


def _pointed(error: ValidationError, data: Mapping[str, Any]) -> InvalidParameterError:
    """The complaint about a body; pydantic itself does not point at a bad `kind`."""
    kinds = ", ".join(PARAMS_OF_KIND)
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    if first["type"] in ("union_tag_not_found", "union_tag_invalid"):
        detail = "kind is missing." if "kind" not in data else "There is no such kind of job."
        return InvalidParameterError(detail, culprits=[Culprit("/kind", detail, f"Kinds: {kinds}.")])
    return invalid_parameters(error, known=JOB_OF_KIND[str(data["kind"])])


StructureSource = Callable[[str], Structure]

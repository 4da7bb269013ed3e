"""A run as a file: the body of `POST /v1/jobs`, as YAML or JSON, is what the command line reads and prints."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from equipot.errors import Culprit, EquipotError, InvalidParameterError
from equipot.params import JOB_OF_KIND, AnyParams, JobKind
from equipot.service.commands.options import read_mapping
from equipot.structure import Structure, structure_from_json

OWN_FIELDS = ("kind", "model", "structures", "params")


def read_request(path: Path | None, kind: JobKind) -> dict[str, Any]:
    """The body in a file, always with `params`; a file that holds parameters only is taken as those.

    Raises InvalidParameterError if it is of another kind or has what no body has.
    """
    data = read_mapping(path) if path is not None else {}
    known = set(JOB_OF_KIND[kind].model_fields)
    if not data.keys() & known:
        return {"params": data}
    for name in data:
        if name not in known:
            hint = f"Parameters stand under params. Known beside it: {', '.join(sorted(known - {'params'}))}."
            message = f"unknown field {name!r}"
            raise InvalidParameterError(f"{path}: {message}", hint=hint, culprits=[Culprit(f"/{name}", message, hint)])
    if data.get("kind", kind) != kind:
        raise InvalidParameterError(
            f"{path} is a job of kind {data['kind']}.", pointer="/kind", hint=f"equipot {data['kind']} --params {path}"
        )
    if not isinstance(data.get("params") or {}, dict):
        raise InvalidParameterError(f"{path}: params must hold names and values.", pointer="/params")
    return {**data, "params": dict(data.get("params") or {})}


def structures_in(request: Mapping[str, Any], path: Path | None) -> tuple[list[str], list[Structure | EquipotError]]:
    """Names and structures that the body itself holds. Raises the error of the first that cannot be read."""
    from equipot.calculator.reading import parse_structures

    names: list[str] = []
    structures: list[Structure | EquipotError] = []
    for number, given in enumerate(request.get("structures") or ()):
        pointer = f"/structures/{number}"
        if isinstance(given, Mapping) and {"format", "text"} == given.keys():
            found = list(parse_structures(str(given["text"]), str(given["format"])).structures)
        elif isinstance(given, Mapping) and "structure_id" in given:
            raise InvalidParameterError(
                f"{path}: a structure_id can only be read where it was uploaded.",
                pointer=pointer,
                hint="Post the file to the service itself, or give the structure.",
            )
        else:
            found = [structure_from_json(given, pointer)]
        structures += found
        names += [f"structure {len(names) + i}" for i in range(len(found))]
    return names, structures


def request_text(
    kind: JobKind,
    fields: Mapping[str, Any],
    params: AnyParams,
    structures: Sequence[Structure | EquipotError],
    as_json: bool,
) -> str:
    """The body that asks a service for this run, ready for `--params` and for curl."""
    body = {
        "kind": kind,
        **fields,
        "params": params.model_dump(mode="json", exclude_unset=True),
        "structures": [structure.to_json() for structure in structures if isinstance(structure, Structure)],
    }
    if as_json:
        return json.dumps(body)
    return yaml.safe_dump(body, sort_keys=False, default_flow_style=None, allow_unicode=True, width=110).rstrip()

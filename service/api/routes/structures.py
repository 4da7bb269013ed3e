"""Structures: files in, ids and canonical JSON out."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Annotated, Any

from fastapi import APIRouter, HTTPException, Path, Request
from fastapi.responses import Response
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile

from equipot.elements import formula
from equipot.errors import InvalidParameterError, InvalidStructureError
from equipot.service.api.context import Services, Use, json_response
from equipot.service.api.schemas import StoredStructure, UploadedStructure
from equipot.service.api.uploads import format_named, format_of_file, text_of_file

router = APIRouter(prefix="/v1/structures", tags=["structures"])

UPLOAD_BODY = {
    "required": True,
    "content": {
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "properties": {
                    "file": {
                        "type": "string",
                        "format": "binary",
                        "description": "extxyz, xyz, cif, vasp (poscar), pdb, sdf or mol; also gzipped",
                    },
                    "format": {"type": "string", "description": "if the name of the file does not say it"},
                },
                "required": ["file"],
            }
        }
    },
}


@router.post(
    "", status_code=201, responses={201: {"model": UploadedStructure}}, openapi_extra={"requestBody": UPLOAD_BODY}
)
async def upload_structure(request: Request, use: Use) -> Response:
    """Read a structure file. Submit what it held as `{"structure_id": ...}`.

    Energies, forces and charges in the file are not used; `warnings` says what was left out.
    """
    async with request.form(max_files=1, max_fields=4) as form:
        file, file_format = form.get("file"), form.get("format")
        if not isinstance(file, UploadFile):
            raise InvalidParameterError(
                "The file is missing.", pointer="/file", hint="curl -F file=@water.xyz .../v1/structures"
            )
        data, name = await file.read(), file.filename or ""
    given = str(file_format) if file_format else None
    answer = await run_in_threadpool(_read_and_keep, use, data, name, given)
    return json_response(answer, 201, {"Location": f"/v1/structures/{answer['structure_id']}"})


@router.get("/{structure_id}", responses={200: {"model": StoredStructure}})
def get_structure(use: Use, structure_id: Annotated[str, Path(max_length=100)]) -> Response:
    """The canonical JSON of an uploaded structure."""
    try:
        structure = use.store.get_structure(structure_id)
    except InvalidStructureError as error:
        raise HTTPException(404) from error
    return json_response({"structure_id": structure_id, "structure": structure.to_json()})


def _read_and_keep(use: Services, data: bytes, name: str, given: str | None) -> dict[str, Any]:
    if given:
        file_format, gzipped = format_named(given, "/format"), name.lower().endswith(".gz")
    else:
        file_format, gzipped = format_of_file(name, "/file")
    text = text_of_file(data, gzipped=gzipped, max_bytes=use.settings.max_body_bytes, pointer="/file")
    read = use.reader.read(text, file_format, "/file", PurePosixPath(name.replace("\\", "/")).name[:60])
    first = read.structures[0]
    ids = [use.store.put_structure(structure) for structure in read.structures]
    return {
        "structure_id": ids[0],
        "structure": first.to_json(),
        "structure_ids": ids,
        "n_atoms": first.n_atoms,
        "formula": formula(first.numbers),
        "warnings": list(read.warnings),
    }

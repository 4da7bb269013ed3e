"""Energies and forces while you wait: what a calculator in another process needs."""

from __future__ import annotations

from typing import Any

import anyio
from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import Field, ValidationError
from starlette.concurrency import run_in_threadpool

from equipot.cards import PotentialCard, find_model
from equipot.errors import SystemTooLargeError, error_from_problem
from equipot.params import Device, Dtype, Params, invalid_parameters
from equipot.service.api.context import Services, Use, json_response
from equipot.service.api.schemas import EvaluationList
from equipot.service.api.submission import parse_json, read_structures
from equipot.structure import Structure

router = APIRouter(prefix="/v1/evaluate", tags=["evaluate"])

MOST_STRUCTURES = 256
PATIENCE_S = 30.0


class EvaluateRequest(Params):
    """Structures to be evaluated where they stand."""

    model: str = Field("organic", min_length=1, max_length=100, description="a registry name, see /v1/models")
    structures: list[dict[str, Any]] = Field(
        min_length=1, max_length=MOST_STRUCTURES, description="as in a job; together at most as large as one may be"
    )
    dtype: Dtype = Field("float64", description="the precision of the potential")
    device: Device = Field("auto", description="where to compute")
    level_of_theory: str | None = Field(None, max_length=100, description="if absent the model's first")


BODY = {
    "required": True,
    "content": {
        "application/json": {
            "schema": EvaluateRequest.model_json_schema(),
            "example": {
                "model": "organic",
                "structures": [{"symbols": ["H", "H"], "positions": [[0, 0, 0], [0, 0, 0.74]]}],
            },
        }
    },
}


@router.post("", responses={200: {"model": EvaluationList}}, openapi_extra={"requestBody": BODY})
async def evaluate(request: Request, use: Use) -> Response:
    """Energy, forces and stress of structures where they stand, at once; nothing is kept.

    One item for each structure, in order; an item that could not be computed has its `error`. Callers who ask at the
    same time share a pass. For work that may wait, submit a job of kind singlepoint.
    """
    body = await request.body()
    asked, card, structures = await run_in_threadpool(_prepare, use, body)
    question = {
        "model": card.name,
        "sha256": card.weights_sha256,
        "dtype": asked.dtype,
        "device": asked.device,
        "level_of_theory": asked.level_of_theory,
        "structures": [structure.to_json() for structure in structures],
    }
    answer = await anyio.to_thread.run_sync(
        use.desk.ask, asked.device, question, PATIENCE_S, limiter=use.waiters, abandon_on_cancel=True
    )
    if "error" in answer:
        raise error_from_problem(answer["error"])
    return json_response({"model": card.name, "model_sha256": card.weights_sha256, **answer})


def _prepare(use: Services, body: bytes) -> tuple[EvaluateRequest, PotentialCard, list[Structure]]:
    """The request, checked. Raises an InputError with pointers into the body."""
    try:
        asked = EvaluateRequest.model_validate(parse_json(body))
    except ValidationError as error:
        raise invalid_parameters(error, known=EvaluateRequest) from error
    _, card = find_model(asked.model)
    head = card.head_of(asked.level_of_theory)
    structures, _ = read_structures(asked.structures, card, use.settings, use.reader, use.store.get_structure, head)
    n_atoms = sum(structure.n_atoms for structure in structures)
    if n_atoms > use.settings.max_atoms:
        raise SystemTooLargeError(
            f"The structures have {n_atoms} atoms together; at most {use.settings.max_atoms} are evaluated at once.",
            pointer="/structures",
            hint="Ask in several requests, or submit a job.",
        )
    return asked, card, structures

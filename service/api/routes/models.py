"""Models: which potentials there are and what they are good for."""

from __future__ import annotations

from fastapi import APIRouter
from fastapi.responses import Response

from equipot.cards import find_model, registry
from equipot.errors import UnknownModelError
from equipot.service.api.context import json_response
from equipot.service.api.schemas import ModelList, ModelSummary

router = APIRouter(prefix="/v1/models", tags=["models"])


@router.get("", responses={200: {"model": ModelList}})
def list_models() -> Response:
    """Every registered potential: elements, cutoff, level of theory, limits."""
    items = [card.summary() for _, card in registry().values()]
    return json_response({"items": items, "next_page_token": ""})


@router.get("/{name}", responses={200: {"model": ModelSummary}})
def get_model(name: str) -> Response:
    """The whole card of a potential, by name or alias: training data, errors on named test sets, what it cannot do."""
    try:
        _, card = find_model(name)
    except UnknownModelError as error:
        raise UnknownModelError(error.detail, pointer="path:name", hint=error.hint) from error
    return json_response({**card.model_dump(mode="json"), "sha256": card.weights_sha256})

"""A weights file that was damaged or made by somebody else is refused before anything in it runs or fills memory."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load, save

from equipot.cards import find_model
from equipot.errors import InvalidWeightsError
from equipot.models.loading import load_potential


@pytest.fixture
def card(tmp_path: Path) -> Path:
    """Card and weights of the tiny potential in a folder of their own."""
    path, _ = find_model("tiny")
    for suffix in (".json", ".safetensors"):
        (tmp_path / f"tiny-1{suffix}").write_bytes(path.with_suffix(suffix).read_bytes())
    return tmp_path / "tiny-1.json"


def with_weights(card: Path, data: bytes, *, trusted: bool = True) -> None:
    """Put weights beside the card; trusted ones have their digest on it, as a forger would see to."""
    card.with_suffix(".safetensors").write_bytes(data)
    if trusted:
        content = json.loads(card.read_text())
        content["weights_sha256"] = hashlib.sha256(data).hexdigest()
        card.write_text(json.dumps(content))


class Bomb:
    """Unpickling this leaves a trace."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.trace),)


def test_a_pickle_is_never_opened_whatever_its_digest_says(card: Path, tmp_path: Path) -> None:
    for data in (pickle.dumps(Bomb(tmp_path / "ran")), _torch_file(tmp_path / "ran")):
        with_weights(card, data)
        with pytest.raises(InvalidWeightsError, match="not a safetensors file"):
            load_potential(card)
        assert not (tmp_path / "ran").exists()


def _torch_file(trace: Path) -> bytes:
    path = trace.with_name("weights.pt")
    torch.save({"network": Bomb(trace)}, path)
    return path.read_bytes()


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.99])
def test_truncated_weights_are_refused_with_and_without_the_right_digest(card: Path, share: float) -> None:
    whole = card.with_suffix(".safetensors").read_bytes()
    part = whole[: int(share * len(whole))]
    with_weights(card, part, trusted=False)
    with pytest.raises(InvalidWeightsError, match="damaged or foreign"):
        load_potential(card)
    with_weights(card, part)
    with pytest.raises(InvalidWeightsError, match="not a safetensors file"):
        load_potential(card)


@pytest.mark.parametrize(
    "header",
    [
        struct.pack("<Q", 2**62),
        struct.pack("<Q", 200_000_000) + b"{",
        struct.pack("<Q", 16) + b'{"a":[[[[[[[[[[[[',
        struct.pack("<Q", 60) + b'{"a":{"dtype":"F64","shape":[1000000000000],"data_offsets":[0,8]}}',
    ],
)
def test_a_header_that_promises_too_much_is_refused(card: Path, header: bytes) -> None:
    with_weights(card, header)
    with pytest.raises(InvalidWeightsError, match="not a safetensors file"):
        load_potential(card)


def test_weights_of_another_shape_or_name_do_not_fit_the_card(card: Path) -> None:
    tensors = load(card.with_suffix(".safetensors").read_bytes())
    name = next(key for key in sorted(tensors) if key.startswith("network.") and tensors[key].dim() > 1)
    for changed in (
        {**tensors, name: tensors[name][..., :1].contiguous()},
        {key: value for key, value in tensors.items() if key != name},
        {**tensors, "network.extra": torch.zeros(3)},
    ):
        with_weights(card, save(changed))
        with pytest.raises(InvalidWeightsError, match="do not fit its card"):
            load_potential(card)

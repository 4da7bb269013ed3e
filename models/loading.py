"""Potentials on disk: a safetensors file of weights beside a JSON card. Nothing is ever unpickled."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import torch
from safetensors.torch import load, save

from equipot.cards import PotentialCard, checked_weights, find_model, read_card
from equipot.elements import NUMBERS
from equipot.errors import InvalidParameterError, InvalidWeightsError
from equipot.models.allocation import keep_memory
from equipot.models.kernels import compiled_kernels
from equipot.models.network import Architecture, Network
from equipot.models.potential import Potential
from equipot.models.reliability import ForceUncertainty, TrainingDomain
from equipot.models.whole_call import WholeCall

DTYPES = {"float64": torch.float64, "float32": torch.float32}
LARGEST_NETWORK = 50_000_000  # parameters; a card that asks for more is refused


def load_potential(
    model: str | os.PathLike[str] = "organic",
    device: str | None = None,
    dtype: str | None = None,
    compile: bool = False,  # torch's name for it
    level_of_theory: str | None = None,
) -> Potential:
    """The potential behind a model name, or the one whose card is at a path ending in .json.

    device None or "auto" means CUDA if there is one, else the CPU; dtype "float64" (default) or "float32". With
    `compile` the pass is compiled for this processor, which takes a minute the first time and is kept in the user's
    cache (`equipot.models.compiled`); on CUDA it is recorded for each shape (`equipot.models.recorded`). Where that
    fails the potential runs eagerly, with a warning.
    `level_of_theory` chooses one of several that the potential was trained on (`card.level_names`); None is the first.
    Raises UnknownModelError, InvalidWeightsError or InvalidParameterError.
    """
    path, card = _card_of(model)
    head = card.head_of(level_of_theory)
    torch_dtype = _dtype(dtype)
    torch_device = resolve_device(device)
    keep_memory()
    tensors = _tensors(path, card)
    network = _network(card, tensors, path)
    domain = None
    if card.domain_threshold is not None:
        domain = TrainingDomain(
            tensors["domain.mean"].to(torch_device, torch_dtype),
            tensors["domain.whitening"].to(torch_device, torch_dtype),
            card.domain_threshold,
        )
    tables = [level.isolated_atom_energies_ev for level in card.levels] or [card.isolated_atom_energies_ev]
    reference_ev = np.full((len(tables), 119), np.nan)
    for row, table in zip(reference_ev, tables, strict=True):
        row[[NUMBERS[symbol] for symbol in table]] = list(table.values())
    network = network.to(torch_device, torch_dtype).eval().requires_grad_(False)
    uncertainty = None
    if card.uncertainty is not None:
        factors = tensors["uncertainty.factors"].to(torch_device, torch.float64)
        uncertainty = ForceUncertainty(factors, card.uncertainty.scales_ev_per_ang)
    faster = _compiled(network, card, torch_dtype, torch_device, domain, uncertainty) if compile else {}
    return Potential(
        card, network, reference_ev, domain, torch_dtype, torch_device, head=head, uncertainty=uncertainty, **faster
    )


def save_potential(
    folder: Path,
    card: PotentialCard,
    network: Network,
    domain: TrainingDomain | None = None,
    uncertainty: ForceUncertainty | None = None,
) -> PotentialCard:
    """Write weights (float32) and card to `folder`; gives the card with the sha256 of the weights in it."""
    tensors = {f"network.{name}": value.detach().float().cpu() for name, value in network.state_dict().items()}
    if domain is not None:
        tensors["domain.mean"] = domain.mean.detach().float().cpu()
        tensors["domain.whitening"] = domain.whitening.detach().float().cpu()
    if uncertainty is not None:
        tensors["uncertainty.factors"] = uncertainty.factors.detach().float().cpu()
    data = save({name: value.contiguous() for name, value in sorted(tensors.items())})
    card = card.model_copy(update={"weights_sha256": hashlib.sha256(data).hexdigest()})
    folder.mkdir(parents=True, exist_ok=True)
    for suffix, content in (
        (".safetensors", data),
        (".json", (card.model_dump_json(indent=2, exclude_none=True) + "\n").encode()),
    ):
        temporary = folder / f".{card.name}{suffix}.tmp"
        temporary.write_bytes(content)
        temporary.replace(folder / f"{card.name}{suffix}")
    return card


def _card_of(model: str | os.PathLike[str]) -> tuple[Path, PotentialCard]:
    path = Path(model)
    if path.suffix == ".json":
        return path, read_card(path)
    return find_model(str(model))


def _compiled(
    network: Network,
    card: PotentialCard,
    dtype: torch.dtype,
    device: torch.device,
    domain: TrainingDomain | None,
    uncertainty: ForceUncertainty | None,
) -> dict[str, Any]:
    """What makes a Potential faster, as far as it can be had here."""
    from equipot.models.compiled import compiled_pass  # only who compiles loads the compiler
    from equipot.models.recorded import recorded_pass

    if device.type == "cuda":
        return {"compiled": recorded_pass(network, card.name)}
    compiled = compiled_pass(network, card.name, card.weights_sha256, dtype)
    kernels = None if compiled is None else compiled_kernels()
    if compiled is None or kernels is None:
        return {"compiled": compiled}
    try:
        call = WholeCall(compiled.runner, kernels, dtype, card.cutoff_ang, domain, uncertainty)
    except AttributeError:  # a torch of another make
        return {"compiled": compiled, "kernels": kernels}
    return {"compiled": compiled, "kernels": kernels, "whole_call": call}


def _dtype(dtype: str | None) -> torch.dtype:
    if (dtype or "float64") not in DTYPES:
        raise InvalidParameterError(
            f"There is no dtype {dtype!r}.", pointer="/dtype", hint="Choose float64 or float32."
        )
    return DTYPES[dtype or "float64"]


def resolve_device(device: str | None) -> torch.device:
    """The device meant: None or "auto" is CUDA if there is one, else the CPU. Raises InvalidParameterError."""
    if device in (None, "auto"):
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device not in ("cpu", "cuda") and not str(device).startswith("cuda:"):
        raise InvalidParameterError(f"There is no device {device!r}.", pointer="/device", hint="auto, cpu or cuda.")
    if str(device).startswith("cuda") and not torch.cuda.is_available():
        raise InvalidParameterError(
            "There is no CUDA device here.", pointer="/device", hint='Use device "auto" or "cpu".'
        )
    return torch.device(str(device))


def _tensors(path: Path, card: PotentialCard) -> dict[str, torch.Tensor]:
    data = checked_weights(path, card)
    try:
        return load(data)
    except (safetensors.SafetensorError, ValueError, KeyError) as error:
        raise InvalidWeightsError(f"{path.with_suffix('.safetensors').name} is not a safetensors file.") from error


def _network(card: PotentialCard, tensors: dict[str, torch.Tensor], path: Path) -> Network:
    try:
        fields = {**card.architecture, "elements": tuple(int(z) for z in card.architecture["elements"])}
        fields["charges"] = tuple(int(q) for q in card.architecture.get("charges", ()))
        architecture = Architecture(**fields)
        if architecture.n_channels**2 * architecture.n_layers * (architecture.l_max + 1) > LARGEST_NETWORK:
            raise InvalidWeightsError(f"{path.name} describes a network beyond {LARGEST_NETWORK} parameters.")
        network = Network(architecture)
        weights = {k.removeprefix("network."): v for k, v in tensors.items() if k.startswith("network.")}
        network.load_state_dict(weights)
    except (TypeError, KeyError, ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise InvalidWeightsError(f"The weights of {path.name} do not fit its card: {reason}") from error
    return network

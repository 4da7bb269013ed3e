"""The gradient of the loss by the weights: computed operation by operation, or compiled for every shape of batch."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import torch

from equipot.models.network import Network
from equipot.models.training.batches import Batch
from equipot.models.training.config import LossPart
from equipot.models.training.losses import loss_of

#: compiling one takes a minute or more: batches of further shapes are computed eagerly
MOST_SHAPES = 4

Value = tuple[torch.Tensor, list[torch.Tensor]]
Gradients = Callable[[Network, Batch, LossPart], Value]


def eager_gradients(network: Network, batch: Batch, loss: LossPart) -> Value:
    """The loss, and its gradient by every parameter."""
    value = loss_of(network, batch, loss)
    # not value.backward(): that would also differentiate forces by positions, which nobody asks for
    return value, list(torch.autograd.grad(value, list(network.parameters())))


class CompiledGradients:
    """`eager_gradients` traced and compiled by inductor, once for each shape of batch, on a CPU.

    Forces are derivatives, so the whole step, derivatives of derivatives included, is traced into one graph first.
    """

    def __init__(self, say: Callable[[str], None], most_shapes: int = MOST_SHAPES) -> None:
        self._say = say
        self._most_shapes = most_shapes
        self._made: dict[Any, Callable[..., list[torch.Tensor]] | None] = {}

    def __call__(self, network: Network, batch: Batch, loss: LossPart) -> Value:
        parameters = [parameter.detach() for parameter in network.parameters()]
        tensors = _tensors(batch)
        key = (
            loss.model_dump_json(),
            batch.n_systems,
            batch.n_labelled,
            parameters[0].dtype,
            *(tensor.shape for tensor in tensors),
        )
        if key not in self._made and len(self._made) < self._most_shapes:
            self._made[key] = self._compiled(network, batch, loss, parameters)
        compiled = self._made.get(key)
        if compiled is None:
            return eager_gradients(network, batch, loss)
        with torch.no_grad():
            value, *gradients = compiled(*parameters, *tensors)
        return value, gradients

    def _compiled(
        self, network: Network, batch: Batch, loss: LossPart, parameters: list[torch.Tensor]
    ) -> Callable[..., list[torch.Tensor]] | None:
        from torch.fx.experimental.proxy_tensor import make_fx

        measure, names = _Measure(network, loss), [f"network.{name}" for name, _ in network.named_parameters()]
        n = len(names)

        def traced(*given: torch.Tensor) -> list[torch.Tensor]:
            weights = [weight.detach().requires_grad_(True) for weight in given[:n]]
            swapped = dict(zip(names, weights, strict=True))
            with torch.enable_grad():
                value = torch.func.functional_call(measure, swapped, (_filled(batch, given[n:]),))
                gradients = torch.autograd.grad(value, weights)
            return [value.detach(), *(gradient.detach() for gradient in gradients)]

        n_atoms, n_slots = batch.inputs[3].shape
        self._say(f"Compiling the step for batches of {n_atoms} atoms with {n_slots} neighbours, once ...")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                given = (*parameters, *_tensors(batch))
                graph = make_fx(traced, tracing_mode="fake", _allow_non_fake_inputs=True)(*given)
                compiled: Callable[..., list[torch.Tensor]] = torch.compile(graph, dynamic=False)
                with torch.no_grad():
                    compiled(*given)
        except Exception as error:  # the compiler's stack raises nearly anything
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            self._say(f"The step could not be compiled and is computed eagerly: {reason}")
            return None
        return compiled


class _Measure(torch.nn.Module):
    """The loss as a module, whose network's weights can be swapped."""

    def __init__(self, network: Network, loss: LossPart) -> None:
        super().__init__()
        self.network, self.loss = network, loss

    def forward(self, batch: Batch) -> torch.Tensor:
        return loss_of(self.network, batch, self.loss)


def _tensors(batch: Batch) -> list[torch.Tensor]:
    """All tensors of a batch, in a fixed order."""
    values = [getattr(batch, field.name) for field in fields(batch)]
    return [*batch.inputs, *(value for value in values if isinstance(value, torch.Tensor))]


def _filled(batch: Batch, tensors: tuple[torch.Tensor, ...]) -> Batch:
    """The batch with these in the place of its own tensors."""
    n = len(batch.inputs)
    names = [field.name for field in fields(batch) if isinstance(getattr(batch, field.name), torch.Tensor)]
    changes: dict[str, Any] = dict(zip(names, tensors[n:], strict=True))
    return replace(batch, inputs=tuple(tensors[:n]), **changes)

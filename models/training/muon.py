"""An optimiser for networks made of small matrices: matrices step by the orthogonal part of their momentum.

Muon (K. Jordan et al., 2024, https://kellerjordan.github.io/posts/muon): the momentum of a matrix, U S Vᵀ, is replaced
by U Vᵀ, found with five Newton-Schulz iterations. All its directions are then learned equally fast, the weak ones too,
which is where the last meV are. Everything that is no matrix takes Adam's step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch

from equipot.models.network import DegreeLinear, ElementLinear, Network

#: Newton-Schulz polynomial a x + b x³ + c x⁵ and the number of iterations (Jordan et al., 2024)
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
N_ITERATIONS = 5
#: size of the entries of a step relative to the learning rate, about that of Adam's
#: (J. Liu et al., Muon is Scalable for LLM Training, arXiv 2502.16982, section 2.2)
STEP_SIZE = 0.2


def orthogonalised(matrices: torch.Tensor) -> torch.Tensor:
    """Nearly U Vᵀ for matrices U S Vᵀ, (..., m, n): singular values between 0.7 and 1.2."""
    a, b, c = COEFFICIENTS
    x = matrices / (torch.linalg.vector_norm(matrices, dim=(-2, -1), keepdim=True) + 1e-12)
    is_tall = x.shape[-2] > x.shape[-1]
    if is_tall:
        x = x.mT
    stack = x.reshape(-1, *x.shape[-2:])
    for _ in range(N_ITERATIONS):
        square = stack @ stack.mT
        polynomial = torch.baddbmm(square, square, square, beta=b, alpha=c)
        stack = torch.baddbmm(stack, polynomial, stack, beta=a)
    direction = stack.view(x.shape)
    return direction.mT if is_tall else direction


def orthogonalised_together(matrices: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """`orthogonalised` for stacks of matrices; those of one shape, or of its transpose, in one product."""
    by_shape: dict[tuple[int, ...], list[int]] = {}
    for index, stack in enumerate(matrices):
        by_shape.setdefault(tuple(sorted(stack.shape[-2:])), []).append(index)
    directions = list(matrices)
    for indices in by_shape.values():
        stacks = [matrices[i] for i in indices]
        wide = [stack.mT if stack.shape[-2] > stack.shape[-1] else stack for stack in stacks]
        flat = orthogonalised(torch.cat([stack.flatten(0, -3) if stack.dim() > 2 else stack[None] for stack in wide]))
        parts = flat.split([stack.numel() // (stack.shape[-1] * stack.shape[-2]) for stack in wide])
        for i, stack, was_wide, part in zip(indices, stacks, wide, parts, strict=True):
            direction = part.reshape(was_wide.shape)
            directions[i] = direction.mT if stack.shape[-2] > stack.shape[-1] else direction
    return directions


def muon_for(network: Network, lr: float, weight_decay: float = 0.0) -> Muon:
    """Muon for everything of a network that maps channels to channels, Adam for the rest."""
    matrices = [module.weight for module in network.modules() if isinstance(module, (DegreeLinear, ElementLinear))]
    matrices.append(network.hidden_readout)
    chosen = {id(matrix) for matrix in matrices}
    return Muon(matrices, [p for p in network.parameters() if id(p) not in chosen], lr, weight_decay)


class Muon(torch.optim.Optimizer):
    """Muon for `matrices` (stacks of matrices in the last two dimensions), which decay, and Adam for `others`."""

    def __init__(
        self,
        matrices: Iterable[torch.nn.Parameter],
        others: Iterable[torch.nn.Parameter],
        lr: float,
        weight_decay: float = 0.0,
        momentum: float = 0.95,
        second_moment: float = 0.999,
    ) -> None:
        groups: list[dict[str, Any]] = [
            {"params": list(matrices), "is_matrix": True},
            {"params": list(others), "is_matrix": False, "weight_decay": 0.0},
        ]
        defaults = {"lr": lr, "weight_decay": weight_decay, "betas": (momentum, second_moment)}
        super().__init__([group for group in groups if group["params"]], defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One step for every parameter that has a gradient. The learning rate may be a tensor on its device."""
        if closure is not None:
            raise NotImplementedError("Muon takes no closure.")
        for group in self.param_groups:
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            if parameters:
                (self._step_matrices if group["is_matrix"] else self._step_adam)(parameters, group)

    def _step_matrices(self, parameters: list[torch.Tensor], group: dict[str, Any]) -> None:
        beta, rate = group["betas"][0], group["lr"]
        gradients = [_gradient(parameter) for parameter in parameters]
        momenta = [self._memory(parameter, "momentum")["momentum"] for parameter in parameters]
        torch._foreach_mul_(momenta, beta)
        torch._foreach_add_(momenta, gradients)
        directions = orthogonalised_together(torch._foreach_add(gradients, torch._foreach_mul(momenta, beta)))
        if group["weight_decay"]:
            torch._foreach_mul_(parameters, 1.0 - rate * group["weight_decay"])
        for parameter, direction in zip(parameters, directions, strict=True):
            parameter.sub_(direction * (rate * STEP_SIZE * max(parameter.shape[-2:]) ** 0.5))

    def _step_adam(self, parameters: list[torch.Tensor], group: dict[str, Any]) -> None:
        first, second = group["betas"]
        gradients = [_gradient(parameter) for parameter in parameters]
        memories = [self._memory(parameter, "exp_avg", "exp_avg_sq") for parameter in parameters]
        for parameter, memory in zip(parameters, memories, strict=True):
            memory.setdefault("step", torch.zeros((), dtype=torch.float64, device=parameter.device))
        means, squares = ([memory[name] for memory in memories] for name in ("exp_avg", "exp_avg_sq"))
        torch._foreach_add_([memory["step"] for memory in memories], 1.0)
        torch._foreach_lerp_(means, gradients, 1.0 - first)
        torch._foreach_lerp_(squares, torch._foreach_mul(gradients, gradients), 1.0 - second)
        n_steps = memories[0]["step"]  # all parameters get a gradient in every step
        steps = torch._foreach_div(means, (1.0 - first**n_steps).to(means[0].dtype))
        sizes = torch._foreach_sqrt(torch._foreach_div(squares, (1.0 - second**n_steps).to(squares[0].dtype)))
        torch._foreach_add_(sizes, 1e-8)
        torch._foreach_div_(steps, sizes)
        torch._foreach_mul_(steps, group["lr"])
        torch._foreach_sub_(parameters, steps)

    def _memory(self, parameter: torch.Tensor, *names: str) -> dict[str, torch.Tensor]:
        """What is remembered of a parameter, zeros at first."""
        memory: dict[str, torch.Tensor] = self.state[parameter]
        for name in names:
            if name not in memory:
                memory[name] = torch.zeros_like(parameter)
        return memory


def _gradient(parameter: torch.Tensor) -> torch.Tensor:
    assert parameter.grad is not None
    return parameter.grad

"""An optimiser for networks made of small matrices: matrices step by the orthogonal part of their momentum.

Muon (K. Jordan et al., 2024, https://kellerjordan.github.io/posts/muon): the momentum of a matrix, U S Vᵀ, is replaced
by U Vᵀ, found with five Newton-Schulz iterations. All its directions are then learned equally fast, the weak ones too,
which is where the last meV are. Everything that is no matrix takes Adam's step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
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
    for _ in range(N_ITERATIONS):
        square = x @ x.mT
        x = a * x + (b * square + c * (square @ square)) @ x
    direction: torch.Tensor = x.mT if is_tall else x
    return direction


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
        """One step for every parameter that has a gradient."""
        if closure is not None:
            raise NotImplementedError("Muon takes no closure.")
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                parameter.mul_(1.0 - group["lr"] * group["weight_decay"])
                (self._step_matrix if group["is_matrix"] else self._step_adam)(parameter, group)

    def _step_matrix(self, parameter: torch.nn.Parameter, group: dict[str, Any]) -> None:
        gradient, state = parameter.grad, self.state[parameter]
        assert gradient is not None
        if not state:
            state["momentum"] = torch.zeros_like(parameter)
        beta = group["betas"][0]
        state["momentum"].mul_(beta).add_(gradient)
        direction = orthogonalised(gradient + beta * state["momentum"])
        parameter.sub_(direction, alpha=group["lr"] * STEP_SIZE * max(parameter.shape[-2:]) ** 0.5)

    def _step_adam(self, parameter: torch.nn.Parameter, group: dict[str, Any]) -> None:
        gradient, state = parameter.grad, self.state[parameter]
        assert gradient is not None
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float64, device=parameter.device)
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
        first, second = group["betas"]
        state["step"] += 1
        state["exp_avg"].lerp_(gradient, 1.0 - first)
        state["exp_avg_sq"].lerp_(gradient.square(), 1.0 - second)
        mean = state["exp_avg"] / (1.0 - first ** state["step"]).to(parameter.dtype)
        size = (state["exp_avg_sq"] / (1.0 - second ** state["step"]).to(parameter.dtype)).sqrt()
        parameter.sub_(mean / (size + 1e-8), alpha=group["lr"])

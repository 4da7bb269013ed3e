"""The optimiser: what a step is, that it finds minima, and that its memory can be saved."""

from __future__ import annotations

import pytest
import torch

from equipot.models.training.muon import Muon, muon_for, orthogonalised
from tests.models.conftest import small_network


@pytest.mark.parametrize("shape", [(3, 40, 12), (3, 12, 40), (16, 16)])
def test_the_direction_of_a_matrix_is_nearly_orthogonal_and_keeps_its_singular_vectors(shape: tuple[int, ...]) -> None:
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    u, _, v = torch.linalg.svd(matrices, full_matrices=False)
    between = u.mT @ orthogonalised(matrices) @ v.mT
    singular = between.diagonal(dim1=-2, dim2=-1)
    assert float(singular.min()) > 0.3  # the smallest singular values of a square matrix are not quite there yet
    assert float(singular.max()) < 1.3
    assert float((between - torch.diag_embed(singular)).abs().max()) < 1e-9


def test_a_stack_of_matrices_takes_the_steps_each_would_take_alone() -> None:
    torch.manual_seed(1)
    stack = torch.randn(3, 10, 6)
    assert torch.allclose(orthogonalised(stack)[1], orthogonalised(stack[1]), atol=1e-6)


def _problem() -> tuple[torch.nn.Parameter, torch.nn.Parameter, torch.Tensor, torch.Tensor]:
    """A least-squares fit whose directions differ in weight by a factor of a thousand."""
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(200, 12, generator=generator, dtype=torch.float64) * torch.logspace(0, -3, 12, dtype=torch.float64)
    y = x @ torch.randn(12, 5, generator=generator, dtype=torch.float64) + 0.3
    matrix, offset = torch.zeros(12, 5, dtype=torch.float64), torch.zeros(5, dtype=torch.float64)
    return torch.nn.Parameter(matrix), torch.nn.Parameter(offset), x, y


def _fit(n_steps: int, break_at: int | None = None) -> tuple[float, torch.Tensor]:
    matrix, offset, x, y = _problem()
    optimiser = Muon([matrix], [offset], lr=0.1)
    loss = torch.zeros(())
    for step in range(n_steps):
        if step == break_at:
            saved = optimiser.state_dict()
            optimiser = Muon([matrix], [offset], lr=0.1)
            optimiser.load_state_dict(saved)
        for group in optimiser.param_groups:
            group["lr"] = 0.1 * (1.0 - step / n_steps)
        optimiser.zero_grad()
        loss = (x @ matrix + offset - y).square().mean()
        loss.backward()
        optimiser.step()
    return float(loss.detach()), matrix.detach()


def test_directions_that_matter_little_are_learned_too() -> None:
    loss, _ = _fit(400)
    assert loss < 1e-5


def test_a_run_whose_memory_was_saved_and_loaded_ends_in_the_same_bits() -> None:
    assert torch.equal(_fit(50)[1], _fit(50, break_at=20)[1])


def test_weight_decay_shrinks_matrices_without_a_gradient_and_nothing_else() -> None:
    matrix, other = torch.nn.Parameter(torch.ones(4, 4)), torch.nn.Parameter(torch.ones(4))
    optimiser = Muon([matrix], [other], lr=0.01, weight_decay=0.5)
    matrix.grad, other.grad = torch.zeros(4, 4), torch.zeros(4)
    optimiser.step()
    assert torch.allclose(matrix.detach(), torch.full((4, 4), 0.995))
    assert torch.equal(other.detach(), torch.ones(4))


def test_every_weight_of_a_network_is_stepped_once() -> None:
    network = small_network(n_tensor_channels=2, mixes_by_element=True)
    matrices, others = (group["params"] for group in muon_for(network, lr=0.01).param_groups)
    assert sorted(map(id, [*matrices, *others])) == sorted(map(id, network.parameters()))
    assert all(matrix.shape[-2] > 1 and matrix.shape[-1] > 1 for matrix in matrices)
    assert any(p is network.hidden_readout for p in matrices)

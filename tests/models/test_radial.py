"""Functions of the distance: smoothness at both ends, and the repulsion of nuclei."""

from __future__ import annotations

import pytest
import torch

from equipot.models.radial import SWITCH_OFF, SWITCH_ON, BesselBasis, Repulsion, envelope, smooth_step


def derivatives(function: object, x: float) -> list[float]:
    """Value, first and second derivative at x."""
    at = torch.tensor(x, dtype=torch.float64, requires_grad=True)
    value = function(at)  # type: ignore[operator]
    (first,) = torch.autograd.grad(value, at, create_graph=True)
    (second,) = torch.autograd.grad(first, at)
    return [float(value.detach()), float(first.detach()), float(second)]


def test_the_envelope_ends_with_two_continuous_derivatives() -> None:
    assert derivatives(envelope, 1.0 - 1e-12) == pytest.approx([0.0, 0.0, 0.0], abs=1e-8)
    assert float(envelope(torch.tensor(0.0))) == 1.0
    assert float(envelope(torch.tensor(1.3))) == 0.0


def test_the_step_begins_and_ends_with_two_continuous_derivatives() -> None:
    assert derivatives(smooth_step, 1e-9) == pytest.approx([0.0, 0.0, 0.0], abs=1e-6)
    assert derivatives(smooth_step, 1.0 - 1e-9) == pytest.approx([1.0, 0.0, 0.0], abs=1e-6)


def test_the_radial_basis_vanishes_at_the_cutoff() -> None:
    basis = BesselBasis(8, 5.0)
    assert float(basis(torch.tensor([4.999], dtype=torch.float64)).abs().max()) < 1e-8
    assert float(basis(torch.tensor([5.5], dtype=torch.float64)).abs().max()) == 0.0


def test_nuclei_repel_as_the_published_formula_says() -> None:
    """Carbon and oxygen at 0.5 Å: V = 14.39964 * 48 / r φ(r/a) with a = 0.8854 a_0/(6^0.23 + 8^0.23), by hand."""
    repulsion = Repulsion([6, 8])
    pair = (torch.tensor([0]), torch.tensor([1]))
    at = torch.tensor([0.5], dtype=torch.float64)
    length = 0.8854 * 0.529177 / (6**0.23 + 8**0.23)
    phi = sum(
        w * float(torch.exp(torch.tensor(-d * 0.5 / length, dtype=torch.float64)))
        for w, d in ((0.18175, 3.19980), (0.50986, 0.94229), (0.28022, 0.40290), (0.02817, 0.20162))
    )
    bare = 14.3996454784 * 48 / 0.5 * phi
    faded = bare * float(envelope(at / (0.76 + 0.66)))
    assert float(repulsion(at, pair)) == pytest.approx(faded, rel=1e-4)


def test_the_learned_part_is_gone_when_two_nuclei_meet_and_whole_in_a_bond() -> None:
    repulsion = Repulsion([6, 8])
    pair = (torch.tensor([0]), torch.tensor([1]))
    reach = 0.76 + 0.66
    inside, outside = torch.tensor([0.99 * SWITCH_OFF * reach]), torch.tensor([1.01 * SWITCH_ON * reach])
    assert float(repulsion.switch(inside.double(), pair)) == 0.0
    assert float(repulsion.switch(outside.double(), pair)) == 1.0

"""FIRE and L-BFGS, with and without cell filters, follow ASE's step by step to the same minimum."""

from __future__ import annotations

import pytest

from .relaxation_set import ASE_OPTIMIZERS, SET, difference

#: the tiny potential was made for few of these structures, and its paths are compared, not believed
pytestmark = pytest.mark.filterwarnings("ignore::equipot.calculator.base.OutsideTrainingDomainWarning")

SAME_STEPS_ANG = 1e-6  # rounding grows along the way; the steps themselves are the same formulas
SAME_ENERGY_EV_PER_ATOM = 1e-5

OPEN = ("water", "acetic acid, a carbon fixed", "copper cluster", "copper slab, open")  # they have no cell to relax
CASES = [
    (name, optimizer, cell_filter)
    for name in SET
    for optimizer in ASE_OPTIMIZERS
    for cell_filter in (("none",) if name in OPEN else ("none", "frechet", "unit_cell"))
]
QUICK = [
    ("water", "lbfgs", "none"),
    ("copper cluster", "fire", "none"),
    ("copper slab, open", "lbfgs", "none"),
    ("water in a box", "lbfgs", "frechet"),
    ("silicon, skewed", "lbfgs", "unit_cell"),
    ("copper, an atom fixed", "lbfgs", "frechet"),
    ("nickel, one atom", "fire", "unit_cell"),
    ("nickel, one atom", "lbfgs", "frechet"),
    ("aluminium", "lbfgs", "unit_cell"),
]


@pytest.mark.parametrize(
    ("name", "optimizer", "cell_filter"),
    [case if case in QUICK else pytest.param(*case, marks=pytest.mark.long) for case in CASES],
)
def test_a_relaxation_is_that_of_ase(name: str, optimizer: str, cell_filter: str) -> None:
    """The figures of each case are shown by -rP."""
    found = difference(name, optimizer, cell_filter)
    print(name, optimizer, cell_filter, found)
    assert found.both_converged
    assert found.farthest_ang < SAME_STEPS_ANG
    assert found.same_length, f"{found.n_steps} steps, {found.n_steps_ase} by ASE"
    assert found.energy_ev_per_atom < SAME_ENERGY_EV_PER_ATOM

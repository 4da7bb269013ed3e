"""How a job ends, and which moves between states there are."""

from __future__ import annotations

import pytest

from equipot.service.states import LEGAL_MOVES, TERMINAL, UNUSABLE_OUTCOMES, USABLE_OUTCOMES, JobState, derive_job_state
from equipot.simulation.verdicts import Outcome


@pytest.mark.parametrize(
    ("outcomes", "state"),
    [
        ({"converged": 3}, "succeeded"),
        ({"converged": 1, "max_steps": 1, "completed": 1}, "succeeded"),
        ({"converged": 1, "diverged": 1}, "partially_succeeded"),
        ({"completed": 99, "rejected": 1}, "partially_succeeded"),
        ({"guard_stopped": 2, "failed": 1}, "failed"),
        ({"converged": 5, "cancelled": 1}, "cancelled"),
        ({}, "failed"),
    ],
)
def test_a_job_has_succeeded_only_if_every_system_has_a_usable_result(outcomes: dict[str, int], state: str) -> None:
    assert derive_job_state(outcomes) == state


def test_a_job_that_was_done_before_cancel_reached_it_has_not_been_cancelled() -> None:
    assert derive_job_state({"completed": 2}, cancelled=False) == JobState.SUCCEEDED
    assert derive_job_state({"completed": 2}, cancelled=True) == JobState.CANCELLED


def test_every_outcome_a_system_can_have_decides_about_its_job() -> None:
    assert {outcome.value for outcome in Outcome} == USABLE_OUTCOMES | UNUSABLE_OUTCOMES | {"cancelled"}


def test_every_state_has_its_moves_and_from_every_one_a_job_can_end() -> None:
    assert set(LEGAL_MOVES) == set(JobState)
    for state, moves in LEGAL_MOVES.items():
        assert state not in moves
        assert state in TERMINAL or moves >= {JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED}

"""The states of a job, the moves between them, and how a job ends given what became of its systems."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum


class JobState(StrEnum):
    """Where a job is. The value is what the API shows."""

    QUEUED = "queued"  #: waits for a worker; also after a worker handed it back or was lost
    STARTING = "starting"  #: a worker has it and loads the potential
    RUNNING = "running"  #: at least one shard is being computed
    CANCELLING = "cancelling"  #: cancel was asked for, a worker still has to stop
    SUCCEEDED = "succeeded"  #: every system converged, completed or reached max_steps
    PARTIALLY_SUCCEEDED = "partially_succeeded"  #: some systems have a usable result, some do not
    FAILED = "failed"  #: no system has a usable result; `error` says why
    CANCELLED = "cancelled"  #: stopped on request; what was computed until then is kept

    @property
    def is_terminal(self) -> bool:
        """Whether nothing more happens by itself."""
        return self in TERMINAL


class ShardState(StrEnum):
    """Where a shard is."""

    PENDING = "pending"  #: waits for a worker
    RUNNING = "running"  #: leased by a worker
    DONE = "done"  #: its result is committed
    FAILED = "failed"  #: it ended with a problem
    CANCELLED = "cancelled"  #: it was stopped, or never started, because cancel was asked for


TERMINAL = frozenset({JobState.SUCCEEDED, JobState.PARTIALLY_SUCCEEDED, JobState.FAILED, JobState.CANCELLED})

#: From where to where a job may go. `resume` leads from an unsuccessful end to the queue, `extend` from a good one.
LEGAL_MOVES: Mapping[JobState, frozenset[JobState]] = {
    JobState.QUEUED: frozenset({JobState.STARTING, JobState.CANCELLED, *TERMINAL}),
    JobState.STARTING: frozenset({JobState.RUNNING, JobState.QUEUED, JobState.CANCELLING, *TERMINAL}),
    JobState.RUNNING: frozenset({JobState.STARTING, JobState.QUEUED, JobState.CANCELLING, *TERMINAL}),
    JobState.CANCELLING: TERMINAL,
    JobState.SUCCEEDED: frozenset({JobState.QUEUED}),
    JobState.PARTIALLY_SUCCEEDED: frozenset({JobState.QUEUED}),
    JobState.FAILED: frozenset({JobState.QUEUED}),
    JobState.CANCELLED: frozenset({JobState.QUEUED}),
}

USABLE_OUTCOMES = frozenset({"converged", "completed", "max_steps"})
UNUSABLE_OUTCOMES = frozenset({"guard_stopped", "diverged", "rejected", "failed"})


def derive_job_state(outcomes: Mapping[str, int], *, cancelled: bool = False) -> JobState:
    """How a job has ended, from the number of systems of each outcome.

    `cancelled` says that a shard was stopped on request; a job whose systems all ended before the request reached
    them has not been cancelled.
    """
    if cancelled or outcomes.get("cancelled"):
        return JobState.CANCELLED
    usable = sum(outcomes.get(outcome, 0) for outcome in USABLE_OUTCOMES)
    if usable == sum(outcomes.values()) and usable:
        return JobState.SUCCEEDED
    return JobState.PARTIALLY_SUCCEEDED if usable else JobState.FAILED

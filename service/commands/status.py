"""What the exit status of a command means. Scripts count on it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import IntEnum
from typing import Any

from equipot.errors import EquipotError, InputError


class ExitStatus(IntEnum):
    """How a command ended. Stopped by a signal it is 128 + its number, as shells have it."""

    OK = 0  #: everything that was asked for was done, and relaxations converged
    FAILED = 1  #: something could not be computed or done
    WRONG_INPUT = 2  #: a file, a parameter or the command is wrong; nothing was started
    NOT_CONVERGED = 3  #: usable results, but a relaxation used up its steps
    NO_SERVICE = 4  #: the service does not answer, is full or lets nobody in; the same command may work later
    INTERRUPTED = 130  #: Ctrl-C, after a checkpoint
    TERMINATED = 143  #: SIGTERM, after a checkpoint


EXIT_STATUS = (
    "Exit status: 0 all well, 1 something failed, 2 wrong input, 3 not converged, 4 no service, "
    "130 interrupted (143 by SIGTERM), with a checkpoint."
)
NO_SERVICE_CODES = frozenset(
    {"unavailable", "queue-full", "rate-limited", "quota-exceeded", "unauthorized", "forbidden"}
)
BAD_OUTCOMES = frozenset({"guard_stopped", "diverged", "rejected", "failed", "cancelled"})


def of_error(error: EquipotError) -> ExitStatus:
    """The status after an error."""
    if isinstance(error, InputError):
        return ExitStatus.WRONG_INPUT
    return ExitStatus.NO_SERVICE if error.code in NO_SERVICE_CODES else ExitStatus.FAILED


def of_results(results: Sequence[Mapping[str, Any]]) -> ExitStatus:
    """The status after a run: of the worst that became of a system."""
    return of_outcomes({result["outcome"]: 1 for result in results})


def of_outcomes(outcomes: Mapping[str, int]) -> ExitStatus:
    """The same from the number of systems of each outcome."""
    if not outcomes or outcomes.keys() & BAD_OUTCOMES:
        return ExitStatus.FAILED
    return ExitStatus.NOT_CONVERGED if "max_steps" in outcomes else ExitStatus.OK

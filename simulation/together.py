"""Several runs that advance in the same evaluations: continuous batching."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from equipot.simulation.providers import Evaluation, System
from equipot.simulation.run import Run


def advance_together(runs: Sequence[Run], seconds: float, most_atoms: int | None = None) -> dict[Run, Exception]:
    """Take steps with runs of one force provider, until the time is used up or one of them has ended.

    Returns the runs in which something went wrong, with what it was; the others have gone on.
    """
    begun = time.monotonic()
    failed: dict[Run, Exception] = {}
    while not failed and not any(run.done for run in runs):
        if len(runs) == 1:
            _try(failed, runs[0], lambda: runs[0].advance(seconds=seconds, most_atoms=most_atoms))
        else:
            _step(runs, most_atoms, failed)
        if time.monotonic() - begun >= seconds:
            break
    return failed


def _step(runs: Sequence[Run], most_atoms: int | None, failed: dict[Run, Exception]) -> None:
    views: dict[Run, list[System]] = {}
    for run in runs:
        _try(failed, run, lambda run=run: views.update({run: run.begin_step(most_atoms)}))  # type: ignore[misc]
    try:
        found = iter(runs[0].provider.evaluate([view for each in views.values() for view in each]))
    except Exception:  # nobody has moved: let each try by itself, so that only the culprit fails
        for run in views:
            _try(failed, run, lambda run=run: run.advance(steps=1, most_atoms=most_atoms))  # type: ignore[misc]
        return
    shares: dict[Run, list[Evaluation]] = {run: [next(found) for _ in each] for run, each in views.items()}
    for run, share in shares.items():
        _try(failed, run, lambda run=run, share=share: run.end_step(share))  # type: ignore[misc]


def _try(failed: dict[Run, Exception], run: Run, action: Callable[[], object]) -> None:
    try:
        action()
    except ConnectionError:
        raise
    except Exception as error:
        failed[run] = error

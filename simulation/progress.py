"""How far a run is. No torch and no ASE: the client of a service says the same."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Progress:
    """How far a run is. `step` is the smallest of a system that has not ended; of an ended run, the largest taken."""

    step: int
    n_steps: int
    n_systems: int
    n_done: int
    n_max_steps: int

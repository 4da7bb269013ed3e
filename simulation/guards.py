"""Limits watched while a system runs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from equipot.pairs import closest_pair
from equipot.params import Guard, Guards
from equipot.simulation.motions.base import Motion, State
from equipot.structure import Structure


@dataclass(frozen=True)
class Crossing:
    """A limit that was crossed: what, where it is, how far the system went, and whether that ends it."""

    guard: str
    limit: float
    value: float
    step: int
    stops: bool

    @property
    def sentence(self) -> str:
        return f"{self.guard} is {self.value:.6g} at step {self.step} (limit {self.limit:g})."


def crossings(
    guards: Guards, structure: Structure, motion: Motion, state: State, start_conserved_ev: float | None
) -> Iterator[Crossing]:
    """Every limit that this state crosses and whose policy is not to ignore it."""
    for name, guard in _active(guards):
        value = _value(name, guard, structure, motion, state, start_conserved_ev)
        if value is not None and (value < guard.limit if name == "min_distance_ang" else value > guard.limit):
            yield Crossing(name, guard.limit, value, state.step, guard.policy == "stop")


def _active(guards: Guards) -> Iterator[tuple[str, Guard]]:
    for name in type(guards).model_fields:
        guard: Guard | None = getattr(guards, name)
        if guard is not None and guard.policy != "ignore":
            yield name, guard


def _value(
    name: str, guard: Guard, structure: Structure, motion: Motion, state: State, start_conserved_ev: float | None
) -> float | None:
    if name == "max_force_ev_per_ang":
        return motion.fmax_ev_per_ang(state)
    if name == "max_temperature_k":
        return motion.temperature_k(state)
    if name == "min_distance_ang":
        pair = closest_pair(state.positions_ang, state.cell_ang, structure.pbc, guard.limit)
        return None if pair is None else pair.distance_ang
    if name == "max_drift_ev_per_atom":
        now = motion.conserved_ev(state)
        if now is None or start_conserved_ev is None:
            return None
        return abs(now - start_conserved_ev) / structure.n_atoms
    if name == "max_displacement_ang":
        moved = state.positions_ang - structure.positions_ang
        return float(np.sqrt((moved * moved).sum(axis=1)).max(initial=0.0))
    if name == "max_domain_distance":
        return state.evaluation.domain_distance if state.evaluation is not None else None
    raise AssertionError(f"no guard is called {name}")

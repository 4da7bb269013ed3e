"""Limits watched while a system runs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from equipot.pairs import closest_pair
from equipot.params import Guard, Guards
from equipot.simulation.motions.base import Motion, State, largest_norm
from equipot.structure import Structure

SMALLEST = "min_distance_ang"  #: the one limit that is crossed downwards


@dataclass(frozen=True)
class Crossing:
    """A limit that was crossed: what, where it is, how far the system went, and whether that ends it."""

    name: str
    limit: float
    value: float
    step: int
    stops: bool

    @property
    def sentence(self) -> str:
        return f"{self.name} is {self.value:.6g} at step {self.step} (limit {self.limit:g})."


@dataclass(frozen=True, eq=False)
class Watchman:
    """The guards of one system whose policy is not to ignore, and where the system started."""

    guards: tuple[tuple[str, Guard], ...]
    structure: Structure

    @classmethod
    def of(cls, guards: Guards, structure: Structure) -> Watchman:
        chosen = ((name, getattr(guards, name)) for name in type(guards).model_fields)
        return cls(tuple((name, g) for name, g in chosen if g is not None and g.policy != "ignore"), structure)

    def crossings(self, motion: Motion, state: State, start_conserved_ev: float | None) -> Iterator[Crossing]:
        """Every limit that this state crosses."""
        for name, guard in self.guards:
            value = self._value(name, guard, motion, state, start_conserved_ev)
            if value is not None and (value < guard.limit if name == SMALLEST else value > guard.limit):
                yield Crossing(name, guard.limit, value, state.step, guard.policy == "stop")

    def _value(
        self, name: str, guard: Guard, motion: Motion, state: State, start_conserved_ev: float | None
    ) -> float | None:
        """What a guard looks at; None where there is nothing of the kind."""
        if name == "max_force_ev_per_ang":
            return motion.fmax_ev_per_ang(state)
        if name == "max_temperature_k":
            return motion.temperature_k(state)
        if name == SMALLEST:
            pair = closest_pair(state.positions_ang, state.cell_ang, self.structure.pbc, guard.limit)
            return None if pair is None else pair.distance_ang
        if name == "max_drift_ev_per_atom":
            now = motion.conserved_ev(state)
            if now is None or start_conserved_ev is None:
                return None
            return abs(now - start_conserved_ev) / self.structure.n_atoms
        if name == "max_displacement_ang":
            return _largest_displacement_ang(self.structure, state)
        if name == "max_domain_distance":
            return state.evaluation.domain_distance if state.evaluation is not None else None
        if name == "max_uncertainty_ev_per_ang":
            return state.evaluation.uncertainty_ev_per_ang if state.evaluation is not None else None
        raise AssertionError(f"no guard is called {name}")


def _largest_displacement_ang(start: Structure, state: State) -> float:
    """The longest way of an atom, less what it was carried along by a cell that changed."""
    home = start.positions_ang
    before, now = start.cell_ang, state.cell_ang
    if start.is_periodic and before is not None and now is not None and not np.array_equal(before, now):
        home = home @ np.linalg.solve(before, now)
    moved = state.positions_ang - home
    return largest_norm(moved)

"""A single point: one evaluation and the end."""

from __future__ import annotations

from typing import ClassVar

from equipot.simulation.motions.base import Bodies, State, Timeless
from equipot.simulation.verdicts import Outcome, Verdict
from equipot.structure import Structure


class SinglePoint(Timeless):
    """Nothing moves."""

    name: ClassVar[str] = "singlepoint"
    format_version: ClassVar[int] = 1

    def __init__(self, structure: Structure) -> None:
        self._structure = structure
        self._bodies = Bodies.of(structure)

    def start(self) -> State:
        return State(0, self._structure.positions_ang, self._structure.cell_ang, self._structure.velocities_ang_per_fs)

    def move(self, state: State) -> State:
        raise AssertionError("a single point ends at step 0")

    def settle(self, moved: State) -> State:
        return moved

    def verdict(self, state: State) -> Verdict | None:
        return Verdict(Outcome.COMPLETED, "one evaluation")

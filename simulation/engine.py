"""The engine: many systems, each moving by its own parameters, one call for forces per step."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field, replace
from itertools import count

import numpy as np

from equipot.errors import DivergedError, EquipotError, NonFiniteError
from equipot.params import Guards
from equipot.simulation.guards import Crossing, crossings
from equipot.simulation.motions.base import Motion, State
from equipot.simulation.providers import Evaluation, ForceProvider, System
from equipot.simulation.verdicts import Outcome, Verdict
from equipot.structure import Structure

LARGEST_COORDINATE_ANG = 1.0e6
_run_numbers = count()


@dataclass(frozen=True)
class Watch:
    """What is remembered of a system beside its state: for guards and warnings. It is part of a checkpoint."""

    start_conserved_ev: float | None = None
    domain_distance: float | None = None  #: the largest seen
    domain_step: int | None = None  #: where it was first above 1
    warned: tuple[str, ...] = ()  #: sentences of guards that warn, the first crossing of each
    warned_guards: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Moving:
    """One system in the engine."""

    idx: int
    structure: Structure
    motion: Motion
    state: State
    guards: Guards = field(default_factory=Guards)
    watch: Watch = field(default_factory=Watch)


@dataclass(frozen=True, eq=False)
class StepEvent:
    """What one engine step made of one system: its complete new state, new warnings, and its end if it ended.

    After a failure the state is the last good one; its evaluation is None only if there never was one.
    """

    system: Moving
    warnings: tuple[str, ...] = ()
    verdict: Verdict | None = None

    @property
    def advanced(self) -> bool:
        """False if the step failed and the state is an old one."""
        return self.verdict is None or self.verdict.outcome not in (Outcome.FAILED, Outcome.DIVERGED)


class Engine:
    """Systems join with `add`, advance together with `step`, and leave when they end.

    No system depends on its company: each has its own parameters, state and noise, and an error or NaN ends only the
    system it belongs to. If `step` raises, no system has moved.
    """

    def __init__(self, provider: ForceProvider) -> None:
        self._provider = provider
        self._run_number = next(_run_numbers)
        self._systems: dict[int, Moving] = {}

    @property
    def systems(self) -> dict[int, Moving]:
        """The systems still moving, by index."""
        return dict(self._systems)

    def add(self, system: Moving) -> None:
        """Let a system join; it is evaluated where it stands in the next step if its forces are not known yet."""
        assert system.idx not in self._systems
        self._systems[system.idx] = system

    def remove(self, idx: int) -> Moving:
        """Take a system out."""
        self._provider.forget(self._key(idx))
        return self._systems.pop(idx)

    def step(self) -> list[StepEvent]:
        """Advance every system by one step; a system that just joined is evaluated at step 0 instead."""
        with np.errstate(all="ignore"):  # what is not finite is looked for below, system by system
            moved = {idx: self._moved(system) for idx, system in self._systems.items()}
            asked = [idx for idx, state in moved.items() if _in_bounds(state)]
            views = [self._view(idx, moved[idx]) for idx in asked]
            evaluations = dict(zip(asked, self._provider.evaluate(views) if views else [], strict=True))
            events = [self._judge(system, moved[idx], evaluations.get(idx)) for idx, system in self._systems.items()]
        self._systems = {event.system.idx: event.system for event in events if event.verdict is None}
        for event in events:
            if event.verdict is not None:
                self._provider.forget(self._key(event.system.idx))
        return events

    def _view(self, idx: int, state: State) -> System:
        return System.of(self._systems[idx].structure, self._key(idx), state.positions_ang, state.cell_ang)

    def _key(self, idx: int) -> Hashable:
        return (self._run_number, idx)

    def _moved(self, system: Moving) -> State:
        return system.state if system.state.evaluation is None else system.motion.move(system.state)

    def _judge(self, system: Moving, moved: State, evaluation: Evaluation | None) -> StepEvent:
        problem = _problem(evaluation, moved.step)
        if evaluation is None or problem is not None:
            return StepEvent(system, verdict=_failure(problem or _left_space(moved), moved.step))
        state = moved.evaluated(evaluation)
        if system.state.evaluation is not None:
            state = system.motion.settle(state)
        watch, warnings, stopping = _watched(system, state)
        verdict = system.motion.verdict(state)
        if stopping is not None and (verdict is None or verdict.outcome != Outcome.CONVERGED):
            verdict = _guard_verdict(stopping)
        return StepEvent(replace(system, state=state, watch=watch), tuple(warnings), verdict)


def _in_bounds(state: State) -> bool:
    near = bool(np.abs(state.positions_ang).max(initial=0.0) < LARGEST_COORDINATE_ANG)  # False for NaN too
    if state.cell_ang is not None:
        near = near and bool(np.abs(state.cell_ang).max() < LARGEST_COORDINATE_ANG)
    return near and (state.velocities_ang_per_fs is None or bool(np.isfinite(state.velocities_ang_per_fs).all()))


def _left_space(state: State) -> EquipotError:
    lost_cell = state.cell_ang is not None and not np.abs(state.cell_ang).max() < LARGEST_COORDINATE_ANG
    what = "The cell collapsed or exploded" if lost_cell else "Atoms flew apart"
    return DivergedError(f"{what} at step {state.step}.", hint="Use a smaller step, or relax the structure first.")


def _problem(evaluation: Evaluation | None, step: int) -> EquipotError | None:
    if evaluation is None:
        return None
    if evaluation.error is not None:
        return evaluation.error
    if not evaluation.is_finite:
        return NonFiniteError(
            f"Energy or forces are not finite at step {step}.",
            hint="Look at the structure: atoms may be too close or far outside what the potential was made for.",
        )
    return None


def _failure(problem: EquipotError, step: int) -> Verdict:
    """A system that ran and then lost its numbers diverged; one that never had any failed."""
    lost = isinstance(problem, NonFiniteError | DivergedError) and step > 0
    return Verdict(
        Outcome.DIVERGED if lost else Outcome.FAILED, f"finite energy and forces, lost at step {step}", problem
    )


def _watched(system: Moving, state: State) -> tuple[Watch, list[str], Crossing | None]:
    """The watch after this state, warnings that are new, and the guard that stops the system."""
    watch = system.watch
    warnings: list[str] = []
    if watch.start_conserved_ev is None:
        watch = replace(watch, start_conserved_ev=system.motion.conserved_ev(state))
    assert state.evaluation is not None
    distance = state.evaluation.domain_distance
    if distance is not None and (watch.domain_distance is None or distance > watch.domain_distance):
        watch = replace(watch, domain_distance=distance)
    if distance is not None and distance > 1.0 and watch.domain_step is None:
        watch = replace(watch, domain_step=state.step)
        warnings.append(outside_domain(distance, state.step))
    stopping = None
    for crossing in crossings(system.guards, system.structure, system.motion, state, watch.start_conserved_ev):
        if crossing.stops:
            stopping = stopping or crossing
        elif crossing.guard not in watch.warned_guards:
            warnings.append(crossing.sentence)
            watch = replace(
                watch,
                warned=(*watch.warned, crossing.sentence),
                warned_guards=(*watch.warned_guards, crossing.guard),
            )
    return watch, warnings, stopping


def outside_domain(distance: float, step: int) -> str:
    """The warning for a system unlike the training data."""
    return (
        f"Outside the training domain from step {step} on: at its worst {distance:.2f} times as far from the training "
        "data as the border. Energies and forces there are extrapolated."
    )


def _guard_verdict(crossing: Crossing) -> Verdict:
    reason = DivergedError(
        crossing.sentence,
        pointer=f"/params/guards/{crossing.guard}",
        hint="Look at the trajectory; if this is meant, raise the limit or set the policy to warn.",
    )
    sign = ">=" if crossing.guard == "min_distance_ang" else "<="
    return Verdict(Outcome.GUARD_STOPPED, f"{crossing.guard} {sign} {crossing.limit:g}", reason)

"""The engine: many systems, each moving by its own parameters, one call for forces per step."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count

import numpy as np

from equipot.errors import DivergedError, EquipotError, NonFiniteError
from equipot.params import Guards
from equipot.simulation.guards import SMALLEST, Crossing, Watchman
from equipot.simulation.motions.base import Motion, State
from equipot.simulation.providers import Evaluation, EvaluationLine, ForceProvider, System, TakesOneByOne, below
from equipot.simulation.verdicts import GuardReport, Outcome, Verdict
from equipot.structure import Structure

LARGEST_COORDINATE_ANG = 1.0e6
LARGEST_SPEED_ANG_PER_FS = 1.0e6  # 300 times that of light
_run_numbers = count()


@dataclass(frozen=True)
class Watch:
    """What is remembered of a system beside its state: for guards and warnings. It is part of a checkpoint."""

    start_conserved_ev: float | None = None
    domain_distance: float | None = None  #: the largest seen
    domain_step: int | None = None  #: where it was first above 1
    uncertainty_ev_per_ang: float | None = None  #: the largest expected error of a force seen
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


@dataclass(frozen=True, eq=False)
class _Begun:
    """The first half of a step of some systems: where they go next, and what of them is to be evaluated."""

    moved: dict[int, State | EquipotError]
    views: dict[int, System]


class Engine:
    """Systems join with `add`, advance together with `step`, and leave when they end.

    No system depends on its company: each has its own parameters, state and noise, and an error or NaN ends only the
    system it belongs to. If `step` raises, no system has moved.
    """

    def __init__(self, provider: ForceProvider) -> None:
        self._provider = provider
        self._run_number = next(_run_numbers)
        self._systems: dict[int, Moving] = {}
        self._watchmen: dict[int, Watchman] = {}
        self._begun: _Begun | None = None  # the step between its halves

    def __len__(self) -> int:
        """How many systems are still moving."""
        return len(self._systems)

    @property
    def systems(self) -> dict[int, Moving]:
        """The systems still moving, by index."""
        return dict(self._systems)

    def add(self, system: Moving) -> None:
        """Let a system join; it is evaluated where it stands in the next step if its forces are not known yet."""
        assert system.idx not in self._systems
        self._systems[system.idx] = system
        self._watchmen[system.idx] = Watchman.of(system.guards, system.structure)

    def remove(self, idx: int) -> Moving:
        """Take a system out."""
        system = self._systems.pop(idx)
        self._let_go(idx)
        return system

    def step(self, most_atoms: int | None = None) -> list[StepEvent]:
        """Advance every system by one step; a system that just joined is evaluated at step 0 instead.

        For `most_atoms` see `begin_step`.
        """
        views = self.begin_step(most_atoms)
        return self.end_step(self._provider.evaluate(views) if views else [])

    def advance(
        self, goes_on: Callable[[], bool], n_steps: int | None = None, most_atoms: int | None = None
    ) -> Generator[list[StepEvent]]:
        """Steps of every system, `n_steps` of each or until it ends; tells what became of some of them at a time.

        After the first of them, nobody begins a step once `goes_on` says no. Systems take turns in a fixed order, one
        by one if the provider computes ahead, else together as `begin_step` has it. An exception leaves all that was
        not told where it was.
        """
        sizes = [system.structure.n_atoms for system in self._systems.values()]
        if sizes and isinstance(self._provider, TakesOneByOne):
            with self._provider.line(sizes) as line:
                if line is not None:
                    yield from self._one_by_one(line, goes_on, n_steps)
                    return
        n_taken = 0
        while self._systems and (n_taken == 0 or goes_on()) and (n_steps is None or n_taken < n_steps):
            yield self.step(most_atoms)
            n_taken += 1

    def _one_by_one(
        self, line: EvaluationLine, goes_on: Callable[[], bool], n_steps: int | None
    ) -> Generator[list[StepEvent]]:
        waiting = deque(self._systems)
        n_begun = dict.fromkeys(self._systems, 0)
        on_the_way: deque[tuple[int, _Begun]] = deque()
        is_first = True
        while waiting or on_the_way:
            while waiting and len(on_the_way) < line.n_ahead and (is_first or goes_on()):
                idx, is_first = waiting.popleft(), False
                begun = self._begin({idx: self._systems[idx]})
                for view in begun.views.values():
                    line.put(view)
                n_begun[idx] += 1
                on_the_way.append((idx, begun))
            if not on_the_way:
                return
            idx, begun = on_the_way.popleft()
            yield self._end(begun, [line.take() for _ in begun.views])
            if idx in self._systems and (n_steps is None or n_begun[idx] < n_steps):
                waiting.append(idx)

    def begin_step(self, most_atoms: int | None = None) -> list[System]:
        """The first half of a step: where systems go next, which is to be evaluated. Nothing has moved yet.

        With `most_atoms` only the systems next in line move, with so many atoms at most, but one system at least.
        """
        self._begun = self._begin(self._next_in_line(most_atoms))
        return list(self._begun.views.values())

    def end_step(self, found: Sequence[Evaluation]) -> list[StepEvent]:
        """The second half: what the evaluations of `begin_step`'s systems, in their order, make of them."""
        begun, self._begun = self._begun, None
        assert begun is not None
        return self._end(begun, found)

    def _begin(self, chosen: Mapping[int, Moving]) -> _Begun:
        with np.errstate(all="ignore"):  # what is not finite is looked for in the second half, system by system
            moved = {idx: _moved(system) for idx, system in chosen.items()}
            views = {idx: self._view(idx, state) for idx, state in moved.items() if isinstance(state, State)}
        return _Begun(moved, views)

    def _end(self, begun: _Begun, found: Sequence[Evaluation]) -> list[StepEvent]:
        evaluations = dict(zip(begun.views, found, strict=True))
        with np.errstate(all="ignore"):
            events = [
                _judged(self._systems[idx], state, evaluations.get(idx), self._watchmen[idx])
                for idx, state in begun.moved.items()
            ]
        for event in events:  # who moved goes to the end of the line
            system = self._systems.pop(event.system.idx)
            if event.verdict is None:
                self._systems[system.idx] = event.system
            else:
                self._let_go(system.idx)
        return events

    def _next_in_line(self, most_atoms: int | None) -> dict[int, Moving]:
        """The systems whose turn it is; those that move go to the end of the line."""
        if most_atoms is None:
            return self._systems
        chosen: dict[int, Moving] = {}
        n_atoms = 0
        for idx, system in self._systems.items():
            n_atoms += system.structure.n_atoms
            if chosen and n_atoms > most_atoms:
                break
            chosen[idx] = system
        return chosen

    def _view(self, idx: int, state: State) -> System:
        return System.of(self._systems[idx].structure, self._key(idx), state.positions_ang, state.cell_ang)

    def _key(self, idx: int) -> Hashable:
        return (self._run_number, idx)

    def _let_go(self, idx: int) -> None:
        self._watchmen.pop(idx)
        self._provider.forget(self._key(idx))


def _moved(system: Moving) -> State | EquipotError:
    """The next state, not evaluated yet, or why there is none."""
    try:
        moved = system.state if system.state.evaluation is None else system.motion.move(system.state)
    except Exception as error:
        return _step_problem(error, system.state.step + 1)
    return moved if _in_bounds(moved) else _left_space(moved)


def _judged(
    system: Moving, moved: State | EquipotError, evaluation: Evaluation | None, watchman: Watchman
) -> StepEvent:
    """What became of a system in a step; whatever goes wrong ends this system and no other."""
    if isinstance(moved, EquipotError):
        step = system.state.step + (system.state.evaluation is not None)
        return StepEvent(system, verdict=_failure(moved, step))
    assert evaluation is not None
    problem = _problem(evaluation, moved.step)
    if problem is not None:
        return StepEvent(system, verdict=_failure(problem, moved.step))
    try:
        state = moved.evaluated(evaluation)
        if system.state.evaluation is not None:
            state = system.motion.settle(state)
        if not below(state.velocities_ang_per_fs, LARGEST_SPEED_ANG_PER_FS):
            return StepEvent(system, verdict=_failure(_left_space(state), state.step))
        watch, warnings, stopping = _watched(system, state, watchman)
        verdict = system.motion.verdict(state) if stopping is None else _guard_verdict(stopping)
    except Exception as error:
        return StepEvent(system, verdict=_failure(_step_problem(error, moved.step), moved.step))
    after = Moving(system.idx, system.structure, system.motion, state, system.guards, watch)
    return StepEvent(after, tuple(warnings), verdict)


def _in_bounds(state: State) -> bool:
    return (
        below(state.positions_ang, LARGEST_COORDINATE_ANG)
        and below(state.cell_ang, LARGEST_COORDINATE_ANG)
        and below(state.velocities_ang_per_fs, LARGEST_SPEED_ANG_PER_FS)
    )


def _step_problem(error: Exception, step: int) -> EquipotError:
    """What went wrong in the arithmetic of a step."""
    if isinstance(error, EquipotError):
        return error
    kind = DivergedError if isinstance(error, ArithmeticError | np.linalg.LinAlgError) else EquipotError
    problem = kind(f"Step {step} could not be taken: {type(error).__name__}: {error}")
    problem.__cause__ = error
    return problem


def _left_space(state: State) -> EquipotError:
    lost_cell = state.cell_ang is not None and not np.abs(state.cell_ang).max() < LARGEST_COORDINATE_ANG
    what = "The cell collapsed or exploded" if lost_cell else "Atoms flew apart"
    return DivergedError(f"{what} at step {state.step}.", hint="Use a smaller step, or relax the structure first.")


def _problem(evaluation: Evaluation, step: int) -> EquipotError | None:
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


def _watched(system: Moving, state: State, watchman: Watchman) -> tuple[Watch, list[str], Crossing | None]:
    """The watch after this state, warnings that are new, and the guard that stops the system."""
    watch = system.watch
    warnings: list[str] = []
    if watch.start_conserved_ev is None and (conserved := system.motion.conserved_ev(state)) is not None:
        watch = replace(watch, start_conserved_ev=conserved)
    assert state.evaluation is not None
    distance = state.evaluation.domain_distance
    if distance is not None and (watch.domain_distance is None or distance > watch.domain_distance):
        watch = replace(watch, domain_distance=distance)
    if distance is not None and distance > 1.0 and watch.domain_step is None:
        watch = replace(watch, domain_step=state.step)
        warnings.append(outside_domain(distance, state.step))
    error = state.evaluation.uncertainty_ev_per_ang
    if error is not None and (watch.uncertainty_ev_per_ang is None or error > watch.uncertainty_ev_per_ang):
        watch = replace(watch, uncertainty_ev_per_ang=error)
    stopping = None
    for crossing in watchman.crossings(system.motion, state, watch.start_conserved_ev):
        if crossing.stops:
            stopping = stopping or crossing
        elif crossing.name not in watch.warned_guards:
            warnings.append(crossing.sentence)
            watch = replace(
                watch,
                warned=(*watch.warned, crossing.sentence),
                warned_guards=(*watch.warned_guards, crossing.name),
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
        pointer=f"/params/guards/{crossing.name}",
        hint="Look at the trajectory; if this is meant, raise the limit or set the policy to warn.",
    )
    sign = ">=" if crossing.name == SMALLEST else "<="
    report = GuardReport(crossing.name, crossing.limit, crossing.value, crossing.step)
    return Verdict(Outcome.GUARD_STOPPED, f"{crossing.name} {sign} {crossing.limit:g}", reason, report)

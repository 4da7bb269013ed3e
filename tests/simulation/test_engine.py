"""No system depends on its company: not on who is there, who joins, who leaves and who breaks."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from equipot.models.loading import load_potential
from equipot.params import Guard, Guards, MDParams, RelaxParams
from equipot.simulation.engine import Engine, Moving
from equipot.simulation.guards import Watchman
from equipot.simulation.motions.base import Motion, State
from equipot.simulation.motions.fire import Fire
from equipot.simulation.motions.langevin import Langevin
from equipot.simulation.motions.single_point import SinglePoint
from equipot.simulation.motions.velocity_verlet import VelocityVerlet
from equipot.simulation.native import NativeProvider
from equipot.simulation.providers import Evaluation, ForceProvider
from equipot.simulation.verdicts import Outcome, Verdict
from equipot.structure import Structure

Result = TypeVar("Result")


KINDS = ("relax", "nve", "nvt")


def motion(kind: str, structure: Structure, n_steps: int, seed: int, **more: Any) -> Motion:
    if kind == "relax":
        return Fire(structure, RelaxParams(max_steps=n_steps, fmax_ev_per_ang=0.001))
    given = MDParams(**{"ensemble": kind, "n_steps": n_steps, "temperature_k": 20.0, "timestep_fs": 2.0, **more})
    return (VelocityVerlet if kind == "nve" else Langevin)(structure, given.resolved([structure.numbers]), seed)


def system(
    idx: int,
    structure: Structure,
    kind: str,
    n_steps: int = 20,
    seed: int = 5,
    guards: Guards | None = None,
    **more: Any,
) -> Moving:
    moves = motion(kind, structure, n_steps, seed, **more)
    return Moving(idx, structure, moves, moves.start(), guards or Guards())


def run(provider: ForceProvider, systems: list[Moving], joins_at: dict[int, int] | None = None) -> dict[int, Any]:
    """Run systems together; gives every state and the verdict of each as bits. A system joins at its given step."""
    engine = Engine(provider)
    waiting = sorted(systems, key=lambda s: (joins_at or {}).get(s.idx, 0))
    story: dict[int, list[Any]] = {s.idx: [] for s in systems}
    step = 0
    while engine.systems or waiting:
        while waiting and (joins_at or {}).get(waiting[0].idx, 0) <= step:
            engine.add(waiting.pop(0))
        for event in engine.step():
            state = event.system.state
            velocities = b"" if state.velocities_ang_per_fs is None else state.velocities_ang_per_fs.tobytes()
            forces = b"" if state.evaluation is None else state.evaluation.forces_ev_per_ang.tobytes()
            outcome = event.verdict.outcome if event.verdict else None
            story[event.system.idx].append((state.step, state.positions_ang.tobytes(), velocities, forces, outcome))
        step += 1
    return story


@st.composite
def crowds(draw: st.DrawFn) -> tuple[list[tuple[int, str, int, int]], dict[int, int]]:
    """Systems as (atoms, kind, steps, seed), and when each joins."""
    one = st.tuples(st.integers(1, 6), st.sampled_from(KINDS), st.integers(0, 12), st.integers(0, 3))
    crowd = draw(st.lists(one, min_size=2, max_size=7))
    return crowd, {idx: draw(st.integers(0, 5)) for idx in range(len(crowd))}


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(crowds())
def test_batched_is_alone_to_the_last_bit_whoever_joins_when(forces: Any, crowd: Any) -> None:
    specifications, joins_at = crowd
    provider = forces.LennardJones()

    def make(idx: int) -> Moving:
        n_atoms, kind, n_steps, seed = specifications[idx]
        return system(idx, forces.argon_cluster(n_atoms, seed), kind, n_steps, seed)

    together = run(provider, [make(idx) for idx in range(len(specifications))], joins_at)
    for idx in range(len(specifications)):
        assert together[idx] == run(provider, [make(idx)])[idx]


@pytest.mark.parametrize("n_threads", [1, 2])
def test_batched_is_alone_to_the_last_bit_with_a_trained_potential(forces: Any, n_threads: int) -> None:
    """Molecule, crystal and slab together, on one thread and on two, and alone on one."""
    potential = load_potential("tiny", device="cpu")
    structures = forces.copper_structures()
    systems = [
        system(i, structures[n], kind, 6)
        for i, (n, kind) in enumerate(zip(("water", "crystal", "slab"), KINDS, strict=True))
    ]
    together = run(NativeProvider(potential, n_threads), systems)
    for each in systems:
        assert together[each.idx] == run(NativeProvider(potential), [each])[each.idx]


@pytest.mark.parametrize("poison", [2, 10], ids=["NaN", "exception"])
def test_a_poisoned_neighbour_ends_alone(forces: Any, poison: int) -> None:
    provider = forces.LennardJones()
    good = [system(0, forces.argon_cluster(5, 1), "nvt"), system(2, forces.argon_cluster(3, 2), "relax")]
    bad = system(1, forces.argon_cluster(4, symbol_number=poison), "nve")
    story = run(provider, [good[0], bad, good[1]])
    assert [(step, outcome) for step, *_, outcome in story[1]] == [(0, Outcome.FAILED)]
    assert {idx: story[idx] for idx in (0, 2)} == run(provider, good)


def test_there_is_one_call_for_forces_per_step_for_all_that_are_still_running(forces: Any) -> None:
    provider = forces.LennardJones()
    run(provider, [system(i, forces.argon_cluster(3, i), "nve", n_steps) for i, n_steps in enumerate((2, 4, 4))])
    assert provider.company == [3, 3, 3, 2, 2]


def end(provider: ForceProvider, moving: Moving) -> tuple[Verdict, Any]:
    engine = Engine(provider)
    engine.add(moving)
    while True:
        (event,) = engine.step()
        if event.verdict:
            return event.verdict, event


def test_a_system_that_loses_its_numbers_diverges_and_keeps_its_last_good_state(forces: Any) -> None:
    """Hot atoms with a time step of 0.1 ns leave any space there is, 4500 Å at a time."""
    far_too_long: dict[str, Any] = {"timestep_fs": 1e5, "allow_large_timestep": True, "temperature_k": 1e5}
    verdict, event = end(forces.LennardJones(), system(0, forces.argon_cluster(4), "nve", 500, **far_too_long))
    assert verdict.outcome == Outcome.DIVERGED
    assert verdict.reason is not None
    assert verdict.reason.code in ("diverged", "non-finite")
    state = event.system.state
    assert state.step > 0
    assert np.isfinite(state.positions_ang).all()
    assert state.evaluation is not None
    assert state.evaluation.is_finite


@pytest.mark.parametrize(
    ("name", "limit"),
    [
        ("max_force_ev_per_ang", 1e-3),
        ("max_temperature_k", 10.0),
        ("min_distance_ang", 3.9),
        ("max_drift_ev_per_atom", 1e-9),
        ("max_displacement_ang", 0.01),
        ("max_domain_distance", 0.5),
    ],
)
def test_each_guard_stops_warns_or_ignores(forces: Any, name: str, limit: float) -> None:
    class Sceptical(forces.LennardJones):  # type: ignore[misc]
        """Forces that call every system a little further from the training data at each step."""

        def forces(self, system: Any) -> Any:
            return replace(super().forces(system), domain_distance=0.2 * self.n_calls)

    def with_policy(policy: Any) -> tuple[Verdict, Any]:
        guards = Guards(**{name: Guard(limit=limit, policy=policy)})
        return end(Sceptical(), system(0, forces.argon_cluster(4), "nve", 10, guards=guards))

    stopped, event = with_policy("stop")
    assert stopped.outcome == Outcome.GUARD_STOPPED
    assert name in stopped.criterion
    assert stopped.guard is not None
    assert (stopped.guard.name, stopped.guard.limit, stopped.guard.step) == (name, limit, event.system.state.step)
    assert (stopped.guard.value < limit) == (name == "min_distance_ang")
    assert stopped.reason is not None
    assert stopped.reason.culprits[0].pointer == f"/params/guards/{name}"
    warned, event = with_policy("warn")
    assert warned.outcome == Outcome.COMPLETED
    assert len(event.system.watch.warned) == 1
    assert name in event.system.watch.warned[0]
    ignored, event = with_policy("ignore")
    assert ignored.outcome == Outcome.COMPLETED
    assert not event.system.watch.warned


def test_a_limit_that_is_crossed_where_the_forces_vanish_stops_the_system_all_the_same(forces: Any) -> None:
    """Converged is not what was asked for if the atoms went where they should not."""
    guards = Guards(max_displacement_ang=Guard(limit=0.03))
    far = Structure(np.array([18]), np.array([[0.2, 0.0, 0.0]]))
    tight = {"fmax_ev_per_ang": 0.35}
    moves = Fire(far, RelaxParams(max_steps=50, **tight))
    verdict, event = end(forces.Springs(), Moving(0, far, moves, moves.start(), guards))
    assert verdict.outcome == Outcome.GUARD_STOPPED
    assert verdict.guard is not None
    assert verdict.guard.value == 0.2 - event.system.state.positions_ang[0, 0]
    verdict, _ = end(forces.Springs(), Moving(0, far, moves, moves.start()))
    assert verdict.outcome == Outcome.CONVERGED


def test_atoms_a_moving_cell_carries_along_are_not_displaced() -> None:
    cell = np.array([[4.0, 0.3, 0.0], [0.0, 5.0, 0.0], [0.1, 0.0, 6.0]])
    start = Structure(np.full(2, 18), np.array([[0.0, 0.0, 0.0], [30.0, 2.0, 3.0]]), cell, (True,) * 3)
    strain = np.eye(3) + np.diag([0.1, -0.05, 0.2])
    moved = start.positions_ang @ strain + np.array([[0.3, 0.0, 0.0], [0.0, 0.0, 0.0]])
    state = State(7, moved, cell @ strain)
    watchman = Watchman.of(Guards(max_displacement_ang=Guard(limit=0.29)), start)
    (crossing,) = watchman.crossings(SinglePoint(start), state, None)
    assert crossing.value == pytest.approx(0.3, abs=1e-12)


@pytest.mark.parametrize("culprit", ["move", "settle", "verdict"])
@pytest.mark.parametrize("error", [ZeroDivisionError, np.linalg.LinAlgError, TypeError])
def test_an_error_in_the_arithmetic_of_one_system_ends_that_system_only(
    forces: Any, culprit: str, error: type[Exception]
) -> None:
    class Clumsy(VelocityVerlet):
        def move(self, state: State) -> State:
            return self.stumble("move", state.step, super().move(state))

        def settle(self, moved: State) -> State:
            return self.stumble("settle", moved.step - 1, super().settle(moved))

        def verdict(self, state: State) -> Verdict | None:
            return self.stumble("verdict", state.step - 1, super().verdict(state))

        def stumble(self, where: str, step: int, result: Result) -> Result:
            if where == culprit and step == 3:
                raise error("stumbled")
            return result

    bad = system(1, forces.argon_cluster(4), "nve")
    bad = replace(bad, motion=Clumsy(bad.structure, bad.motion._params, 5))  # type: ignore[attr-defined]
    good = system(0, forces.argon_cluster(5), "nvt")
    story = run(forces.LennardJones(), [good, bad])
    outcome = Outcome.FAILED if error is TypeError else Outcome.DIVERGED
    assert [story[1][-1][0], story[1][-1][-1]] == [3, outcome]
    assert story[0] == run(forces.LennardJones(), [good])[0]


def test_numbers_too_large_to_be_squared_are_not_called_finite() -> None:
    assert not Evaluation(0.0, np.full((1, 3), 1e200)).is_finite
    assert not Evaluation(1e200, np.zeros((1, 3))).is_finite
    assert not Evaluation(0.0, np.zeros((1, 3)), stress_ev_per_ang3=np.full(6, np.nan)).is_finite
    assert Evaluation(-1e9, np.zeros((1, 3))).is_finite


def test_a_guard_that_is_not_reached_changes_nothing(forces: Any) -> None:
    far = Guards(
        max_force_ev_per_ang=Guard(limit=1e3), min_distance_ang=Guard(limit=1.0), max_temperature_k=Guard(limit=1e5)
    )
    plain = run(forces.LennardJones(), [system(0, forces.argon_cluster(5), "nvt")])
    assert run(forces.LennardJones(), [system(0, forces.argon_cluster(5), "nvt", guards=far)]) == plain


def test_a_step_that_is_interrupted_moves_nobody(forces: Any) -> None:
    class Interrupted(forces.LennardJones):  # type: ignore[misc]
        armed = False

        def forces(self, system: Any) -> Any:
            if self.armed and len(system.numbers) == 3:
                raise KeyboardInterrupt
            return super().forces(system)

    provider = Interrupted()
    engine = Engine(provider)
    for idx, n_atoms in enumerate((2, 3)):
        engine.add(system(idx, forces.argon_cluster(n_atoms), "nve"))
    engine.step()
    before = engine.systems
    provider.armed = True
    with pytest.raises(KeyboardInterrupt):
        engine.step()
    assert engine.systems == before

"""Any crowd: each system gets what it gets alone, whatever the others are, do, or suffer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, fcc111, molecule
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from equipot.calculator.convert import from_atoms
from equipot.models.loading import load_potential
from equipot.models.shared_graph import SharedGraph
from equipot.pairs import neighbour_vectors
from equipot.params import MDParams, RelaxParams
from equipot.simulation.engine import Engine, Moving
from equipot.simulation.motions.base import Motion
from equipot.simulation.motions.dynamics import dynamics
from equipot.simulation.motions.relaxations import relaxation
from equipot.simulation.motions.single_point import SinglePoint
from equipot.simulation.native import NativeProvider
from equipot.simulation.providers import Evaluation, ForceProvider, System
from equipot.structure import Structure

NATIVE_TOLERANCE_EV_PER_ANG = 1e-10  # between a pass shared with others and one's own, float64
THERMOSTATS = ({"type": "langevin"}, {"type": "nose_hoover"}, {"type": "bussi"})


def crystal_forces(numpy_forces: type) -> Any:
    """Argon crystals, slabs and clusters: Lennard-Jones to 6.5 Å, with energies, stress and periodic images."""

    class Crystals(numpy_forces):  # type: ignore[misc]
        def forces(self, system: System) -> Evaluation:
            first, second, vectors = neighbour_vectors(system.positions_ang, system.cell_ang, system.pbc, 6.5)
            del second
            square = (vectors * vectors).sum(axis=1)
            sixth = (3.4**2 / square) ** 3
            pull = (24.0 * 0.0104 * (sixth - 2.0 * sixth * sixth) / square)[:, None] * vectors
            forces, energies = np.zeros((len(system.numbers), 3)), np.zeros(len(system.numbers))
            np.add.at(forces, first, pull)
            np.add.at(energies, first, 2.0 * 0.0104 * (sixth * sixth - sixth))
            stress = None
            if all(system.pbc) and system.cell_ang is not None:
                virial = -0.5 * (pull[:, :, None] * vectors[:, None, :]).sum(axis=0)
                volume = abs(np.linalg.det(system.cell_ang))
                stress = -virial[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]] / volume
            return Evaluation(float(energies.sum()), forces, energies, stress)

    return Crystals(name="argon")


@dataclass(frozen=True)
class Member:
    """One system of a crowd, and its fate: when it joins, loses its forces, or is taken out."""

    structure: Structure
    kind: str  # of ways to move, see `motion`
    n_steps: int
    temperature_k: float
    timestep_fs: float
    seed: int
    joins_at: int = 0
    poisoned_at: int | None = None
    removed_at: int | None = None

    def moving(self, idx: int) -> Moving:
        moves = self.motion()
        return Moving(idx, self.structure, moves, moves.start())

    def motion(self) -> Motion:
        structure, (how, _, what) = self.structure, self.kind.partition(" ")
        if how == "singlepoint":
            return SinglePoint(structure)
        if how in ("fire", "lbfgs"):
            cell = {} if what == "" else {"cell_filter": what, "hydrostatic": self.seed % 2 == 1}
            given: dict[str, Any] = {"optimizer": how, "max_steps": self.n_steps, "fmax_ev_per_ang": 1e-4, **cell}
            return relaxation(structure, RelaxParams(**given))
        more: dict[str, Any] = {} if how == "nve" else {"thermostat": THERMOSTATS[self.seed % 3]}
        if how == "npt":
            more["barostat"] = {"isotropic": self.seed % 2 == 0, "pressure_gpa": 0.1}
        params = MDParams(
            ensemble=how,
            n_steps=self.n_steps,
            temperature_k=self.temperature_k,
            timestep_fs=self.timestep_fs,
            **more,
        )
        return dynamics(structure, params.resolved([structure.numbers]), self.seed)


@dataclass
class Fateful:
    """Forces that turn to NaN for a system at the evaluation named for it."""

    inner: ForceProvider
    poisoned_at: dict[int, int]
    seen: Counter[Hashable] = field(default_factory=Counter)

    @property
    def identity(self) -> dict[str, Any]:
        return self.inner.identity

    def evaluate(self, systems: Sequence[System]) -> list[Evaluation]:
        return [self.fate(s, e) for s, e in zip(systems, self.inner.evaluate(systems), strict=True)]

    def fate(self, system: System, evaluation: Evaluation) -> Evaluation:
        at = self.poisoned_at.get(system.key[1])  # type: ignore[index]
        self.seen[system.key] += 1
        if at is None or self.seen[system.key] != at + 1:
            return evaluation
        return replace(evaluation, forces_ev_per_ang=np.full_like(evaluation.forces_ev_per_ang, np.nan))

    def forget(self, key: Hashable) -> None:
        self.inner.forget(key)


def stories(provider: ForceProvider, crowd: dict[int, Member]) -> dict[int, list[Any]]:
    """Every state and verdict of every member, as bits."""
    engine = Engine(Fateful(provider, {i: m.poisoned_at for i, m in crowd.items() if m.poisoned_at is not None}))
    told: dict[int, list[Any]] = {idx: [] for idx in crowd}
    first = min((member.joins_at for member in crowd.values()), default=0)
    now = first
    while len(engine) or any(member.joins_at >= now for member in crowd.values()):
        for idx, member in crowd.items():
            if member.joins_at == now:
                engine.add(member.moving(idx))
            if member.removed_at is not None and member.joins_at + member.removed_at == now and idx in engine.systems:
                engine.remove(idx)
        for event in engine.step():
            told[event.system.idx].append(bits(event))
        now += 1
    return told


def bits(event: Any) -> Any:
    state = event.system.state
    arrays = {"x": state.positions_ang, "cell": state.cell_ang, "v": state.velocities_ang_per_fs, **state.tensors}
    if state.evaluation is not None:
        arrays |= {"f": state.evaluation.forces_ev_per_ang, "e": state.evaluation.energy_ev}
        arrays |= {"stress": state.evaluation.stress_ev_per_ang3}
    outcome = event.verdict.outcome if event.verdict else None
    return state.step, outcome, {name: np.asarray(a).tobytes() for name, a in arrays.items() if a is not None}


def argon(draw: st.DrawFn, seed: int) -> Structure:
    n_atoms = draw(st.integers(1, 5))
    rng = np.random.default_rng(seed)
    if draw(st.booleans()):
        crystal = bulk("Ar", cubic=True, a=5.3)
        return from_atoms(Atoms("Ar4", crystal.positions + rng.normal(0, 0.1, (4, 3)), cell=crystal.cell, pbc=True))
    sites = bulk("Ar", cubic=True, a=5.3).repeat(2).positions[:n_atoms]
    return Structure(np.full(n_atoms, 18), sites + rng.normal(0, 0.1, (n_atoms, 3)))


def small(draw: st.DrawFn, seed: int) -> Structure:
    """A molecule, a crystal or a slab that the tiny potential knows."""
    slab = fcc111("Cu", (1, 1, 2), vacuum=6.0)
    choices = (molecule("H2O"), molecule("CH4"), molecule("N2"), bulk("Cu", cubic=True), bulk("Si"), slab)
    atoms = draw(st.sampled_from(choices)).copy()
    atoms.rattle(0.05, seed=seed)
    return from_atoms(atoms)


@st.composite
def crowds(draw: st.DrawFn, structure: Any, largest: int, longest: int) -> dict[int, Member]:
    crowd = {}
    for idx in range(draw(st.integers(1, largest))):
        seed = draw(st.integers(0, 50))
        body = structure(draw, seed)
        kinds = ["singlepoint", "fire", "lbfgs", "nve", "nvt"]
        if all(body.pbc):
            kinds += ["fire frechet", "lbfgs unit_cell", "npt"]
        crowd[idx] = Member(
            body,
            draw(st.sampled_from(kinds)),
            n_steps=draw(st.integers(0, longest)),
            temperature_k=draw(st.sampled_from([5.0, 40.0])),
            timestep_fs=draw(st.sampled_from([0.5, 2.0])),
            seed=seed,
            joins_at=draw(st.sampled_from([0, 0, 1, 4])),
            poisoned_at=draw(st.sampled_from([None, None, None, 0, 2])),
            removed_at=draw(st.sampled_from([None, None, None, 1, 3])),
        )
    return crowd


def assert_each_is_as_alone(provider: ForceProvider, alone: ForceProvider, crowd: dict[int, Member]) -> None:
    together = stories(provider, crowd)
    for idx, member in crowd.items():
        assert together[idx] == stories(alone, {idx: member})[idx], f"{member.kind} is not what it is alone"


@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(crowds(argon, largest=64, longest=8))
def test_whatever_the_company_each_system_gets_its_own_bits(forces: Any, crowd: dict[int, Member]) -> None:
    provider = crystal_forces(forces.NumpyForces)
    assert_each_is_as_alone(provider, provider, crowd)


@settings(max_examples=4, deadline=None, suppress_health_check=list(HealthCheck))
@given(crowds(small, largest=12, longest=4), st.integers(1, 4))
def test_threads_and_company_leave_the_bits_of_a_trained_potential(crowd: dict[int, Member], n_threads: int) -> None:
    potential = load_potential("tiny", device="cpu")
    assert_each_is_as_alone(NativeProvider(potential, n_threads), NativeProvider(potential, 1), crowd)


@pytest.mark.long
@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(crowds(small, largest=64, longest=20), st.integers(1, 4))
def test_large_crowds_leave_the_bits_of_a_trained_potential(crowd: dict[int, Member], n_threads: int) -> None:
    potential = load_potential("tiny", device="cpu")
    assert_each_is_as_alone(NativeProvider(potential, n_threads), NativeProvider(potential, 1), crowd)


def views(seeds: Sequence[int]) -> list[System]:
    """Molecules, crystals and slabs as a provider sees them."""
    found = []
    slab = fcc111("Cu", (1, 1, 2), vacuum=6.0)
    for seed in seeds:
        atoms = (molecule("CH3CH2OH"), bulk("Cu", cubic=True), bulk("Si"), slab, molecule("H2"))[seed % 5].copy()
        atoms.rattle(0.05, seed=seed)
        found.append(System.of(from_atoms(atoms), seed))
    return found


def test_a_pass_shared_with_others_changes_no_force_beyond_rounding() -> None:
    """What happens on a GPU, made to happen here."""
    potential = load_potential("tiny", device="cpu")
    systems = views(range(12))
    shared = NativeProvider(potential, shared=True).evaluate(systems)
    alone = NativeProvider(potential).evaluate(systems)
    for one, other in zip(shared, alone, strict=True):
        assert np.abs(one.forces_ev_per_ang - other.forces_ev_per_ang).max() < NATIVE_TOLERANCE_EV_PER_ANG
        assert one.energy_ev == pytest.approx(other.energy_ev, abs=1e-10)
        assert (one.stress_ev_per_ang3 is None) == (other.stress_ev_per_ang3 is None)
        if one.stress_ev_per_ang3 is not None and other.stress_ev_per_ang3 is not None:
            assert np.abs(one.stress_ev_per_ang3 - other.stress_ev_per_ang3).max() < 1e-12
        assert one.domain_distance == pytest.approx(other.domain_distance, rel=1e-6)  # single precision


def test_a_shared_graph_stays_while_atoms_move_within_the_skin_and_its_forces_are_those_of_each_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Atoms come within the cutoff and leave it, one moves far, a cell changes, a system leaves: four graphs in all."""
    made: list[int] = []
    right = SharedGraph.__init__

    def counted(self: SharedGraph, *given: Any) -> None:
        made.append(len(given[0]))
        right(self, *given)

    monkeypatch.setattr(SharedGraph, "__init__", counted)
    potential = load_potential("tiny", device="cpu")
    together, alone = NativeProvider(potential, shared=True), NativeProvider(potential)
    systems, rng = views(range(10)), np.random.default_rng(0)
    for step in range(9):
        if step == 3:
            systems[0] = replace(systems[0], positions_ang=systems[0].positions_ang + np.array([0.4, 0.0, 0.0]))
        if step == 5:
            assert systems[1].cell_ang is not None
            systems[1] = replace(systems[1], cell_ang=1.01 * systems[1].cell_ang)
        if step == 7:
            together.forget(systems.pop(4).key)
        systems = [
            replace(s, positions_ang=s.positions_ang + rng.normal(0.0, 0.01, s.positions_ang.shape)) for s in systems
        ]
        for one, other in zip(together.evaluate(systems), alone.evaluate(systems), strict=True):
            assert np.abs(one.forces_ev_per_ang - other.forces_ev_per_ang).max() < NATIVE_TOLERANCE_EV_PER_ANG
    assert made == [10, 10, 10, 9]


def test_in_a_shared_pass_a_system_without_numbers_spoils_no_other() -> None:
    potential = load_potential("tiny", device="cpu")
    systems = views(range(6))
    lost = replace(systems[2], positions_ang=np.full_like(systems[2].positions_ang, np.nan))
    unknown = replace(systems[4], numbers=np.full_like(systems[4].numbers, 92))
    spoilt = NativeProvider(potential, shared=True).evaluate([*systems[:2], lost, systems[3], unknown, systems[5]])
    clean = NativeProvider(potential, shared=True).evaluate(systems)
    for place in (0, 1, 3, 5):
        difference = spoilt[place].forces_ev_per_ang - clean[place].forces_ev_per_ang
        assert np.abs(difference).max() < NATIVE_TOLERANCE_EV_PER_ANG
    assert not any(spoilt[place].is_finite for place in (2, 4))


def test_reproducible_gives_every_system_a_pass_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """To the last bit what the system gets alone, which sharing does not promise."""
    potential = load_potential("tiny", device="cpu")
    monkeypatch.setattr(type(potential), "evaluate_many", None)
    provider = NativeProvider(potential, reproducible=True)
    systems = views(range(5))
    for system, evaluation in zip(systems, provider.evaluate(systems), strict=True):
        (alone,) = NativeProvider(potential).evaluate([system])
        assert evaluation.forces_ev_per_ang.tobytes() == alone.forces_ev_per_ang.tobytes()


def test_neighbours_are_searched_when_an_atom_has_moved_half_the_skin_or_the_cell_has_changed_and_only_then() -> None:
    """Counted for a cold, a hot and a breathing system that run together, from where their atoms were."""
    provider = NativeProvider(load_potential("tiny", device="cpu"))
    engine = Engine(provider)
    water, crystal = from_atoms(molecule("H2O")), from_atoms(bulk("Cu", cubic=True))
    members = {
        "cold": Member(water, "nve", 30, temperature_k=1.0, timestep_fs=0.2, seed=1),
        "hot": Member(water, "nve", 30, temperature_k=20_000.0, timestep_fs=0.5, seed=2),
        "breathing": Member(crystal, "npt", 30, temperature_k=300.0, timestep_fs=1.0, seed=3),
    }
    for idx, member in enumerate(members.values()):
        engine.add(member.moving(idx))
    searched_at: dict[int, Any] = {}
    expected = Counter[int]()
    for _ in range(30):
        engine.step()
        for idx, system in engine.systems.items():
            state, before = system.state, searched_at.get(idx)
            moved = 0.0 if before is None else np.linalg.norm(state.positions_ang - before[0], axis=1).max()
            if before is None or moved > 0.25 or (state.cell_ang is not None and (state.cell_ang != before[1]).any()):
                searched_at[idx] = (state.positions_ang, state.cell_ang)
                expected[idx] += 1
    found = {key[1]: search.n_searches for key, search in provider._searches.items()}  # type: ignore[index]
    assert found == expected
    assert expected[0] == 1
    assert 1 < expected[1] < 30
    assert expected[2] == 30


def test_the_torch_of_a_caller_keeps_its_threads() -> None:
    before = torch.get_num_threads()
    NativeProvider(load_potential("tiny", device="cpu"), 3).evaluate(views(range(4)))
    assert torch.get_num_threads() == before


def moving_molecules(n: int) -> list[Moving]:
    kinds = ("nve", "nvt", "fire", "lbfgs")
    ethanol = from_atoms(molecule("CH3CH2OH"))
    crowd = [Member(ethanol, kinds[i % 4], 6 + i % 3, 300.0, 0.5, seed=i) for i in range(n)]
    return [member.moving(idx) for idx, member in enumerate(crowd)]


def engine_of(provider: ForceProvider, n: int = 12) -> Engine:
    engine = Engine(provider)
    for system in moving_molecules(n):
        engine.add(system)
    return engine


def told_by(engine: Engine, goes_on: Callable[[], bool] = lambda: True) -> dict[int, list[Any]]:
    """What becomes of every system."""
    told: dict[int, list[Any]] = {idx: [] for idx in engine.systems}
    for events in engine.advance(goes_on):
        for event in events:
            told[event.system.idx].append(bits(event))
    return told


def test_systems_that_move_one_by_one_get_what_they_get_alone() -> None:
    potential = load_potential("tiny", device="cpu")
    side_by_side = engine_of(NativeProvider(potential, 2))
    told = told_by(side_by_side)
    assert len(side_by_side) == 0
    assert told == told_by(engine_of(NativeProvider(potential, 1)))
    assert {len(story) for story in told.values()} == {7, 8, 9}  # the start, and as many steps as each was to take


def test_systems_take_turns_in_an_order_that_no_thread_decides() -> None:
    potential = load_potential("tiny", device="cpu")
    orders = [
        [
            event.system.idx
            for events in engine_of(NativeProvider(potential, n)).advance(lambda: True)
            for event in events
        ]
        for n in (1, 2, 3, 3)
    ]
    assert orders[0][:24] == [*range(12), *range(12)]
    assert orders[1:] == orders[:-1]


def test_so_many_steps_are_so_many_of_each() -> None:
    engine = engine_of(NativeProvider(load_potential("tiny", device="cpu"), 2))
    assert sum(len(events) for events in engine.advance(lambda: True, n_steps=3)) == 36
    assert {system.state.step for system in engine.systems.values()} == {2}


def test_who_is_told_to_stop_finishes_what_was_begun_and_goes_on_where_it_was() -> None:
    potential = load_potential("tiny", device="cpu")
    whole = told_by(engine_of(NativeProvider(potential, 1)))
    engine, answers = engine_of(NativeProvider(potential, 2)), iter([True] * 18)
    told = told_by(engine, lambda: next(answers, False))
    assert sum(len(story) for story in told.values()) == 19  # nobody is asked before the first
    while len(engine):
        for idx, more in told_by(engine, lambda: False).items():
            assert len(more) <= 1
            told[idx] += more
    assert told == whole


def test_what_was_not_told_of_has_not_happened() -> None:
    """Who listens turns away after five systems."""
    potential = load_potential("tiny", device="cpu")
    engine = engine_of(NativeProvider(potential, 2))
    turns = engine.advance(lambda: True)
    first = [event for _ in range(5) for event in next(turns)]
    turns.close()
    assert [event.system.idx for event in first] == [0, 1, 2, 3, 4]
    assert all((system.state.evaluation is not None) == (idx < 5) for idx, system in engine.systems.items())
    told = told_by(engine)
    for event in first:
        told[event.system.idx].insert(0, bits(event))
    assert told == told_by(engine_of(NativeProvider(potential, 1)))


def test_an_exception_leaves_the_rest_where_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    provider = NativeProvider(load_potential("tiny", device="cpu"), 2)
    engine = engine_of(provider)
    right = provider._evaluate_one

    def stopped(system: System, measured: bool = False) -> Evaluation:
        if system.key[1] == 6:  # type: ignore[index]
            raise KeyboardInterrupt
        return right(system, measured)

    monkeypatch.setattr(provider, "_evaluate_one", stopped)
    with pytest.raises(KeyboardInterrupt):
        list(engine.advance(lambda: True))
    told = {idx for idx, system in engine.systems.items() if system.state.evaluation is not None}
    assert told <= set(range(6))
    monkeypatch.undo()
    assert told_by(engine).keys() == set(range(12))
    assert len(engine) == 0


def test_a_large_system_is_never_computed_beside_others() -> None:
    provider = NativeProvider(load_potential("tiny", device="cpu"), 2)
    for sizes, has_line in (([20] * 12, True), ([20] * 99 + [251], False), ([20], False)):
        with provider.line(sizes) as line:
            assert (line is not None) == has_line

"""The compiled pass says what the eager one says, and is not used where it cannot be trusted."""

from __future__ import annotations

import copy
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch._inductor.config
from hypothesis import given, settings
from hypothesis import strategies as st

from equipot.calculator.ase import EquipotCalculator
from equipot.calculator.convert import to_atoms
from equipot.models import code_cache, compiled
from equipot.models.code_cache import code_key
from equipot.models.compiled import CompilationWarning, CompiledPass, compiled_pass, largest_deviation
from equipot.models.loading import load_potential
from equipot.models.neighbours import NearRows, NeighbourSearch
from equipot.models.potential import Potential, Prediction
from equipot.models.whole_call import Around
from equipot.simulation.native import NativeProvider
from equipot.simulation.providers import System
from equipot.structure import Structure
from tests.models.conftest import ALL_KINDS, ethanol, graph_of, slab, triclinic_crystal

EAGER_EV_PER_ANG = 1e-9  # the promise for float64, relative to max(1, largest)


pytestmark = pytest.mark.timeout(1200)  # compiling takes a minute on a quiet machine

COMPILE = "from equipot import load_potential; print(load_potential('tiny', device='cpu', compile=True).execution)"


@pytest.fixture(scope="module")
def cache(compiler: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache filled by another process."""
    folder = tmp_path_factory.mktemp("cache")
    threads = str(torch.get_num_threads())
    environment = {**os.environ, code_cache.CACHE_VARIABLE: str(folder), "OMP_NUM_THREADS": threads}
    done = subprocess.run([sys.executable, "-c", COMPILE], env=environment, capture_output=True, text=True)
    assert done.stdout.strip() == "compiled", done.stderr
    assert "compiling tiny-1" in done.stderr
    return folder


@contextmanager
def no_compiler() -> Iterator[None]:
    with torch._inductor.config.patch({"cpp.cxx": ("/nowhere/c++",)}):
        yield


@pytest.fixture(scope="module")
def fast(cache: Path) -> Potential:
    """The test potential as the other process compiled it: there is no compiler in this one."""
    with pytest.MonkeyPatch.context() as environment, no_compiler():
        environment.setenv(code_cache.CACHE_VARIABLE, str(cache))
        return load_potential("tiny", device="cpu", compile=True)


@pytest.fixture
def copied_cache(fast: Potential, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A cache of one's own with the compiled potential in it, and no compiler to make another."""
    shutil.copytree(cache, tmp_path / "cache")
    monkeypatch.setenv(code_cache.CACHE_VARIABLE, str(tmp_path / "cache"))
    with no_compiler():
        yield tmp_path / "cache" / "equipot" / "compiled"


def lone_atom() -> Structure:
    return Structure(np.array([6]), np.zeros((1, 3)))


def dimer() -> Structure:
    return Structure(np.array([6, 8]), np.array([[0.0, 0.0, 0.0], [0.1, 0.2, 1.2]]))


def supercell() -> Structure:
    """A crystal of more atoms and more neighbours than the traced example has."""
    cell = triclinic_crystal()
    assert cell.cell_ang is not None
    copies = np.stack(np.meshgrid(*[np.arange(3.0)] * 3, indexing="ij"), axis=-1).reshape(-1, 3) @ cell.cell_ang
    positions = (cell.positions_ang[None] + copies[:, None]).reshape(-1, 3)
    return replace(cell, numbers=np.tile(cell.numbers, 27), positions_ang=positions, cell_ang=3 * cell.cell_ang)


@pytest.mark.parametrize("make", [lone_atom, dimer, ethanol, triclinic_crystal, slab, supercell])
def test_any_number_of_atoms_gets_the_eager_numbers(
    make: Callable[[], Structure], fast: Potential, tiny: Potential
) -> None:
    graph = graph_of(make(), tiny.cutoff_ang)
    got, expected = fast.evaluate(graph), tiny.evaluate(graph)
    scale = max(1.0, np.abs(expected.forces_ev_per_ang).max())
    assert fast.execution == "compiled"
    assert got.energy_ev == pytest.approx(expected.energy_ev, rel=1e-12)
    assert np.abs(got.forces_ev_per_ang - expected.forces_ev_per_ang).max() <= EAGER_EV_PER_ANG * scale
    assert np.abs(got.virial_ev - expected.virial_ev).max() <= EAGER_EV_PER_ANG * max(
        1.0, np.abs(expected.virial_ev).max()
    )
    assert got.domain_distance == pytest.approx(expected.domain_distance, rel=1e-5)  # single precision


def test_what_ran_before_leaves_no_trace_in_the_bits(fast: Potential) -> None:
    graphs = [graph_of(make(), fast.cutoff_ang) for make in (ethanol, supercell, slab)]
    alone = [fast.evaluate(graph) for graph in graphs]
    for index in (2, 0, 1, 1, 2, 0):
        again = fast.evaluate(graphs[index])
        assert again.energy_ev == alone[index].energy_ev
        assert np.array_equal(again.forces_ev_per_ang, alone[index].forces_ev_per_ang)
        assert np.array_equal(again.virial_ev, alone[index].virial_ev)


def by_search(potential: Potential, search: NeighbourSearch, structure: Structure, charge_e: float = 0.0) -> Prediction:
    """As a calculator has it: by the neighbours that are there, else by new ones."""
    where = (structure.numbers, structure.positions_ang, structure.cell_ang, structure.pbc)
    found = potential.evaluate_moved(search, *where, charge_e)
    return found or potential.evaluate(search.graph(*where).with_charge(charge_e))


def assert_same_bits(a: Prediction, b: Prediction) -> None:
    for name in (field.name for field in fields(Prediction)):
        one, other = getattr(a, name), getattr(b, name)
        assert (one is None) == (other is None), name
        assert np.array_equal(one, other), name


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(ALL_KINDS), st.lists(st.floats(0.0, 0.3), min_size=2, max_size=8), st.integers(0, 2**31))
def test_wherever_atoms_go_a_whole_call_gives_the_bits_of_a_fresh_graph(
    fast: Potential, make: Callable[[], Structure], moves_ang: list[float], seed: int
) -> None:
    rng, structure = np.random.default_rng(seed), make()
    search = fast.neighbour_search(skin_ang=0.6)
    for move in moves_ang:
        structure = structure.moved_to(structure.positions_ang + move * rng.uniform(-1, 1, (structure.n_atoms, 3)))
        assert_same_bits(by_search(fast, search, structure), fast.evaluate(graph_of(structure, fast.cutoff_ang)))


def test_a_whole_call_is_made_while_atoms_keep_their_neighbours_and_no_other(fast: Potential, tiny: Potential) -> None:
    structure, search = ethanol(0), fast.neighbour_search()

    def call(given: Structure) -> Prediction | None:
        return fast.evaluate_moved(search, given.numbers, given.positions_ang, given.cell_ang, given.pbc)

    assert call(structure) is None
    by_search(fast, search, structure)
    assert call(structure) is not None
    assert call(structure.moved_to(structure.positions_ang + 0.01)) is not None
    assert call(structure.moved_to(structure.positions_ang + 0.2)) is None  # beyond half the skin
    crystal = triclinic_crystal()
    assert crystal.cell_ang is not None
    for other in (
        crystal,
        crystal.moved_to(crystal.positions_ang, cell_ang=1.01 * crystal.cell_ang),
        replace(crystal, pbc=(True, True, False)),
        replace(structure, numbers=structure.numbers[::-1].copy()),
    ):
        assert call(other) is None
        by_search(fast, search, other)
        assert call(other) is not None
    lone = lone_atom()
    by_search(fast, search, lone)
    assert call(lone) is None
    eager = tiny.neighbour_search()
    by_search(tiny, eager, structure)
    assert tiny.evaluate_moved(eager, structure.numbers, structure.positions_ang, None, structure.pbc) is None


def test_rows_of_pairs_that_come_and_go_are_found_again(fast: Potential) -> None:
    far = fast.cutoff_ang - 0.05
    structure = Structure(np.array([6, 6, 8]), np.array([[0.0, 0, 0], [far, 0, 0], [0, 1.2, 0]]))
    apart = structure.positions_ang.copy()
    apart[1, 0] += 0.1
    search, layouts = fast.neighbour_search(), []
    for each in (structure, structure.moved_to(apart), structure, structure.moved_to(apart)):
        by_search(fast, search, each)
        last = search.last_rows(each.numbers, None, each.pbc)
        assert last is not None
        layouts.append(last.layout)
    assert search.n_searches == 1
    assert layouts[0] is layouts[2]
    assert layouts[1] is layouts[3]
    assert layouts[0] is not layouts[1]


def test_a_pass_that_fails_in_a_whole_call_is_made_by_torch(fast: Potential, monkeypatch: pytest.MonkeyPatch) -> None:
    structure, search = ethanol(0), fast.neighbour_search()
    expected = by_search(fast, search, structure)
    made = fast._make_around

    def with_a_condition(rows: NearRows, charge_e: float) -> Around:
        """One input more than the compiled code takes."""
        around = made(rows, charge_e)
        around.kept[0].condition = around.kept[0].numbers
        return around

    monkeypatch.setattr(fast, "_make_around", with_a_condition)
    where = (structure.numbers, structure.positions_ang, structure.cell_ang, structure.pbc)
    other = fast.neighbour_search()
    by_search(fast, other, structure)
    assert fast.evaluate_moved(other, *where) is None
    assert_same_bits(by_search(fast, other, structure), expected)


def views_of(n: int) -> list[System]:
    shapes = [ethanol(k) if k % 3 else triclinic_crystal() for k in range(n)]
    return [System.of(shape, key=k) for k, shape in enumerate([*shapes[:-1], lone_atom()])]


def test_helpers_in_compiled_code_give_each_system_its_own_bits(fast: Potential) -> None:
    """From a first search on, as atoms move, and beside one that no compiled code takes."""
    rng, systems = np.random.default_rng(0), views_of(12)
    alone, crowds = NativeProvider(fast, 1), [NativeProvider(fast, n) for n in (1, 2, 4)]
    for _ in range(10):
        systems = [
            replace(s, positions_ang=s.positions_ang + rng.normal(scale=0.04, size=(len(s.numbers), 3)))
            for s in systems
        ]
        expected = [alone.evaluate([system])[0] for system in systems]
        for crowd in crowds:
            with crowd.line([len(system.numbers) for system in systems]) as line:
                assert line is not None
                for system in systems:
                    line.put(system)
                taken = [line.take() for _ in systems]
            for got in (taken, crowd.evaluate(systems)):
                for one, other in zip(got, expected, strict=True):
                    assert one.energy_ev == other.energy_ev
                    assert one.forces_ev_per_ang.tobytes() == other.forces_ev_per_ang.tobytes()
                    assert one.domain_distance == other.domain_distance


def test_helpers_that_are_closed_early_leave_everything_as_it_was(fast: Potential) -> None:
    systems = views_of(40)
    provider = NativeProvider(fast, 3)
    expected = provider.evaluate(systems)
    for n_taken in (0, 1, 7):
        with provider.line([len(system.numbers) for system in systems]) as line:
            assert line is not None
            for system in systems:
                line.put(system)
            for place in range(n_taken):
                assert line.take().energy_ev == expected[place].energy_ev
    again = provider.evaluate(systems)
    assert [one.energy_ev for one in again] == [one.energy_ev for one in expected]


def test_what_is_wrong_with_one_system_in_a_line_is_said_of_it_alone(fast: Potential) -> None:
    systems = views_of(6)
    systems[2] = replace(systems[2], positions_ang=np.full_like(systems[2].positions_ang, np.nan))
    provider = NativeProvider(fast, 2)
    expected = [provider.evaluate([system])[0] for system in systems]
    for _ in range(2):
        found = provider.evaluate(systems)
        for place, (one, other) in enumerate(zip(found, expected, strict=True)):
            assert one.is_finite == (place != 2)
            assert np.array_equal(one.energy_ev, other.energy_ev, equal_nan=True)


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    ("model", "dtype", "charge_e"),
    [("organic", "float32", 0), ("organic-3", "float64", 1), ("organic-3", "float32", 0)],
)
def test_a_whole_call_has_the_same_bits_in_either_precision_and_with_a_charge(
    compiler: None, model: str, dtype: str, charge_e: float
) -> None:
    potential = load_potential(model, device="cpu", dtype=dtype, compile=True)
    rng, structure, search = np.random.default_rng(0), ethanol(0), potential.neighbour_search()
    n_whole = 0
    for _ in range(50):
        moved = structure.moved_to(structure.positions_ang + rng.normal(scale=0.05, size=(structure.n_atoms, 3)))
        where = (moved.numbers, moved.positions_ang, moved.cell_ang, moved.pbc)
        whole = potential.evaluate_moved(search, *where, charge_e)
        expected = potential.evaluate(potential.neighbour_search().graph(*where).with_charge(charge_e))
        if whole is None:
            search.graph(*where)
        else:
            assert_same_bits(whole, expected)
            n_whole += 1
    assert n_whole > 20


def test_without_a_compiler_the_potential_runs_eagerly_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(code_cache.CACHE_VARIABLE, str(tmp_path))
    with no_compiler(), pytest.warns(CompilationWarning, match="runs eagerly"):
        potential = load_potential("tiny", device="cpu", compile=True)
    assert potential.execution == "eager"
    assert np.isfinite(potential.evaluate(graph_of(ethanol(), potential.cutoff_ang)).energy_ev)


def test_a_damaged_package_is_not_loaded_but_made_anew(
    fast: Potential, cache: Path, copied_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (package,) = copied_cache.glob("*.pt2")
    whole = package.read_bytes()
    package.write_bytes(whole[: len(whole) // 2])
    with pytest.warns(CompilationWarning):  # there is no compiler to make it anew
        assert load_potential("tiny", device="cpu", compile=True).execution == "eager"

    def compile_again(network: torch.nn.Module, folder: Path, dtype: torch.dtype) -> Path:
        (folder / "again.pt2").write_bytes(whole)
        return folder / "again.pt2"

    monkeypatch.setattr(compiled, "_compile", compile_again)
    assert load_potential("tiny", device="cpu", compile=True).execution == "compiled"


def test_code_that_computes_something_else_is_refused(fast: Potential, tiny: Potential, copied_cache: Path) -> None:
    (package,) = copied_cache.glob("*.pt2")
    assert largest_deviation(CompiledPass(package), tiny.network) < 1e-12
    other = copy.deepcopy(tiny.network)
    other.hidden_readout.mul_(1.0 + 1e-6)
    wrong = copied_cache / f"{code_key(compiled._facts(other, 'other', torch.float64))}.pt2"
    for suffix in (".pt2", ".sha256"):
        shutil.copy(package.with_suffix(suffix), wrong.with_suffix(suffix))
    with pytest.warns(CompilationWarning, match="differs by"):
        assert compiled_pass(other, "other", "other", torch.float64) is None
    assert not wrong.exists()


def test_a_folder_that_others_can_write_to_is_not_trusted(fast: Potential, copied_cache: Path) -> None:
    copied_cache.chmod(0o777)
    with pytest.warns(CompilationWarning, match="written by others"):
        assert load_potential("tiny", device="cpu", compile=True).execution == "eager"


def test_the_calculator_compiles_on_request(tiny: Potential, copied_cache: Path) -> None:
    atoms = to_atoms(ethanol())
    atoms.calc = EquipotCalculator("tiny", device="cpu", compile=True)
    expected = tiny.evaluate(graph_of(ethanol(), tiny.cutoff_ang)).forces_ev_per_ang
    assert atoms.calc.potential.execution == "compiled"
    assert np.abs(atoms.get_forces() - expected).max() < EAGER_EV_PER_ANG

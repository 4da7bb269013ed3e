"""Memory: what does not fit together is taken apart, what does not fit alone is refused, and nothing grows."""

from __future__ import annotations

import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase.build import bulk, molecule

from equipot.calculator.convert import from_atoms
from equipot.errors import OutOfMemoryError
from equipot.models.graph import AtomGraph
from equipot.models.loading import load_potential
from equipot.models.potential import Potential, Prediction
from equipot.models.shared_graph import PlacedGraph
from equipot.params import MDParams
from equipot.simulation.admission import Admission, HostMemory, Load, Peak, is_out_of_memory
from equipot.simulation.engine import Engine, Moving
from equipot.simulation.motions.dynamics import dynamics
from equipot.simulation.native import NativeProvider
from equipot.simulation.providers import System
from equipot.simulation.run import Run
from equipot.simulation.verdicts import Outcome
from equipot.structure import Structure

BYTES_PER_ATOM, BYTES_PER_SLOT = 3000.0, 15000.0


class Ledger:
    """A memory of a given size in which an evaluation takes a known amount, in place of the machine's own."""

    def __init__(self, n_bytes: float) -> None:
        self.n_bytes = n_bytes
        self.n_released = 0
        self.taken = 0.0

    def free_bytes(self) -> float:
        return self.n_bytes

    @contextmanager
    def measured(self) -> Iterator[Peak]:
        peak = Peak()
        self.taken = 0.0
        yield peak
        peak.n_bytes = self.taken

    def release(self) -> None:
        self.n_released += 1


class Cramped(Potential):
    """A trained potential whose evaluations run out of memory above `most_slots`, from the `begins`-th pass on."""

    def __init__(self, whole: Potential, ledger: Ledger, most_slots: float, begins: int = 0) -> None:
        super().__init__(
            whole.card, whole.network, whole.reference_ev, whole.domain, whole.torch_dtype, whole.torch_device
        )
        self.ledger, self.most_slots, self.begins = ledger, most_slots, begins
        self.passes: list[Load] = []
        self.n_failures = 0

    def evaluate(self, graph: AtomGraph) -> Prediction:
        self._take(graph)
        return super().evaluate(graph)

    def evaluate_many(self, graph: AtomGraph | PlacedGraph) -> list[Prediction]:
        self._take(graph)
        return super().evaluate_many(graph)

    def _take(self, graph: AtomGraph | PlacedGraph) -> None:
        n_atoms, n_slots = graph.neighbours.shape
        load = Load(n_atoms, n_atoms * n_slots)
        self.passes.append(load)
        if len(self.passes) > self.begins and load.n_slots > self.most_slots:
            self.n_failures += 1
            raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB (GPU 0; 15.90 GiB total capacity)")
        self.ledger.taken = BYTES_PER_ATOM * load.n_atoms + BYTES_PER_SLOT * load.n_slots


def cramped(most_slots: float, begins: int = 0, **more: Any) -> tuple[Cramped, NativeProvider]:
    ledger = Ledger(more.pop("n_bytes", 1e12))
    potential = Cramped(load_potential("tiny", device="cpu"), ledger, most_slots, begins)
    admission = Admission(ledger, more.pop("first_slots", 50_000))
    return potential, NativeProvider(potential, admission=admission, **more)


def silicon(repeat: int, seed: int = 0, a: float = 5.43) -> System:
    atoms = bulk("Si", cubic=True, a=a).repeat(repeat)
    atoms.rattle(0.05, seed=seed)
    return System.of(from_atoms(atoms), (repeat, seed))


def water(seed: int) -> System:
    atoms = molecule("H2O")
    atoms.rattle(0.05, seed=seed)
    return System.of(from_atoms(atoms), ("water", seed))


def test_the_rates_are_found_from_what_was_measured_and_larger_ones_are_not_foretold_too_small() -> None:
    rng = np.random.default_rng(0)
    admission = Admission(Ledger(1e12))

    def truth(load: Load) -> float:
        return BYTES_PER_ATOM * load.n_atoms + BYTES_PER_SLOT * load.n_slots

    for _ in range(40):
        n_atoms = int(rng.integers(500, 3000))
        load = Load(n_atoms, n_atoms * int(rng.integers(20, 80)))
        admission.learn(load, truth(load) * rng.uniform(0.97, 1.03))
    for n_atoms, row in ((1000, 30), (5000, 60), (20_000, 25)):
        load = Load(n_atoms, n_atoms * row)
        assert 0.95 * truth(load) < admission.bytes_of(load) < 1.2 * truth(load)


def test_what_is_too_small_to_be_measured_teaches_nothing() -> None:
    admission = Admission(Ledger(1e12), first_slots=8_000)
    admission.learn(Load(10, 999), 1e9)
    admission.learn(Load(1000, 50_000), None)
    assert admission.bytes_of(Load(1000, 50_000)) == 0.0


def test_systems_are_put_together_as_far_as_memory_goes_and_each_is_in_one_chunk() -> None:
    rng = np.random.default_rng(1)
    admission = Admission(Ledger(1e9))
    admission.learn(Load(1000, 30_000), BYTES_PER_SLOT * 30_000)
    loads = [Load(n, n * row) for n, row in zip(rng.integers(2, 300, 100), rng.integers(5, 60, 100), strict=True)]
    chunks = admission.chunks(loads)
    assert sorted(i for chunk in chunks for i in chunk) == list(range(100))
    for chunk in chunks:
        together = Load(sum(loads[i].n_atoms for i in chunk), 0)
        n_slots = together.n_atoms * max(loads[i].row for i in chunk)
        assert len(chunk) == 1 or BYTES_PER_SLOT * n_slots <= 0.8e9
    whole = sum(load.n_slots for load in loads)
    assert len(chunks) <= 2 + 2 * whole * BYTES_PER_SLOT / 0.8e9, "few chunks: little is padded"


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory"), True),
        (RuntimeError("CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate(handle)"), True),
        (RuntimeError("std::bad_alloc"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
    ],
)
def test_running_out_of_memory_is_recognised_in_the_words_of_each_library(error: Exception, expected: bool) -> None:
    assert is_out_of_memory(error) == expected


def test_a_shared_pass_that_runs_out_of_memory_is_halved_and_what_was_done_is_not_done_again() -> None:
    systems = [water(seed) for seed in range(16)]
    roomy = NativeProvider(load_potential("tiny", device="cpu"), shared=True).evaluate(systems)
    potential, provider = cramped(most_slots=4 * 3 * 2, shared=True)  # four waters of three atoms, two neighbours each
    first = provider.evaluate(systems)
    for one, other in zip(first, roomy, strict=True):
        assert one.error is None
        assert np.abs(one.forces_ev_per_ang - other.forces_ev_per_ang).max() < 1e-10
    assert [load.n_atoms // 3 for load in potential.passes] == [16, 8, 4, 4, 8, 4, 4]
    assert potential.ledger.n_released == potential.n_failures == 3
    provider.evaluate(systems)
    assert potential.n_failures == 3, "it is not tried again"


def test_one_system_too_large_for_a_shared_pass_is_refused_with_the_limit_and_the_others_are_not() -> None:
    large = silicon(2)
    limit = NativeProvider(load_potential("tiny", device="cpu"), shared=True)
    assert limit.evaluate([large])[0].error is None
    _, provider = cramped(most_slots=200, shared=True)
    *others, refused = provider.evaluate([water(0), water(1), large])
    assert all(evaluation.error is None for evaluation in others)
    assert isinstance(refused.error, OutOfMemoryError)
    assert "64 atoms" in refused.error.detail
    assert "At most 63 atoms" in refused.error.hint


@pytest.mark.parametrize("shared", [False, True])
def test_memory_that_runs_out_at_step_k_ends_the_system_that_needs_too_much_and_no_other(shared: bool) -> None:
    def story(provider: NativeProvider) -> dict[int, list[Any]]:
        engine = Engine(provider)
        for idx, view in enumerate((water(0), silicon(2), water(1))):
            structure = Structure(view.numbers, view.positions_ang, view.cell_ang, view.pbc)
            params = MDParams(n_steps=6, timestep_fs=0.5, temperature_k=100.0, seed=idx).resolved([view.numbers])
            moves = dynamics(structure, params, idx)
            engine.add(Moving(idx, structure, moves, moves.start()))
        told: dict[int, list[Any]] = {0: [], 1: [], 2: []}
        while len(engine):
            for event in engine.step():
                told[event.system.idx].append(event)
        return told

    expected = story(NativeProvider(load_potential("tiny", device="cpu"), shared=shared))
    passes_per_step = 1 if shared else 3
    _, provider = cramped(200, begins=4 * passes_per_step, shared=shared)
    found = story(provider)
    for idx in (0, 2):
        assert found[idx][-1].verdict.outcome == Outcome.COMPLETED
        there, here = (story[idx][-1].system.state.positions_ang for story in (expected, found))
        assert np.array_equal(there, here) if not shared else np.abs(there - here).max() < 1e-10
    last = found[1][-1]
    assert last.verdict.outcome == Outcome.FAILED
    assert last.verdict.reason.code == "out-of-memory"
    assert last.system.state.step == 3
    assert np.abs(last.system.state.positions_ang - expected[1][3].system.state.positions_ang).max() < 1e-10


def test_out_of_memory_at_the_start_is_a_result_and_not_a_crash(tmp_path: Path) -> None:
    _, provider = cramped(200)
    structures = [from_atoms(molecule("H2O")), from_atoms(bulk("Si", cubic=True).repeat(2))]
    params = MDParams(n_steps=2, timestep_fs=0.5, seed=1)
    with Run.start(tmp_path / "r", kind="md", structures=structures, params=params, provider=provider) as run:
        while run.advance():
            pass
        results = run.results
    assert [result["outcome"] for result in results] == ["completed", "failed"]
    assert results[1]["reason"]["type"] == "/problems/out-of-memory"
    assert "atoms of this density fit" in results[1]["reason"]["hint"]


def test_a_large_system_is_probed_by_a_part_and_refused_before_memory_runs_out() -> None:
    """First 512 atoms in a memory for about 300, of which nothing is known; then what fits."""
    row = 18  # the longest list of neighbours in this crystal, as the tiny potential sees it
    n_bytes = 300 * (BYTES_PER_ATOM + row * BYTES_PER_SLOT) / 0.8
    potential, provider = cramped(np.inf, first_slots=2_000, n_bytes=n_bytes)
    (refused,) = provider.evaluate([silicon(4)])
    assert isinstance(refused.error, OutOfMemoryError)
    assert all(load.n_atoms < 512 for load in potential.passes), "the whole was never tried"
    limit = int(refused.error.hint.split()[1])
    assert 200 < limit < 420
    (fits,) = provider.evaluate([silicon(3)])
    assert fits.error is None


def test_out_of_memory_in_the_probe_itself_is_a_refusal() -> None:
    potential, provider = cramped(100, first_slots=2_000)
    (refused,) = provider.evaluate([silicon(4)])
    assert isinstance(refused.error, OutOfMemoryError)
    assert len(potential.passes) == 1
    assert f"At most {potential.passes[0].n_atoms - 1} atoms" in refused.error.hint


def test_a_system_that_grows_denser_is_looked_at_again() -> None:
    """As under a barostat: the number of atoms says nothing of the memory they take."""
    potential, provider = cramped(np.inf, first_slots=2_000)
    loose = silicon(4, a=6.2)
    assert provider.evaluate([loose])[0].error is None
    potential.ledger.n_bytes = 1.3 * potential.ledger.taken / 0.8
    assert provider.evaluate([loose])[0].error is None
    (refused,) = provider.evaluate([replace(silicon(4, a=4.7), key=loose.key)])
    assert isinstance(refused.error, OutOfMemoryError)


def test_systems_that_do_not_fit_side_by_side_take_turns() -> None:
    potential, provider = cramped(np.inf, n_threads=4)
    systems = [silicon(4, seed) for seed in range(3)]
    roomy = provider.evaluate(systems)
    potential.ledger.n_bytes = 1.5 * provider._admission.bytes_of(provider._loads[systems[0].key]) / 0.8
    assert all(provider._needs_room(system) for system in systems)
    for one, other in zip(provider.evaluate(systems), roomy, strict=True):
        assert one.forces_ev_per_ang.tobytes() == other.forces_ev_per_ang.tobytes()


REAL_LIMIT = """
import resource
import numpy as np
from ase.build import bulk
from equipot.calculator.convert import from_atoms
from equipot.models.loading import load_potential
from equipot.simulation.native import NativeProvider
from equipot.simulation.providers import System

provider = NativeProvider(load_potential("tiny", device="cpu"))
small, large = (System.of(from_atoms(bulk("Si", cubic=True).repeat(n)), n) for n in (2, 10))
before = provider.evaluate([small])[0]
used = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmSize:")) * 1024
resource.setrlimit(resource.RLIMIT_AS, (used + 250_000_000, resource.RLIM_INFINITY))
with np.errstate(all="ignore"):
    after, refused = provider.evaluate([small, large])
print(refused.error.code, after.forces_ev_per_ang.tobytes() == before.forces_ev_per_ang.tobytes())
print(refused.error.detail, refused.error.hint)
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peaks are known on Linux only")
def test_a_process_with_too_little_memory_lives_on_and_says_what_would_fit() -> None:
    out = subprocess.run([sys.executable, "-c", REAL_LIMIT], capture_output=True, text=True, check=True).stdout
    assert out.splitlines()[0] == "out-of-memory True", out
    assert "8000 atoms" in out
    assert "atoms of this density fit here" in out


def test_the_memory_of_this_machine_can_be_told() -> None:
    memory = HostMemory()
    assert 0 < memory.free_bytes() < 1e15
    memory.release()
    with memory.measured() as peak:
        held = np.ones(20_000_000)
        del held
    if peak.n_bytes is not None:
        assert 1e8 < peak.n_bytes < 4e8, "160 MB, less what was free inside the process"


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def grown_bytes(run: Run, n_steps: int, turns: int) -> list[int]:
    """What Python holds after each turn of so many steps."""
    held = []
    for _ in range(turns):
        run.advance(steps=n_steps)
        run.checkpoint()
        held.append(tracemalloc.get_traced_memory()[0])
    return held


def long_run(directory: Path, forces: Any, n_steps: int) -> Run:
    params = MDParams(
        n_steps=n_steps, timestep_fs=2.0, temperature_k=20.0, seed=3, thermo_every=10, checkpoint_every_s=0.5
    )
    structures = [forces.argon_cluster(4 + i, i) for i in range(2)]
    return Run.start(
        directory, kind="md", structures=structures, params=params, provider=forces.LennardJones(), on_thermo=print_none
    )


def print_none(row: dict[str, Any]) -> None:
    """A callback that keeps nothing."""


def test_memory_does_not_grow_with_steps(forces: Any, tmp_path: Path) -> None:
    with long_run(tmp_path / "r", forces, 10_000) as run:
        run.advance(steps=200)
        tracemalloc.start()
        try:
            held = grown_bytes(run, 150, 6)
        finally:
            tracemalloc.stop()
    slope = np.polyfit(range(3), held[3:], 1)[0] / 150  # one row of the thermo table kept would be 60 bytes per step
    assert slope < 30.0, f"{slope:.1f} bytes per step: {held}"


@pytest.mark.long
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="Linux only")
def test_memory_stays_flat_over_a_hundred_thousand_steps(forces: Any, tmp_path: Path) -> None:
    held = []
    with long_run(tmp_path / "r", forces, 110_000) as run:
        run.advance(steps=10_000)
        for _ in range(20):
            run.advance(steps=5_000)
            held.append(resident_bytes())
    assert max(held[10:]) - min(held[:10]) < 5e6, held

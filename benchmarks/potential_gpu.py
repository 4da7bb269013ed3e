"""Energy + forces on a GPU in a minute: µs per atom against the size of a batch, and what holds it back. Writes JSON.

    PYTHONPATH=src python benchmarks/potential_gpu.py --out gpu.json

Molecules (aspirin, 21 atoms) and crystals (silicon, 64 atoms), many side by side in one pass, float32 and float64:

    eager      the pass alone, tensors on the device
    recorded   the same as a CUDA graph (`load_potential(..., compile=True)`), padding and copies included
    placed     a step: positions go to the device, neighbours are found there (`SharedGraph`), energies, forces, virials
               and distances to the training data come back
    call       what `Potential.evaluate_many` takes for graphs of the host, their transfer included

Each is compared with the eager pass in float64. Shares: the operations of matrix products, counted by torch, over the
best of large products of the same dtype on this device; bytes that the operations of the eager pass read and write,
each tensor once for each operation, over what a large copy reaches. Every part runs within its time and leaves its
traceback in the JSON if it fails.
"""

from __future__ import annotations

import argparse
import json
import platform
import signal
import statistics
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
from ase.build import bulk
from systems import systems_for
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from equipot import load_potential
from equipot.models.graph import batch_graphs
from equipot.models.neighbours import NeighbourSearch
from equipot.models.potential import GraphTensors, Potential, eager_pass, graph_tensors
from equipot.models.recorded import RecordedPass
from equipot.models.shared_graph import SharedGraph

STARTED = time.perf_counter()
N_DISTINCT = 16  # systems; larger batches repeat them
SKIN_ANG = 0.5
SYSTEMS = {"aspirin": "organic", "silicon": "elements"}
VIEWS = (
    "view",
    "expand",
    "transpose",
    "slice",
    "select",
    "unsqueeze",
    "squeeze",
    "permute",
    "detach",
    "alias",
    "split",
)


class OutOfTimeError(Exception):
    """A part of the benchmark has had its time."""


class Report:
    """What was measured, written after every part, so that a killed run leaves what it has."""

    def __init__(self, path: Path | None, limit_s: float) -> None:
        self.path, self.limit_s = path, limit_s
        self.facts: dict[str, Any] = {}
        self.rows: list[dict[str, Any]] = []
        self.errors: dict[str, str] = {}

    @property
    def left_s(self) -> float:
        return self.limit_s - (time.perf_counter() - STARTED)

    @contextmanager
    def part(self, name: str, most_s: float) -> Iterator[None]:
        """A part that may fail or be stopped without harm to the others."""

        def stop(_signal: int, _frame: FrameType | None) -> None:
            raise OutOfTimeError(f"{name}: more than its {seconds:.0f} s")

        seconds = min(most_s, self.left_s)
        before = time.perf_counter()
        if seconds < 1.0:
            self.errors[name] = "no time left"
            return_early = True
        else:
            return_early = False
            signal.signal(signal.SIGALRM, stop)
            signal.setitimer(signal.ITIMER_REAL, seconds)
        try:
            if return_early:
                raise OutOfTimeError(name)
            yield
        except BaseException:
            self.errors.setdefault(name, traceback.format_exc())
            print(f"{name}: {self.errors[name].strip().splitlines()[-1]}", flush=True)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        self.facts.setdefault("seconds", {})[name] = round(time.perf_counter() - before, 2)
        self.write()

    def write(self) -> None:
        if self.path is not None:
            content = {**self.facts, "rows": self.rows, "errors": self.errors}
            self.path.write_text(json.dumps(content, indent=1, default=str) + "\n")


class Counter(TorchDispatchMode):
    """Operations of matrix products, and bytes of the tensors that operations read and write, each once for each
    operation; views are free."""

    n_flop = 0
    n_bytes = 0
    n_operations = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = function(*args, **(kwargs or {}))
        count = flop_registry.get(function.overloadpacket)
        if count is not None:
            self.n_flop += count(*args, **(kwargs or {}), out_val=out)
        name = function.name().split("::")[-1]
        if not name.startswith(VIEWS) and name not in ("_unsafe_view", "t", "unbind.int", "view_as"):
            self.n_operations += 1
            for leaf in tree_leaves((args, kwargs, out)):
                if isinstance(leaf, torch.Tensor):
                    self.n_bytes += min(leaf.numel() * leaf.element_size(), leaf.untyped_storage().nbytes())
        return out


def finish(device: torch.device) -> float:
    """The time at which everything given to the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def seconds_of(run: Callable[[], object], device: torch.device, budget_s: float = 0.3, most: int = 30) -> float:
    """Median wall time of a call, after two that warm up."""
    for _ in range(2):
        run()
    times_s: list[float] = []
    while len(times_s) < 3 or (sum(times_s) < budget_s and len(times_s) < most):
        before = finish(device)
        run()
        times_s.append(finish(device) - before)
    return statistics.median(times_s)


def peaks(device: torch.device) -> dict[str, float]:
    """Operations per second of large matrix products and bytes per second of a large copy."""
    n, found = (8192 if device.type == "cuda" else 1024), {}
    for dtype in (torch.float32, torch.float64):
        a, b = (torch.randn(n, n, device=device, dtype=dtype) for _ in range(2))
        found[str(dtype).removeprefix("torch.")] = 2.0 * n**3 / seconds_of(lambda a=a, b=b: a @ b, device)
    a = torch.randn(2**28 if device.type == "cuda" else 2**24, device=device)
    b = torch.empty_like(a)
    found["bytes_per_s"] = 2 * a.numel() * a.element_size() / seconds_of(lambda: b.copy_(a), device)
    return found


def structures(name: str) -> list[Any]:
    """Distinct systems of one kind."""
    found = []
    for seed in range(N_DISTINCT):
        atoms = (
            systems_for(("H", "C", "O"))["aspirin (21 atoms)"]
            if name == "aspirin"
            else bulk("Si", cubic=True).repeat(2)
        )
        atoms.rattle(0.02, seed=seed)
        found.append(atoms)
    return found


def arguments(atoms: Any) -> tuple[Any, ...]:
    return atoms.numbers, atoms.positions, np.array(atoms.cell) if atoms.pbc.any() else None, atoms.pbc


def relative(got: torch.Tensor, expected: torch.Tensor) -> float:
    return float((got.double() - expected).norm() / expected.norm())


def counted(potential: Potential, inputs: GraphTensors) -> dict[str, float]:
    """Operations of matrix products and bytes of all operations in one pass."""
    with Counter() as counter:
        eager_pass(potential.network, *inputs)
    return {"flop": counter.n_flop, "bytes": counter.n_bytes, "operations": counter.n_operations}


def measure(name: str, dtype: str, n_systems: int, potentials: dict[str, Potential], report: Report) -> dict[str, Any]:
    """One row: every way to compute one batch."""
    eager, recorded, exact = (potentials[key] for key in ("eager", "recorded", "exact"))
    device = eager.torch_device
    on_gpu = device.type == "cuda"
    every = structures(name)
    chosen = [every[k % N_DISTINCT] for k in range(n_systems)]
    search = [NeighbourSearch(eager.cutoff_ang, SKIN_ANG) for _ in every]
    graphs = [s.graph(*arguments(a)) for s, a in zip(search, every, strict=True)]
    graph = batch_graphs([graphs[k % N_DISTINCT] for k in range(n_systems)])
    inputs = graph_tensors(graph, eager.torch_dtype, device, eager.network.architecture)
    row: dict[str, Any] = {"system": name, "dtype": dtype, "n_systems": n_systems, "n_atoms": graph.n_atoms}
    row |= {"n_edges": graph.n_edges, "n_slots": graph.neighbours.shape[1], "us_per_atom": {}, "ms": {}, "error": {}}
    work = counted(eager, inputs)
    expected = eager_pass(exact.network, *graph_tensors(graph, torch.float64, device, exact.network.architecture))
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
    got = eager_pass(eager.network, *inputs)
    if on_gpu:
        torch.cuda.synchronize(device)
        row["bytes_per_edge"] = (torch.cuda.max_memory_allocated(device) - before) / graph.n_edges
    row["error"]["eager"] = relative(got[1], expected[1])

    def add(way: str, seconds: float) -> None:
        row["ms"][way] = 1e3 * seconds
        row["us_per_atom"][way] = 1e6 * seconds / graph.n_atoms

    def compute_share(way: str, peak: dict[str, float]) -> None:
        seconds = row["ms"][way] / 1e3
        row.setdefault("share_of_flops", {})[way] = work["flop"] / seconds / peak[dtype]
        row.setdefault("share_of_bandwidth", {})[way] = work["bytes"] / seconds / peak["bytes_per_s"]

    peak = report.facts.get("peaks", {})
    row["mflop_per_atom"] = work["flop"] / graph.n_atoms / 1e6
    row["kb_per_atom"] = work["bytes"] / graph.n_atoms / 1e3
    row["operations"] = work["operations"]
    add("eager", seconds_of(lambda: eager_pass(eager.network, *inputs), device))
    for way, run in (("recorded", lambda: recorded._run(*inputs)), ("call", lambda: recorded.evaluate_many(graph))):
        try:
            add(way, seconds_of(run, device))
        except RuntimeError:
            row["error"][way] = traceback.format_exc()
    try:
        row["error"]["recorded"] = relative(recorded._run(*inputs)[1], expected[1])
        pairs = [s.pairs(*arguments(a)) for s, a in zip(search, every, strict=True)]
        chosen_pairs = [pairs[k % N_DISTINCT] for k in range(n_systems)]
        shared = SharedGraph(chosen_pairs, eager.cutoff_ang, eager.torch_dtype, device)
        positions = np.concatenate([a.positions for a in chosen])
        add("placed", seconds_of(lambda: recorded.evaluate_many(shared.at(positions)), device))
    except RuntimeError:
        row["error"]["placed"] = traceback.format_exc()
    if peak:
        for way in row["ms"]:
            compute_share(way, peak)
    return row


def profile(potential: Potential, inputs: GraphTensors) -> list[dict[str, Any]]:
    """The kernels that take the most time of an eager pass."""
    with torch.profiler.profile(activities=list(torch.profiler.supported_activities())) as found:
        eager_pass(potential.network, *inputs)
        finish(potential.torch_device)
    events = found.key_averages()
    on_gpu = potential.torch_device.type == "cuda"

    def cost(event: Any) -> float:
        return float(event.self_device_time_total if on_gpu else event.self_cpu_time_total)

    whole = sum(cost(event) for event in events) or 1.0
    largest = sorted(events, key=cost, reverse=True)[:25]
    return [{"name": e.key[:160], "calls": e.count, "share": round(cost(e) / whole, 4)} for e in largest]


def inductor(potential: Potential, inputs: GraphTensors) -> dict[str, Any]:
    """The traced pass compiled by torch.compile for the one shape."""
    from torch.fx.experimental.proxy_tensor import make_fx

    before = time.perf_counter()
    graph = make_fx(
        lambda *tensors: eager_pass(potential.network, *tensors), tracing_mode="fake", _allow_non_fake_inputs=True
    )(*inputs)
    traced = time.perf_counter()
    compiled = torch.compile(graph, dynamic=False, options={"triton.cudagraphs": True})
    with torch.no_grad():
        got = [out.clone() for out in compiled(*inputs)]
        finish(potential.torch_device)
        made = time.perf_counter()
        seconds = seconds_of(lambda: compiled(*inputs), potential.torch_device)
    expected = eager_pass(potential.network, *inputs)
    n_atoms = len(inputs[0])
    return {
        "n_atoms": n_atoms, "trace_s": traced - before, "compile_s": made - traced, "ms": 1e3 * seconds,
        "us_per_atom": 1e6 * seconds / n_atoms, "difference": relative(got[1], expected[1].double()),
    }  # fmt: skip


def show_row(row: dict[str, Any]) -> None:
    ways = "  ".join(f"{way} {us:.3f}" for way, us in row["us_per_atom"].items())
    print(
        f"{row['system']:8} {row['dtype']} {row['n_systems']:5} systems {row['n_atoms']:6} atoms: µs per atom {ways}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, help="the JSON file")
    parser.add_argument("--seconds", type=float, default=55.0, help="for everything, inductor apart")
    parser.add_argument("--inductor-seconds", type=float, default=0.0, help="on top, to try torch.compile")
    parser.add_argument("--dtype", nargs="+", default=["float32", "float64"])
    parser.add_argument("--atoms", type=int, nargs="+", default=[1, 1024, 4096, 16384, 40960], help="of a batch, about")
    given = parser.parse_args()
    report = Report(given.out, given.seconds)
    device = torch.device(given.device)
    report.facts |= {"torch": torch.__version__, "python": platform.python_version(), "device": given.device}
    if device.type == "cuda":
        report.facts["device"] = torch.cuda.get_device_name(device)
    with report.part("peaks", 10):
        report.facts["peaks"] = peaks(device)
        print({name: f"{value:.3g}" for name, value in report.facts["peaks"].items()}, flush=True)
    loaded: dict[tuple[str, str], dict[str, Potential]] = {}
    for dtype in given.dtype:
        for name, model in SYSTEMS.items():
            with report.part(f"load {model} {dtype}", 15):
                loaded[name, dtype] = {
                    "eager": load_potential(model, device=given.device, dtype=dtype),
                    "exact": load_potential(model, device=given.device, dtype="float64"),
                    "recorded": load_potential(model, device=given.device, dtype=dtype, compile=device.type == "cuda"),
                }

    def row(name: str, dtype: str, n_atoms: int) -> None:
        each = 21 if name == "aspirin" else 64
        n_systems = max(1, round(n_atoms / each))
        with report.part(f"{name} {dtype} {n_systems}", 8):
            report.rows.append(measure(name, dtype, n_systems, loaded[name, dtype], report))
            show_row(report.rows[-1])
        recorded = loaded[name, dtype]["recorded"]._run if (name, dtype) in loaded else None
        if isinstance(recorded, RecordedPass):
            recorded.forget()
        if device.type == "cuda":
            torch.cuda.empty_cache()

    for dtype in given.dtype:
        for name in SYSTEMS:
            for n_atoms in given.atoms[:-1]:
                row(name, dtype, n_atoms)
    with report.part("profile", 10):
        for name in SYSTEMS:
            potential = loaded[name, given.dtype[0]]["eager"]
            n = max(1, given.atoms[-1] // 2 // (21 if name == "aspirin" else 64))
            graphs = [NeighbourSearch(potential.cutoff_ang).graph(*arguments(a)) for a in structures(name)]
            batch = batch_graphs([graphs[k % N_DISTINCT] for k in range(n)])
            inputs = graph_tensors(batch, potential.torch_dtype, device, potential.network.architecture)
            report.facts.setdefault("profile", {})[name] = profile(potential, inputs)
    for dtype in given.dtype:
        for name in SYSTEMS:
            row(name, dtype, given.atoms[-1])
    if given.inductor_seconds > 0:
        report.limit_s = time.perf_counter() - STARTED + given.inductor_seconds
        with report.part("inductor", given.inductor_seconds):
            potential = loaded["silicon", given.dtype[0]]["eager"]
            graphs = [NeighbourSearch(potential.cutoff_ang).graph(*arguments(a)) for a in structures("silicon")]
            batch = batch_graphs([graphs[k % N_DISTINCT] for k in range(max(1, given.atoms[-2] // 64))])
            report.facts["inductor"] = inductor(
                potential, graph_tensors(batch, potential.torch_dtype, device, potential.network.architecture)
            )
            print("inductor", report.facts["inductor"], flush=True)
    report.write()
    print(f"{time.perf_counter() - STARTED:.0f} s; failed: {', '.join(report.errors) or 'nothing'}")


if __name__ == "__main__":
    main()

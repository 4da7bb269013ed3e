"""The factorised tensor products against e3nn's: paths, rows, error, time and memory for l_max = 1 ... 6.

Every product couples two features of all degrees up to l_max, channel by channel, to a third. e3nn (an optional extra:
pip install 'equipot[benchmarks]') computes the same function, with one weight for each path and channel where ours has
one for each channel; that it is the same is checked before anything is timed. `dense` multiplies every pair of
components and contracts the products with the Clebsch-Gordan tensor. Products are timed in turn, in float32; a time
is the median over the rounds (on one CPU thread, of the processor's time). Memory is the peak of what the
product and its derivatives take, beyond their inputs.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import platform
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from systems import show

from equipot.models.decomposition import decompose, tdn_rank
from equipot.models.spherical import clebsch_gordan, coupling, n_harmonics, path_weight, paths
from equipot.models.tensor_product import TensorProduct

Product = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
TDN_SWEEPS = 400  # enough for the error at 7 l_max² rows to settle
LABELS = {
    "gaunt": "gaunt: even paths only",
    "vector": "vector",
    "cp": "cp, exact",
    "tdn": "cp, 7 l² rows, not exact",
    "cg": "cg: the reference",
    "dense": "dense",
    "e3nn": "e3nn, all paths",
    "e3nn_even": "e3nn, even paths only",
}


@dataclass(frozen=True)
class Row:
    """One product at one l_max; times in ms, memory in MB (10⁶ bytes)."""

    l_max: int
    product: str
    n_paths: int
    n_rows: int | None
    relative_error: float
    forward_ms: float
    with_derivatives_ms: float
    memory_mb: float


def dense(l_max: int, device: torch.device) -> Product:
    """One matrix product with the whole tensor."""
    tensor = torch.tensor(coupling(l_max, l_max, l_max, odd=True), dtype=torch.float32, device=device)
    matrix = tensor.flatten(0, 1).T.contiguous()

    def multiply(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        pairs = (x.unsqueeze(1) * y.unsqueeze(0)).flatten(0, 1)
        return (matrix @ pairs.flatten(1)).view(len(matrix), *x.shape[1:])

    return multiply


def tdn(l_max: int, device: torch.device) -> tuple[Product, int]:
    """A decomposition at the rank of tensor decomposition networks, made here."""
    found = decompose(coupling(l_max, l_max, l_max, odd=True), tdn_rank(l_max), n_sweeps=TDN_SWEEPS, fade=0.97)
    u, v, w = (torch.tensor(factor, dtype=torch.float32, device=device) for factor in found.factors)

    def multiply(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        rows = (u @ x.flatten(1)) * (v @ y.flatten(1))
        return (w.T @ rows).view(len(w.T), *x.shape[1:])

    return multiply, len(u)


def e3nn_product(l_max: int, n_channels: int, device: torch.device, *, odd: bool) -> Product:
    """e3nn's channel-wise product with the weights of ours; takes and gives e3nn's layout (n, components).

    e3nn calls the axes (y, z, x) where we call them (x, y, z) and its blocks have another norm and sign, so the
    weight of a path is the projection of our block on its.
    """
    from e3nn import o3

    # without odd paths the parity of a feature of degree l is (-1)^l; with them no parity is told apart
    irreps = o3.Irreps([(n_channels, (degree, (-1) ** degree if not odd else 1)) for degree in range(l_max + 1)])
    every = list(paths(l_max, l_max, l_max, odd=odd))
    product = o3.TensorProduct(
        irreps, irreps, irreps,
        [(l1, l2, l3, "uuu", True) for l1, l2, l3 in every],
        irrep_normalization="none", path_normalization="none", shared_weights=True, internal_weights=False,
    ).to(device)  # fmt: skip
    weights = []
    for path in every:
        theirs = o3.wigner_3j(*path).numpy()
        ours = path_weight(*path) * clebsch_gordan(*path)
        weights.append(np.full(n_channels, (ours * theirs).sum() / (theirs * theirs).sum()))
    weight = torch.tensor(np.concatenate(weights), dtype=torch.float32, device=device)
    return lambda x, y: product(x, y, weight)


def to_e3nn(x: torch.Tensor) -> torch.Tensor:
    """(component, n, c) to (n, degree-channel-component)."""
    l_max = round(len(x) ** 0.5) - 1
    blocks = [x[d * d : (d + 1) ** 2].permute(1, 2, 0).flatten(1) for d in range(l_max + 1)]
    return torch.cat(blocks, dim=1).contiguous()


def peak_memory_mb(run: Callable[[], object], device: torch.device) -> float:
    """Peak of the memory in use while `run` runs, beyond what was in use before; NaN on a CPU without Linux."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        run()
        return (torch.cuda.max_memory_allocated(device) - before) / 1e6
    if not sys.platform.startswith("linux"):
        return float("nan")
    ctypes.CDLL(None).malloc_trim(0)  # give back what was freed, so that it is counted when it is used again
    Path("/proc/self/clear_refs").write_text("5")  # forget the last peak
    before = _status_kb("VmRSS")
    run()
    return (_status_kb("VmHWM") - before) * 1024 / 1e6


def _status_kb(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key + ":"))


def keep_freed_memory() -> None:
    """Let the allocator keep what is freed, so that no page fault is timed: sizes near its threshold have many."""
    if sys.platform.startswith("linux"):
        trim_threshold, mmap_threshold = -1, -3  # of mallopt(3)
        libc = ctypes.CDLL(None)
        libc.mallopt(mmap_threshold, 2**30)
        libc.mallopt(trim_threshold, 2**31 - 1)


def time_ms(run: Callable[[], object], device: torch.device) -> float:
    """Wall time; on one CPU thread the time of the processor, which other programs do not lengthen."""
    clock = time.process_time if device.type == "cpu" and torch.get_num_threads() == 1 else time.perf_counter
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    before = clock()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return 1000 * (clock() - before)


def measure(l_max: int, given: argparse.Namespace, device: torch.device, with_e3nn: bool) -> list[Row]:
    """All products at one l_max, timed in turn."""
    n_paths = {odd: len(list(paths(l_max, l_max, l_max, odd=odd))) for odd in (True, False)}
    products: dict[str, tuple[Product, int | None]] = {}
    names = ["gaunt", "vector", "cg", *(["cp"] if l_max <= 3 else [])]
    for name in names:
        module = TensorProduct(name, l_max, l_max, l_max).float().to(device)
        products[name] = (module, module.rank)
    if l_max <= given.tdn_l_max:
        products["tdn"] = tdn(l_max, device)
    products["dense"] = (dense(l_max, device), n_harmonics(l_max) ** 2)
    if with_e3nn:
        products["e3nn"] = (e3nn_product(l_max, given.channels, device, odd=True), None)
        products["e3nn_even"] = (e3nn_product(l_max, given.channels, device, odd=False), None)

    generator = torch.Generator().manual_seed(0)
    shape = (n_harmonics(l_max), given.atoms, given.channels)
    x, y, g = (torch.randn(shape, generator=generator).to(device) for _ in range(3))
    inputs, references = {}, {}
    for odd in (True, False):
        tensor = torch.tensor(coupling(l_max, l_max, l_max, odd=odd))
        n = min(8, given.atoms)
        references[odd] = torch.einsum("abc,ank,bnk->cnk", tensor, x[:, :n].double().cpu(), y[:, :n].double().cpu())
    rows = {}
    for name, (product, n_rows) in products.items():
        odd, theirs = name not in ("gaunt", "e3nn_even"), name.startswith("e3nn")
        a, b, gradient = (to_e3nn(t) if theirs else t for t in (x, y, g))
        inputs[name] = (a.requires_grad_(True), b.requires_grad_(True), gradient)
        expected = to_e3nn(references[odd]) if theirs else references[odd]
        got = product(a, b).detach().double().cpu()
        got = got[: len(expected)] if theirs else got[:, : expected.shape[1]]
        error = float((got - expected).norm() / expected.norm())
        assert name == "tdn" or error < 1e-5, f"{name} is not the same function: {error}"
        rows[name] = (n_paths[odd], n_rows, error)

    def forward(name: str) -> None:
        with torch.no_grad():
            products[name][0](*inputs[name][:2])

    def with_derivatives(name: str) -> None:
        a, b, gradient = inputs[name]
        torch.autograd.grad(products[name][0](a, b), (a, b), gradient)

    times: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in products}
    for turn in range(given.rounds + 2):
        for name in products:
            pair = time_ms(lambda n=name: forward(n), device), time_ms(lambda n=name: with_derivatives(n), device)
            if turn >= 2:  # the first two warm up
                for kept, new in zip(times[name], pair, strict=True):
                    kept.append(new)
    return [
        Row(
            l_max, name, *rows[name],
            forward_ms=statistics.median(times[name][0]),
            with_derivatives_ms=statistics.median(times[name][1]),
            memory_mb=peak_memory_mb(lambda n=name: with_derivatives(n), device),
        )
        for name in products
    ]  # fmt: skip


def lines_of(rows: list[Row]) -> list[list[str]]:
    """One line for each product and l_max."""
    peers = {(row.l_max, row.product): row.with_derivatives_ms for row in rows}
    lines = []
    for row in rows:
        peer = peers.get((row.l_max, "e3nn_even" if row.product == "gaunt" else "e3nn"))
        ratio = "" if peer is None or row.product.startswith("e3nn") else f"{peer / row.with_derivatives_ms:.1f}"
        n_rows = "" if row.n_rows is None else str(row.n_rows)
        numbers = [f"{row.forward_ms:.2f}", f"{row.with_derivatives_ms:.2f}", f"{row.memory_mb:.1f}", ratio]
        lines.append([str(row.l_max), row.product, str(row.n_paths), n_rows, f"{row.relative_error:.0e}", *numbers])
    return lines


def markdown(rows: list[Row]) -> str:
    """The table of the documentation: ms with derivatives and MB, a line for each product, a column for each l_max."""
    degrees = sorted({row.l_max for row in rows})
    lines = [
        "| product | " + " | ".join(f"l ≤ {degree}" for degree in degrees) + " |",
        "|---" * (len(degrees) + 1) + "|",
    ]
    for product, label in LABELS.items():
        cells = {
            row.l_max: f"{row.with_derivatives_ms:.1f} ms, {row.memory_mb:.0f} MB"
            for row in rows
            if row.product == product
        }
        if cells:
            lines.append(f"| {label} | " + " | ".join(cells.get(degree, "") for degree in degrees) + " |")
    return "\n".join(lines) + "\n"


def plot(rows: list[Row], title: str, path: Path) -> None:
    """Time with derivatives and memory against l_max."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(10.5, 3.6))
    styles = {"e3nn": "--", "e3nn_even": ":", "dense": "-.", "cg": "-."}
    for product, label in LABELS.items():
        chosen = [row for row in rows if row.product == product]
        for axis, field in zip(axes, ("with_derivatives_ms", "memory_mb"), strict=True):
            values = [getattr(row, field) for row in chosen]
            axis.plot([row.l_max for row in chosen], values, styles.get(product, "-"), marker="o", ms=3, label=label)
    for axis, label in zip(axes, ("ms, product and derivatives", "MB, peak"), strict=True):
        axis.set(xlabel="l_max", ylabel=label, yscale="log")
        axis.grid(alpha=0.3)
    axes[1].legend(fontsize=7, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    figure.suptitle(title, fontsize=9)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--l-max", type=int, nargs="+", default=[1, 2, 3, 4, 5, 6])
    parser.add_argument("--atoms", type=int, default=128)
    parser.add_argument("--channels", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=15, help="how often each product is timed (15)")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch (1)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, help="folder for tensor_products.json, .md and .png")
    parser.add_argument("--tdn-l-max", type=int, help="beyond it no decomposition is made (6, on a GPU 4: minutes)")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="after which no further l_max is begun")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    if given.tdn_l_max is None:
        given.tdn_l_max = 4 if given.device.startswith("cuda") else 6
    keep_freed_memory()
    device = torch.device(given.device)
    warnings.simplefilter("ignore")  # those of e3nn
    try:
        import e3nn

        peer = f"e3nn {e3nn.__version__}"
    except ImportError:
        peer = ""
        print("e3nn is not installed; ours alone.")
    started, rows = time.perf_counter(), list[Row]()
    for l_max in given.l_max:
        if time.perf_counter() - started < given.seconds:
            rows += measure(l_max, given, device, bool(peer))
            print(f"l_max = {l_max}: {time.perf_counter() - started:.0f} s", flush=True)
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{given.threads} thread(s)"
    title = f"{given.atoms} atoms x {given.channels} channels, float32, {where}, torch {torch.__version__}, {peer}"
    columns = ["l_max", "product", "paths", "rows", "error", "ms", "ms with derivatives", "MB", "e3nn / this"]
    show(title, columns, lines_of(rows))
    if given.out is not None:
        given.out.mkdir(parents=True, exist_ok=True)
        facts = {"title": title, "machine": platform.processor(), "rows": [asdict(row) for row in rows]}
        (given.out / "tensor_products.json").write_text(json.dumps(facts, indent=1) + "\n")
        (given.out / "tensor_products.md").write_text(markdown(rows))
        plot(rows, title, given.out / "tensor_products.png")


if __name__ == "__main__":
    main()

"""`equipot doctor`: what is installed here, what works, and what to do about the rest."""

from __future__ import annotations

import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.table import Table
from rich.text import Text

from equipot import __version__
from equipot.cards import registry
from equipot.errors import EquipotError
from equipot.service.commands.display import out, show_json
from equipot.service.commands.server import SERVER_VARIABLE

State = Literal["ok", "note", "broken"]
MARKS: dict[State, tuple[str, str]] = {"ok": ("ok", "green"), "note": ("note", "yellow"), "broken": ("broken", "red")}
LEAST_FREE_GB = 2.0
PACKAGES = ("numpy", "ase", "vesin", "rq", "redis", "fastapi")


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at; `remedy` says what to do unless all is well."""

    what: str
    state: State
    seen: str
    remedy: str = ""


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    app.command("doctor")(doctor)


def doctor(
    data_dir: Annotated[Path, typer.Option(help="The data directory of the service here.")] = Path("equipot-data"),
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Look whether everything is there and works: Python, torch, GPU, models, Redis, disk, the service.

    Exit status: 0 if nothing is broken, else 1.

    Example: equipot doctor
    """
    findings = list(_examine(data_dir))
    if as_json:
        show_json({"findings": [asdict(finding) for finding in findings]})
    else:
        _show(findings)
    raise typer.Exit(int(any(finding.state == "broken" for finding in findings)))


def _examine(data_dir: Path) -> Iterator[Finding]:
    examinations: dict[str, Callable[[], Iterator[Finding]]] = {
        "python": _python,
        "torch": _torch,
        "models": _models,
        "redis": _redis,
        "disk": lambda: _disk(data_dir),
        "service": _service,
    }
    for what, examination in examinations.items():
        try:
            yield from examination()
        except Exception as error:
            remedy = error.hint if isinstance(error, EquipotError) else "Install equipot again."
            yield Finding(what, "broken", f"{type(error).__name__}: {error}", remedy)


def _python() -> Iterator[Finding]:
    yield Finding("equipot", "ok", f"{__version__} in {Path(__file__).parents[2]}")
    yield Finding("python", "ok", f"{platform.python_version()} at {sys.executable}, {platform.platform()}")
    found = []
    for package in PACKAGES:
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            yield Finding(package, "broken", "not installed", f"pip install {package}")
    yield Finding("packages", "ok", ", ".join(found))


def _torch() -> Iterator[Finding]:
    import torch

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    seen = f"{torch.__version__}, {torch.get_num_threads()} threads on {cores} cores"
    yield Finding("torch", "ok", f"{seen}, {torch.backends.cpu.get_cpu_capability()}")
    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        yield Finding("GPU", "ok", ", ".join(names))
    elif shutil.which("nvidia-smi"):
        remedy = "This torch does not see the GPU: install a build for your CUDA version."
        yield Finding("GPU", "note", "there is a driver, but torch has no CUDA", remedy)
    else:
        yield Finding("GPU", "note", "none; everything is computed on the CPU", "Nothing to do unless there is one.")


def _models() -> Iterator[Finding]:
    from equipot.models.loading import load_potential

    cards = [card for _, card in registry().values()]
    if not cards:
        yield Finding("models", "broken", "none", "Install equipot again, or set EQUIPOT_MODEL_PATH.")
    for card in cards:
        try:
            potential = load_potential(card.name, device="cpu")
        except EquipotError as error:
            yield Finding(f"model {card.name}", "broken", error.detail, error.hint or "Get its files again.")
        else:
            yield Finding(f"model {card.name}", "ok", f"{' '.join(card.elements)}; weights {potential.sha256[:12]}")


def _redis() -> Iterator[Finding]:
    from equipot.service.redis_server import RedisServer, connect, find_binary

    if url := os.environ.get("EQUIPOT_REDIS_URL"):
        with connect(url, patience_s=0) as client:
            client.ping()
        yield Finding("redis", "ok", "EQUIPOT_REDIS_URL answers")
        return
    with tempfile.TemporaryDirectory(prefix="equipot-doctor-") as folder, RedisServer(Path(folder)):
        yield Finding("redis", "ok", f"starts and answers: {find_binary()}")


def _disk(data_dir: Path) -> Iterator[Finding]:
    place = data_dir.absolute()
    while not place.exists():
        place = place.parent
    free_gb = shutil.disk_usage(place).free / 1e9
    if not os.access(place, os.W_OK):
        yield Finding("data directory", "broken", f"{place} cannot be written to", "Give another --data-dir.")
    elif free_gb < LEAST_FREE_GB:
        yield Finding("data directory", "note", f"{free_gb:.1f} GB free in {place}", "Make room: trajectories grow.")
    else:
        yield Finding("data directory", "ok", f"{free_gb:.0f} GB free in {place}")


def _service() -> Iterator[Finding]:
    from equipot.service.client import Client

    server = os.environ.get(SERVER_VARIABLE)
    if server is None:
        remedy = f"Start one with `equipot serve`, or set {SERVER_VARIABLE}."
        yield Finding("service", "note", f"{SERVER_VARIABLE} names none", remedy)
        return
    with Client(server, patience_s=0) as client:
        client.request("GET", "/healthz")
        workers = client.request("GET", "/v1/workers").json()["items"]
    if workers:
        devices = ", ".join(f"{worker['host']} ({worker['device']})" for worker in workers)
        yield Finding("service", "ok", f"{server} answers; workers: {devices}")
    else:
        yield Finding("service", "broken", f"{server} answers but has no worker", "Start one: equipot worker.")


def _show(findings: list[Finding]) -> None:
    table = Table(box=None, show_header=False, pad_edge=False)
    for options in ({}, {"style": "bold"}, {"overflow": "fold"}):
        table.add_column(**options)  # type: ignore[arg-type]
    for finding in findings:
        mark, style = MARKS[finding.state]
        table.add_row(Text(mark, style=style), finding.what, Text(finding.seen))
        if finding.state != "ok" and finding.remedy:
            table.add_row("", "", Text(f"-> {finding.remedy}", style="dim"))
    out.print(table)

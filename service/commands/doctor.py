"""`equipot doctor`: what is installed here, what works, and what to do about the rest."""

from __future__ import annotations

import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from packaging.requirements import Requirement
from rich.table import Table
from rich.text import Text

from equipot import __version__
from equipot.cards import registry
from equipot.errors import EquipotError
from equipot.service.address import SERVER_VARIABLE
from equipot.service.commands.display import out, show_json
from equipot.service.commands.server import ApiKey, ServerIfAny

State = Literal["ok", "note", "broken"]
MARKS: dict[State, tuple[str, str]] = {"ok": ("ok", "green"), "note": ("note", "yellow"), "broken": ("broken", "red")}
LEAST_FREE_GB = 2.0
SHOWN = ("numpy", "ase", "vesin", "rq", "redis", "fastapi")  # of the packages, whose versions are worth a line
NUMBERS_THAT_GPU_ADDS = 1 << 20


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
    server: ServerIfAny = None,
    api_key: ApiKey = None,
) -> None:
    """Look whether everything is there and works: packages, GPU, compiler, models, Redis, disk, the service.

    Exit status: 0 if nothing is broken, else 1.

    Example: equipot doctor

    Example: equipot doctor --server http://gpu-box:8000 --json
    """
    findings = list(_examine(data_dir, server, api_key))
    if as_json:
        show_json({"findings": [asdict(finding) for finding in findings]})
    else:
        _show(findings)
    raise typer.Exit(int(any(finding.state == "broken" for finding in findings)))


def _examine(data_dir: Path, server: str | None, api_key: str | None) -> Iterator[Finding]:
    examinations: dict[str, Callable[[], Iterator[Finding]]] = {
        "python": _python,
        "torch": _torch,
        "GPU": _gpu,
        "compiler": _compiler,
        "models": _models,
        "calculators": _calculators,
        "redis": _redis,
        "disk": lambda: _disk(data_dir),
        "service": lambda: _service(server, api_key),
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
    for text in requires("equipot") or ():
        requirement = Requirement(text)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            seen = version(requirement.name)
        except PackageNotFoundError:
            yield Finding(requirement.name, "broken", "not installed", f"pip install '{requirement}'")
            continue
        if seen.partition("+")[0] not in requirement.specifier and seen not in requirement.specifier:
            remedy = f"pip install '{requirement}'"
            yield Finding(requirement.name, "broken", f"{seen}, but equipot needs {requirement.specifier}", remedy)
        found.append(f"{requirement.name} {seen}")
    shown = [each for each in found if each.partition(" ")[0] in SHOWN]
    yield Finding("packages", "ok", f"{len(found)} that equipot needs are there: {', '.join(shown)}, ...")


def _torch() -> Iterator[Finding]:
    import torch

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    seen = f"{torch.__version__}, {torch.get_num_threads()} threads on {cores} cores"
    yield Finding("torch", "ok", f"{seen}, {torch.backends.cpu.get_cpu_capability()}")


def _gpu() -> Iterator[Finding]:
    """Each GPU adds a million ones: a driver that is too old fails here and nowhere earlier."""
    import torch

    if torch.cuda.is_available():
        for number in range(torch.cuda.device_count()):
            about = torch.cuda.get_device_properties(number)
            what, seen = (
                f"GPU {number}",
                f"{about.name}, {about.total_memory / 2**30:.0f} GiB, CUDA {torch.version.cuda}",
            )
            ones = torch.ones(NUMBERS_THAT_GPU_ADDS, dtype=torch.float64, device=f"cuda:{number}")
            if float(ones.sum()) == NUMBERS_THAT_GPU_ADDS:
                yield Finding(what, "ok", f"{seen}; computes")
            else:
                yield Finding(what, "broken", f"{seen}; adds up wrongly", "Try another driver, or look at the card.")
    elif shutil.which("nvidia-smi"):
        remedy = "This torch does not see the GPU: install a build for your CUDA version."
        yield Finding("GPU", "note", "there is a driver, but torch has no CUDA", remedy)
    else:
        yield Finding("GPU", "note", "none; everything is computed on the CPU", "Nothing to do unless there is one.")


def _compiler() -> Iterator[Finding]:
    """What `--compile` needs on a CPU, and where it keeps what it makes."""
    found = next((path for name in ("g++", "clang++", "c++") if (path := shutil.which(name))), None)
    if found is None:
        remedy = "Only for --compile: on Debian and Ubuntu `sudo apt install g++`."
        yield Finding("compiler", "note", "no C++ compiler", remedy)
    else:
        yield Finding("compiler", "ok", f"{found}, for --compile")


def _calculators() -> Iterator[Finding]:
    """Other people's potentials that are announced here."""
    from equipot.calculator.plugins import find_calculators

    found = find_calculators().values()
    installed = ", ".join(one.name for one in found if one.is_installed) or "none"
    missing = ", ".join(one.name for one in found if not one.is_installed)
    text = f"{installed}; known but not installed: {missing}" if missing else installed
    yield Finding("calculators", "ok", text)


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
            yield Finding("redis", "ok", f"EQUIPOT_REDIS_URL answers, {_redis_version(client)}")
        return
    with (
        tempfile.TemporaryDirectory(prefix="equipot-doctor-") as folder,
        RedisServer(Path(folder)) as started,
        connect(started.url, patience_s=0) as client,
    ):
        yield Finding("redis", "ok", f"starts and answers, {_redis_version(client)}: {find_binary()}")


def _redis_version(client: Any) -> str:
    about = client.info("server")
    name = "valkey" if "valkey_version" in about else "redis"
    return f"{name} {about.get(f'{name}_version', about.get('redis_version', 'of an unknown version'))}"


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


def _service(server: str | None, api_key: str | None) -> Iterator[Finding]:
    from equipot.service.commands.server import connect

    if server is None:
        remedy = f"Start one with `equipot serve`, and name it with --server or {SERVER_VARIABLE}."
        yield Finding("service", "note", f"{SERVER_VARIABLE} names none", remedy)
        return
    with connect(server, api_key, patience_s=0) as client:
        client.request("GET", "/healthz")
        theirs = client.request("GET", "/openapi.json").json()["info"]["version"]
        workers = client.request("GET", "/v1/workers").json()["items"]
    if theirs != __version__:
        remedy = "Install the same version here and there; what one of them does not know is refused."
        yield Finding("service version", "note", f"{theirs} there, {__version__} here", remedy)
    if workers:
        devices = ", ".join(f"{worker['host']} ({worker['device']})" for worker in workers)
        yield Finding("service", "ok", f"{server} answers, version {theirs}; workers: {devices}")
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

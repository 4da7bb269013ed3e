"""Runs on this machine: read, compute, show, write; stop and go on."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.text import Text

from equipot.calculator.known import KnownModel, find_known
from equipot.errors import EquipotError, InputError
from equipot.params import AnyParams, JobKind
from equipot.service.commands.display import err, out, show_json, show_results
from equipot.service.commands.output import Output
from equipot.service.commands.status import of_results
from equipot.service.progress import RunProgress
from equipot.service.run_files import JOB_NOTE
from equipot.structure import Structure, check_against_model

if TYPE_CHECKING:
    from equipot.simulation.providers import ForceProvider
    from equipot.simulation.run import Run

TURN_S = 0.2
STOPPING = "Stopping after this step, with a checkpoint; once more stops at once."


@dataclass(frozen=True)
class Job:
    """What is to be computed here."""

    kind: JobKind
    names: Sequence[str]
    structures: Sequence[Structure | EquipotError]
    params: AnyParams
    model: str
    device: str | None = None
    dtype: str | None = None
    level_of_theory: str | None = None
    compile: bool = False
    skip_invalid: bool = False


def run_here(job: Job, output: Output | None, *, as_json: bool) -> int:
    """Compute, show and write; gives the exit status. Without an output nothing is left on disk."""
    from tempfile import TemporaryDirectory

    known = find_known(job.model, job.level_of_theory)
    if not job.skip_invalid:
        _refuse_unfit(job.names, job.structures, known)

    from equipot.simulation.run import Run

    provider = _load(known, job.device, job.dtype, as_json, job.compile)
    with TemporaryDirectory(prefix="equipot-") as scratch:
        chosen = output or Output(Path(scratch) / "run")
        with RunProgress(job.kind, quiet=as_json or job.kind == "singlepoint") as progress:
            with chosen.beginning():
                run = Run.start(
                    chosen.folder,
                    kind=job.kind,
                    structures=job.structures,
                    params=job.params,
                    provider=provider,
                    **_callbacks(progress),
                )
                chosen.begin(job.names)
            stopped_by = _to_the_end(run)
        if stopped_by is not None:
            return _interrupted(run, output, stopped_by)
        return _report(run, job.kind, chosen, kept=output is not None, as_json=as_json)


def resume_here(folder: Path, *, as_json: bool) -> int:
    """Go on with the run in a folder, on the model, device and dtype it was begun with.

    If the folder is that of a job of a service, go on with that.
    """
    if (folder / JOB_NOTE).exists():
        from equipot.service.commands.remote import resume_there

        return resume_there(folder, as_json=as_json)
    from equipot.simulation.trajectory import read_request

    read_request(folder)  # a folder without a run is said before anything is loaded

    from equipot.simulation.request import RunRequest
    from equipot.simulation.run import Run

    request = RunRequest.read(folder)
    began = request.provider
    compiled = began["pins"].get("execution") == "native compiled"
    known = find_known(str(began["model"]), began.get("level_of_theory"))
    provider = _load(known, began["device"], began["dtype"], as_json, compiled)
    output = Output.of_run(folder)
    with RunProgress(request.kind, quiet=as_json) as progress:
        run = Run.resume(folder, provider, **_callbacks(progress))
        stopped_by = _to_the_end(run)
    if stopped_by is not None:
        return _interrupted(run, output, stopped_by)
    return _report(run, request.kind, output, kept=True, as_json=as_json)


def _load(
    known: KnownModel, device: str | None, dtype: str | None, quiet: bool, compile: bool = False
) -> ForceProvider:
    """The provider itself."""
    with err.status(f"loading {known.name}") if err.is_terminal and not quiet else nullcontext():
        from equipot.simulation.api import provider_for

        return provider_for(known.name, device=device, dtype=dtype, compile=compile, level_of_theory=known.chosen_level)


def _refuse_unfit(names: Sequence[str], structures: Sequence[Structure | EquipotError], known: KnownModel) -> None:
    """Refuse the whole run, as the service does, if one structure cannot be computed."""
    for name, structure in zip(names, structures, strict=True):
        assert isinstance(structure, Structure)
        try:
            check_against_model(structure, known.elements, known.title, charges=known.charges)
        except InputError as error:
            hint = f"{error.hint} --skip-invalid leaves such files out." if len(names) > 1 else error.hint
            raise type(error)(f"{name}: {error.detail}", hint=hint, culprits=error.culprits) from error


def _callbacks(progress: RunProgress) -> dict[str, Any]:
    return {"on_progress": progress.update, "on_thermo": progress.thermo}


def _to_the_end(run: Run) -> int | None:
    """Advance until every system has ended, or a signal came: gives its number (a second Ctrl-C acts at once)."""
    with noted_signals() as noted:
        while run.advance(seconds=TURN_S):
            if noted:
                return noted[0]
    return None


@contextmanager
def noted_signals() -> Iterator[list[int]]:
    """The signals that asked to stop so far (Ctrl-C, SIGTERM); the second one acts at once."""
    noted: list[int] = []
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def note(number: int, _frame: object) -> None:
        noted.append(number)
        restore()
        with suppress(OSError):
            os.write(2, f"\n{STOPPING}\n".encode())  # not through a console: a signal may come while that writes

    for number in before:
        signal.signal(number, note)
    try:
        yield noted
    finally:
        restore()


def _interrupted(run: Run, output: Output | None, stopped_by: int) -> int:
    with run:
        if output is not None:
            run.checkpoint()
        progress = run.progress
    message = (
        f"Interrupted at step {progress.step} of {progress.n_steps}, {progress.n_done} of {progress.n_systems} done."
    )
    err.print(Text(message, style="yellow"), soft_wrap=True)
    if output is not None:
        err.print(Text(f"A checkpoint is written. Go on with: equipot resume {output.folder}"), soft_wrap=True)
    return 128 + stopped_by


def _report(run: Run, kind: JobKind, output: Output, *, kept: bool, as_json: bool) -> int:
    with run:
        results = run.results
    names = output.names(len(results))
    document = _document(kind, run, results, names)
    paths = output.finish(kind, document) if kept else []
    if as_json:
        show_json({**document, "files": [str(path) for path in paths]})
    else:
        show_results(kind, results, names)
        for path in paths:
            out.print(Text(f"  {path}", style="dim"), soft_wrap=True)
    return of_results(results)


def _document(kind: str, run: Run, results: Sequence[dict[str, Any]], names: Sequence[str]) -> dict[str, Any]:
    """What result.json and --json hold."""
    return {
        "kind": kind,
        "provider": {key: value for key, value in run.request.provider.items() if key != "pins"},
        "params": run.request.params.model_dump(mode="json"),
        "systems": [{"name": name, **result} for name, result in zip(names, results, strict=True)],
    }

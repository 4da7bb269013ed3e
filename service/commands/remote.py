"""Runs on a service: submit, watch, show, fetch; the same display and the same files as a run here."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.text import Text

from equipot.errors import EquipotError, InvalidStructureError, NotResumableError, error_from_problem
from equipot.service.client import Client, RemoteJob
from equipot.service.client.folder import JobNote, fetch_into, go_on, write_final
from equipot.service.client.values import complete, progress_of
from equipot.service.client.wire import now
from equipot.service.commands.display import err, out, show_error, show_json, show_results, show_warnings
from equipot.service.commands.output import Output
from equipot.service.commands.server import connect
from equipot.service.commands.status import ExitStatus, of_results
from equipot.service.progress import RunProgress
from equipot.service.run_files import FILE_FORMATS
from equipot.simulation.progress import Progress
from equipot.structure import Structure


@dataclass(frozen=True)
class Place:
    """Which service, and the key it is asked with."""

    server: str
    api_key: str | None = None

    def connect(self) -> Client:
        """A client."""
        return connect(self.server, self.api_key)


def run_there(
    place: Place,
    job_fields: Mapping[str, Any],
    names: Sequence[str],
    structures: Sequence[Structure | EquipotError],
    output: Output | None,
    *,
    detach: bool,
    as_json: bool,
) -> int:
    """Submit what was read here; then wait, show and fetch, or with `detach` say how to do so later."""
    usable = [
        (name, structure)
        for name, structure in zip(names, structures, strict=True)
        if not isinstance(structure, EquipotError)
    ]
    errors = [structure for structure in structures if isinstance(structure, EquipotError)]
    show_warnings([f"left out: {error.detail}" for error in errors])
    if not usable:
        raise InvalidStructureError("None of the structures can be computed.", hint=errors[0].hint if errors else "")
    with place.connect() as client:
        job = client.submit(structures=[structure for _, structure in usable], **job_fields)
        labels = [name for name, _ in usable]
        if output is not None:
            with output.beginning():
                JobNote(client.url, job.id, names=labels).write(output.folder)
                output.note_file()
        if detach:
            return _detached(job, output, as_json)
        if not as_json:
            err.print(Text(f"job {job.id} on {client.url}", style="dim"), soft_wrap=True)
        return _watch_and_report(job, labels, output, as_json)


def resume_there(folder: Path, *, as_json: bool) -> int:
    """Go on with the job that a folder is for: watch it, resume it if it was stopped, fetch it."""
    note = JobNote.read(folder)
    if note is None:
        raise NotResumableError(f"The note in {folder} cannot be read.", hint="Look for the job: equipot jobs ls.")
    with connect(note.server) as client:
        job = client.get(note.job_id)
        now(go_on(job.rules))
        return _watch_and_report(job, list(note.names), Output.of_run(folder), as_json)


def _watch_and_report(job: RemoteJob, names: Sequence[str], output: Output | None, as_json: bool) -> int:
    try:
        watch(job, quiet=as_json)
    except KeyboardInterrupt:
        _say_how_to_go_on(job, output)
        return ExitStatus.INTERRUPTED
    return report(job, names, output, as_json=as_json)


def watch(job: RemoteJob, *, quiet: bool) -> None:
    """Wait for the end of a job with progress on stderr."""
    with RunProgress(job.record.kind, quiet=quiet, console=err) as display:
        if job.record.is_over:
            return
        if not quiet:
            display.update(job.progress)
            for event in job.events():
                if event.type == "thermo":
                    display.thermo(event.data)
                elif event.type == "progress":
                    display.update(Progress(**event.data, n_max_steps=0))
                elif event.type == "end" and job.refresh().record.is_over:
                    break
        job.wait(progress=False)
        display.update(progress_of(job.record))


def report(job: RemoteJob, names: Sequence[str], output: Output | None, *, as_json: bool) -> int:
    """Show what became of a job and fetch its files; gives the exit status."""
    record = job.record
    results = [complete(system, record) for system in job.systems()]
    if not results:
        if record.error is not None:
            show_error(error_from_problem(record.error))
        else:
            err.print(f"job {job.id}: {record.state.value}")
        return ExitStatus.FAILED
    labels = [*names, *(f"system {idx}" for idx in range(len(names), record.progress.n_systems))]
    shown = [labels[result["system_idx"]] for result in results]
    paths = fetch(job, output, results) if output is not None else []
    if as_json:
        systems = [{"name": name, **result} for name, result in zip(shown, results, strict=True)]
        files = [str(path) for path in paths]
        show_json({"job": record.model_dump(mode="json"), "systems": systems, "files": files})
    else:
        show_results(record.kind, results, shown)
        for path in paths:
            out.print(Text(f"  {path}", style="dim"), soft_wrap=True)
    return of_results(results)


def fetch(job: RemoteJob, output: Output, results: Sequence[Mapping[str, Any]]) -> list[Path]:
    """Write the files of a job, as a run here leaves them; gives their paths."""
    if output.file is None:
        return now(fetch_into(output.folder, job.rules))
    format = FILE_FORMATS[output.file.suffix.lower()]
    if job.record.kind == "md" or format != "extxyz":
        job.download(output.file, format)
    else:
        write_final(output.file, results)
    if JobNote.read(output.folder) is not None:
        shutil.rmtree(output.folder)
    return [output.file]


def _say_how_to_go_on(job: RemoteJob, output: Output | None) -> None:
    server = f"--server {job.rules.client.url}"
    progress = job.progress
    err.print(Text(f"The job goes on without you, now at step {progress.step} of {progress.n_steps}.", style="yellow"))
    if output is not None:
        err.print(Text(f"Wait for it again:  equipot resume {output.folder}"), soft_wrap=True)
    for what, command in (("Watch it", "tail"), ("Fetch it", "get"), ("Stop it", "cancel")):
        err.print(Text(f"{what + ':':<20}equipot jobs {command} {job.id} {server}"), soft_wrap=True)


def _detached(job: RemoteJob, output: Output | None, as_json: bool) -> int:
    if as_json:
        show_json({"job": job.record.model_dump(mode="json")})
        return ExitStatus.OK
    out.print(job.id)
    hints = [f"Watch it: equipot jobs tail {job.id} --server {job.rules.client.url}"]
    hints += [f"Wait for it and fetch it: equipot resume {output.folder}"] if output is not None else []
    for hint in hints:
        err.print(Text(hint, style="dim"), soft_wrap=True)
    return ExitStatus.OK

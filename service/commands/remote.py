"""Runs on a service: submit, watch, show, fetch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.text import Text

from equipot.errors import EquipotError, InvalidStructureError, error_from_problem
from equipot.service.client import RemoteJob
from equipot.service.commands.display import (
    RunProgress,
    err,
    exit_status,
    out,
    show_error,
    show_json,
    show_results,
    show_warnings,
)
from equipot.service.commands.output import FILE_FORMATS, FINAL, RESULT, TRAJECTORY, Output, write_json
from equipot.service.commands.server import connect
from equipot.service.records import Progress
from equipot.structure import Structure

if TYPE_CHECKING:
    from ase import Atoms

INTERRUPTED = 130


def run_there(
    server: str,
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
    with connect(server) as client:
        job = client.submit(structures=[structure for _, structure in usable], **job_fields)
        if detach:
            return _detached(job, server, as_json)
        if not as_json:
            err.print(Text(f"job {job.id}", style="dim"))
        try:
            watch(job, quiet=as_json)
        except KeyboardInterrupt:
            message = f"The job goes on without you. Watch it: equipot jobs tail {job.id} --server {server}"
            err.print(message, soft_wrap=True)
            return INTERRUPTED
        return report(job, [name for name, _ in usable], output, as_json=as_json)


def watch(job: RemoteJob, *, quiet: bool) -> None:
    """Wait for the end of a job with progress on stderr."""
    with RunProgress(job.record.kind, quiet=quiet) as display:

        def show(progress: Progress) -> None:
            display.update(progress.step, progress.n_steps, progress.n_done, progress.n_systems)

        job.wait(on_progress=show)


def report(job: RemoteJob, names: Sequence[str], output: Output | None, *, as_json: bool) -> int:
    """Show what became of a job and fetch its files; gives the exit status."""
    record = job.record
    results = [{**_EMPTY, **system} for system in job.systems()]
    if not results:
        if record.error is not None:
            show_error(error_from_problem(record.error))
        else:
            err.print(f"job {job.id}: {record.state.value}")
        return 1
    labels = [*names, *(f"system {idx}" for idx in range(len(names), record.progress.n_systems))]
    names = [labels[result["system_idx"]] for result in results]
    document = {"job": record.model_dump(mode="json"), "systems": results}
    paths = fetch(job, output, document) if output is not None else []
    if as_json:
        show_json({**document, "files": [str(path) for path in paths]})
    else:
        show_results(record.kind, results, names)
        for path in paths:
            out.print(Text(f"  {path}", style="dim"), soft_wrap=True)
    return exit_status(results)


def fetch(job: RemoteJob, output: Output, document: Mapping[str, Any]) -> list[Path]:
    """Write the files of a job, as a run here leaves them; gives their paths."""
    is_md = job.record.kind == "md"
    if output.file is not None:
        format = FILE_FORMATS[output.file.suffix.lower()]
        if is_md or format != "extxyz":
            output.file.write_bytes(job.trajectory(format))
        else:
            _write_final(job, output.file)
        return [output.file]
    output.folder.mkdir(parents=True, exist_ok=True)
    if job.record.kind != "singlepoint":
        (output.folder / TRAJECTORY).write_bytes(job.trajectory("traj"))
    _write_final(job, output.folder / FINAL)
    write_json(output.folder / RESULT, document)
    return [path for name in (TRAJECTORY, FINAL, RESULT) if (path := output.folder / name).exists()]


def _write_final(job: RemoteJob, path: Path) -> None:
    from ase.io import write

    final: list[Atoms] = []
    for record, atoms in job.ended_systems():
        if atoms is not None:
            atoms.info["system"] = record["system_idx"]
            final.append(atoms)
    write(path, final, format="extxyz")


def _detached(job: RemoteJob, server: str, as_json: bool) -> int:
    if as_json:
        show_json({"job": job.record.model_dump(mode="json")})
    else:
        out.print(job.id)
        err.print(Text(f"Watch it: equipot jobs tail {job.id} --server {server}", style="dim"), soft_wrap=True)
    return 0


#: what a system that ended with its shard does not say
_EMPTY: Mapping[str, Any] = {
    "criterion": "",
    "n_steps": 0,
    "energy_ev": None,
    "fmax_ev_per_ang": None,
    "structure": None,
    "reason": None,
    "warnings": [],
}

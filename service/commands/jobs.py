"""`equipot jobs`: look after the jobs of a service."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from equipot.errors import error_from_problem
from equipot.service.commands.completion import job_ids, model_names
from equipot.service.commands.display import err, out, show_error, show_json, show_warnings
from equipot.service.commands.output import Output
from equipot.service.commands.server import DEFAULT_SERVER, ApiKey, Server, connect
from equipot.service.commands.status import EXIT_STATUS, ExitStatus, of_outcomes
from equipot.service.progress import duration
from equipot.service.states import JobState

if TYPE_CHECKING:
    from equipot.service.client import RemoteJob
    from equipot.service.records import Event

STATE_STYLES = {
    JobState.SUCCEEDED: "green",
    JobState.PARTIALLY_SUCCEEDED: "yellow",
    JobState.FAILED: "red",
    JobState.CANCELLED: "yellow",
}

jobs = typer.Typer(
    no_args_is_help=True,
    help="Look after the jobs of a service: on this machine, or where --server or EQUIPOT_SERVER says.",
    epilog="Example: equipot jobs ls --state running\n\nExample: equipot jobs get 01JD... -o ethanol",
    context_settings={"help_option_names": ["-h", "--help"]},
)

JobId = Annotated[str, typer.Argument(help="The id of a job, as `equipot jobs ls` shows it.", autocompletion=job_ids)]
JobIds = Annotated[list[str], typer.Argument(help="Ids of jobs.", autocompletion=job_ids)]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def add_to(app: typer.Typer) -> None:
    """Add the group."""
    app.add_typer(jobs, name="jobs")


@jobs.command("ls")
def ls(
    state: Annotated[JobState | None, typer.Option(help="Only those in this state.")] = None,
    kind: Annotated[str | None, typer.Option(help="Only singlepoint, relax or md.")] = None,
    model: Annotated[str | None, typer.Option(help="Only those on this model.", autocompletion=model_names)] = None,
    tag: Annotated[str | None, typer.Option(help="Only those with this tag.")] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="At most so many.")] = 20,
    server: Server = DEFAULT_SERVER,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """List jobs, the newest first.

    Example: equipot jobs ls --state running --kind md
    """
    with connect(server, api_key) as client:
        wanted = client.jobs(state=None if state is None else state.value, kind=kind, model=model, tag=tag)
        records = [job.record for job in islice(wanted, limit)]
    if as_json:
        show_json({"items": [record.model_dump(mode="json") for record in records]})
        return
    table = Table(box=None, header_style="bold", pad_edge=False)
    for heading in ("id", "kind", "model", "state", "steps", "done", "age"):
        table.add_column(heading, no_wrap=heading not in ("model", "state"), overflow="fold")
    for record in records:
        progress = record.progress
        table.add_row(
            record.id,
            record.kind,
            record.model,
            Text(record.state.value, style=STATE_STYLES.get(record.state, "")),
            f"{progress.step}/{progress.n_steps}",
            f"{progress.n_done}/{progress.n_systems}",
            _age(record.created_at),
        )
    out.print(table)


@jobs.command("show")
def show(job_id: JobId, server: Server = DEFAULT_SERVER, api_key: ApiKey = None, as_json: AsJson = False) -> None:
    """Show all that is known of a job.

    Example: equipot jobs show 01JD...
    """
    with connect(server, api_key) as client:
        record = client.get(job_id).record
    document = record.model_dump(mode="json", exclude={"warnings", "error"} if not as_json else None)
    if as_json:
        show_json(document)
        return
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim")
    grid.add_column(overflow="fold")
    for key, value in document.items():
        if value not in (None, "", [], {}):
            grid.add_row(key, Text(_plain(value)))
    out.print(grid)
    show_warnings([warning.message for warning in record.warnings])
    if record.error is not None:
        show_error(error_from_problem(record.error))


@jobs.command("tail", epilog=EXIT_STATUS)
def tail(job_id: JobId, server: Server = DEFAULT_SERVER, api_key: ApiKey = None, as_json: AsJson = False) -> None:
    """Follow what happens to a job until it ends, from its beginning; with --json one event to a line.

    Example: equipot jobs tail 01JD...

    Example: equipot jobs tail 01JD... --json | jq 'select(.type == "thermo") | .data.energy_ev'
    """
    with connect(server, api_key) as client:
        job = client.get(job_id)
        for event in job.events():
            if as_json:
                print(json.dumps({"id": event.id, "type": event.type, "data": event.data}), flush=True)
            else:
                out.print(Text(f"{_when(event)}  {event.type:9} {_plain(event.data)}"), soft_wrap=True)
        record = job.refresh().record
    raise typer.Exit(ExitStatus.FAILED if record.state is JobState.CANCELLED else of_outcomes(record.outcomes))


@jobs.command("get", epilog=EXIT_STATUS)
def get(
    job_id: JobId,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="A folder, or a file (.extxyz, .traj, .npz, .jsonl)."),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace files that are there.")] = False,
    server: Server = DEFAULT_SERVER,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Fetch the results of a job: trajectory, final structures and result.json.

    Example: equipot jobs get 01JD... -o ethanol
    """
    from equipot.service.commands.remote import report

    with connect(server, api_key) as client:
        job = client.get(job_id)
        chosen = Output.choose(job.record.kind, [Path(job.id)], output or Path(job.id), overwrite, remote=True)
        status = report(job, [], chosen, as_json=as_json)
    raise typer.Exit(status)


@jobs.command("cancel")
def cancel(job_ids: JobIds, server: Server = DEFAULT_SERVER, api_key: ApiKey = None, as_json: AsJson = False) -> None:
    """Stop jobs; what was computed is kept, and `resume` goes on with it.

    Example: equipot jobs cancel 01JD...
    """
    with connect(server, api_key) as client:
        _say([client.get(job_id).cancel() for job_id in job_ids], as_json)


@jobs.command("resume")
def resume(job_ids: JobIds, server: Server = DEFAULT_SERVER, api_key: ApiKey = None, as_json: AsJson = False) -> None:
    """Let jobs that were cancelled or failed go on from their last checkpoint.

    Example: equipot jobs resume 01JD...
    """
    with connect(server, api_key) as client:
        _say([client.get(job_id).resume() for job_id in job_ids], as_json)


@jobs.command("extend")
def extend(
    job_id: JobId,
    n_steps: Annotated[int | None, typer.Option(min=1, help="So many more steps.")] = None,
    duration_ps: Annotated[float | None, typer.Option(min=0, help="So much more simulated time, ps.")] = None,
    server: Server = DEFAULT_SERVER,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Let a dynamics that has ended go on for longer, as if it had been asked for at once.

    Example: equipot jobs extend 01JD... --duration-ps 10
    """
    with connect(server, api_key) as client:
        _say([client.get(job_id).extend(n_steps=n_steps, duration_ps=duration_ps)], as_json)


@jobs.command("rm")
def rm(job_ids: JobIds, server: Server = DEFAULT_SERVER, api_key: ApiKey = None, as_json: AsJson = False) -> None:
    """Remove jobs that have ended, with all their data.

    Example: equipot jobs rm 01JD...
    """
    with connect(server, api_key) as client:
        for job_id in job_ids:
            client.get(job_id).delete()
            if not as_json:
                err.print(f"{job_id} is removed")
    if as_json:
        show_json({"removed": job_ids})


def _say(jobs: list[RemoteJob], as_json: bool) -> None:
    if as_json:
        show_json({"items": [job.record.model_dump(mode="json") for job in jobs]})
        return
    for job in jobs:
        err.print(f"{job.id} is {job.record.state.value}")


def _when(event: Event) -> str:
    """The time of an event, which its id says."""
    milliseconds = event.id.partition("-")[0]
    return datetime.fromtimestamp(int(milliseconds) / 1000).strftime("%H:%M:%S") if milliseconds else " " * 8


def _age(created_at: str) -> str:
    """How long ago, in one unit."""
    return duration((datetime.now(UTC) - datetime.fromisoformat(created_at)).total_seconds())


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return "  ".join(f"{key} {_plain(each)}" for key, each in value.items() if each is not None)
    if isinstance(value, list):
        return ", ".join(_plain(each) for each in value[:10]) + (", …" if len(value) > 10 else "")
    return f"{value:.6g}" if isinstance(value, float) else str(value)

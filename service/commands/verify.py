"""`equipot verify`: check a job of a service again."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer
from rich.text import Text

from equipot.service.commands.display import out, show_json
from equipot.service.commands.jobs import AsJson, JobId
from equipot.service.commands.server import DEFAULT_SERVER, ApiKey, Server, connect

MARKS = {True: ("ok  ", "green"), False: ("FAIL", "red"), None: ("--  ", "dim")}


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    app.command("verify", epilog="Exit status: 0 everything holds, 1 something does not.")(verify)


def verify(
    job_id: JobId,
    recompute: Annotated[
        int, typer.Option(min=0, help="Also compute the final energies of so many systems again, here.")
    ] = 0,
    server: Server = DEFAULT_SERVER,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Check that the files of an ended job are still those its manifest names, byte by byte.

    Fetches everything and compares sha256 of input, output and state, of the weights if this machine has them, and what
    the record says.

    Example: equipot verify 01JD... --recompute 3
    """
    from equipot.service.verification import Check
    from equipot.service.verification import verify as checks_of

    checks: list[Check] = []
    with connect(server, api_key) as client:
        for check in checks_of(client.get(job_id), recompute):
            checks.append(check)
            if not as_json:
                mark, style = MARKS[check.holds]
                out.print(Text.assemble((mark, style), f" {check.name}  ", (check.detail, "dim")), soft_wrap=True)
    failed = [check.name for check in checks if check.holds is False]
    if as_json:
        show_json({"job": job_id, "verified": not failed, "checks": [asdict(check) for check in checks]})
    if failed:
        raise typer.Exit(1)

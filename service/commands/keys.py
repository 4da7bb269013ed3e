"""`equipot keys`: who may use a service."""

from __future__ import annotations

import base64
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from equipot.service.commands.display import err, out, show_json
from equipot.service.commands.serving import DataDirOption, settings_with

if TYPE_CHECKING:
    from equipot.service.access import KeyFile, Scope

keys = typer.Typer(
    no_args_is_help=True,
    help="Say who may use a service: API keys, kept in its data directory.",
    epilog="Example: equipot keys create alice --expires-in-days 90",
    context_settings={"help_option_names": ["-h", "--help"]},
)


class ScopeName(StrEnum):
    """The scopes of equipot.service.access, for an option that may be repeated."""

    READ = "read"
    WRITE = "write"
    ADMIN = "admin"


AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def add_to(app: typer.Typer) -> None:
    """Add the group."""
    app.add_typer(keys, name="keys")


@keys.command("create")
def create(
    owner: Annotated[str, typer.Argument(help="Whose key it is; all keys of an owner see the same jobs.")],
    scope: Annotated[
        list[ScopeName] | None,
        typer.Option(help="read, write (the default is both) or admin, who sees everybody's jobs; may be repeated."),
    ] = None,
    expires_in_days: Annotated[float | None, typer.Option(help="Days until it ends (default: never).")] = None,
    max_atoms: Annotated[int | None, typer.Option(min=1, help="Most atoms in one structure.")] = None,
    max_steps: Annotated[int | None, typer.Option(min=1, help="Most steps of one job.")] = None,
    max_concurrent_jobs: Annotated[int | None, typer.Option(min=1, help="Most jobs that have not ended.")] = None,
    requests_per_minute: Annotated[int | None, typer.Option(min=1, help="Most requests in a minute.")] = None,
    retention_days: Annotated[
        float | None, typer.Option(help="Days after its end until a job is removed (default: as the service is set).")
    ] = None,
    data_dir: DataDirOption = None,
    as_json: AsJson = False,
) -> None:
    """Make an API key and show it, once: the service keeps a digest only.

    From the first key on the service asks everybody for one.

    Example: equipot keys create alice --max-concurrent-jobs 10 --expires-in-days 90
    """
    from equipot.service.access import KeyLimits, Signer, key_as_json

    limits = KeyLimits(
        max_atoms=max_atoms,
        max_steps=max_steps,
        max_concurrent_jobs=max_concurrent_jobs,
        requests_per_minute=requests_per_minute,
        retention_days=retention_days,
    )
    file, folder = _keys(data_dir)
    scopes: list[Scope] = [one.value for one in scope or (ScopeName.READ, ScopeName.WRITE)]
    key, text = file.create(
        owner,
        scopes,
        expires_in_days=expires_in_days,
        limits=limits,
    )
    secret = _webhook_secret(Signer(folder), owner)
    if as_json:
        show_json({**key_as_json(key), "key": text, "webhook_secret": secret})
        return
    out.print(Text(text), soft_wrap=True)
    err.print(Text(f"Keep it: it is not shown again. Key {key.id} of {owner}: {', '.join(key.scopes)}.", style="dim"))
    err.print(Text(f"Webhooks of {owner} are signed with {secret}", style="dim"), soft_wrap=True)


@keys.command("list")
def list_keys(data_dir: DataDirOption = None, as_json: AsJson = False) -> None:
    """Show every key there is or was, without its secret.

    Example: equipot keys list
    """
    from equipot.service.access import key_as_json

    found = _keys(data_dir)[0].all()
    if as_json:
        show_json({"items": [key_as_json(key) for key in found]})
        return
    table = Table(box=None, header_style="bold", pad_edge=False)
    for heading in ("id", "owner", "scopes", "created", "ends", "limits"):
        table.add_column(heading, overflow="fold")
    for key in found:
        ends = f"revoked {key.revoked_at}" if key.revoked_at else key.expires_at or "never"
        limits = ", ".join(f"{name} {value:g}" for name, value in key.limits.model_dump(exclude_none=True).items())
        style = "" if key.is_valid else "dim"
        table.add_row(key.id, key.owner, ", ".join(key.scopes), key.created_at, ends, limits, style=style)
    out.print(table)


@keys.command("revoke")
def revoke(key_id: Annotated[str, typer.Argument(help="As `list` shows it.")], data_dir: DataDirOption = None) -> None:
    """Make a key worthless, at once.

    Example: equipot keys revoke 1f0c9a3e
    """
    key = _keys(data_dir)[0].revoke(key_id)
    err.print(f"{key.id} of {key.owner} is revoked")


@keys.command("webhook-secret")
def webhook_secret(
    owner: Annotated[str, typer.Argument(help="Whose jobs; leave it out where no key is needed.")] = "",
    data_dir: DataDirOption = None,
) -> None:
    """Show the secret by which a receiver checks that a webhook came from this service.

    Example: equipot keys webhook-secret alice
    """
    from equipot.service.access import Signer

    out.print(Text(_webhook_secret(Signer(_keys(data_dir)[1]), owner)), soft_wrap=True)


def _keys(data_dir: Path | None) -> tuple[KeyFile, Path]:
    from equipot.service.access import KeyFile

    folder = settings_with(data_dir=data_dir).data_dir
    return KeyFile(folder), folder


def _webhook_secret(signer: object, owner: str) -> str:
    from equipot.service.access import Signer

    assert isinstance(signer, Signer)
    return "whsec_" + base64.b64encode(signer.webhook_secret(owner)).decode()

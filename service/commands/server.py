"""Which service the command line talks to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from equipot.service.address import API_KEY_VARIABLE, DEFAULT_SERVER, SERVER_VARIABLE

if TYPE_CHECKING:
    from equipot.service.client import Client

PATIENCE_S = 5.0

Server = Annotated[str, typer.Option(help="The URL of the service.", envvar=SERVER_VARIABLE)]
ServerIfAny = Annotated[str | None, typer.Option(help="Do it there: the URL of a service.", envvar=SERVER_VARIABLE)]
ApiKey = Annotated[
    str | None,
    typer.Option(help="The key, where the service wants one.", envvar=API_KEY_VARIABLE, show_envvar=True),
]

__all__ = ["DEFAULT_SERVER", "ApiKey", "Server", "ServerIfAny", "connect"]


def connect(server: str, api_key: str | None = None, patience_s: float = PATIENCE_S) -> Client:
    """A client for the service at `server`."""
    from equipot.service.client import Client

    return Client(server, api_key, patience_s=patience_s)

"""Which service the command line talks to."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from equipot.service.client import Client

DEFAULT_SERVER = "http://127.0.0.1:8000"
SERVER_VARIABLE = "EQUIPOT_SERVER"
API_KEY_VARIABLE = "EQUIPOT_API_KEY"
PATIENCE_S = 5.0


def connect(server: str) -> Client:
    """A client for the service at `server`, with the key in EQUIPOT_API_KEY if there is one."""
    from equipot.service.client import Client

    return Client(server, os.environ.get(API_KEY_VARIABLE) or None, patience_s=PATIENCE_S)

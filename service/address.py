"""Where a service is and who asks, for the command line and the client."""

from __future__ import annotations

DEFAULT_SERVER = "http://127.0.0.1:8000"
SERVER_VARIABLE = "EQUIPOT_SERVER"
API_KEY_VARIABLE = "EQUIPOT_API_KEY"

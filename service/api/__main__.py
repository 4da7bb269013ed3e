"""Serve the API: `python -m equipot.service.api`, with the settings of the environment (EQUIPOT_*)."""

from __future__ import annotations

GRACE_S = 5  #: for answers under way when the server is asked to stop; streams end at once


def main() -> None:
    """Serve until SIGTERM or SIGINT."""
    import uvicorn

    from equipot.service.access import refuse_open_door
    from equipot.service.api.app import create_app
    from equipot.service.settings import Settings

    settings = Settings()
    refuse_open_door(settings)
    uvicorn.run(
        create_app(settings),
        host=settings.host,
        port=settings.port,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=GRACE_S,
    )


if __name__ == "__main__":
    main()

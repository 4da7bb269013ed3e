"""Serve the API: `python -m equipot.service.api`, with the settings of the environment (EQUIPOT_*)."""

from __future__ import annotations

from types import FrameType


def main() -> None:
    """Serve until SIGTERM or SIGINT; streams are told to end first."""
    import uvicorn

    from equipot.service.api.app import create_app
    from equipot.service.settings import Settings

    settings = Settings()
    app = create_app(settings)

    class Server(uvicorn.Server):
        def handle_exit(self, sig: int, frame: FrameType | None) -> None:
            app.state.services.closing.set()
            super().handle_exit(sig, frame)

    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=5,
        server_header=False,
    )
    Server(config).run()


if __name__ == "__main__":
    main()

"""`equipot serve`, `api` and `worker`: the service and its parts."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from equipot.errors import EquipotError

if TYPE_CHECKING:
    from equipot.service.settings import Settings


def add_to(app: typer.Typer) -> None:
    """Add the three commands."""
    for command in (serve, api, worker):
        app.command(command.__name__)(command)


HostOption = Annotated[str | None, typer.Option(help="Address to listen on (default 127.0.0.1).")]
PortOption = Annotated[int | None, typer.Option(min=0, max=65535, help="Port to listen on (default 8000).")]
DataDirOption = Annotated[
    Path | None, typer.Option(help="Where jobs are kept (default ./equipot-data).", file_okay=False)
]
RedisOption = Annotated[
    str | None, typer.Option(help="A Redis to use: redis://, rediss:// or unix:// (default: serve starts its own).")
]
DeviceOption = Annotated[str | None, typer.Option("--device", help="auto, cpu or cuda (default auto).")]


def serve(
    host: HostOption = None,
    port: PortOption = None,
    data_dir: DataDirOption = None,
    redis_url: RedisOption = None,
    workers: Annotated[
        int | None, typer.Option(min=0, help="Worker processes (default: one for each GPU, else 1).")
    ] = None,
    device: DeviceOption = None,
) -> None:
    """Start everything on this machine: Redis, the API with its web page, and workers.

    Example: equipot serve --port 8000 --data-dir ./equipot-data --workers 2

    Every setting can also be an environment variable: EQUIPOT_PORT, EQUIPOT_DATA_DIR, EQUIPOT_REDIS_URL, ...
    """
    from equipot.service.supervisor import serve as run_service

    settings = settings_with(
        host=host, port=port, data_dir=data_dir, redis_url=redis_url, workers=workers, worker_device=device
    )
    raise typer.Exit(run_service(settings))


def api(
    host: HostOption = None, port: PortOption = None, data_dir: DataDirOption = None, redis_url: RedisOption = None
) -> None:
    """Start the HTTP API alone; needs a Redis and workers elsewhere.

    Example: equipot api --host 0.0.0.0 --redis-url redis://redis.example:6379/0 --data-dir /shared/equipot
    """
    settings = settings_with(host=host, port=port, data_dir=data_dir, redis_url=redis_url)
    raise typer.Exit(run_api(settings))


def worker(data_dir: DataDirOption = None, redis_url: RedisOption = None, device: DeviceOption = None) -> None:
    """Start one worker; it takes jobs from the Redis given and keeps its model warm.

    Example: equipot worker --redis-url redis://redis.example:6379/0 --data-dir /shared/equipot
    """
    settings = settings_with(data_dir=data_dir, redis_url=redis_url, worker_device=device)
    raise typer.Exit(run_worker(settings))


def settings_with(**given: Any) -> Settings:
    """Settings from the environment, with those given on the command line over them."""
    from pydantic import ValidationError

    from equipot.params import invalid_parameters
    from equipot.service.settings import Settings

    try:
        return Settings(**{name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        raise invalid_parameters(error, known=Settings) from error


def run_api(settings: Settings) -> int:
    """Run the API until it is stopped; without a Redis URL it joins the service that runs on its data directory."""
    from equipot.service.access import refuse_open_door

    refuse_open_door(settings)
    os.environ.update(_joined(settings).as_environment())
    from equipot.service.api.__main__ import main

    main()
    return 0


def run_worker(settings: Settings) -> int:
    """Run a worker until it is stopped; it joins a service as the API does."""
    settings = _joined(settings)
    from equipot.service.worker import main

    return main(settings)


def _joined(settings: Settings) -> Settings:
    from equipot.service.redis_server import running_url

    url = settings.redis_url or running_url(settings.data_dir)
    if url is None:
        raise EquipotError(
            f"No service runs on {settings.data_dir}.", hint="Start `equipot serve`, or give --redis-url."
        )
    return settings.model_copy(update={"redis_url": url})

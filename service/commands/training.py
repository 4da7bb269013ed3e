"""`equipot train`: make a potential."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from equipot.service.commands.display import out


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    app.command("train")(train)


def train(
    config: Annotated[Path, typer.Argument(help="A YAML file that describes the potential.", exists=True)],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder for log, state and potential (default runs/NAME).")
    ] = None,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads.")] = 1,
) -> None:
    """Train a potential; an interrupted training goes on where it stopped.

    Example: equipot train models/training/configs/organic-1.yaml -o runs/organic-1
    """
    from equipot.models.training.loop import train as run_training

    folder = run_training(config, output, threads)
    out.print(f"Use it with: EQUIPOT_MODEL_PATH={folder} equipot models")

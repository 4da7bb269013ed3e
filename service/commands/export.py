"""`equipot export`: the trajectory of a run in another format."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.text import Text

from equipot.errors import InvalidParameterError, UnsupportedFormatError
from equipot.service.commands.display import out, show_json

if TYPE_CHECKING:
    from equipot.simulation.trajectory import Frame

SUFFIXES = {
    ".extxyz": "extxyz",
    ".xyz": "extxyz",
    ".jsonl": "jsonl",
    ".traj": "traj",
    ".npz": "npz",
    ".h5md": "h5md",
    ".h5": "h5md",
}
Source = Annotated[
    Path, typer.Argument(metavar="RUN", help="The folder of a run or a job, or a .traj or .extxyz file.")
]
System = Annotated[int | None, typer.Option(min=0, help="One system of several (default all).")]
Start = Annotated[int | None, typer.Option(help="First frame; negative counts from the end.")]
Stop = Annotated[int | None, typer.Option(help="Frame before which to stop; negative counts from the end.")]
Stride = Annotated[int, typer.Option(min=1, help="Every so many frames.")]


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    app.command("export")(export)


def export(
    run: Source,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="A file (default RUN.FORMAT); its ending says the format.")
    ] = None,
    format: Annotated[
        Literal["extxyz", "traj", "npz", "h5md", "jsonl"] | None, typer.Option(help="Format (default extxyz).")
    ] = None,
    system: System = None,
    start: Start = None,
    stop: Stop = None,
    stride: Stride = 1,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace files that are there.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was written as JSON.")] = False,
) -> None:
    """Write the trajectory of a run to a file, while it runs too; an H5MD file holds one system, so there may be many.

    Example: equipot export water-md -o water.h5md --system 0 --stride 10
    """
    from equipot.simulation.exports import export as write

    chosen = _format(output, format)
    target = output or Path(f"{run.resolve().name.removesuffix(run.suffix)}.{chosen}")
    written = []
    for path, frames in _files(run, chosen, target, system):
        picked = range(len(frames))[start:stop:stride]
        if path.exists() and not overwrite:
            raise InvalidParameterError(f"{path} exists already.", hint="Choose another place with -o, or --overwrite.")
        if not picked:
            raise InvalidParameterError(
                f"No frames are left of {len(frames)}.", hint="Look at --start, --stop and --stride."
            )
        partial = path.with_name(f".{path.name}.part")
        write((frames[i] for i in picked), chosen, partial)
        partial.replace(path)
        written.append({"file": str(path), "format": chosen, "n_frames": len(picked)})
        if not as_json:
            out.print(Text(f"  {path}  {len(picked)} frames", style="dim"), soft_wrap=True)
    if as_json:
        show_json({"files": written})


def _format(output: Path | None, given: str | None) -> str:
    """What --format says, or the ending of the file."""
    if given is not None:
        return given
    if output is None:
        return "extxyz"
    if output.suffix.lower() not in SUFFIXES:
        raise UnsupportedFormatError(
            f"{output.name} does not say a format.", hint=f"Endings: {', '.join(SUFFIXES)}; or give --format."
        )
    return SUFFIXES[output.suffix.lower()]


def _files(run: Path, format: str, target: Path, system: int | None) -> Iterator[tuple[Path, Sequence[Frame]]]:
    """Which frames go where: all into one file, or, in H5MD, each system into its own."""
    from equipot.simulation.sources import open_frames, systems_in

    systems = systems_in(run)
    if format != "h5md" or system is not None or len(systems) < 2:
        yield target, open_frames(run, system)
        return
    for each in systems:
        yield target.with_name(f"{target.stem}-system{each:04d}{target.suffix}"), open_frames(run, each)

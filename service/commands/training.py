"""`equipot train` and `equipot evaluate`: make a potential, and say how wrong one is."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TypeVar

import typer
import yaml
from pydantic import BaseModel, ValidationError
from rich.text import Text

from equipot.errors import InvalidParameterError
from equipot.params import Device, Dtype
from equipot.service.commands.display import err, out, show_json

if TYPE_CHECKING:
    from equipot.models.training.api import Evaluation, TrainingOutcome

Model = TypeVar("Model", bound=BaseModel)

INTERRUPTED, NOT_FINISHED = 130, 3
EXIT_STATUS = (
    "Exit status: 0 finished, 1 something failed, 2 wrong input, 3 stopped by --stop-after-s, 130 interrupted."
)

DeviceChoice = Annotated[Device, typer.Option(help="What to compute on; auto takes a GPU if there is one.")]
Threads = Annotated[int, typer.Option(min=1, help="CPU threads; results repeat bit by bit on one.")]
SkipBadFrames = Annotated[
    bool, typer.Option("--skip-bad-frames", help="Leave out frames that cannot be used instead of refusing everything.")
]


def add_to(app: typer.Typer) -> None:
    """Add both commands."""
    app.command("train", epilog=EXIT_STATUS)(train)
    app.command("evaluate")(evaluate)


def train(
    config: Annotated[Path, typer.Argument(help="A YAML file that describes the training.", dir_okay=False)],
    folder: Annotated[
        Path | None,
        typer.Option(
            "--out", "--output", "-o", help="Folder for state, log, potential and report (default runs/NAME)."
        ),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the training in the folder, or begin if there is none.")
    ] = False,
    device: DeviceChoice = "auto",
    threads: Threads = 1,
    seed: Annotated[int | None, typer.Option(min=0, help="Go over the seed of the file.")] = None,
    skip_bad_frames: SkipBadFrames = False,
    stop_after_s: Annotated[
        float | None, typer.Option(min=0.0, help="Write the state and stop after so many seconds; go on with --resume.")
    ] = None,
) -> None:
    """Train a potential on your data: extended XYZ, HDF5 or .npz with energies, forces and perhaps stresses.

    The YAML file names the data, the level of theory and the number of steps; everything else has a default. All data
    are checked before anything is written. Ctrl-C writes the state; a training that was killed goes on from the last
    one with --resume, to the same weights. The folder ends with NAME.json and NAME.safetensors, which every command
    takes as a model, and a report: tables of errors, learning curve, parity plots.

    Example: equipot train copper.yaml --out runs/copper

    Example: equipot train copper.yaml --seed 1 --device cuda --stop-after-s 540 --resume
    """
    from equipot.models.training.api import train as run_training
    from equipot.service.commands.local import noted_signals

    with noted_signals() as noted:
        outcome = run_training(
            config,
            folder,
            resume=resume,
            device=device,
            n_threads=threads,
            seed=seed,
            skip_bad_frames=skip_bad_frames or None,
            stop_after_s=float("inf") if stop_after_s is None else stop_after_s,
            should_stop=lambda: bool(noted),
        )
    if outcome.card is None:
        _say_how_to_go_on(outcome, config, seed)
        raise typer.Exit(INTERRUPTED if noted else NOT_FINISHED)
    for name in ("errors.txt", "learning-curve.png"):
        if (path := outcome.folder / "report" / name).exists():
            err.print(Text(f"  {path}", style="dim"), soft_wrap=True)
    out.print((outcome.folder / "report" / "errors.txt").read_text(), end="", soft_wrap=True)
    out.print(Text(f"Use it: equipot singlepoint FILE --model {outcome.card_path}"), soft_wrap=True)


def _say_how_to_go_on(outcome: TrainingOutcome, config: Path, seed: int | None) -> None:
    seed_option = "" if seed is None else f" --seed {seed}"
    err.print(Text(f"Stopped at step {outcome.step}; the state is written.", style="yellow"), soft_wrap=True)
    again = f"equipot train {config}{seed_option} --out {outcome.folder} --resume"
    err.print(Text(f"Go on with: {again}"), soft_wrap=True)


def evaluate(
    potential: Annotated[str, typer.Argument(help="A model name (see `equipot models`) or the path of a card.")],
    data: Annotated[list[Path], typer.Argument(help="Files of labelled frames: extxyz (.xz, .gz), HDF5, .npz.")],
    by: Annotated[Literal["config_type", "file"], typer.Option(help="What the rows of the table are.")] = "config_type",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    folder: Annotated[
        Path | None, typer.Option("--out", "--output", "-o", help="Folder for tables (text, JSON) and parity plots.")
    ] = None,
    keys: Annotated[
        str | None, typer.Option(help="YAML: where labels stand, as in '{energy: REF_energy, forces: REF_forces}'.")
    ] = None,
    units: Annotated[
        str | None, typer.Option(help="YAML: units of the files, as in '{energy: Hartree, length: Bohr}'.")
    ] = None,
    skip_bad_frames: SkipBadFrames = False,
    device: DeviceChoice = "auto",
    dtype: Annotated[Dtype, typer.Option(help="Precision.")] = "float64",
    threads: Threads = 1,
    level_of_theory: Annotated[
        str | None, typer.Option(help="Of the labels, for a potential that knows several; without it its first.")
    ] = None,
) -> None:
    """How wrong a potential is on labelled frames: MAE and RMSE of energies, forces and stresses.

    Example: equipot evaluate organic test.extxyz

    Example: equipot evaluate runs/copper/copper.json md.extxyz.xz surfaces.h5 --by file -o errors
    """
    from equipot.models.training.api import evaluate as run_evaluation
    from equipot.models.training.conventions import Keys, Units
    from equipot.models.training.report import error_table, write_report

    evaluation = run_evaluation(
        potential,
        data,
        keys=None if keys is None else _given(Keys, keys, "keys"),
        units=None if units is None else _given(Units, units, "units"),
        skip_bad_frames=skip_bad_frames,
        device=device,
        dtype=dtype,
        n_threads=threads,
        level_of_theory=level_of_theory,
    )
    for remark in evaluation.remarks:
        err.print(Text(remark), soft_wrap=True)
    summaries = _summaries(evaluation, by)
    if folder is not None:
        comparisons = evaluation.by_file if by == "file" else {"all": evaluation.together}
        for path in write_report(folder, evaluation.potential.name, comparisons):
            err.print(Text(f"  {path}", style="dim"), soft_wrap=True)
    if as_json:
        card = evaluation.potential
        level = evaluation.level_of_theory
        show_json(
            {"model": card.name, "sha256": card.weights_sha256, "level_of_theory": level, "by": by, "errors": summaries}
        )
    else:
        out.print(error_table(f"{evaluation.potential.name} ({evaluation.level_of_theory})", summaries, by))


def _summaries(evaluation: Evaluation, by: str) -> Mapping[str, Mapping[str, float]]:
    if by == "config_type":
        return evaluation.together.by_config_type()
    files = {name: comparison.summary() for name, comparison in evaluation.by_file.items()}
    return files if len(files) == 1 else {"all": evaluation.together.summary(), **files}


def _given(kind: type[Model], text: str, name: str) -> Model:
    """Keys or units from a piece of YAML. Raises InvalidParameterError."""
    try:
        return kind.model_validate(yaml.safe_load(text))
    except (yaml.YAMLError, ValidationError) as error:
        reason = str(error).splitlines()
        raise InvalidParameterError(f"--{name} {text!r} is not understood: {' '.join(reason[:3])}") from error

"""`equipot singlepoint`, `relax`, `md` and `resume`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from equipot.errors import InvalidParameterError
from equipot.params import PARAMS_OF_KIND, Device, Dtype, JobKind
from equipot.service.commands.options import params_of, with_params

HELP: dict[JobKind, str] = {
    "singlepoint": "Energy, forces and stress of structures where they stand.",
    "relax": "Relax structures: move their atoms until the forces are small.",
    "md": "Run molecular dynamics.",
}
EXAMPLES: dict[JobKind, str] = {
    "singlepoint": "equipot singlepoint water.xyz",
    "relax": "equipot relax ethanol.xyz --fmax-ev-per-ang 0.01 -o ethanol-relaxed",
    "md": "equipot md silicon.cif --model elements --temperature-k 600 --duration-ps 5 --seed 1",
}
EXIT_STATUS = "Exit status: 0 all well, 1 something failed, 2 wrong input, 3 not converged, 130 interrupted."

Files = Annotated[
    list[Path], typer.Argument(help="Structure files: extxyz, xyz, POSCAR, cif, pdb, sdf, mol.", dir_okay=False)
]
Model = Annotated[str, typer.Option("--model", "-m", help="A model name (see `equipot models`) or a card's path.")]
OutputPath = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        help="A folder; or a file (.extxyz, .traj, .npz, .jsonl) for the final structures, in md for the trajectory. "
        "(default FILE-relax/ or FILE-md/, nothing for singlepoint)",
    ),
]
ParamsFile = Annotated[
    Path | None, typer.Option("--params", help="A YAML file of parameters; options go over it.", exists=True)
]
DeviceChoice = Annotated[Device, typer.Option(help="What to compute on; auto takes a GPU if there is one.")]
DtypeChoice = Annotated[Dtype, typer.Option(help="Precision.")]
Compile = Annotated[
    bool,
    typer.Option("--compile", help="Compile the potential for this machine, a minute the first time: much faster."),
]
Format = Annotated[str | None, typer.Option(help="The format, if file names do not say it.")]
Index = Annotated[str | None, typer.Option(help="Which structures of a file: 0, -1 or 0:10:2 (default all).")]
SkipInvalid = Annotated[
    bool, typer.Option("--skip-invalid", help="Leave out what cannot be computed instead of refusing everything.")
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an earlier run.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the results as JSON.")]
Server = Annotated[str | None, typer.Option(help="Run there: the URL of a service.", envvar="EQUIPOT_SERVER")]
Detach = Annotated[bool, typer.Option("--detach", help="With --server: submit and return.")]


def add_to(app: typer.Typer) -> None:
    """Add the four commands."""
    for kind in EXAMPLES:
        _add(app, kind)
    app.command("resume", epilog=EXIT_STATUS)(resume)


def _add(app: typer.Typer, kind: JobKind) -> None:
    @with_params(PARAMS_OF_KIND[kind])
    def command(
        files: Files,
        model: Model = "organic",
        output: OutputPath = None,
        params_file: ParamsFile = None,
        device: DeviceChoice = "auto",
        dtype: DtypeChoice = "float64",
        compile: Compile = False,
        format: Format = None,
        index: Index = None,
        skip_invalid: SkipInvalid = False,
        overwrite: Overwrite = False,
        as_json: AsJson = False,
        server: Server = None,
        detach: Detach = False,
        **params: Any,
    ) -> None:
        from equipot.service.commands.display import show_warnings
        from equipot.service.commands.inputs import read_inputs
        from equipot.service.commands.output import Output

        if compile and server is not None:
            raise InvalidParameterError("--compile is for runs here.", hint="The server decides how it computes.")
        checked = params_of(kind, params, params_file)
        names, structures, warnings = read_inputs(files, format, index_of(index), skip_invalid)
        show_warnings(warnings)
        keeps = output is not None or (kind != "singlepoint" and server is None)
        chosen = Output.choose(kind, files, output, overwrite, remote=server is not None) if keeps else None
        if server is not None:
            from equipot.service.commands.remote import run_there

            given = checked.model_dump(mode="json", exclude_unset=True)
            job = {"kind": kind, "model": model, "params": given, "device": device, "dtype": dtype}
            status = run_there(server, job, names, structures, chosen, detach=detach, as_json=as_json)
        else:
            from equipot.service.commands.local import Job, run_here

            where = Job(kind, names, structures, checked, model, device, dtype, compile, skip_invalid)
            status = run_here(where, chosen, as_json=as_json)
        raise typer.Exit(status)

    app.command(kind, help=f"{HELP[kind]}\n\nExample: {EXAMPLES[kind]}", epilog=EXIT_STATUS)(command)


def resume(
    folder: Annotated[Path, typer.Argument(help="The output folder of the run.", exists=True, file_okay=False)],
    as_json: AsJson = False,
) -> None:
    """Go on with an interrupted run from its last checkpoint.

    Example: equipot resume ethanol-relax
    """
    from equipot.service.commands.local import resume_here

    raise typer.Exit(resume_here(folder, as_json=as_json))


def index_of(text: str | None) -> int | slice | None:
    """An index such as -1, or a slice such as 0:10:2. Raises InvalidParameterError."""
    if text is None:
        return None
    try:
        parts = [int(part) if part.strip() else None for part in text.split(":")]
        if len(parts) == 1 and parts[0] is not None:
            return parts[0]
        if len(parts) in (2, 3):
            return slice(*parts)
    except ValueError:
        pass
    raise InvalidParameterError(f"--index {text!r} is not an index.", hint="As in 0, -1, : or 0:10:2.")

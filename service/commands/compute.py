"""`equipot singlepoint`, `relax`, `md` and `resume`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from equipot.errors import EquipotError, InvalidParameterError
from equipot.params import PARAMS_OF_KIND, Device, Dtype, JobKind
from equipot.service.commands.completion import model_names
from equipot.service.commands.options import params_of, with_params
from equipot.service.commands.server import ApiKey, ServerIfAny
from equipot.service.commands.status import EXIT_STATUS
from equipot.structure import Structure

HELP: dict[JobKind, str] = {
    "singlepoint": "Energy, forces and stress of structures where they stand.",
    "relax": "Relax structures: move their atoms until the forces are small.",
    "md": "Run molecular dynamics.",
}
EXAMPLES: dict[JobKind, Sequence[str]] = {
    "singlepoint": ("equipot singlepoint water.xyz", "equipot singlepoint crystals/*.cif -m elements --json"),
    "relax": (
        "equipot relax ethanol.xyz --fmax-ev-per-ang 0.01 -o ethanol-relaxed",
        "equipot relax silicon.cif -m elements --optimizer lbfgs --cell-filter frechet --pressure-gpa 5",
        "equipot relax acetate.xyz -m organic --charge -1",
        "equipot relax conformers.sdf --skip-invalid -o relaxed.extxyz --server http://gpu-box:8000",
        "equipot relax ethanol.xyz --fmax-ev-per-ang 0.01 --print-request > relax.yaml",
    ),
    "md": (
        "equipot md silicon.cif --model elements --temperature-k 600 --duration-ps 5 --seed 1",
        'equipot md water.xyz --n-steps 20000 --thermostat "{type: bussi, tau_fs: 100}" -o water.traj',
        "equipot md --params run.yaml --server http://gpu-box:8000 --detach",
    ),
}

Files = Annotated[
    list[Path] | None,
    typer.Argument(
        help="Structure files: extxyz, xyz, POSCAR, cif, pdb, sdf, mol.", dir_okay=False, show_default=False
    ),
]
Model = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        help="A model name (see `equipot models`) or a card's path. (default organic)",
        autocompletion=model_names,
    ),
]
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
    Path | None,
    typer.Option(
        "--params",
        help="A YAML or JSON file: the body of POST /v1/jobs, or its params alone; options go over it.",
        exists=True,
        dir_okay=False,
    ),
]
PrintRequest = Annotated[
    bool,
    typer.Option("--print-request", help="Print that body, compute nothing: for --params, for curl, for the record."),
]
DeviceChoice = Annotated[
    Device | None, typer.Option(help="What to compute on; auto takes a GPU if there is one. (default auto)")
]
DtypeChoice = Annotated[Dtype | None, typer.Option(help="Precision. (default float64)")]
LevelOfTheory = Annotated[
    str | None, typer.Option(help="One that the model was trained on (default its first; see `equipot models NAME`).")
]
Charge = Annotated[
    int | None,
    typer.Option(help="Total charge of every structure, e, where the model takes one (default what its file says)."),
]
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
Detach = Annotated[bool, typer.Option("--detach", help="With --server: submit, print the job's id and return.")]


def add_to(app: typer.Typer) -> None:
    """Add the four commands."""
    for kind in EXAMPLES:
        _add(app, kind)
    app.command("resume", epilog=EXIT_STATUS)(resume)


def _add(app: typer.Typer, kind: JobKind) -> None:
    @with_params(PARAMS_OF_KIND[kind])
    def command(
        files: Files = None,
        model: Model = None,
        output: OutputPath = None,
        params_file: ParamsFile = None,
        print_request: PrintRequest = False,
        device: DeviceChoice = None,
        dtype: DtypeChoice = None,
        level_of_theory: LevelOfTheory = None,
        charge: Charge = None,
        compile: Compile = False,
        format: Format = None,
        index: Index = None,
        skip_invalid: SkipInvalid = False,
        overwrite: Overwrite = False,
        as_json: AsJson = False,
        server: ServerIfAny = None,
        api_key: ApiKey = None,
        detach: Detach = False,
        **params: Any,
    ) -> None:
        from equipot.service.commands.display import show_warnings
        from equipot.service.commands.inputs import read_inputs
        from equipot.service.commands.output import Output
        from equipot.service.commands.request import read_request, request_text, structures_in

        if compile and server is not None:
            raise InvalidParameterError("--compile is for runs here.", hint="The server decides how it computes.")
        request = read_request(params_file, kind)
        checked = params_of(kind, params, request["params"])
        fields = _fields(
            request, {"model": model, "device": device, "dtype": dtype, "level_of_theory": level_of_theory}
        )
        if files:
            names, structures, warnings = read_inputs(files, format, index_of(index), skip_invalid)
        else:
            (names, structures), warnings = structures_in(request, params_file), []
        if not structures:
            raise InvalidParameterError(
                "No structure is given.",
                hint=f"Name files, as in {EXAMPLES[kind][0]}, or put structures into --params.",
            )
        structures = _charged(structures, charge)
        show_warnings(warnings)
        if print_request:
            print(request_text(kind, fields, checked, structures, as_json))
            return
        keeps = output is not None or (kind != "singlepoint" and server is None)
        inputs = files or [params_file or Path(kind)]
        chosen = Output.choose(kind, inputs, output, overwrite, remote=server is not None) if keeps else None
        if server is not None:
            from equipot.service.commands.remote import Place, run_there

            given = checked.model_dump(mode="json", exclude_unset=True)
            job = {"kind": kind, "params": given, **fields}
            status = run_there(Place(server, api_key), job, names, structures, chosen, detach=detach, as_json=as_json)
        else:
            from equipot.service.commands.local import Job, run_here

            here = {name: fields.get(name, default) for name, default in HERE.items()}
            where = Job(kind, names, structures, checked, **here, compile=compile, skip_invalid=skip_invalid)
            status = run_here(where, chosen, as_json=as_json)
        raise typer.Exit(status)

    examples = "\n\n".join(f"Example: {example}" for example in EXAMPLES[kind])
    app.command(kind, help=f"{HELP[kind]}\n\n{examples}", epilog=EXIT_STATUS)(command)


HERE: dict[str, Any] = {
    "model": "organic",
    "device": "auto",
    "dtype": "float64",
    "level_of_theory": None,
}  #: of a job's fields, those a run here has


def _fields(request: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """What a job says beside kind, parameters and structures: a file, options over it, and the model in any case."""
    in_file = {name: value for name, value in request.items() if name not in ("kind", "params", "structures")}
    return {"model": HERE["model"]} | in_file | {name: value for name, value in given.items() if value is not None}


def _charged(structures: Sequence[Structure | EquipotError], charge: int | None) -> list[Structure | EquipotError]:
    """The structures with this total charge, if one is given."""
    if charge is None:
        return list(structures)
    return [replace(one, charge_e=float(charge)) if isinstance(one, Structure) else one for one in structures]


def resume(
    folder: Annotated[Path, typer.Argument(help="The output folder of the run.", exists=True, file_okay=False)],
    as_json: AsJson = False,
) -> None:
    """Go on with an interrupted run from its last checkpoint, to the bits of one that was never interrupted.

    The folder of a run on a server finds its job there again: it is watched, resumed if it was stopped, and fetched.

    Example: equipot resume ethanol-relax

    Example: equipot resume water.traj.run
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

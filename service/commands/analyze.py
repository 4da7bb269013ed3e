"""`equipot analyze`: what a run shows, as figures, tables and a few numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from equipot.errors import InputError, InvalidParameterError
from equipot.service.commands.display import err, out, show_json, show_warnings
from equipot.service.commands.export import Source, Start, Stop, Stride, System

if TYPE_CHECKING:
    from equipot.simulation.analysis import Analysis

DETAILS = ("_error", "_standard_deviation", "_settled_from_row", "_inefficiency_rows")  # these are in the files


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    app.command("analyze")(analyze)


def analyze(
    run: Source,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The folder for figures and tables (default RUN-analysis/).")
    ] = None,
    thermo: Annotated[bool, typer.Option("--thermo", help="Temperature, pressure, energies, drift: all rows.")] = False,
    rdf: Annotated[bool, typer.Option("--rdf", help="Radial distribution functions.")] = False,
    msd: Annotated[bool, typer.Option("--msd", help="Mean-square displacement and diffusion coefficient.")] = False,
    vacf: Annotated[bool, typer.Option("--vacf", help="Velocity autocorrelation.")] = False,
    vdos: Annotated[bool, typer.Option("--vdos", help="Vibrational density of states.")] = False,
    adp: Annotated[bool, typer.Option("--adp", help="Anisotropic displacement parameters, with a CIF.")] = False,
    system: System = None,
    start: Start = None,
    stop: Stop = None,
    stride: Stride = 1,
    spacing_fs: Annotated[
        float | None, typer.Option(min=0, help="Time between frames of a file that does not say it, fs.")
    ] = None,
    r_max_ang: Annotated[float | None, typer.Option(min=0, help="Largest distance of --rdf, Å (default 10).")] = None,
    bin_ang: Annotated[float, typer.Option(min=0.001, help="Width of the bins of --rdf, Å.")] = 0.025,
    fit_ps: Annotated[
        tuple[float, float] | None, typer.Option(help="Times between which --msd is taken as a straight line, ps.")
    ] = None,
    axes: Annotated[str, typer.Option(help="Directions that count in --msd, as in xy.")] = "xyz",
    window_ps: Annotated[
        float | None, typer.Option(min=0, help="Stretch that --vdos resolves, ps (default 4).")
    ] = None,
    supercell: Annotated[
        tuple[int, int, int] | None, typer.Option(min=1, help="Unit cells along a, b, c to fold into one in --adp.")
    ] = None,
    remove_drift: Annotated[
        bool | None,
        typer.Option(
            "--remove-drift/--keep-drift", help="Keep the centre of mass in place (default unless atoms are fixed)."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the numbers as JSON.")] = False,
) -> None:
    """Analyse the trajectory of a run: everything that can be computed of it, or what is named.

    Figures (.png), tables (.csv) and all of it with provenance (.json) go to a folder.

    Example: equipot analyze silicon-md --rdf --msd --start 100 -o silicon-figures
    """
    from equipot.simulation import analysis
    from equipot.simulation.analysis.result import finite
    from equipot.simulation.sources import systems_in

    if system is None and len(found := systems_in(run)) == 1:
        system = found[0]
    frames: dict[str, Any] = {"start": start, "stop": stop, "stride": stride, "spacing_fs": spacing_fs}
    drift: dict[str, Any] = {"remove_drift": remove_drift}
    of: dict[str, Callable[[], Analysis]] = {
        "thermo": lambda: analysis.time_series(run, system, spacing_fs=spacing_fs),
        "rdf": lambda: analysis.radial_distribution(run, system, r_max_ang=r_max_ang, bin_ang=bin_ang, **frames),
        "msd": lambda: analysis.mean_square_displacement(run, system, fit_ps=fit_ps, axes=axes, **drift, **frames),
        "vacf": lambda: analysis.velocity_autocorrelation(run, system, **drift, **frames),
        "vdos": lambda: analysis.vibrational_density_of_states(run, system, window_ps=window_ps, **drift, **frames),
        "adp": lambda: analysis.displacement_parameters(
            run, system, supercell=supercell or (1, 1, 1), **drift, **frames
        ),
    }
    flags = {"thermo": thermo, "rdf": rdf, "msd": msd, "vacf": vacf, "vdos": vdos, "adp": adp}
    named = [name for name, wanted in flags.items() if wanted]
    folder = output or Path(f"{run.resolve().name.removesuffix(run.suffix)}-analysis")
    if folder.exists() and not folder.is_dir():
        raise InvalidParameterError(f"{folder} is a file.", hint="-o names a folder.")
    results, refused = _computed(of, named)
    folder.mkdir(parents=True, exist_ok=True)
    files = [path for result in results for path in _write(result, folder)]
    if as_json:
        numbers = {result.name: {**result.summary(), "remarks": list(result.remarks)} for result in results}
        show_json({"results": finite(numbers), "not_computed": refused, "files": [str(path) for path in files]})
        return
    _show(results)
    for name, reason in refused.items():
        err.print(Text(f"{name}: {reason}", style="dim"), soft_wrap=True)
    out.print(Text(f"  {folder}{'/'}  {len(files)} files", style="dim"), soft_wrap=True)


def _computed(of: dict[str, Callable[[], Analysis]], named: Sequence[str]) -> tuple[list[Analysis], dict[str, str]]:
    """The results, and why the others are missing. What is named must work; of all, one must."""
    if named:
        return [of[name]() for name in named], {}
    results, refused, first = [], {}, None
    for name, compute in of.items():
        try:
            results.append(compute())
        except InputError as error:
            refused[name] = str(error)
            first = first or error
    if not results:
        assert first is not None
        raise first
    return results, refused


def _write(result: Analysis, folder: Path) -> list[Path]:
    from equipot.simulation.analysis import DisplacementParameters

    stem = folder / result.name
    files = [result.plot(stem.with_suffix(".png")), result.to_csv(stem.with_suffix(".csv"))]
    files.append(result.to_json(stem.with_suffix(".json")))
    if isinstance(result, DisplacementParameters):
        files.append(result.to_cif(stem.with_suffix(".cif")))
    return files


def _show(results: Sequence[Analysis]) -> None:
    """The numbers one quotes, with their errors."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    for heading in ("analysis", "quantity", "value"):
        table.add_column(heading, justify="right" if heading == "value" else "left")
    for result in results:
        summary = result.summary()
        for name, value in summary.items():
            if value is None or name.endswith(DETAILS):
                continue
            error = summary.get(f"{name}_error")
            table.add_row(result.name, name, _number(value) + (f" ± {error:.1g}" if error else ""))
    out.print(table)
    show_warnings([remark for result in results for remark in result.remarks])


def _number(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)

"""What a training or an evaluation leaves to be read: tables, JSON, plots.

errors.txt, errors.json      errors of every set, config_type by config_type
learning-curve.png           validation errors and learning rate over the steps
parity-NAME.png              energies, forces and stresses against their labels
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from equipot.models.training.evaluation import ALL, Comparison
from equipot.models.training.files import write_whole
from equipot.models.training.log import Row
from equipot.models.training.plots import learning_curve_png, parity_png

Summaries = Mapping[str, Mapping[str, float]]

#: heading and the key of the summary, in the order of the columns
COLUMNS = {
    "E MAE\nmeV/atom": "energy_mae_mev_per_atom",
    "E RMSE\nmeV/atom": "energy_rmse_mev_per_atom",
    "E MAE\nmeV": "energy_mae_mev",
    "E RMSE\nmeV": "energy_rmse_mev",
    "F MAE\nmeV/Å": "force_mae_mev_per_ang",
    "F RMSE\nmeV/Å": "force_rmse_mev_per_ang",
    "|ΔF| mean\nmeV/Å": "force_vector_mae_mev_per_ang",
    "stress MAE\nGPa": "stress_mae_gpa",
    "stress RMSE\nGPa": "stress_rmse_gpa",
}


def error_table(title: str, summaries: Summaries, by: str = "config_type") -> Table:
    """One row for each kind of frame; columns without a label anywhere are left out."""
    table = Table(title=title, title_justify="left", box=None, header_style="bold", pad_edge=False)
    table.add_column(by, overflow="fold")
    table.add_column("frames", justify="right", no_wrap=True)
    columns = {
        heading: key for heading, key in COLUMNS.items() if any(key in summary for summary in summaries.values())
    }
    for heading in columns:
        table.add_column(heading, justify="right", no_wrap=True)
    for kind, summary in summaries.items():
        cells = [_number(summary.get(key)) for key in columns.values()]
        table.add_row(kind, f"{summary['n_frames']:.0f}", *cells)
    return table


def error_text(titles_and_summaries: Mapping[str, Summaries]) -> str:
    """The tables as plain text."""
    tables = []
    for title, summaries in titles_and_summaries.items():
        text = io.StringIO()
        Console(file=text, width=140, color_system=None).print(error_table(title, summaries))
        tables.append("\n".join(line.rstrip() for line in text.getvalue().splitlines()))
    return "\n\n".join(tables) + "\n"


def write_report(
    folder: Path,
    potential: str,
    comparisons: Mapping[str, Comparison],
    log: Sequence[Row] = (),
    *,
    plots: bool = True,
) -> list[Path]:
    """Write the files above for sets of frames by name, with plots or without; gives their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    errors = {name: comparison.by_config_type() for name, comparison in comparisons.items()}
    files = {
        "errors.json": (json.dumps({"potential": potential, "errors": errors}, indent=1) + "\n").encode(),
        "errors.txt": error_text({f"{potential} on {name}": summaries for name, summaries in errors.items()}).encode(),
    }
    if plots and len(log) > 1:
        files["learning-curve.png"] = learning_curve_png(potential, log)
    for name, comparison in comparisons.items() if plots else ():
        files[f"parity-{file_name(name)}.png"] = parity_png(f"{potential} on {name}", comparison)
    for name, content in files.items():
        write_whole(folder / name, content)
    return [folder / name for name in files]


def file_name(text: str) -> str:
    """A name that is safe for a file."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-.") or ALL


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}" if abs(value) < 10 else f"{value:.1f}"

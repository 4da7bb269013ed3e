"""One picture of a run, left beside its trajectory: how it went, at a glance."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from equipot.simulation.analysis.figures import COLOURS, legend, new_figure, panels, save_figure
from equipot.simulation.analysis.timeseries import time_series
from equipot.simulation.sources import run_directories
from equipot.simulation.trajectory import read_request, read_results, read_thermo

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_CURVES = 50  # of systems in one panel
Rows = list[dict[str, Any]]


def draw_summary(run: Path, path: Path) -> Path | None:
    """Draw the run (a run's or a job's folder) to `path`; gives it, or None if there are no curves to draw.

    A dynamics of one system is drawn as its time series with means and drift; a relaxation as the largest force, with
    its threshold, and the energy above the end; several systems lie over each other.
    """
    curves = _curves(run)
    if sum(len(rows) > 1 for rows in curves) == 0:
        return None
    request = read_request(run_directories(run)[0])
    figure = new_figure()
    if request["kind"] == "md" and len(curves) == 1:
        time_series(run, curves[0][0]["system"]).draw(figure)
    elif request["kind"] == "md":
        top, bottom = panels(figure, 2)
        for number, rows in enumerate(curves):
            x = np.array([row["time_fs"] for row in rows]) / 1000.0
            _draw(top, x, [row["temperature_k"] for row in rows], number)
            _draw(bottom, x, np.array([row["energy_ev"] for row in rows]) - rows[0]["energy_ev"], number)
        top.set_ylabel("T (K)")
        bottom.set_ylabel("$E_{pot}$ - start (eV)")
        bottom.set_xlabel("time (ps)")
    else:
        top, bottom = panels(figure, 2)
        for number, rows in enumerate(curves):
            force = "generalised_force_ev_per_ang" if "generalised_force_ev_per_ang" in rows[0] else "fmax_ev_per_ang"
            x = np.array([row["step"] for row in rows])
            _draw(top, x, [row[force] for row in rows], number)
            _draw(bottom, x, 1000.0 * (np.array([row["energy_ev"] for row in rows]) - rows[-1]["energy_ev"]), number)
        top.axhline(request["params"]["fmax_ev_per_ang"], color="black", linewidth=0.8, linestyle=(0, (4, 2)))
        top.set_yscale("log")
        top.set_ylabel("$F_{max}$ (eV/Å)")
        bottom.set_ylabel("E - end (meV)")
        bottom.set_xlabel("step")
    figure.axes[0].set_title(_title(run, request), loc="left", fontsize=7.0, pad=4)
    legend(figure.axes[0])
    return save_figure(figure, path)


def _curves(run: Path) -> list[Rows]:
    """The thermo rows of each system, of at most MOST_CURVES."""
    found: dict[int, Rows] = {}
    for directory in run_directories(run):
        for row in read_thermo(directory):
            if row["system"] in found or len(found) < MOST_CURVES:
                found.setdefault(row["system"], []).append(row)
    return [found[system] for system in sorted(found)]


def _draw(axes: Axes, x: Sequence[float] | np.ndarray, y: Sequence[float] | np.ndarray, number: int) -> None:
    axes.plot(x, np.array(y, dtype=float), color=COLOURS[number % (len(COLOURS) - 1)], linewidth=0.7)


def _title(run: Path, request: dict[str, Any]) -> str:
    """What ran, on what, and how it ended."""
    outcomes: dict[str, int] = {}
    for directory in run_directories(run):
        for result in read_results(directory):
            outcomes[result["outcome"]] = outcomes.get(result["outcome"], 0) + 1
    ended = ", ".join(f"{n} {name}" if sum(outcomes.values()) > 1 else name for name, n in sorted(outcomes.items()))
    return f"{request['kind']}, {request['provider']['model']}: {ended.replace('_', ' ') or 'running'}"

"""Temperature, pressure, energies and what should be conserved, over time: means with honest errors, and drift."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from equipot.errors import InvalidParameterError
from equipot.simulation.analysis.figures import COLOURS, panels, with_error
from equipot.simulation.analysis.result import Analysis
from equipot.simulation.analysis.statistics import Mean, settled_mean, slope
from equipot.simulation.analysis.track import frames_of
from equipot.simulation.provenance import Provenance
from equipot.simulation.sources import run_directories
from equipot.simulation.trajectory import Frame, read_request, read_thermo

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from equipot.simulation.analysis.track import Source

DRIFT_OVER_PS = 50.0
LABELS = {
    "temperature_k": "T (K)",
    "energy_ev": "$E_{pot}$ (eV)",
    "kinetic_ev": "$E_{kin}$ (eV)",
    "total_ev": "$E_{tot}$ (eV)",
    "conserved_ev": "Δ$E_{cons}$\n(meV/atom)",
    "pressure_gpa": "P (GPa)",
    "volume_ang3": "V (Å$^3$)",
    "fmax_ev_per_ang": "$F_{max}$ (eV/Å)",
}


@dataclass(frozen=True, eq=False, kw_only=True)
class TimeSeries(Analysis):
    """Series (n_rows,) of each quantity over time_ps, or over `step` in a relaxation, and their settled means.

    drift_ev_per_atom_per_50ps is the slope of a straight line through the conserved quantity, per atom, times 50 ps,
    and its error; None where nothing is conserved.
    """

    name: ClassVar[str] = "timeseries"
    step: np.ndarray
    time_ps: np.ndarray | None
    series: Mapping[str, np.ndarray]
    means: Mapping[str, Mean]
    n_atoms: int
    drift_ev_per_atom_per_50ps: float | None
    drift_error_ev_per_atom_per_50ps: float | None

    def summary(self) -> dict[str, Any]:
        out: dict[str, Any] = {
            "drift_ev_per_atom_per_50ps": self.drift_ev_per_atom_per_50ps,
            "drift_ev_per_atom_per_50ps_error": self.drift_error_ev_per_atom_per_50ps,
        }
        for name, mean in self.means.items():
            out[name] = mean.mean
            out[f"{name}_error"] = mean.standard_error
            out[f"{name}_standard_deviation"] = mean.standard_deviation
            out[f"{name}_settled_from_row"] = mean.first
            out[f"{name}_inefficiency_rows"] = mean.inefficiency
        return out

    def columns(self) -> dict[str, np.ndarray]:
        time = {} if self.time_ps is None else {"time_ps": self.time_ps}
        return {"step": self.step, **time, **self.series}

    def draw(self, figure: Figure) -> None:
        names = [name for name in LABELS if name in self.series and self._is_shown(name)]
        x = self.step if self.time_ps is None else self.time_ps
        all_axes = panels(figure, max(1, len(names)), 0.85)
        for i, (axes, name) in enumerate(zip(all_axes, names, strict=False)):
            values = self.series[name]
            if name == "conserved_ev":
                values = (values - values[0]) * 1000.0 / self.n_atoms
            axes.plot(x, values, color=COLOURS[i % len(COLOURS)], linewidth=0.6)
            axes.set_ylabel(LABELS[name])
            axes.set_title(self._note(name), loc="right", fontsize=6.5, pad=2)
            if name in self.means and name != "conserved_ev":
                mean = self.means[name]
                axes.hlines(mean.mean, x[mean.first], x[-1], color="black", linewidth=0.8, linestyle=(0, (4, 2)))
        all_axes[-1].set_xlabel("step" if self.time_ps is None else "time (ps)")
        all_axes[-1].set_xlim(float(x[0]), float(max(x[-1], x[0] + 1e-12)))
        figure.align_ylabels()

    def _is_shown(self, name: str) -> bool:
        """Not what never changes, nor in a dynamics the largest force, nor a total beside what is conserved."""
        if name == "total_ev":
            return "conserved_ev" not in self.series
        return not (name == "fmax_ev_per_ang" and self.time_ps is not None) and bool(np.ptp(self.series[name]) > 0)

    def _note(self, name: str) -> str:
        """What the panel of a quantity says above it."""
        if name == "conserved_ev" and self.drift_ev_per_atom_per_50ps is not None:
            drift, error = self.drift_ev_per_atom_per_50ps, self.drift_error_ev_per_atom_per_50ps or np.nan
            return "drift " + with_error(1000.0 * drift, 1000.0 * error, "meV/atom in 50 ps")
        mean = self.means.get(name)
        return "" if mean is None else with_error(mean.mean, mean.standard_error)


def time_series(
    source: Source, system: int | None = None, *, settled_from_ps: float | None = None, spacing_fs: float | None = None
) -> TimeSeries:
    """Temperature, energies, conserved quantity, and pressure and volume where there are any.

    Of a run, the rows of its thermo table; of frames, what can be computed of them. Means are taken from where each
    series settles on, or from settled_from_ps. Raises InvalidParameterError (nothing there, several systems).
    """
    if isinstance(source, str | Path) and Path(source).is_dir():
        rows, n_atoms, provenance = _rows_of_run(Path(source), system)
    else:
        rows, n_atoms, provenance = _rows_of_frames(frames_of(source, system), spacing_fs)
    if not rows:
        raise InvalidParameterError("There are no rows yet.", hint="A run writes them with its first checkpoint.")
    step = np.array([row["step"] for row in rows])
    has_time = rows[0].get("time_fs") is not None
    time_ps = np.array([row["time_fs"] for row in rows]) / 1000.0 if has_time else None
    names = [n for n in rows[0] if n not in ("system", "step", "time_fs") and _numbers_throughout(rows, n)]
    series = {name: np.array([row[name] for row in rows], dtype=float) for name in names}
    first = None
    if settled_from_ps is not None and time_ps is not None:
        first = int(np.searchsorted(time_ps, settled_from_ps))
        if first >= len(rows):
            raise InvalidParameterError(
                f"settled_from_ps is {settled_from_ps:g}, and the series ends at {time_ps[-1]:g} ps.",
                pointer="/settled_from_ps",
                hint="Give an earlier time.",
            )
    means = {n: settled_mean(v, first) for n, v in series.items()} if has_time else {}
    drift: tuple[float | None, float | None] = (None, None)
    if time_ps is not None and "conserved_ev" in series and len(rows) > 2:
        value, error = slope(time_ps, series["conserved_ev"])
        drift = (value * DRIFT_OVER_PS / n_atoms, error * DRIFT_OVER_PS / n_atoms)
    return TimeSeries(
        step=step,
        time_ps=time_ps,
        series=series,
        means=means,
        n_atoms=n_atoms,
        drift_ev_per_atom_per_50ps=drift[0],
        drift_error_ev_per_atom_per_50ps=drift[1],
        remarks=_remarks(means),
        provenance=provenance,
    )


def _rows_of_run(path: Path, system: int | None) -> tuple[list[dict[str, Any]], int, dict[str, Any]]:
    for directory in run_directories(path):
        request = read_request(directory)
        numbers = range(request["system_offset"], request["system_offset"] + len(request["structures"]))
        if system is None and len(numbers) == 1:
            system = numbers[0]
        if system is None:
            raise InvalidParameterError(
                f"There are {len(numbers)} systems and more.", pointer="/system", hint="Choose one."
            )
        if system in numbers:
            provenance = Provenance.of_request(request)
            n_atoms = len(request["structures"][system - numbers[0]].get("numbers", ()))
            rows = list(read_thermo(directory, system))
            return rows, n_atoms, provenance.tags(system) | {"system": system}
    raise InvalidParameterError(f"There is no system {system}.", pointer="/system", hint="Count from 0.")


def _rows_of_frames(
    frames: Sequence[Frame], spacing_fs: float | None
) -> tuple[list[dict[str, Any]], int, dict[str, Any]]:
    rows = []
    for number, frame in enumerate(frames):
        kinetic, total = frame.kinetic_ev, None
        if kinetic is not None:
            total = frame.energy_ev + kinetic
        time = frame.time_fs if spacing_fs is None else number * spacing_fs
        values = {
            "energy_ev": frame.energy_ev if np.isfinite(frame.energy_ev) else None,
            "kinetic_ev": kinetic,
            "total_ev": total if total is not None and np.isfinite(total) else None,
            "temperature_k": frame.temperature_k,
            "pressure_gpa": frame.pressure_gpa,
            "volume_ang3": frame.structure.volume_ang3,
        }
        rows.append({"step": frame.step, "time_fs": time} | {k: v for k, v in values.items() if v is not None})
    first = frames[0]
    provenance = {} if first.provenance is None else first.provenance.tags(first.system) | {"system": first.system}
    return rows, first.structure.n_atoms, provenance


def _numbers_throughout(rows: Sequence[Mapping[str, Any]], name: str) -> bool:
    return all(isinstance(row.get(name), int | float) for row in rows)


def _remarks(means: Mapping[str, Mean]) -> tuple[str, ...]:
    few = [name for name, mean in means.items() if name != "conserved_ev" and 0 < mean.n_independent < 10]
    if not few:
        return ()
    return (f"Fewer than ten independent values of {', '.join(few)}: their errors are themselves uncertain.",)

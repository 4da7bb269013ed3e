"""Mean-square displacement, and the diffusion coefficient it leads to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from equipot.errors import InvalidParameterError
from equipot.simulation.analysis.figures import COLOURS, legend, single, with_error
from equipot.simulation.analysis.result import ALL, Analysis, one_or_all
from equipot.simulation.analysis.statistics import autocorrelation, block_edges
from equipot.simulation.analysis.track import Track

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from equipot.simulation.analysis.track import Source

FEWEST_FRAMES = 20
ATOMS_AT_ONCE = 64
CM2_PER_S_PER_ANG2_PER_PS = 1e-4
DIFFUSIVE = (0.9, 1.1)  # exponents of a motion one may call diffusion


@dataclass(frozen=True, eq=False, kw_only=True)
class Diffusion:
    """A diffusion coefficient, its standard error, and the exponent of MSD ~ t^a in the window it was fitted in."""

    coefficient_cm2_per_s: float
    error_cm2_per_s: float
    exponent: float


@dataclass(frozen=True, eq=False, kw_only=True)
class MeanSquareDisplacement(Analysis):
    """MSD in Å² (n_lags,) of each element and of all atoms that move, over lag_ps (n_lags,); D from the straight line
    through it between the two times of fit_ps."""

    name: ClassVar[str] = "msd"
    lag_ps: np.ndarray
    msd_ang2: dict[str, np.ndarray]
    diffusion: dict[str, Diffusion]
    fit_ps: tuple[float, float]
    axes: str
    drift_removed: bool

    def summary(self) -> dict[str, Any]:
        out: dict[str, Any] = {"fit_from_ps": self.fit_ps[0], "fit_to_ps": self.fit_ps[1], "axes": self.axes}
        out["drift_removed"] = self.drift_removed
        for element, found in one_or_all(self.diffusion).items():
            out[f"{element}_diffusion_cm2_per_s"] = found.coefficient_cm2_per_s
            out[f"{element}_diffusion_cm2_per_s_error"] = found.error_cm2_per_s
            out[f"{element}_exponent"] = found.exponent
        return out

    def columns(self) -> dict[str, np.ndarray]:
        return {"lag_ps": self.lag_ps} | {f"msd_{name}_ang2": msd for name, msd in self.msd_ang2.items()}

    def draw(self, figure: Figure) -> None:
        axes = single(figure, "t (ps)", "MSD (Å$^2$)")
        names = [name for name in self.msd_ang2 if name != ALL]
        for i, name in enumerate(names):
            label = f"{name}: {_in_words(self.diffusion[name])}"
            axes.plot(self.lag_ps, self.msd_ang2[name], color=COLOURS[i % len(COLOURS)], label=label)
        axes.axvspan(*self.fit_ps, color="0.92", linewidth=0, zorder=0)
        axes.set_xlim(0, float(self.lag_ps[-1]))
        axes.set_ylim(bottom=0)
        if len(names) == 1:
            axes.set_title(label, fontsize=7, pad=3)
        legend(axes, loc="upper left")


def mean_square_displacement(
    source: Source,
    system: int | None = None,
    *,
    remove_drift: bool | None = None,
    fit_ps: tuple[float, float] | None = None,
    axes: str = "xyz",
    n_blocks: int = 5,
    **selection: Any,
) -> MeanSquareDisplacement:
    """MSD over all origins, for lags up to half the track; by FFT (Kneller, Comput. Phys. Commun. 91, 191, 1995).

    remove_drift keeps the centre of mass in its place; so it is done if absent, unless atoms are fixed, which hold it.
    axes are the directions that count, as "xy" for a surface. D is the slope between the times fit_ps (a twentieth and
    a tenth of the track if absent) over twice their number, and its error that of n_blocks stretches of the track,
    each alone. Where the cell moves, displacements are in fractions of it, shown in the mean cell. No correction for
    the size of the cell is made. The other keywords are those of Track.of. Raises InvalidParameterError.
    """
    if not axes or set(axes) - set("xyz") or len(set(axes)) != len(axes):
        raise InvalidParameterError(f"axes is {axes!r}.", pointer="/axes", hint='Some of "xyz", as in "xy".')
    track = Track.of(source, system, velocities=False, **selection).evenly_spaced(FEWEST_FRAMES, "an MSD")
    if not track.free.any():
        raise InvalidParameterError("Every atom is fixed.", hint="There is nothing that moves.")
    drift = track.removes_drift(remove_drift)
    spacing_ps = track.spacing_fs / 1000.0
    n_lags = track.n_frames // 2 + 1
    window = _window(fit_ps, track.n_frames, spacing_ps, n_blocks)
    moved = track.displaced_ang(drift)[:, :, ["xyz".index(axis) for axis in axes]]
    groups = {s: atoms[track.free[atoms]] for s, atoms in track.elements.items()} | {ALL: np.flatnonzero(track.free)}
    msd = {name: msd_ang2(moved[:, atoms])[:n_lags] for name, atoms in groups.items() if len(atoms)}
    blocks = block_edges(track.n_frames, n_blocks)
    diffusion = {}
    for name, curve in msd.items():
        alone = [_diffusion(msd_ang2(moved[block][:, groups[name]]), window, spacing_ps, len(axes)) for block in blocks]
        diffusion[name] = Diffusion(
            coefficient_cm2_per_s=_diffusion(curve, window, spacing_ps, len(axes)),
            error_cm2_per_s=float(np.std(alone, ddof=1) / np.sqrt(n_blocks)) if n_blocks > 1 else float("nan"),
            exponent=_exponent(curve, window),
        )
    return MeanSquareDisplacement(
        lag_ps=spacing_ps * np.arange(n_lags),
        msd_ang2=msd,
        diffusion=diffusion,
        fit_ps=(window.start * spacing_ps, (window.stop - 1) * spacing_ps),
        axes=axes,
        drift_removed=drift,
        remarks=(*_remarks(diffusion), *_friction(track)),
        provenance=track.provenance,
    )


def msd_ang2(moved_ang: np.ndarray) -> np.ndarray:
    """<|r(t0 + t) - r(t0)|²> over all origins t0 and atoms of (n_frames, n_atoms, n_axes), for all lags (n_frames,)."""
    n_frames, n_atoms, _ = moved_ang.shape
    total = np.zeros(n_frames)
    for start in range(0, n_atoms, ATOMS_AT_ONCE):
        some = moved_ang[:, start : start + ATOMS_AT_ONCE]
        some = some - some.mean(axis=0)  # products of small numbers keep more digits
        squares = (some * some).sum(axis=2)
        forward = np.vstack([np.zeros_like(squares[:1]), squares.cumsum(axis=0)])
        lags = np.arange(n_frames)
        ends = forward[n_frames] - forward[lags] + forward[n_frames - lags]  # Σ r²(t0) + r²(t0 + t)
        means = ends / (n_frames - lags)[:, None]
        total += (means - 2.0 * autocorrelation(some).sum(axis=2)).sum(axis=1)
    total[0] = 0.0
    return np.asarray(total / n_atoms)


def _window(fit_ps: tuple[float, float] | None, n_frames: int, spacing_ps: float, n_blocks: int) -> range:
    """The lags, in frames, that the straight line goes through."""
    longest = n_frames // max(n_blocks, 2)
    if fit_ps is None:
        return range(max(1, n_frames // 20), max(3, n_frames // 10 + 1, n_frames // 20 + 2))
    window = range(round(fit_ps[0] / spacing_ps), round(fit_ps[1] / spacing_ps) + 1)
    if len(window) < 2 or window.start < 0 or window.stop > longest:
        raise InvalidParameterError(
            f"fit_ps {fit_ps[0]:g} to {fit_ps[1]:g} does not fit {n_frames} frames of {spacing_ps:g} ps.",
            pointer="/fit_ps",
            hint=f"Two times up to {(longest - 1) * spacing_ps:.4g} ps, at least one frame apart: each of the "
            f"{n_blocks} stretches the error is taken from must be longer.",
        )
    return window


def _diffusion(curve_ang2: np.ndarray, window: range, spacing_ps: float, n_axes: int) -> float:
    """D in cm²/s of the straight line through a part of an MSD."""
    lags = np.array(window)
    slope = np.polyfit(lags * spacing_ps, curve_ang2[lags], 1)[0]
    return float(slope / (2 * n_axes) * CM2_PER_S_PER_ANG2_PER_PS)


def _exponent(curve_ang2: np.ndarray, window: range) -> float:
    lags = np.array([lag for lag in window if lag > 0 and curve_ang2[lag] > 0])
    return float(np.polyfit(np.log(lags), np.log(curve_ang2[lags]), 1)[0]) if len(lags) > 1 else float("nan")


def _remarks(diffusion: dict[str, Diffusion]) -> tuple[str, ...]:
    remarks = []
    for name, found in one_or_all(diffusion).items():
        if not DIFFUSIVE[0] <= found.exponent <= DIFFUSIVE[1]:
            remarks.append(
                f"{name}: the MSD grows like t^{found.exponent:.2f} where the line was fitted, not like t: "
                "its slope there is no diffusion coefficient. Choose later times with fit_ps, or run longer."
            )
    return tuple(remarks)


def _friction(track: Track) -> tuple[str, ...]:
    if track.friction_per_fs is None:
        return ()
    return (
        f"The Langevin thermostat (friction {track.friction_per_fs:g}/fs) slows diffusion: for a coefficient run nve, "
        "or nvt with the thermostat bussi or nose_hoover.",
    )


def _in_words(found: Diffusion) -> str:
    if not DIFFUSIVE[0] <= found.exponent <= DIFFUSIVE[1]:
        return "no diffusion in the shaded range"
    return "D = " + with_error(found.coefficient_cm2_per_s, found.error_cm2_per_s, "cm$^2$ s$^{-1}$")

"""Velocity autocorrelation and the vibrational density of states."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from equipot.errors import InvalidParameterError
from equipot.simulation.analysis.figures import COLOURS, legend, single
from equipot.simulation.analysis.result import ALL, Analysis, one_or_all
from equipot.simulation.analysis.statistics import autocorrelation
from equipot.simulation.analysis.track import Track
from equipot.units import SPEED_OF_LIGHT_CM_PER_FS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from equipot.simulation.analysis.track import Source

FEWEST_FRAMES = 32
USUAL_WINDOW_PS = 4.0
FASTEST_BOND_PER_CM = {True: 3900.0, False: 1800.0}  # with hydrogen or without: stretches of O-H and of C=O
SHOWN = 0.1  # figures end where correlations stay below this, and densities below its square
PADDING = 4  # finer frequencies than the window resolves, for smooth curves


@dataclass(frozen=True, eq=False, kw_only=True)
class VelocityAutocorrelation(Analysis):
    """<v(0)·v(t)> of each element and of all moving atoms, Å²/fs² (n_lags,), over lag_ps (n_lags,)."""

    name: ClassVar[str] = "vacf"
    lag_ps: np.ndarray
    vacf_ang2_per_fs2: dict[str, np.ndarray]
    drift_removed: bool

    def normalised(self, element: str = ALL) -> np.ndarray:
        """The function over its value at lag 0."""
        curve = self.vacf_ang2_per_fs2[element]
        return np.asarray(curve / curve[0])

    def summary(self) -> dict[str, Any]:
        curves = one_or_all(self.vacf_ang2_per_fs2)
        speeds = {f"{name}_mean_square_speed_ang2_per_fs2": float(curve[0]) for name, curve in curves.items()}
        return {"drift_removed": self.drift_removed, **speeds}

    def columns(self) -> dict[str, np.ndarray]:
        curves = {f"vacf_{name}_ang2_per_fs2": curve for name, curve in self.vacf_ang2_per_fs2.items()}
        return {"lag_ps": self.lag_ps} | curves

    def draw(self, figure: Figure) -> None:
        axes = single(figure, "t (ps)", "⟨v(0)·v(t)⟩ / ⟨v$^2$⟩")
        names = [name for name in self.vacf_ang2_per_fs2 if name != ALL]
        for i, name in enumerate(names):
            axes.plot(self.lag_ps, self.normalised(name), color=COLOURS[i % len(COLOURS)], label=name, linewidth=0.9)
        axes.axhline(0.0, color="0.6", linewidth=0.6, zorder=0)
        alive = max(int(np.flatnonzero(np.abs(self.normalised(name)) > SHOWN)[-1]) for name in names)
        axes.set_xlim(0, float(self.lag_ps[min(len(self.lag_ps) - 1, 2 * alive)]))
        legend(axes)


@dataclass(frozen=True, eq=False, kw_only=True)
class VibrationalSpectrum(Analysis):
    """The density of states of each element and of all moving atoms, states per cm⁻¹ (n_frequencies,).

    Its integral over wavenumber_per_cm (n_frequencies,) is n_degrees for all atoms, and for an element its share of the
    kinetic energy. resolution_per_cm is the width at half height of a sharp line.
    """

    name: ClassVar[str] = "vdos"
    wavenumber_per_cm: np.ndarray
    density_per_cm: dict[str, np.ndarray]
    n_degrees: float
    resolution_per_cm: float
    drift_removed: bool

    def peak_per_cm(self, element: str = ALL) -> float:
        """Where the density is highest, between the frequencies too (a parabola through the three highest)."""
        density = self.density_per_cm[element]
        i = int(np.clip(np.argmax(density), 1, len(density) - 2))
        left, middle, right = density[i - 1 : i + 2]
        bend = left - 2.0 * middle + right
        shift = 0.5 * (left - right) / bend if bend else 0.0
        return float(self.wavenumber_per_cm[i] + shift * (self.wavenumber_per_cm[1] - self.wavenumber_per_cm[0]))

    def summary(self) -> dict[str, Any]:
        return {
            "n_degrees": self.n_degrees,
            "resolution_per_cm": self.resolution_per_cm,
            "highest_wavenumber_per_cm": float(self.wavenumber_per_cm[-1]),
            "drift_removed": self.drift_removed,
            **{f"{name}_peak_per_cm": self.peak_per_cm(name) for name in one_or_all(self.density_per_cm)},
        }

    def columns(self) -> dict[str, np.ndarray]:
        densities = {f"density_{name}_per_cm": values for name, values in self.density_per_cm.items()}
        return {"wavenumber_per_cm": self.wavenumber_per_cm} | densities

    def draw(self, figure: Figure) -> None:
        axes = single(figure, "wavenumber (cm$^{-1}$)", "states per cm$^{-1}$")
        names = [name for name in self.density_per_cm if name != ALL]
        if len(names) > 1:
            axes.plot(self.wavenumber_per_cm, self.density_per_cm[ALL], color="0.55", label="all", linewidth=1.4)
        for i, name in enumerate(names):
            axes.plot(self.wavenumber_per_cm, self.density_per_cm[name], color=COLOURS[i], label=name, linewidth=0.9)
        last = int(np.flatnonzero(self.density_per_cm[ALL] > SHOWN**2 * self.density_per_cm[ALL].max())[-1])
        axes.set_xlim(0, min(float(self.wavenumber_per_cm[-1]), 1.05 * float(self.wavenumber_per_cm[last])))
        axes.set_ylim(bottom=0)
        legend(axes)


def velocity_autocorrelation(
    source: Source,
    system: int | None = None,
    *,
    max_lag_ps: float | None = None,
    remove_drift: bool | None = None,
    **selection: Any,
) -> VelocityAutocorrelation:
    """<v(0)·v(t)> over all origins, for lags up to max_lag_ps (half the track if absent).

    remove_drift takes out the velocity of the centre of mass; so it is done if absent, unless atoms are fixed. The
    other keywords are those of Track.of. Raises InvalidParameterError (no velocities, few frames, not evenly spaced).
    """
    track = _moving(source, system, selection)
    velocities, drift = _velocities(track, remove_drift)
    spacing_ps = track.spacing_fs / 1000.0
    n_lags = track.n_frames // 2 + 1
    if max_lag_ps is not None:
        n_lags = min(n_lags, int(max_lag_ps / spacing_ps + 1e-9) + 1)
    curves = {}
    for name, atoms in _groups(track).items():
        total = sum(autocorrelation(velocities[:, atom]).sum(axis=1)[:n_lags] for atom in atoms)
        curves[name] = np.asarray(total) / len(atoms)
    return VelocityAutocorrelation(
        lag_ps=spacing_ps * np.arange(n_lags),
        vacf_ang2_per_fs2=curves,
        drift_removed=drift,
        remarks=_remarks(track),
        provenance=track.provenance,
    )


def vibrational_density_of_states(
    source: Source,
    system: int | None = None,
    *,
    window_ps: float | None = None,
    remove_drift: bool | None = None,
    n_degrees: float | None = None,
    **selection: Any,
) -> VibrationalSpectrum:
    """The power spectrum of the velocities, weighted by the masses (Dickey, Paskin, Phys. Rev. 188, 1407, 1969).

    It is averaged over stretches of window_ps that overlap by half (4 ps or half the track if absent), each under a
    Hann window (Welch, IEEE Trans. Audio Electroacoust. 15, 70, 1967): longer ones resolve more and are noisier. Its
    integral is n_degrees: 3 for each free atom if absent, less 3 if the drift is removed. Other keywords as for the
    autocorrelation. What is faster than half the rate of saving appears at a wrong, lower place: remarks warn of it.
    """
    track = _moving(source, system, selection)
    velocities, drift = _velocities(track, remove_drift)
    usual = USUAL_WINDOW_PS if window_ps is None else window_ps
    n_window = round(usual * 1000.0 / track.spacing_fs)
    if window_ps is None:
        n_window = min(n_window, track.n_frames // 2)
    if not FEWEST_FRAMES // 2 <= n_window <= track.n_frames:
        raise InvalidParameterError(
            f"A window of {n_window} frames does not fit {track.n_frames} frames.",
            pointer="/window_ps",
            hint=f"At least {FEWEST_FRAMES // 2} frames, and not more than there are.",
        )
    spectra = {
        name: _spectrum(velocities[:, atoms], track.masses_u[atoms], n_window) for name, atoms in _groups(track).items()
    }
    wavenumbers = np.fft.rfftfreq(PADDING * n_window, track.spacing_fs) / SPEED_OF_LIGHT_CM_PER_FS
    n_all = 3.0 * track.free.sum() - (3.0 if drift else 0.0) if n_degrees is None else n_degrees
    whole = np.trapezoid(spectra[ALL], wavenumbers)
    if not whole > 0:
        raise InvalidParameterError("Nothing moves.", hint="The velocities are all zero.")
    return VibrationalSpectrum(
        wavenumber_per_cm=wavenumbers,
        density_per_cm={name: np.asarray(values * n_all / whole) for name, values in spectra.items()},
        n_degrees=float(n_all),
        resolution_per_cm=float(1.44 / (n_window * track.spacing_fs * SPEED_OF_LIGHT_CM_PER_FS)),
        drift_removed=drift,
        remarks=_remarks(track),
        provenance=track.provenance,
    )


def _spectrum(velocities: np.ndarray, masses_u: np.ndarray, n_window: int) -> np.ndarray:
    """Σ m |v(ν)|² of (n_frames, n_atoms, 3), without a scale: (n_frequencies,)."""
    hann = np.hanning(n_window + 1)[:-1]
    starts = range(0, len(velocities) - n_window + 1, max(1, n_window // 2))
    total = np.zeros(PADDING * n_window // 2 + 1)
    for start in starts:
        stretch = velocities[start : start + n_window]
        for atom, mass in enumerate(masses_u):
            spectrum = np.fft.rfft(stretch[:, atom] * hann[:, None], PADDING * n_window, axis=0)
            total += mass * (np.abs(spectrum) ** 2).sum(axis=1)
    return total / len(starts)


def _moving(source: Source, system: int | None, selection: dict[str, Any]) -> Track:
    track = Track.of(source, system, **selection)
    track.needed_velocities()
    track = track.evenly_spaced(FEWEST_FRAMES, "an autocorrelation")
    if not track.free.any():
        raise InvalidParameterError("Every atom is fixed.", hint="There is nothing that moves.")
    return track


def _velocities(track: Track, remove_drift: bool | None) -> tuple[np.ndarray, bool]:
    """Velocities (n_frames, n_atoms, 3), and whether those of the centre of mass were taken out."""
    drift = track.removes_drift(remove_drift)
    velocities = track.needed_velocities()
    if drift:
        weights = track.masses_u / track.masses_u.sum()
        velocities = velocities - np.einsum("a,fai->fi", weights, velocities)[:, None]
    return velocities, drift


def _groups(track: Track) -> dict[str, np.ndarray]:
    groups = {symbol: atoms[track.free[atoms]] for symbol, atoms in track.elements.items()}
    return {s: atoms for s, atoms in groups.items() if len(atoms)} | {ALL: np.flatnonzero(track.free)}


def _remarks(track: Track) -> tuple[str, ...]:
    return (*_folded(track), *_damped(track))


def _damped(track: Track) -> tuple[str, ...]:
    """Velocities under a friction γ forget themselves like exp(-γ t / 2): a line is γ / 2πc wide at half its height."""
    if track.friction_per_fs is None:
        return ()
    width = track.friction_per_fs / (2.0 * np.pi * SPEED_OF_LIGHT_CM_PER_FS)
    return (
        f"The Langevin thermostat (friction {track.friction_per_fs:g}/fs) makes every line {width:.0f} cm⁻¹ wide: for "
        "a spectrum run nve, or nvt with the thermostat bussi.",
    )


def _folded(track: Track) -> tuple[str, ...]:
    highest = 0.5 / track.spacing_fs / SPEED_OF_LIGHT_CM_PER_FS
    fastest = FASTEST_BOND_PER_CM[bool((track.numbers == 1).any())]
    if highest >= fastest:
        return ()
    return (
        f"Frames every {track.spacing_fs:g} fs show vibrations up to {highest:.0f} cm⁻¹; faster ones are folded into "
        f"lower frequencies. Save every {0.5 / fastest / SPEED_OF_LIGHT_CM_PER_FS:.1f} fs to see {fastest:.0f} cm⁻¹.",
    )

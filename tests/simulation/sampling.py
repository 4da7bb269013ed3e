"""Long dynamics in short time, and what statistics says about their samples."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from ase.build import bulk
from scipy import stats

from equipot.params import MDParams
from equipot.simulation.motions.base import State
from equipot.simulation.motions.dynamics import dynamics
from equipot.simulation.motions.velocity_verlet import VelocityVerlet
from equipot.simulation.providers import Evaluation, System
from equipot.structure import Structure
from equipot.units import KB_EV_PER_K

LEAST_P = 1e-4  # a right dynamics fails a check once in ten thousand seeds; the seeds are fixed
PLANTED_P = 1e-4  # what a check must say at most of a planted fault
CORRELATED = 0.12

Forces = Callable[[np.ndarray, np.ndarray | None], Evaluation]


@dataclass(frozen=True)
class Argon:
    """Lennard-Jones argon in a periodic cell, energy and force going to zero at the cutoff.

    The cutoff must not be longer than half the cell is wide: each pair is seen once.
    """

    cutoff_ang: float = 4.5
    depth_ev: float = 0.0104
    diameter_ang: float = 3.4

    def __call__(self, positions_ang: np.ndarray, cell_ang: np.ndarray | None) -> Evaluation:
        assert cell_ang is not None
        inverse = np.linalg.inv(cell_ang)
        assert (1.0 / np.sqrt((inverse * inverse).sum(axis=0))).min() > 2.0 * self.cutoff_ang, "the cell is too small"
        fractional = positions_ang @ inverse
        apart = fractional[:, None] - fractional[None]
        vectors = (apart - np.rint(apart)) @ cell_ang  # (n, n, 3), from the second to the first
        square = (vectors * vectors).sum(axis=2)
        distance = np.sqrt(np.where((square > 0.0) & (square < self.cutoff_ang**2), square, self.cutoff_ang**2))
        energy, slope = self._pair(distance)
        edge_energy, edge_slope = self._pair(np.array(self.cutoff_ang))
        pulls = ((edge_slope - slope) / distance)[:, :, None] * vectors
        energies = 0.5 * (energy - edge_energy - (distance - self.cutoff_ang) * edge_slope).sum(axis=1)
        virial = -0.5 * np.einsum("ijk,ijl->kl", pulls, vectors)
        stress = virial / abs(np.linalg.det(cell_ang))
        voigt = stress[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]]
        return Evaluation(float(energies.sum()), pulls.sum(axis=1), energies, voigt)

    def _pair(self, distance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Energy of a pair, and its derivative."""
        sixth = (self.diameter_ang / distance) ** 6
        return 4.0 * self.depth_ev * (sixth * sixth - sixth), 24.0 * self.depth_ev * (sixth - 2.0 * sixth**2) / distance


@dataclass(frozen=True)
class IdealGas:
    """No forces, and the stress that belongs to that."""

    def __call__(self, positions_ang: np.ndarray, cell_ang: np.ndarray | None) -> Evaluation:
        return Evaluation(0.0, np.zeros_like(positions_ang), None, np.zeros(6))


@dataclass(frozen=True)
class Medium:
    """No forces between atoms, but energy in the cell: B (V - V0)²/2 V0 in its volume, shear (Tr C/det(C)^(1/3) - 3) in
    its shape, with C of the cell over that of a cube. So the volume has the distribution V^n exp(-(B (V - V0)²/2 V0 +
    P V)/kT) whatever the shape does, and the cell swings as that of a stiff crystal, whose phonons cost time.
    """

    bulk_ev_per_ang3: float
    shear_ev: float
    volume_ang3: float = 1000.0

    def __call__(self, positions_ang: np.ndarray, cell_ang: np.ndarray | None) -> Evaluation:
        assert cell_ang is not None
        volume, rest = abs(np.linalg.det(cell_ang)), self.volume_ang3
        squares = cell_ang.T @ cell_ang / rest ** (2 / 3)
        size = (volume / rest) ** (-2 / 3)
        energy = self.volume_ev(volume) + self.shear_ev * (size * np.trace(squares) - 3.0)
        virial = 2.0 * self.shear_ev * size * (squares - np.trace(squares) / 3.0 * np.eye(3))
        stress = virial / volume + self.bulk_ev_per_ang3 * (volume / rest - 1.0) * np.eye(3)
        return Evaluation(
            float(energy), np.zeros_like(positions_ang), None, stress[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]]
        )

    def volume_ev(self, volume_ang3: Any) -> Any:
        return 0.5 * self.bulk_ev_per_ang3 * (volume_ang3 - self.volume_ang3) ** 2 / self.volume_ang3

    def volumes(self, power: int, kt_ev: float) -> tuple[float, float, Callable[[np.ndarray], np.ndarray]]:
        """Mean and variance of the volume without pressure, and how probable smaller ones are."""
        grid = np.linspace(0.3, 1.7, 40_001) * self.volume_ang3
        logs = power * np.log(grid / self.volume_ang3) - self.volume_ev(grid) / kt_ev
        density = np.exp(logs - logs.max())
        density /= density.sum()
        mean = float((density * grid).sum())
        below = np.cumsum(density)
        return mean, float((density * (grid - mean) ** 2).sum()), lambda volumes: np.interp(volumes, grid, below)


@dataclass(frozen=True, eq=False)
class Bonds:
    """A molecule: a spring along every pair of atoms, (n, n) stiffness in eV/Å² and length in Å."""

    stiffness: np.ndarray
    length_ang: np.ndarray

    def __call__(self, positions_ang: np.ndarray, cell_ang: np.ndarray | None) -> Evaluation:
        vectors = positions_ang[:, None] - positions_ang[None]
        distance = np.sqrt((vectors * vectors).sum(axis=2)) + np.eye(len(vectors))
        stretch = (distance - self.length_ang) * (1.0 - np.eye(len(vectors)))
        pulls = (-self.stiffness * stretch / distance)[:, :, None] * vectors
        return Evaluation(float(0.25 * (self.stiffness * stretch**2).sum()), pulls.sum(axis=1))


@dataclass(frozen=True)
class Provided:
    """Any of the above as a force provider."""

    forces: Forces
    n_calls: list[int] = field(default_factory=list)

    @property
    def identity(self) -> dict[str, Any]:
        facts = {"level_of_theory": None, "elements": None, "dtype": "float64", "device": "cpu"}
        return {"model": type(self.forces).__name__, "sha256": None, **facts, "pins": {"execution": "numpy"}}

    def evaluate(self, systems: Any) -> list[Evaluation]:
        return [self.one(system) for system in systems]

    def one(self, system: System) -> Evaluation:
        return self.forces(system.positions_ang, system.cell_ang)

    def forget(self, key: Any) -> None:
        pass


def argon_crystal(repeat: int = 2, a_ang: float = 5.2, **more: Any) -> Structure:
    """4 repeat³ atoms of argon on the sites of an fcc lattice."""
    atoms = bulk("Ar", cubic=True, a=a_ang).repeat(repeat)
    return Structure(atoms.numbers, atoms.positions, atoms.cell.array, (True, True, True), **more)


def md_params(structure: Structure, **given: Any) -> MDParams:
    """Resolved parameters."""
    return MDParams(**{"n_steps": 1_000_000, "timestep_fs": 2.0, **given}).resolved([structure.numbers])


def motion_of(structure: Structure, params: MDParams, seed: int = 1) -> VelocityVerlet:
    motion = dynamics(structure, params, seed)
    assert isinstance(motion, VelocityVerlet)
    return motion


def states(forces: Forces, motion: VelocityVerlet, n_steps: int) -> Iterator[State]:
    """Every state from step 0 on, without an engine around it."""
    state = motion.start()
    state = state.evaluated(forces(state.positions_ang, state.cell_ang))
    yield state
    for _ in range(n_steps):
        moved = motion.move(state)
        state = motion.settle(moved.evaluated(forces(moved.positions_ang, moved.cell_ang)))
        yield state


def rows(forces: Forces, motion: VelocityVerlet, n_steps: int, every: int, skip: int = 0) -> dict[str, np.ndarray]:
    """What the thermo table would hold of every so manieth step after the first `skip`, by column."""
    found = [
        motion.observables(state)
        for state in states(forces, motion, n_steps)
        if state.step >= skip and state.step % every == 0
    ]
    return {name: np.array([row[name] for row in found]) for name in found[0]}


def autocorrelation(series: np.ndarray) -> np.ndarray:
    """Of a series with itself at every lag, 1 at none."""
    spectrum = np.fft.rfft(series - series.mean(), 2 * len(series))
    products = np.fft.irfft(spectrum * spectrum.conj())[: len(series)]
    return np.asarray(products / products[0])


def stride(series: np.ndarray) -> int:
    """After how many samples the next is as good as independent: the autocorrelation, which may swing, stays within
    `CORRELATED` of zero, or its noise, for as long again, and for ten samples at least."""
    n = len(series)
    noise = 2.5 / np.sqrt(np.arange(n, 0, -1))
    correlated = np.abs(autocorrelation(series)) > np.maximum(CORRELATED, noise)
    lag = 1
    while correlated[lag : lag + max(lag, 10)].any():
        lag += 1
    assert lag < n // 3, "the run is too short to tell"
    return lag


def variance_and_error(series: np.ndarray) -> tuple[float, float]:
    """The variance of a normal series, and the error of that: σ² sqrt(2 (1 + 2 Σ C²)/n) with its autocorrelation C."""
    squares = autocorrelation(series)[1 : 2 * stride(series)] ** 2
    variance = float(series.var(ddof=1))
    return variance, variance * float(np.sqrt(2.0 * (1.0 + 2.0 * squares.sum()) / len(series)))


def p_of_distribution(series: np.ndarray, mean: float, variance: float, below: Callable[..., Any]) -> float:
    """That a series is from this distribution, nearly a normal one: its mean, its variance, and of samples apart its
    shape; the smallest of the three counted three times."""
    found, error = variance_and_error(series)
    width = float(2.0 * stats.norm.sf(abs(found - variance) / error))
    shape = float(stats.kstest(decorrelated(series), below).pvalue)
    return min(1.0, 3.0 * min(p_of_mean(series, mean), width, shape))


def decorrelated(series: np.ndarray) -> np.ndarray:
    """Samples of a series that are far enough apart."""
    return series[:: stride(series)]


def p_of_kinetic_energy(kinetic_ev: np.ndarray, n_degrees: int, temperature_k: float) -> float:
    """That a series of kinetic energies is that of a canonical ensemble (as in physical_validation): the mean of the
    series; of independent samples the shape of the distribution, Kolmogorov and Smirnov against gamma, and the
    variance; with the smallest of the three counted three times."""
    scaled = 2.0 * kinetic_ev / (KB_EV_PER_K * temperature_k)
    mean = p_of_mean(scaled, n_degrees)
    apart = decorrelated(scaled)
    shape = stats.kstest(apart, "chi2", args=(n_degrees,)).pvalue
    # variance of a sample variance: (μ4 - σ⁴ (n - 3)/(n - 1)) / n, with μ4 of chi²
    fourth, square = 12.0 * n_degrees**2 + 48.0 * n_degrees, 4.0 * n_degrees**2
    error = np.sqrt((fourth - square * (apart.size - 3) / (apart.size - 1)) / apart.size)
    width = 2.0 * stats.norm.sf(abs(apart.var(ddof=1) - 2.0 * n_degrees) / error)
    return float(min(1.0, 3.0 * min(mean, shape, width)))


def p_of_mean(series: np.ndarray, expected: float) -> float:
    """That a series, which may swing, has this mean: Student's t of the means of twelve blocks."""
    return float(stats.ttest_1samp(block_means(series), expected).pvalue)


def block_means(series: np.ndarray) -> np.ndarray:
    """The means of twelve parts of a series: independent, if it is long."""
    length = len(series) // 12
    return np.asarray(series[: 12 * length].reshape(12, length).mean(axis=1))


def two_sided(below: float) -> float:
    return float(2.0 * min(below, 1.0 - below))


def p_of_slope(first: np.ndarray, second: np.ndarray, expected: float) -> float:
    """That ln of the ratio of the densities of two series, second over first, has this slope.

    The maximum-likelihood estimate (Shirts, J. Chem. Theory Comput. 9, 909, 2013), a logistic regression of which
    series a sample is from. Its error is that of a jackknife over twenty parts of each, for samples that swing.
    """
    estimate, variance = _slope(first, second), 0.0
    for left_out in range(2):
        parts = np.array_split((first, second)[left_out], 20)
        without = [np.concatenate(parts[:i] + parts[i + 1 :]) for i in range(20)]
        slopes = [_slope(w, second) if left_out == 0 else _slope(first, w) for w in without]
        variance += 19.0 / 20.0 * float(((np.array(slopes) - np.mean(slopes)) ** 2).sum())
    return float(2.0 * stats.t.sf(abs(estimate - expected) / np.sqrt(variance), 19))


def _slope(first: np.ndarray, second: np.ndarray) -> float:
    x = np.concatenate([first, second])
    centre, scale = x.mean(), x.std()
    design = np.stack([np.ones_like(x), (x - centre) / scale], axis=1)
    is_second = np.concatenate([np.zeros(len(first)), np.ones(len(second))])
    weights = np.zeros(2)
    for _ in range(100):  # Newton
        chance = 1.0 / (1.0 + np.exp(-design @ weights))
        information = design.T @ (design * (chance * (1.0 - chance))[:, None])
        step = np.linalg.solve(information, design.T @ (is_second - chance))
        weights = weights + step
        if np.abs(step).max() < 1e-10:
            break
    return float(weights[1] / scale)

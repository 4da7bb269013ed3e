"""How a cell moves with its atoms: the equations of Martyna, Tobias and Klein (J. Chem. Phys. 101, 4177, 1994).

A cell h (rows are lattice vectors) changes at the symmetric strain rate g = p_g / W, and carries the atoms along:

    dr/dt = v + g r        dv/dt = F/m - (g + Tr(g)/n) v        dh/dt = h g        W dg/dt = V (P_int - P) + 2K/n

with n degrees of freedom of the atoms, their kinetic energy K, P_int the pressure of motion and virial. The part with
1/n is what makes the volume distribution right. Each piece below is the exact solution of its part.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from typing import Any, Protocol

import numpy as np

from equipot.simulation.motions.base import dot
from equipot.simulation.motions.noise import Stream, normals
from equipot.units import EV_PER_U_ANG2_PER_FS2
from equipot.voigt import symmetric_matrix


class Flow(Protocol):
    """How a cell that changes at one rate carries everything along."""

    def carried(self, vectors: np.ndarray, time_fs: float) -> np.ndarray:
        """Vectors (n, 3), lattice vectors for example, after a time."""

    def drifted(self, positions: np.ndarray, velocities: np.ndarray, time_fs: float) -> np.ndarray:
        """Positions (n_atoms, 3) after a time at these velocities."""

    def kicked(self, velocities: np.ndarray, acceleration: np.ndarray, time_fs: float) -> np.ndarray:
        """Velocities (n_atoms, 3) after a time at this acceleration."""


class Strain(Protocol):
    """The ways in which a cell may change; `rate` is what its state holds, 1/fs."""

    n_degrees: int
    first_chain_mass: float  #: of the cell's own thermostat chain, in kT tdamp²

    def at_rest(self) -> np.ndarray:
        """The rate a run starts with."""

    def twice_kinetic_ev(self, rate: np.ndarray) -> float:
        """Twice the kinetic energy of the cell."""

    def pulled(
        self,
        rate: np.ndarray,
        masses_u: np.ndarray,
        velocities: np.ndarray,
        virial_ev: np.ndarray,
        pressure_ev: float,
        time_fs: float,
    ) -> np.ndarray:
        """The rate after a time under internal and external pressure.

        virial_ev (6,) is stress times volume, Voigt order; pressure_ev is the external pressure times volume.
        """

    def flow(self, rate: np.ndarray) -> Flow:
        """How everything moves at this rate."""

    def thermal_rate(self, kt_ev: float, seed: int, step: int) -> np.ndarray:
        """A rate drawn from its equilibrium at kT."""


class IsotropicStrain:
    """The cell grows and shrinks, and keeps its shape. The rate is a number, that of all lengths."""

    n_degrees = 1
    first_chain_mass = 9.0

    def __init__(self, n_degrees: int, kt_ev: float, pdamp_fs: float) -> None:
        self._share = 1.0 / n_degrees if n_degrees else 0.0
        self._mass = (n_degrees + 3) * kt_ev * pdamp_fs * pdamp_fs  # eV fs²

    def at_rest(self) -> np.ndarray:
        return np.zeros(())

    def twice_kinetic_ev(self, rate: np.ndarray) -> float:
        return float(self._mass * rate * rate)

    def pulled(
        self,
        rate: np.ndarray,
        masses_u: np.ndarray,
        velocities: np.ndarray,
        virial_ev: np.ndarray,
        pressure_ev: float,
        time_fs: float,
    ) -> np.ndarray:
        motion = EV_PER_U_ANG2_PER_FS2 * dot(masses_u * velocities, velocities)
        pull = motion * (1.0 + 3.0 * self._share) - float(virial_ev[:3].sum()) - 3.0 * pressure_ev
        return np.asarray(rate + time_fs * pull / self._mass)

    def flow(self, rate: np.ndarray) -> Flow:
        return _IsotropicFlow(float(rate), 1.0 + 3.0 * self._share)

    def thermal_rate(self, kt_ev: float, seed: int, step: int) -> np.ndarray:
        return np.asarray(sqrt(kt_ev / self._mass) * normals(seed, Stream.BAROSTAT, step, 1)[0, 0])


class FlexibleStrain:
    """The cell changes all six ways, without rotating. The rate is a symmetric matrix (3, 3).

    A symmetric rate has six degrees of freedom; its kinetic energy W Tr(g²)/2 is that of one with nine, three of which
    are never there.
    """

    n_degrees = 6
    first_chain_mass = 6.0

    def __init__(self, n_degrees: int, kt_ev: float, pdamp_fs: float) -> None:
        self._share = 1.0 / n_degrees if n_degrees else 0.0
        self._mass = (n_degrees / 3.0 + 1.0) * kt_ev * pdamp_fs * pdamp_fs  # eV fs²

    def at_rest(self) -> np.ndarray:
        return np.zeros((3, 3))

    def twice_kinetic_ev(self, rate: np.ndarray) -> float:
        return self._mass * dot(rate, rate)

    def pulled(
        self,
        rate: np.ndarray,
        masses_u: np.ndarray,
        velocities: np.ndarray,
        virial_ev: np.ndarray,
        pressure_ev: float,
        time_fs: float,
    ) -> np.ndarray:
        momenta = masses_u * velocities
        columns = [(momenta * velocities[:, j : j + 1]).sum(axis=0) for j in range(3)]
        motion = EV_PER_U_ANG2_PER_FS2 * np.stack(columns, axis=1)
        pull = motion - symmetric_matrix(virial_ev) + (self._share * np.trace(motion) - pressure_ev) * np.eye(3)
        return np.asarray(rate + time_fs * 0.5 * (pull + pull.T) / self._mass)

    def flow(self, rate: np.ndarray) -> Flow:
        return _FlexibleFlow(*_principal(rate), self._share)

    def thermal_rate(self, kt_ev: float, seed: int, step: int) -> np.ndarray:
        (xx, yy, zz), (yz, xz, xy) = normals(seed, Stream.BAROSTAT, step, 2)
        yz, xz, xy = yz * sqrt(0.5), xz * sqrt(0.5), xy * sqrt(0.5)  # each is there twice
        return np.asarray(sqrt(kt_ev / self._mass) * symmetric_matrix((xx, yy, zz, yz, xz, xy)))


@dataclass(frozen=True)
class _IsotropicFlow:
    rate: float
    holding_back: float

    def carried(self, vectors: np.ndarray, time_fs: float) -> np.ndarray:
        return np.asarray(vectors * np.exp(time_fs * self.rate))

    def drifted(self, positions: np.ndarray, velocities: np.ndarray, time_fs: float) -> np.ndarray:
        x = time_fs * self.rate
        return np.asarray(np.exp(x) * positions + time_fs * exprel(x) * velocities)

    def kicked(self, velocities: np.ndarray, acceleration: np.ndarray, time_fs: float) -> np.ndarray:
        x = -self.holding_back * time_fs * self.rate
        return np.asarray(np.exp(x) * velocities + time_fs * exprel(x) * acceleration)


@dataclass(frozen=True, eq=False)
class _FlexibleFlow:
    """Along the principal axes of the rate, the columns of `axes` (3, 3), each direction is as in an isotropic flow."""

    rates: np.ndarray
    axes: np.ndarray
    share: float

    def carried(self, vectors: np.ndarray, time_fs: float) -> np.ndarray:
        return turned(turned(vectors, self.axes) * np.exp(time_fs * self.rates), self.axes.T)

    def drifted(self, positions: np.ndarray, velocities: np.ndarray, time_fs: float) -> np.ndarray:
        x, axes = time_fs * self.rates, self.axes
        along = turned(positions, axes) * np.exp(x) + turned(velocities, axes) * (time_fs * exprel(x))
        return turned(along, axes.T)

    def kicked(self, velocities: np.ndarray, acceleration: np.ndarray, time_fs: float) -> np.ndarray:
        x, axes = -time_fs * (self.rates + self.share * self.rates.sum()), self.axes
        along = turned(velocities, axes) * np.exp(x) + turned(acceleration, axes) * (time_fs * exprel(x))
        return turned(along, axes.T)


def exprel(x: Any) -> Any:
    """(exp(x) - 1) / x, 1 at 0; of a number or an array."""
    tiny = 1e-300  # below it the quotient is 1 to the last bit
    return np.expm1(x + tiny) / (x + tiny)


def turned(vectors: np.ndarray, axes: np.ndarray) -> np.ndarray:
    """Vectors (n, 3) times a matrix (3, 3), without BLAS: its threads would decide the last bit."""
    return np.asarray(np.einsum("ij,jk->ik", vectors, axes))


def _principal(rate: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rates (3,) along the principal axes, which are the columns of (3, 3); not numbers for a rate that is not."""
    if not np.isfinite(rate).all():
        return np.full(3, np.nan), np.eye(3)
    rates, axes = np.linalg.eigh(rate)
    return rates, axes

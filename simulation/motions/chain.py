"""A chain of Nosé-Hoover thermostats (Martyna, Klein, Tuckerman, J. Chem. Phys. 97, 2635, 1992)."""

from __future__ import annotations

from dataclasses import dataclass
from math import exp

import numpy as np

#: Fourth-order weights of three steps that make one (Yoshida, Phys. Lett. A 150, 262, 1990)
YOSHIDA = (1.0 / (2.0 - 2.0 ** (1.0 / 3.0)), -(2.0 ** (1.0 / 3.0)) / (2.0 - 2.0 ** (1.0 / 3.0)))
WEIGHTS = (YOSHIDA[0], YOSHIDA[1], YOSHIDA[0])

LARGEST_EXPONENT = 700.0  # exp of it is still a number; a chain that needs more has lost its system anyway


@dataclass(frozen=True, eq=False)
class Turn:
    """What a turn of a chain does: the factor for what it holds, its new rates (length,), the energy it took, eV."""

    scale: float
    rates_per_fs: np.ndarray
    taken_ev: float


class NoseHooverChain:
    """Holds the mean of twice the kinetic energy of `n_degrees` at n_degrees kT.

    The rates are those of the thermostats' coordinates η. Masses Q are fixed at the temperature `kt_ev` given here,
    Q1 = first_mass kT tdamp² (as a rule n_degrees) and kT tdamp² for the others; on a ramp only the kT that drives the
    chain changes.
    """

    def __init__(self, n_degrees: int, first_mass: float, kt_ev: float, tdamp_fs: float, length: int) -> None:
        self._n_degrees = n_degrees
        self._masses = [kt_ev * tdamp_fs * tdamp_fs * (first_mass if j == 0 else 1.0) for j in range(length)]

    def at_rest(self) -> np.ndarray:
        """The rates a run starts with."""
        return np.zeros(len(self._masses))

    def turn(self, twice_kinetic_ev: float, rates_per_fs: np.ndarray, kt_ev: float, time_fs: float) -> Turn:
        """Let the chain act for a time. It takes the energy Σ Q η̇²/2 + ∫ (n_degrees kT dη1 + Σ kT dηj)."""
        if self._n_degrees == 0:
            return Turn(1.0, rates_per_fs, 0.0)
        rates = [float(rate) for rate in rates_per_fs]
        before, scale, work = self._kinetic_ev(rates), 1.0, 0.0
        for weight in WEIGHTS:
            delta = weight * time_fs
            for j in reversed(range(len(rates))):
                self._push(j, rates, twice_kinetic_ev * scale * scale, kt_ev, delta)
            scale *= _exp(-delta * rates[0])
            work += delta * kt_ev * (self._n_degrees * rates[0] + sum(rates[1:]))
            for j in range(len(rates)):
                self._push(j, rates, twice_kinetic_ev * scale * scale, kt_ev, delta)
        return Turn(scale, np.array(rates), self._kinetic_ev(rates) - before + work)

    def _push(self, j: int, rates: list[float], twice_kinetic_ev: float, kt_ev: float, delta_fs: float) -> None:
        """Half of `delta_fs` of the force on thermostat j, within the drag of the next one."""
        drag = _exp(-0.25 * delta_fs * rates[j + 1]) if j + 1 < len(rates) else 1.0
        if j == 0:
            excess = twice_kinetic_ev - self._n_degrees * kt_ev
        else:
            excess = self._masses[j - 1] * rates[j - 1] * rates[j - 1] - kt_ev
        rates[j] = (rates[j] * drag + 0.5 * delta_fs * excess / self._masses[j]) * drag

    def _kinetic_ev(self, rates: list[float]) -> float:
        return 0.5 * sum(mass * rate * rate for mass, rate in zip(self._masses, rates, strict=True))


def _exp(x: float) -> float:
    return exp(min(x, LARGEST_EXPONENT))

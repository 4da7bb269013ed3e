"""How much a correlated series is worth: where it settles, how many independent values it has, how sure its mean is."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

CANDIDATES = 60  # starts that are tried when looking for the end of the equilibration
MOST_VALUES = 20_000
FEWEST_VALUES = 8  # below, nothing is said about correlation


@dataclass(frozen=True)
class Mean:
    """The mean of a settled series.

    `first` is the index where it settles; `inefficiency` the statistical inefficiency g = 1 + 2 τ in steps of the
    series, so that (n - first) / g values are independent; `standard_error` that of the mean, by blocks.
    """

    mean: float
    standard_error: float
    standard_deviation: float
    first: int
    inefficiency: float
    n_independent: float


def settled_mean(values: np.ndarray, first: int | None = None) -> Mean:
    """The mean of a series (n,) from where it settles on; `first` says where instead of looking for it."""
    start = equilibration(values) if first is None else first
    rest = values[start:]
    g = statistical_inefficiency(rest)
    return Mean(
        mean=float(rest.mean()),
        standard_error=block_error(rest),
        standard_deviation=float(rest.std(ddof=1)) if len(rest) > 1 else 0.0,
        first=start,
        inefficiency=g,
        n_independent=len(rest) / g,
    )


def autocorrelation(values: np.ndarray) -> np.ndarray:
    """<x(0) x(t)> of each column of a series (n, ...), over all origins, for all lags: (n, ...), by FFT."""
    n = len(values)
    size = 1 << (2 * n - 1).bit_length()
    spectrum = np.fft.rfft(values, size, axis=0)
    products = np.fft.irfft(np.abs(spectrum) ** 2, size, axis=0)[:n]
    n_origins = np.arange(n, 0, -1).reshape(-1, *[1] * (values.ndim - 1))
    return np.asarray(products / n_origins)


def statistical_inefficiency(values: np.ndarray) -> float:
    """g = 1 + 2 Σ (1 - t/n) C(t)/C(0), summed to the first lag at which C is not positive; at least 1.

    Chodera, Swope, Pitera, Seok, Dill, J. Chem. Theory Comput. 3, 26 (2007).
    """
    n = len(values)
    fluctuation = values - values.mean()
    if n < FEWEST_VALUES or not np.abs(fluctuation).max() > 0:
        return 1.0
    correlation = autocorrelation(fluctuation)
    shape = correlation / correlation[0]
    negative = np.flatnonzero(shape <= 0)
    end = int(negative[0]) if len(negative) else n
    lags = np.arange(1, end)
    return max(1.0, float(1.0 + 2.0 * ((1.0 - lags / n) * shape[1:end]).sum()))


def equilibration(values: np.ndarray) -> int:
    """The index from which on a series has the most independent values.

    Chodera, J. Chem. Theory Comput. 12, 1799 (2016).
    """
    n = len(values)
    if n < 2 * FEWEST_VALUES:
        return 0
    if n > MOST_VALUES:  # of long series the means of short stretches show it as well
        stretch = -(-n // MOST_VALUES)
        return stretch * equilibration(values[: n // stretch * stretch].reshape(-1, stretch).mean(axis=1))
    starts = np.unique(np.linspace(0, n - FEWEST_VALUES, CANDIDATES).astype(int))
    worth = [(n - start) / statistical_inefficiency(values[start:]) for start in starts]
    return int(starts[int(np.argmax(worth))])


def block_error(values: np.ndarray) -> float:
    """Standard error of the mean of a correlated series, by blocking.

    Flyvbjerg, Petersen, J. Chem. Phys. 91, 461 (1989). Blocks are doubled until B³ > 2 n (e_B/e_1)⁴, with e_B the error
    that blocks of B values give (Lee et al., Phys. Rev. E 83, 066706, 2011). NaN for fewer than two values.
    """
    n = len(values)
    if n < 2:
        return float("nan")
    blocks, size, error = values.astype(float), 1, 0.0
    first = error_of_independent(blocks)
    while len(blocks) >= 2:
        error = max(error, error_of_independent(blocks))
        if first == 0 or size**3 > 2.0 * n * (error / first) ** 4:
            break
        even = blocks[: len(blocks) // 2 * 2]
        blocks, size = 0.5 * (even[::2] + even[1::2]), 2 * size
    return error


def error_of_independent(values: np.ndarray) -> float:
    """Standard error of the mean of independent values (n,)."""
    return float(values.std(ddof=1) / np.sqrt(len(values)))


def slope(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Slope of the straight line through (x, y) and its standard error, widened for correlated residuals."""
    centred = x - x.mean()
    square = float((centred * centred).sum())
    if len(x) < 3 or square == 0:
        return float("nan"), float("nan")
    value = float((centred * y).sum() / square)
    residuals = y - y.mean() - value * centred
    variance = float((residuals * residuals).sum()) / (len(x) - 2)
    return value, float(np.sqrt(statistical_inefficiency(residuals) * variance / square))


def block_edges(n: int, n_blocks: int) -> list[slice]:
    """Contiguous blocks of nearly equal length."""
    edges = np.linspace(0, n, n_blocks + 1).astype(int)
    return [slice(a, b) for a, b in pairwise(edges.tolist())]

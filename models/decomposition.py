"""Canonical polyadic (CP) decompositions of the coupling tensor: how the factors of `cp` and `tdn` were made.

T_abc = Σ_r U_ra V_rb W_rc with as few rows r as possible, by alternating least squares in float64 with a ridge that
fades (tensor decomposition networks, arXiv 2507.01131, fit theirs by gradient descent). For l_max = 1, 2, 3 some rank
is exact to rounding; the rank 7 l_max² of that paper is not.

    python -m equipot.models.decomposition            writes cp_factors.safetensors, beside this file
    python -m equipot.models.decomposition --ranks    prints the error against the rank
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from pathlib import Path

import numpy as np
from safetensors.numpy import save

from equipot.models.spherical import clebsch_gordan, coupling, n_harmonics, paths

FILE = Path(__file__).parent / "cp_factors.safetensors"
#: the smallest rank that the search found to be exact to rounding, for each l_max
EXACT_RANKS = {1: 8, 2: 32, 3: 98}
EXACT = 3e-14  # relative error at which a decomposition counts as exact
FIRST_RIDGE, LAST_RIDGE = 1e-2, 1e-13


@dataclass(frozen=True)
class Decomposition:
    """Three factors of shape (rank, d) and how far from the tensor they are, relative to its Frobenius norm.

    `cancellation` = Σ_r |u_r| |v_r| |w_r| / |T|: about how many times the rounding error of the tensor itself
    a product made with the factors has.
    """

    factors: tuple[np.ndarray, np.ndarray, np.ndarray]
    relative_error: float
    cancellation: float


def tdn_rank(l_max: int) -> int:
    """The rank that tensor decomposition networks use, 7 l_max² (arXiv 2507.01131)."""
    return 7 * l_max * l_max


def component_normalised(l_max: int) -> np.ndarray:
    """The tensor that paper decomposes: every path of the same norm, √((2 l3 + 1) / n_paths(l3)), for comparison."""
    every = list(paths(l_max, l_max, l_max, odd=True))
    tensor = np.zeros((n_harmonics(l_max),) * 3)
    for l1, l2, l3 in every:
        block = clebsch_gordan(l1, l2, l3)
        block = block / np.linalg.norm(block) * sqrt((2 * l3 + 1) / sum(path[2] == l3 for path in every))
        tensor[l1 * l1 : (l1 + 1) ** 2, l2 * l2 : (l2 + 1) ** 2, l3 * l3 : (l3 + 1) ** 2] = block
    return tensor


def decompose(
    tensor: np.ndarray, rank: int, *, seed: int = 0, n_sweeps: int = 8000, fade: float = 0.985
) -> Decomposition:
    """Alternating least squares from a random start; the ridge is multiplied by `fade` in every sweep."""
    rng = np.random.default_rng(seed)
    norm = float(np.linalg.norm(tensor))
    factors = [rng.normal(size=(n, rank)) / rank ** (1 / 3) for n in tensor.shape]
    others = ((1, 2), (0, 2), (0, 1))
    unfolded = [tensor.transpose(mode, *others[mode]).reshape(tensor.shape[mode], -1) for mode in range(3)]
    ridge, error = FIRST_RIDGE, 1.0
    for sweep in range(n_sweeps):
        for mode, (i, j) in enumerate(others):
            pairs = (factors[i][:, None, :] * factors[j][None, :, :]).reshape(-1, rank)
            gram = (factors[i].T @ factors[i]) * (factors[j].T @ factors[j]) + ridge * np.eye(rank)
            factors[mode] = np.linalg.solve(gram, (unfolded[mode] @ pairs + ridge * factors[mode]).T).T
        norms = np.array([np.linalg.norm(factor, axis=0) for factor in factors])
        factors = [factor * (norms.prod(0) ** (1 / 3) / own) for factor, own in zip(factors, norms, strict=True)]
        ridge = max(ridge * fade, LAST_RIDGE)
        if sweep % 20 == 19 or sweep == n_sweeps - 1:
            error = float(np.linalg.norm(tensor - np.einsum("ar,br,cr->abc", *factors, optimize=True)) / norm)
            if error < EXACT / 3:
                break
    cancellation = float(norms.prod(0).sum() / norm)
    u, v, w = (np.ascontiguousarray(factor.T) for factor in factors)
    return Decomposition((u, v, w), error, cancellation)


def best_of(tensor: np.ndarray, rank: int, *, n_starts: int = 6, n_sweeps: int = 8000) -> Decomposition:
    """The best of several starts; the first exact one ends the search."""
    best: Decomposition | None = None
    for seed in range(n_starts):
        found = decompose(tensor, rank, seed=seed, n_sweeps=n_sweeps)
        if best is None or found.relative_error < best.relative_error:
            best = found
        if best.relative_error < EXACT:
            break
    assert best is not None
    return best


def write_factors(path: Path) -> None:
    """Decompose at both ranks for every l_max and write all factors, float64, as one safetensors file."""
    arrays: dict[str, np.ndarray] = {}
    notes = {"made_by": "python -m equipot.models.decomposition"}
    for l_max, exact_rank in EXACT_RANKS.items():
        for name, rank in (("cp", exact_rank), ("tdn", tdn_rank(l_max))):
            found = best_of(coupling(l_max, l_max, l_max, odd=True), rank)
            notes[f"{name}_{l_max}"] = f"rank {rank}, relative error {found.relative_error:.1e}"
            print(
                f"{name}, l_max {l_max}: {notes[f'{name}_{l_max}']}, cancellation {found.cancellation:.1f}", flush=True
            )
            for letter, factor in zip("uvw", found.factors, strict=True):
                arrays[f"{name}_{l_max}_{letter}"] = factor
    temporary = path.with_suffix(".tmp")
    temporary.write_bytes(save(arrays, notes))
    os.replace(temporary, path)


def print_ranks(l_max: int, ranks: Sequence[int], n_sweeps: int) -> None:
    """The error against the rank, for our path weights and for those of the paper."""
    for rank in ranks:
        for name, tensor in (
            ("ours", coupling(l_max, l_max, l_max, odd=True)),
            ("component-normalised", component_normalised(l_max)),
        ):
            found = best_of(tensor, rank, n_starts=3, n_sweeps=n_sweeps)
            print(
                f"l_max {l_max}, rank {rank}, {name}: relative error {found.relative_error:.1e}, "
                f"cancellation {found.cancellation:.1f}",
                flush=True,
            )


def main() -> None:
    parser = argparse.ArgumentParser(description="Decompose the coupling tensor.")
    parser.add_argument("--ranks", action="store_true", help="print errors against ranks and write nothing")
    parser.add_argument("--sweeps", type=int, default=8000, help="sweeps of each start for --ranks (8000)")
    given = parser.parse_args()
    if not given.ranks:
        write_factors(FILE)
        return
    for l_max, ranks in {1: (7, 8, 9), 2: (28, 32, 36), 3: (63, 98, 105), 4: (112,)}.items():
        print_ranks(l_max, ranks, given.sweeps)


if __name__ == "__main__":
    main()

"""Radial distribution functions of periodic systems."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations_with_replacement
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from equipot.errors import InvalidParameterError, InvalidStructureError
from equipot.simulation.analysis.figures import COLOURS, legend, single
from equipot.simulation.analysis.result import ALL, Analysis, one_or_all
from equipot.simulation.analysis.statistics import block_edges
from equipot.simulation.analysis.track import Track

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from equipot.simulation.analysis.track import Source

USUAL_R_MAX_ANG = 10.0
PAIRS_AT_ONCE = 1_000_000


@dataclass(frozen=True, eq=False, kw_only=True)
class RadialDistribution(Analysis):
    """g(r) of every pair of elements and of all atoms.

    r_ang (n_bins,) are the middles of the bins; for each pair, as in "H-O": g and its error (n_bins,), and the
    coordination number (n_bins,), how many atoms of the second element are within the outer edge of the bin about one
    of the first. A pair of one atom of an element with itself has no g.
    """

    name: ClassVar[str] = "rdf"
    r_ang: np.ndarray
    bin_ang: float
    g: dict[str, np.ndarray]
    g_error: dict[str, np.ndarray]
    coordination: dict[str, np.ndarray]
    n_frames: int

    def summary(self) -> dict[str, Any]:
        out: dict[str, Any] = {"r_max_ang": float(self.r_ang[-1] + self.bin_ang / 2), "n_frames": self.n_frames}
        for pair, g in one_or_all(self.g).items():
            highest = int(np.argmax(g))
            out[f"{pair}_highest_r_ang"] = float(self.r_ang[highest]) if g[highest] > 0 else None
            out[f"{pair}_highest_g"] = float(g[highest])
        return out

    def columns(self) -> dict[str, np.ndarray]:
        out = {"r_ang": self.r_ang}
        for pair in self.g:
            out |= {
                f"g_{pair}": self.g[pair],
                f"g_{pair}_error": self.g_error[pair],
                f"coordination_{pair}": self.coordination[pair],
            }
        return out

    def draw(self, figure: Figure) -> None:
        axes = single(figure, "r (Å)", "g(r)")
        pairs = [pair for pair in self.g if pair != ALL] or [ALL]
        for i, pair in enumerate(pairs):
            g, error, colour = self.g[pair], self.g_error[pair], COLOURS[i % len(COLOURS)]
            axes.plot(self.r_ang, g, color=colour, label=pair.replace("-", "–"))
            axes.fill_between(self.r_ang, g - error, g + error, color=colour, alpha=0.25, linewidth=0)
        axes.axhline(1.0, color="0.6", linewidth=0.6, linestyle=(0, (4, 2)), zorder=0)
        axes.set_xlim(0, float(self.r_ang[-1] + self.bin_ang / 2))
        axes.set_ylim(bottom=0)
        if len(pairs) == 1 and pairs[0] != ALL:
            axes.set_ylabel(f"$g_{{{pairs[0].replace('-', '–')}}}(r)$")
        legend(axes, ncols=1 + len(pairs) // 5)


def radial_distribution(
    source: Source,
    system: int | None = None,
    *,
    r_max_ang: float | None = None,
    bin_ang: float = 0.025,
    n_blocks: int = 5,
    **selection: Any,
) -> RadialDistribution:
    """g(r) of a system that is periodic in all directions, in any cell, moving ones included.

    Up to r_max_ang, at most half the shortest height of the cell in any frame (up to there every pair has one nearest
    image); 10 Å or what the cell allows if absent. Each frame is normalised by its own volume and by the number of
    other atoms, N - 1 for equal elements, so an ideal gas of any size has g = 1. Errors are those of n_blocks blocks of
    frames. The other keywords are those of Track.of. Raises InvalidStructureError if there is no cell,
    InvalidParameterError if r_max_ang is too large.
    """
    track = Track.of(source, system, velocities=False, **selection)
    if track.cells_ang is None or not all(track.pbc):
        raise InvalidStructureError(
            "A radial distribution needs a system that is periodic in all three directions.",
            hint="Of a molecule or a slab there is no density to compare with.",
        )
    largest = 0.5 * float(heights_ang(track.cells_ang).min())
    if r_max_ang is not None and r_max_ang > largest:
        raise InvalidParameterError(
            f"r_max_ang is {r_max_ang:g}, and half the shortest height of the cell is {largest:.4g} Å.",
            pointer="/r_max_ang",
            hint="Beyond that a pair has several images; take a larger cell.",
        )
    r_max = min(USUAL_R_MAX_ANG, largest) if r_max_ang is None else r_max_ang
    n_bins = int(r_max / bin_ang + 1e-9)
    if n_bins < 1:
        raise InvalidParameterError(
            f"bin_ang {bin_ang:g} is above {r_max:g} Å.", pointer="/bin_ang", hint="Make it smaller."
        )
    volumes = np.abs(np.linalg.det(track.cells_ang))
    blocks = block_edges(track.n_frames, min(n_blocks, track.n_frames))
    counts: list[np.ndarray] = []
    dilutions: list[np.ndarray] = []
    for block in blocks:
        of_frames = [(_counts(track, i, n_bins, bin_ang), volumes[i]) for i in range(track.n_frames)[block]]
        counts.append(np.mean([count for count, _ in of_frames], axis=0))
        dilutions.append(np.mean([count * volume for count, volume in of_frames], axis=0))
    weights = np.array([block.stop - block.start for block in blocks]) / track.n_frames
    return _normalised(track, np.tensordot(weights, np.stack(counts), 1), np.stack(dilutions), weights, bin_ang)


def heights_ang(cells_ang: np.ndarray) -> np.ndarray:
    """The three heights of cells (..., 3, 3): distances between opposite faces, (..., 3)."""
    return np.asarray(1.0 / np.linalg.norm(np.linalg.inv(cells_ang), axis=-2))


def _counts(track: Track, frame: int, n_bins: int, bin_ang: float) -> np.ndarray:
    """Pairs of each two elements, the first not after the second, by distance: (n_elements, n_elements, n_bins)."""
    assert track.cells_ang is not None
    cell = track.cells_ang[frame]
    fractions = track.positions_ang[frame] @ np.linalg.inv(cell)
    kinds = np.unique(track.numbers, return_inverse=True)[1]
    n_kinds = int(kinds.max()) + 1
    counts = np.zeros(n_kinds * n_kinds * n_bins, dtype=np.int64)
    for rows, others in _chunks(track.n_atoms):
        apart = fractions[rows][:, None] - fractions[None, others]
        apart -= np.round(apart)  # the nearest image of every pair closer than half the shortest height
        distances = np.sqrt(np.einsum("abi,ij,abj->ab", apart, cell @ cell.T, apart, optimize=True).clip(0))
        bins = (distances / bin_ang).astype(np.int64)
        first, second = np.meshgrid(np.arange(track.n_atoms)[rows], np.arange(track.n_atoms)[others], indexing="ij")
        close = (bins < n_bins) & (first < second)
        a, b = kinds[first[close]], kinds[second[close]]
        codes = (np.minimum(a, b) * n_kinds + np.maximum(a, b)) * n_bins + bins[close]
        counts += np.bincount(codes, minlength=len(counts))
    return counts.reshape(n_kinds, n_kinds, n_bins)


def _chunks(n_atoms: int) -> Iterator[tuple[slice, slice]]:
    n_rows = max(1, PAIRS_AT_ONCE // n_atoms)
    for start in range(0, n_atoms, n_rows):
        yield slice(start, start + n_rows), slice(start, n_atoms)


def _normalised(
    track: Track, counts: np.ndarray, dilutions: np.ndarray, weights: np.ndarray, bin_ang: float
) -> RadialDistribution:
    """g(r) of the mean counts (n_elements, n_elements, n_bins) and of what each block of frames, which has its share
    of all as its weight, has of counts times volume (n_blocks, n_elements, n_elements, n_bins)."""
    edges = bin_ang * np.arange(counts.shape[-1] + 1)
    shells = 4.0 / 3.0 * np.pi * np.diff(edges**3)
    symbols, sizes = list(track.elements), [len(atoms) for atoms in track.elements.values()]
    pairs: dict[str, tuple[np.ndarray, np.ndarray, float, float]] = {}
    for a, b in combinations_with_replacement(range(len(symbols)), 2):
        n_pairs = sizes[a] * sizes[b] if a != b else 0.5 * sizes[a] * (sizes[a] - 1)
        both = 2.0 if a == b else 1.0
        pairs[f"{symbols[a]}-{symbols[b]}"] = counts[a, b], dilutions[:, a, b], n_pairs, both / sizes[a]
    n = track.n_atoms
    pairs[ALL] = counts.sum(axis=(0, 1)), dilutions.sum(axis=(1, 2)), 0.5 * n * (n - 1), 2.0 / n
    g, errors, coordination = {}, {}, {}
    for pair, (own, diluted, n_pairs, per_pair) in pairs.items():
        if n_pairs == 0:
            continue
        blocks = diluted / (n_pairs * shells)
        g[pair] = weights @ blocks
        n_blocks = len(blocks)
        unknown = np.full(len(shells), np.nan)
        errors[pair] = blocks.std(axis=0, ddof=1) / np.sqrt(n_blocks) if n_blocks > 1 else unknown
        coordination[pair] = per_pair * own.cumsum()
    return RadialDistribution(
        r_ang=0.5 * (edges[1:] + edges[:-1]),
        bin_ang=bin_ang,
        g=g,
        g_error=errors,
        coordination=coordination,
        n_frames=track.n_frames,
        provenance=track.provenance,
        remarks=("The cell moves: each frame is normalised by its own volume.",) if track.cell_moves else (),
    )

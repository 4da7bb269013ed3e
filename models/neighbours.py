"""Neighbour search with a skin. What comes out never depends on what was asked before."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from vesin import NeighborList

from equipot.models.graph import AtomGraph, Layout, Rows

#: rows kept of a system of at most so many pairs: those that come and go at the cutoff do so again and again
MOST_ROWS, FEW_PAIRS = 8, 2_000


@dataclass(frozen=True, eq=False)
class Pairs:
    """All pairs within cutoff + skin at some earlier positions, sorted by (i, j, shift); `reverse` is the index of each
    pair's other half."""

    numbers: np.ndarray
    positions_ang: np.ndarray
    cell_ang: np.ndarray
    pbc: tuple[bool, bool, bool]
    first: np.ndarray
    second: np.ndarray
    shifts: np.ndarray
    offsets_ang: np.ndarray  # shifts @ cell
    reverse: np.ndarray

    def is_of(self, numbers: np.ndarray, cell_ang: np.ndarray | None, pbc: tuple[bool, bool, bool]) -> bool:
        """Whether they are those of these atoms in this cell, wherever the atoms are."""
        same = self._numbers == numbers.tobytes() or np.array_equal(self.numbers, numbers)  # bytes take a tenth
        return self.pbc == pbc and same and self.has_cell(cell_ang)

    def has_cell(self, cell_ang: np.ndarray | None) -> bool:
        """Whether they are those of this cell, which is of no account without periods."""
        return not any(self.pbc) or np.array_equal(self.cell_ang, cell_ang)  # type: ignore[arg-type]

    @cached_property
    def _numbers(self) -> bytes:
        return self.numbers.tobytes()

    @cached_property
    def slot(self) -> np.ndarray:
        """The place of every pair among those of its first atom."""
        degree = np.bincount(self.first, minlength=len(self.numbers))
        return np.asarray(np.arange(len(self.first)) - (np.cumsum(degree) - degree)[self.first])

    @cached_property
    def n_slots(self) -> int:
        """The most pairs of an atom, at least 1: the length of a row."""
        return int(self.slot.max(initial=0)) + 1


@dataclass(frozen=True, eq=False)
class NearRows:
    """The rows of those pairs that are `near`, within the cutoff: the same for many steps."""

    pairs: Pairs
    near: np.ndarray
    rows: Rows

    @classmethod
    def of(cls, pairs: Pairs, near: np.ndarray) -> NearRows:
        place = np.cumsum(near) - 1
        return cls(
            pairs, near, Rows.of(pairs.numbers, pairs.first[near], pairs.second[near], place[pairs.reverse[near]])
        )

    @property
    def layout(self) -> Layout:
        return self.rows.layout

    @cached_property
    def slot(self) -> np.ndarray:
        """The slot of every pair in the rows, -1 for one beyond the cutoff."""
        slot = np.full(len(self.near), -1)
        slot[self.near] = self.rows.slot
        return slot


class NeighbourSearch:
    """Neighbour lists of one system as it moves.

    Pairs within `cutoff_ang + skin_ang` are kept and searched anew (with vesin) once an atom has moved half the skin
    or the cell or the atoms have changed. Before use they are cut down to `cutoff_ang`; since they are sorted, the
    graph is the one a fresh search would give, bit for bit. Vectors come as `dtype`.
    """

    def __init__(
        self,
        cutoff_ang: float,
        skin_ang: float = 0.5,
        dtype: type[np.floating[Any]] = np.float64,
    ) -> None:
        self.cutoff_ang = cutoff_ang
        self.skin_ang = skin_ang
        self._dtype = np.dtype(dtype)
        self.n_searches = 0
        self.kept: Pairs | None = None
        self._rows: NearRows | None = None  # of the last graph
        self._rows_before: dict[bytes, NearRows] = {}  # some of the last graphs of the kept pairs

    def graph(
        self,
        numbers: np.ndarray,
        positions_ang: np.ndarray,
        cell_ang: np.ndarray | None,
        pbc: tuple[bool, bool, bool] | np.ndarray,
    ) -> AtomGraph:
        """The graph at these positions (n_atoms, 3) in Å; atoms may lie outside the cell (3, 3)."""
        positions = np.ascontiguousarray(positions_ang, dtype=np.float64)
        pairs = self.pairs(numbers, positions, cell_ang, pbc)
        vectors = positions.take(pairs.second, axis=0)
        vectors -= positions.take(pairs.first, axis=0)
        vectors += pairs.offsets_ang
        near = np.einsum("ij,ij->i", vectors, vectors) < self.cutoff_ang**2
        return self._rows_of(pairs, near).rows.graph(vectors[near], self._dtype)

    def pairs(
        self,
        numbers: np.ndarray,
        positions_ang: np.ndarray,
        cell_ang: np.ndarray | None,
        pbc: tuple[bool, bool, bool] | np.ndarray,
    ) -> Pairs:
        """Pairs among which are all within the cutoff at these positions: those kept, or new ones."""
        periodic, cell = _boundary(cell_ang, pbc)
        positions = np.asarray(positions_ang, dtype=np.float64)
        if self.kept is None or not self._still_covers(self.kept, numbers, positions, cell, periodic):
            self.kept = self._search(np.asarray(numbers), positions, cell, periodic)
            self._rows = None
            self._rows_before.clear()
        return self.kept

    def last_rows(
        self, numbers: np.ndarray, cell_ang: np.ndarray | None, pbc: tuple[bool, bool, bool] | np.ndarray
    ) -> NearRows | None:
        """The rows of the last graph, if it was one of these atoms in this cell."""
        last = self._rows
        if last is None or not last.pairs.is_of(numbers, cell_ang, (bool(pbc[0]), bool(pbc[1]), bool(pbc[2]))):
            return None
        return last

    def rows_where(self, near: np.ndarray) -> NearRows:
        """The rows if these of the kept pairs are within the cutoff; they are the last ones from now on."""
        assert self.kept is not None
        return self._rows_of(self.kept, near)

    def _rows_of(self, pairs: Pairs, near: np.ndarray) -> NearRows:
        """The rows of these pairs, those of the last graph or one before it if they are the same."""
        last = self._rows
        if last is not None and np.array_equal(last.near, near):
            return last
        key = near.tobytes()
        last = self._rows_before.get(key)
        if last is None:
            last = NearRows.of(pairs, near)
            if len(near) <= FEW_PAIRS:
                if len(self._rows_before) == MOST_ROWS:
                    del self._rows_before[next(iter(self._rows_before))]
                self._rows_before[key] = last
        self._rows = last
        return last

    def _still_covers(
        self,
        old: Pairs,
        numbers: np.ndarray,
        positions: np.ndarray,
        cell: np.ndarray,
        pbc: tuple[bool, bool, bool],
    ) -> bool:
        if not old.is_of(numbers, cell, pbc):
            return False
        return bool(squared_moves(positions, old.positions_ang).max(initial=0.0) <= self.squared_leeway)

    @property
    def squared_leeway(self) -> float:
        """How far an atom may move before neighbours are searched anew, squared, Å²."""
        return (0.5 * self.skin_ang) ** 2

    def _search(
        self, numbers: np.ndarray, positions: np.ndarray, cell: np.ndarray, pbc: tuple[bool, bool, bool]
    ) -> Pairs:
        self.n_searches += 1
        search = NeighborList(cutoff=self.cutoff_ang + self.skin_ang, full_list=True, n_threads=1)
        first, second, shifts = search.compute(points=positions, box=cell, periodic=np.array(pbc), quantities="ijS")
        first, second, shifts = first.astype(np.int64), second.astype(np.int64), shifts.astype(np.int64)
        forward, backward = _keys(len(positions), first, second, shifts)
        order = np.argsort(forward)
        reverse = np.empty(len(order), dtype=np.int64)
        reverse[np.argsort(backward[order])] = np.arange(len(order))
        first, second, shifts = first[order], second[order], shifts[order]
        return Pairs(numbers.copy(), positions.copy(), cell.copy(), pbc, first, second, shifts, shifts @ cell, reverse)


def squared_moves(positions_ang: np.ndarray, before_ang: np.ndarray) -> np.ndarray:
    """How far every atom (n_atoms, 3) has moved, squared, Å²."""
    moved = positions_ang - before_ang
    return np.asarray(np.einsum("ij,ij->i", moved, moved))


def _boundary(
    cell_ang: np.ndarray | None, pbc: tuple[bool, bool, bool] | np.ndarray
) -> tuple[tuple[bool, bool, bool], np.ndarray]:
    """Which directions are periodic, and the cell, zero where none is."""
    periodic = (bool(pbc[0]), bool(pbc[1]), bool(pbc[2]))
    cell = np.zeros((3, 3)) if cell_ang is None or not any(periodic) else np.asarray(cell_ang, dtype=np.float64)
    return periodic, cell


def _keys(n_atoms: int, first: np.ndarray, second: np.ndarray, shifts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """One integer for each pair that sorts like (i, j, shift), and the same for the pair reversed."""
    largest = int(np.abs(shifts).max(initial=0))
    base = 2 * largest + 1
    code = np.array([base * base, base, 1])
    forward = (first * n_atoms + second) * base**3 + (shifts + largest) @ code
    backward = (second * n_atoms + first) * base**3 + (largest - shifts) @ code
    return forward, backward

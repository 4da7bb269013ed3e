"""The graph a potential sees: atoms, and for each atom a padded row of neighbours. Immutable; numpy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class AtomGraph:
    """Atoms of one or several systems and the bond vectors to their neighbours within the cutoff.

    Every row has the same number of slots, `n_slots`; a row is sorted by (j, shift) and its unused slots are masked.
    The list is full: every bond is there twice, and `reverse` says where its other half is (a masked slot is its own).

    numbers (n_atoms,) atomic numbers; vectors_ang (n_atoms, n_slots, 3) from the atom to its neighbour in Å;
    neighbours (n_atoms, n_slots) index of the neighbour; mask (n_atoms, n_slots) True where there is one;
    reverse (n_atoms * n_slots,) flat index of the reversed bond; system_idx (n_atoms,) system of each atom.
    charge (n_systems,) total charge in e and head (n_systems,) index of the level of theory, of each system; None: all
    neutral, all of the first level.
    """

    numbers: np.ndarray
    vectors_ang: np.ndarray
    neighbours: np.ndarray
    mask: np.ndarray
    reverse: np.ndarray
    system_idx: np.ndarray
    n_systems: int = 1
    charge: np.ndarray | None = None
    head: np.ndarray | None = None

    @property
    def n_atoms(self) -> int:
        return len(self.numbers)

    @property
    def n_edges(self) -> int:
        return int(self.mask.sum())


def graph_from_edges(
    numbers: np.ndarray, first: np.ndarray, second: np.ndarray, vectors_ang: np.ndarray, reverse: np.ndarray
) -> AtomGraph:
    """Lay edges sorted by (i, j, shift) out in padded rows; `reverse` is the index of each edge's other half."""
    n_atoms, n_edges = len(numbers), len(first)
    degree = np.bincount(first, minlength=n_atoms)
    n_slots = max(int(degree.max(initial=0)), 1)
    starts = np.cumsum(degree) - degree
    slot = first * n_slots + (np.arange(n_edges) - starts[first])

    vectors = np.zeros((n_atoms * n_slots, 3))
    vectors[slot] = vectors_ang
    neighbours = np.repeat(np.arange(n_atoms), n_slots)
    neighbours[slot] = second
    mask = np.zeros(n_atoms * n_slots, dtype=bool)
    mask[slot] = True
    reverse_slot = np.arange(n_atoms * n_slots)
    reverse_slot[slot] = slot[reverse]
    return AtomGraph(
        numbers=np.asarray(numbers),
        vectors_ang=vectors.reshape(n_atoms, n_slots, 3),
        neighbours=neighbours.reshape(n_atoms, n_slots),
        mask=mask.reshape(n_atoms, n_slots),
        reverse=reverse_slot,
        system_idx=np.zeros(n_atoms, dtype=np.int64),
    )


def batch_graphs(graphs: Sequence[AtomGraph]) -> AtomGraph:
    """Several graphs side by side; no edge crosses from one to another."""
    n_slots = max(graph.neighbours.shape[1] for graph in graphs)
    offset, system = 0, 0
    parts: dict[str, list[np.ndarray]] = {
        name: [] for name in ("numbers", "vectors_ang", "neighbours", "mask", "reverse", "system_idx")
    }
    for graph in graphs:
        n_atoms, own_slots = graph.neighbours.shape
        pad = ((0, 0), (0, n_slots - own_slots))
        own = np.arange(offset, offset + n_atoms)[:, None]
        atom, slot = np.divmod(graph.reverse.reshape(n_atoms, own_slots), own_slots)
        reverse = own * n_slots + np.arange(n_slots)
        reverse[:, :own_slots] = (atom + offset) * n_slots + slot
        neighbours = np.broadcast_to(own, (n_atoms, n_slots)).copy()
        neighbours[:, :own_slots] = graph.neighbours + offset
        parts["numbers"].append(graph.numbers)
        parts["vectors_ang"].append(np.pad(graph.vectors_ang, (*pad, (0, 0))))
        parts["neighbours"].append(neighbours)
        parts["mask"].append(np.pad(graph.mask, pad))
        parts["reverse"].append(reverse.ravel())
        parts["system_idx"].append(graph.system_idx + system)
        offset += n_atoms
        system += graph.n_systems
    return AtomGraph(
        **{name: np.concatenate(arrays) for name, arrays in parts.items()},
        n_systems=system,
        charge=_side_by_side([graph.charge for graph in graphs], graphs),
        head=_side_by_side([graph.head for graph in graphs], graphs),
    )


def _side_by_side(values: Sequence[np.ndarray | None], graphs: Sequence[AtomGraph]) -> np.ndarray | None:
    """What is known of the systems of several graphs; zeros where a graph says nothing, None if none does."""
    if all(value is None for value in values):
        return None
    zeros = (np.zeros(graph.n_systems, dtype=np.int64) for graph in graphs)
    return np.concatenate([zero if value is None else value for value, zero in zip(values, zeros, strict=True)])

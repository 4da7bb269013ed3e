"""The graph a potential sees: atoms, and for each atom a padded row of neighbours. Immutable; numpy."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import numpy as np

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Layout:
    """Who is whose neighbour: all of a graph but where the atoms are.

    Every row has the same number of slots, `n_slots`; a row is sorted by (j, shift) and its unused slots are masked.
    The list is full: every bond is there twice, and `reverse` says where its other half is (a masked slot is its own).

    numbers (n_atoms,) atomic numbers; neighbours (n_atoms, n_slots) index of the neighbour; mask (n_atoms, n_slots)
    True where there is one; reverse (n_atoms * n_slots,) flat index of the reversed bond; system_idx (n_atoms,) system
    of each atom.
    """

    numbers: np.ndarray
    neighbours: np.ndarray
    mask: np.ndarray
    reverse: np.ndarray
    system_idx: np.ndarray
    _made: dict[Hashable, Any] = field(default_factory=dict, repr=False)

    def once(self, name: Hashable, make: Callable[[], T]) -> T:
        """What `make` gives, kept under this name for all graphs of this layout: it outlives many steps."""
        if name not in self._made:
            self._made[name] = make()
        made: T = self._made[name]
        return made


@dataclass(frozen=True, eq=False)
class AtomGraph:
    """Atoms of one or several systems and the bond vectors to their neighbours within the cutoff.

    layout: who is whose neighbour; vectors_ang (n_atoms, n_slots, 3) from the atom to its neighbour in Å, 0 where there
    is none. charge (n_systems,) total charge in e and head (n_systems,) index of the level of theory, of each system;
    None: all neutral, all of the first level.
    """

    layout: Layout
    vectors_ang: np.ndarray
    n_systems: int = 1
    charge: np.ndarray | None = None
    head: np.ndarray | None = None

    @property
    def numbers(self) -> np.ndarray:
        return self.layout.numbers

    @property
    def neighbours(self) -> np.ndarray:
        return self.layout.neighbours

    @property
    def mask(self) -> np.ndarray:
        return self.layout.mask

    @property
    def reverse(self) -> np.ndarray:
        return self.layout.reverse

    @property
    def system_idx(self) -> np.ndarray:
        return self.layout.system_idx

    def with_charge(self, charge_e: float) -> AtomGraph:
        """The same graph, of one system with this total charge."""
        return replace(self, charge=np.array([round(charge_e)])) if charge_e else self

    @property
    def n_atoms(self) -> int:
        return len(self.layout.numbers)

    @property
    def n_edges(self) -> int:
        return int(self.mask.sum())


@dataclass(frozen=True, eq=False)
class Rows:
    """Edges sorted by (i, j, shift) in padded rows; `slot` (n_edges,) is the place of each."""

    layout: Layout
    slot: np.ndarray

    @classmethod
    def of(cls, numbers: np.ndarray, first: np.ndarray, second: np.ndarray, reverse: np.ndarray) -> Rows:
        """Of edges from atom to atom; `reverse` is the index of each edge's other half."""
        n_atoms, n_edges = len(numbers), len(first)
        degree = np.bincount(first, minlength=n_atoms)
        n_slots = max(int(degree.max(initial=0)), 1)
        first_slot = n_slots * np.arange(n_atoms)
        slot = np.arange(n_edges) + (first_slot - np.cumsum(degree) + degree)[first]

        every = np.arange(n_atoms * n_slots)
        neighbours = every // n_slots
        neighbours[slot] = second
        mask = np.zeros(n_atoms * n_slots, dtype=bool)
        mask[slot] = True
        every[slot] = slot[reverse]
        layout = Layout(
            numbers=np.asarray(numbers),
            neighbours=neighbours.reshape(n_atoms, n_slots),
            mask=mask.reshape(n_atoms, n_slots),
            reverse=every,
            system_idx=np.zeros(n_atoms, dtype=np.int64),
        )
        return cls(layout, slot)

    def graph(self, vectors_ang: np.ndarray, dtype: np.dtype[Any] | type[np.floating[Any]] = np.float64) -> AtomGraph:
        """With these vectors (n_edges, 3) along the edges, in this precision."""
        n_atoms, n_slots = self.layout.mask.shape
        vectors = np.zeros((n_atoms * n_slots, 3), dtype=dtype)
        vectors[self.slot] = vectors_ang
        return AtomGraph(self.layout, vectors.reshape(n_atoms, n_slots, 3))


def batch_graphs(graphs: Sequence[AtomGraph]) -> AtomGraph:
    """Several graphs side by side; no edge crosses from one to another."""
    n_slots = max(graph.neighbours.shape[1] for graph in graphs)
    offset, system = 0, 0
    vectors_ang: list[np.ndarray] = []
    parts: dict[str, list[np.ndarray]] = {
        name: [] for name in ("numbers", "neighbours", "mask", "reverse", "system_idx")
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
        vectors_ang.append(np.pad(graph.vectors_ang, (*pad, (0, 0))))
        parts["neighbours"].append(neighbours)
        parts["mask"].append(np.pad(graph.mask, pad))
        parts["reverse"].append(reverse.ravel())
        parts["system_idx"].append(graph.system_idx + system)
        offset += n_atoms
        system += graph.n_systems
    numbers, neighbours, mask, reverses, systems = (np.concatenate(arrays) for arrays in parts.values())
    return AtomGraph(
        Layout(numbers, neighbours, mask, reverses, systems),
        np.concatenate(vectors_ang),
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

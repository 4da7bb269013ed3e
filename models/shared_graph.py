"""Many systems in one graph that stays on its device: between searches for neighbours only positions are sent there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from equipot.models.neighbours import Pairs


@dataclass(frozen=True, eq=False)
class PlacedGraph:
    """A shared graph with its atoms in place; the tensors are what the network takes (see AtomGraph), on the device.

    atomic_numbers (n_atoms,), numpy; starts (n_systems,), where the atoms of each system begin; charge (n_systems,), e.
    """

    numbers: torch.Tensor
    vectors_ang: torch.Tensor
    neighbours: torch.Tensor
    mask: torch.Tensor
    reverse: torch.Tensor
    atomic_numbers: np.ndarray
    starts: np.ndarray
    charge: np.ndarray


class SharedGraph:
    """The pairs of many systems laid out in rows side by side; none crosses from one system to another.

    A pair beyond the cutoff is masked where an AtomGraph leaves it out: the same numbers but for the last digits.
    """

    def __init__(self, pairs: Sequence[Pairs], cutoff_ang: float, dtype: torch.dtype, device: torch.device) -> None:
        self.pairs = tuple(pairs)
        self._square = cutoff_ang * cutoff_ang
        self._dtype, self._device = dtype, device
        self._atomic_numbers = np.concatenate([each.numbers for each in pairs])
        self._starts, atom_offset = _starts([len(each.numbers) for each in pairs], [len(each.first) for each in pairs])
        _, pair_offset = _starts([len(each.first) for each in pairs], [len(each.first) for each in pairs])
        n_atoms, n_slots = len(self._atomic_numbers), max(each.n_slots for each in pairs)
        first = self._sent(np.concatenate([each.first for each in pairs]) + atom_offset)
        second = self._sent(np.concatenate([each.second for each in pairs]) + atom_offset)
        other = self._sent(np.concatenate([each.reverse for each in pairs]) + pair_offset)
        slot = first * n_slots + self._sent(np.concatenate([each.slot for each in pairs]))
        every = torch.arange(n_atoms * n_slots, device=device)

        self._shape = (n_atoms, n_slots)
        self._numbers = self._sent(self._atomic_numbers)
        neighbours = every // n_slots
        neighbours[slot] = second
        self._neighbours = neighbours.view(self._shape)
        mask = torch.zeros_like(every, dtype=torch.bool)
        mask[slot] = True
        self._mask = mask.view(self._shape)
        every[slot] = slot[other]
        self._reverse = every
        self._offsets: torch.Tensor | None = None
        if any(each.offsets_ang.any() for each in pairs):
            offsets = torch.zeros(n_atoms * n_slots, 3, dtype=torch.float64, device=device)
            offsets[slot] = torch.as_tensor(np.concatenate([each.offsets_ang for each in pairs]), device=device)
            self._offsets = offsets.view(n_atoms, n_slots, 3)

    def at(self, positions_ang: np.ndarray, charge: np.ndarray | None = None) -> PlacedGraph:
        """The graph with the atoms of all systems, one after the other, at these positions (n_atoms, 3).

        charge (n_systems,) in e; None: all neutral.
        """
        if charge is None:
            charge = np.zeros(len(self._starts), dtype=np.int64)
        positions = torch.as_tensor(positions_ang, dtype=torch.float64, device=self._device)
        vectors = positions[self._neighbours] - positions.unsqueeze(1)
        if self._offsets is not None:
            vectors = vectors + self._offsets
        near = self._mask & (vectors.square().sum(-1) < self._square)
        vectors = vectors.to(self._dtype)
        return PlacedGraph(
            self._numbers, vectors, self._neighbours, near, self._reverse, self._atomic_numbers, self._starts, charge
        )

    def _sent(self, integers: np.ndarray) -> torch.Tensor:
        """On the device, by half the bytes."""
        return torch.as_tensor(integers.astype(np.int32), device=self._device).long()


def _starts(sizes: Sequence[int], n_pairs: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Where each of so many begins, and the same for each pair of each."""
    starts = np.cumsum([0, *sizes[:-1]])
    return starts, np.repeat(starts, n_pairs)

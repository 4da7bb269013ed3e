"""Frames as tensors on the device, and batches gathered from them there.

A store keeps the bonds of all frames one after the other; a batch is gathered from it by index, on a CPU or a GPU
alike, so that no step waits for Python to lay graphs side by side. A store too large for the device stays on the CPU,
and a thread sends batches ahead (`ahead`). `FrameStore.gather` makes a batch of any given shape, padded where its
frames leave room, so that steps of one shape can be recorded once and replayed.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, TypeVar

import numpy as np
import torch

from equipot.elements import COVALENT_RADII_ANG
from equipot.models.neighbours import NeighbourSearch
from equipot.models.network import Architecture
from equipot.models.potential import VOIGT, GraphTensors, charge_indices
from equipot.models.training.config import Weights
from equipot.models.training.frames import FrameSet

#: range of distances at which pairs of atoms must repel: from here in Å to this share of the sum of covalent radii
CLOSE_FROM_ANG, CLOSE_TO = 0.25, 0.68
#: share of the device's free memory that resident frames may take
RESIDENT_SHARE = 0.3
BATCHES_AHEAD = 3

T = TypeVar("T")


@dataclass(frozen=True)
class BatchShape:
    """How large the tensors of a batch are: room for frames, for atoms, and for neighbours of each atom."""

    n_frames: int
    n_atoms: int
    n_slots: int


@dataclass(frozen=True, eq=False)
class Batch:
    """Tensors of several frames. Of the systems the first `n_labelled` carry labels; then come close pairs.

    Energies are relative to free atoms. Labels a frame does not have are zero with a weight of zero; the weights
    (n_labelled,) are those of the frames' config_types. Where a batch has more room than its frames need, there are
    frames of no atoms and atoms without neighbours, which belong to a last system and weigh nothing.
    """

    inputs: GraphTensors
    system_idx: torch.Tensor
    n_systems: int
    n_labelled: int
    n_pairs: int
    has_virials: bool  # whether any frame of the store has one
    n_with_virial: torch.Tensor  # (), of the frames that are there
    n_frames: torch.Tensor  # (), that are there
    n_atoms: torch.Tensor  # (n_labelled,)
    energy_ev: torch.Tensor  # (n_labelled,)
    forces_ev_per_ang: torch.Tensor  # (atoms of labelled systems, 3)
    virial_ev: torch.Tensor  # (n_labelled, 3, 3)
    energy_weight: torch.Tensor  # (n_labelled,)
    force_weight: torch.Tensor  # (n_labelled,)
    virial_weight: torch.Tensor  # (n_labelled,)

    def to(self, device: torch.device) -> Batch:
        """The same on another device, copied while the device works."""

        def moved(tensor: torch.Tensor) -> torch.Tensor:
            source = tensor.pin_memory() if device.type == "cuda" and tensor.device.type == "cpu" else tensor
            return source.to(device, non_blocking=True)

        values: dict[str, Any] = {f.name: getattr(self, f.name) for f in fields(self)}
        tensors = {name: moved(value) for name, value in values.items() if isinstance(value, torch.Tensor)}
        return Batch(**{**values, **tensors, "inputs": tuple(moved(part) for part in self.inputs)})


@dataclass(frozen=True, eq=False)
class ClosePairs:
    """Pairs of atoms much closer than a bond, which must push each other apart: (n_pairs, 2) and (n_pairs,)."""

    numbers: np.ndarray
    distance_ang: np.ndarray

    @classmethod
    def drawn(cls, elements: Sequence[int], n_pairs: int, rng: np.random.Generator) -> ClosePairs:
        """Random pairs of these elements at random short distances."""
        numbers = rng.choice(np.asarray(elements), size=(n_pairs, 2))
        farthest = CLOSE_TO * COVALENT_RADII_ANG[numbers].sum(axis=1)
        return cls(numbers, rng.uniform(CLOSE_FROM_ANG, farthest))

    def tensors(self, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        """Both arrays on a device."""
        return torch.as_tensor(self.numbers, device=device), torch.as_tensor(self.distance_ang, device=device)


class FrameStore:
    """Labelled frames with their bonds within the cutoff, as tensors in float64.

    What is known of each frame, (n_frames,), stays on the CPU: `sizes`, `n_edges` and `n_slots` (atoms, bonds, and the
    longest row of neighbours), `has_forces`, `has_virial`, `volume_ang3`, `config_type` and `head`, the index of the
    level of theory, which a conditioned network is told beside the charge.
    """

    def __init__(
        self,
        frames: FrameSet,
        cutoff_ang: float,
        reference_ev: np.ndarray,
        architecture: Architecture | None = None,
        head: np.ndarray | None = None,
    ) -> None:
        self.config_type = frames.config_type
        self.head = np.zeros(len(frames), dtype=np.int64) if head is None else head
        self.is_conditioned = architecture is not None and architecture.is_conditioned
        charges = () if architecture is None else architecture.charges
        self.n_charges = len(charges)
        self.sizes = frames.n_atoms
        virial, volume = _virials(frames)
        self.volume_ang3 = volume
        self.has_virial = ~np.isnan(virial[:, 0, 0])
        self.has_forces = ~frames.has_no_forces
        reference = np.zeros(len(frames))
        reference_ev = np.atleast_2d(reference_ev)  # (n_heads, 119)
        np.add.at(reference, frames.frame_idx, reference_ev[self.head[frames.frame_idx], frames.numbers])
        bonds = _Bonds.of(frames, cutoff_ang)
        self.n_slots, self.n_edges = bonds.n_slots, bonds.n_edges
        forces = np.where(np.isnan(frames.forces_ev_per_ang), 0.0, frames.forces_ev_per_ang)
        arrays = {
            "numbers": frames.numbers,
            "degree": bonds.degree,
            "first_edge": np.cumsum(bonds.degree) - bonds.degree,
            "vectors": bonds.vectors_ang,
            "neighbour": bonds.neighbour,
            "reverse_slot": bonds.reverse_slot,
            "forces": forces,
        }
        of_frames = {
            "sizes": frames.n_atoms,
            "first_atom": frames.offsets[:-1],
            "energy": frames.energy_ev - reference,
            "virial": np.where(np.isnan(virial), 0.0, virial),
            "has_virial": self.has_virial.astype(np.int64),
            "energy_weight": np.ones(len(frames)),
            "force_weight": self.has_forces.astype(np.float64),
            "virial_weight": self.has_virial.astype(np.float64),
            "condition": np.stack([self.head, charge_indices(frames.charge, charges)], axis=1),
        }
        arrays |= {name: np.concatenate([array, np.zeros_like(array[:1])]) for name, array in of_frames.items()}
        self._tensors = {name: torch.as_tensor(np.ascontiguousarray(array)) for name, array in arrays.items()}

    def __len__(self) -> int:
        return len(self.sizes)

    @property
    def device(self) -> torch.device:
        """Where the frames are."""
        return self._tensors["numbers"].device

    def weigh(self, weights: Mapping[str, Weights]) -> None:
        """Multiply the weights of the frames of some config_types."""
        for kind, factors in weights.items():
            chosen = torch.as_tensor(np.append(self.config_type == kind, False))
            for name in ("energy", "force", "virial"):
                self._tensors[f"{name}_weight"][chosen] *= getattr(factors, name)

    def weigh_heads(self, weights: Sequence[float]) -> None:
        """Multiply the weights of the frames of every level of theory by its own factor."""
        factors = torch.as_tensor(np.append(np.asarray(weights, dtype=np.float64)[self.head], 0.0))
        for name in ("energy", "force", "virial"):
            self._tensors[f"{name}_weight"] *= factors

    def move_to(self, device: torch.device) -> bool:
        """Keep the frames on the device if they leave room there for the work; whether they do."""
        if device.type == "cuda":
            n_bytes = sum(tensor.nbytes for tensor in self._tensors.values())
            if n_bytes > RESIDENT_SHARE * torch.cuda.mem_get_info(device)[0]:
                return False
        self._tensors = {name: tensor.to(device) for name, tensor in self._tensors.items()}
        return True

    def batch(self, indices: Sequence[int] | np.ndarray, dtype: torch.dtype, pairs: ClosePairs | None = None) -> Batch:
        """Frames side by side, and close pairs behind them."""
        frames = torch.as_tensor(np.asarray(indices, dtype=np.int64), device=self.device)
        tensors = None if pairs is None else pairs.tensors(self.device)
        return self.gather(frames, self.shape_of(indices), dtype, tensors)

    def shape_of(self, indices: Sequence[int] | np.ndarray) -> BatchShape:
        """The room that these frames need."""
        chosen = np.asarray(indices, dtype=np.int64)
        return BatchShape(len(chosen), int(self.sizes[chosen].sum()), max(1, int(self.n_slots[chosen].max(initial=1))))

    @property
    def nothing(self) -> int:
        """The index of a frame of no atoms, which fills a batch that has room for more frames."""
        return len(self)

    def gather(
        self,
        frames: torch.Tensor,
        shape: BatchShape,
        dtype: torch.dtype,
        pairs: tuple[torch.Tensor, torch.Tensor] | None = None,
    ) -> Batch:
        """A batch of the frames (shape.n_frames,), and behind them close pairs (n_pairs, 2) and (n_pairs,).

        Nothing here waits for the device, and the shapes of all tensors follow from `shape` alone.
        """
        t, device = self._tensors, self.device
        n_frames, n_pairs = shape.n_frames, 0 if pairs is None else len(pairs[1])
        sizes = t["sizes"][frames]
        ends = torch.cumsum(sizes, 0)
        place = torch.arange(shape.n_atoms, device=device)
        system = torch.searchsorted(ends, place, right=True)  # n_frames where there is no atom
        is_atom = system < n_frames
        owner = system.clamp(max=n_frames - 1)
        first = torch.where(is_atom, (ends - sizes)[owner], place)
        atoms = torch.where(is_atom, t["first_atom"][frames][owner] + place - first, 0)
        slots = torch.arange(shape.n_slots, device=device)
        mask = (slots < t["degree"][atoms].unsqueeze(1)) & is_atom.unsqueeze(1)
        edges = torch.where(mask, t["first_edge"][atoms].unsqueeze(1) + slots, 0)
        own = place.unsqueeze(1)
        neighbours = torch.where(mask, t["neighbour"][edges] + first.unsqueeze(1), own)
        reverse = torch.where(mask, neighbours * shape.n_slots + t["reverse_slot"][edges], own * shape.n_slots + slots)
        inputs: GraphTensors = (
            t["numbers"][atoms],
            t["vectors"][edges].to(dtype) * mask.unsqueeze(-1),
            neighbours,
            mask,
            reverse.flatten(),
        )
        condition = t["condition"][frames][owner] if self.is_conditioned else None
        system = torch.where(is_atom, system, n_frames + n_pairs)
        if pairs is not None:
            inputs, system = _followed_by_pairs(inputs, system, n_frames, *pairs)
        if condition is not None:  # of pairs: the first level of theory, and any charge in turn
            nothing = condition.new_zeros(2 * n_pairs)
            of_pairs = torch.arange(2 * n_pairs, device=device) // 2 % max(1, self.n_charges)
            inputs = (*inputs, torch.cat([condition, torch.stack([nothing, of_pairs], dim=1)]))
        return Batch(
            inputs=inputs,
            system_idx=system,
            n_systems=n_frames + n_pairs + 1,
            n_labelled=n_frames,
            n_pairs=n_pairs,
            has_virials=bool(self.has_virial.any()),
            n_with_virial=t["has_virial"][frames].sum(),
            n_frames=(sizes > 0).sum(),
            n_atoms=sizes.to(dtype),
            energy_ev=t["energy"][frames].to(dtype),
            forces_ev_per_ang=t["forces"][atoms].to(dtype),
            virial_ev=t["virial"][frames].to(dtype),
            energy_weight=t["energy_weight"][frames].to(dtype),
            force_weight=t["force_weight"][frames].to(dtype),
            virial_weight=t["virial_weight"][frames].to(dtype),
        )

    def in_batches(self, atoms_per_batch: int) -> Iterator[np.ndarray]:
        """Indices of all frames in their order, in batches of about so many atoms."""
        return iter(_cut(np.arange(len(self)), self.sizes, atoms_per_batch))


class BatchPlan:
    """Which frames make up which batch: a function of the seed and the pass alone.

    Every pass takes each frame once, in batches of about `per_batch` (the sum of the frames' `costs`). Rows are padded
    to the longest of a batch, so frames are sorted by that length within chunks of the shuffled order: little padding,
    still random batches.
    """

    FRAMES_PER_CHUNK, BATCHES_PER_CHUNK = 512, 24

    def __init__(self, costs: np.ndarray, n_slots: np.ndarray, per_batch: int, seed: int) -> None:
        self.costs, self.n_slots, self.per_batch, self.seed = costs, n_slots, per_batch, seed
        frames_per_batch = per_batch / max(costs.mean(), 1.0)
        self._chunk = max(self.FRAMES_PER_CHUNK, round(self.BATCHES_PER_CHUNK * frames_per_batch))

    def of_pass(self, number: int) -> list[np.ndarray]:
        """The batches of a pass, in their order."""
        rng = np.random.default_rng([self.seed, number])
        order = rng.permutation(len(self.costs))
        batches: list[np.ndarray] = []
        for start in range(0, len(order), self._chunk):
            chunk = order[start : start + self._chunk]
            batches += _cut(chunk[np.argsort(self.n_slots[chunk], kind="stable")], self.costs, self.per_batch)
        return [batches[i] for i in rng.permutation(len(batches))]


def ahead(make: Callable[[], Iterable[T]], n_ahead: int = BATCHES_AHEAD) -> Generator[T, None, None]:
    """What `make()` gives, made by a thread that is a few items ahead."""
    items: queue.Queue[tuple[bool, Any]] = queue.Queue(maxsize=n_ahead)
    ended = threading.Event()

    def put(item: tuple[bool, Any]) -> bool:
        while not ended.is_set():
            try:
                items.put(item, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def work() -> None:
        try:
            for item in make():
                if not put((True, item)):
                    return
            put((False, None))
        except BaseException as error:
            put((False, error))

    thread = threading.Thread(target=work, name="batches ahead", daemon=True)
    thread.start()
    try:
        while True:
            more, item = items.get()
            if not more:
                if item is not None:
                    raise item
                return
            yield item
    finally:
        ended.set()
        thread.join()


@dataclass(frozen=True, eq=False)
class _Bonds:
    """Bonds of all frames: per atom their number, per bond the way, the neighbour and the place of its reverse."""

    degree: np.ndarray
    vectors_ang: np.ndarray
    neighbour: np.ndarray
    reverse_slot: np.ndarray
    n_slots: np.ndarray
    n_edges: np.ndarray

    @classmethod
    def of(cls, frames: FrameSet, cutoff_ang: float) -> _Bonds:
        parts: dict[str, list[np.ndarray]] = {f.name: [] for f in fields(cls)}
        for frame in frames:
            if not frame.pbc.any():
                for name, array in _bonds_of_molecule(frame.positions_ang, cutoff_ang).items():
                    parts[name].append(array)
                continue
            cell = frame.cell_ang
            graph = NeighbourSearch(cutoff_ang, skin_ang=0.0).graph(
                frame.numbers, frame.positions_ang, cell, (bool(frame.pbc[0]), bool(frame.pbc[1]), bool(frame.pbc[2]))
            )
            mask = graph.mask
            parts["degree"].append(mask.sum(axis=1))
            parts["vectors_ang"].append(graph.vectors_ang[mask])
            parts["neighbour"].append(graph.neighbours[mask].astype(np.int32))
            slot = graph.reverse.reshape(mask.shape)[mask] % mask.shape[1]
            parts["reverse_slot"].append(slot.astype(np.int32))
            parts["n_slots"].append(np.array([mask.sum(axis=1).max(initial=0)]))
            parts["n_edges"].append(np.array([mask.sum()]))
        return cls(**{name: np.concatenate([*arrays, _NOTHING[name]]) for name, arrays in parts.items()})


def _bonds_of_molecule(positions_ang: np.ndarray, cutoff_ang: float) -> dict[str, np.ndarray]:
    """The arrays of `_Bonds` of one system without a period, from all distances: ten times as fast for small ones."""
    vectors = positions_ang[None] - positions_ang[:, None]
    near = np.linalg.norm(vectors, axis=-1) < cutoff_ang
    np.fill_diagonal(near, False)
    first, second = np.nonzero(near)
    degree = near.sum(axis=1)
    return {
        "degree": degree,
        "vectors_ang": vectors[first, second],
        "neighbour": second.astype(np.int32),
        "reverse_slot": (np.cumsum(near, axis=1) - 1)[second, first].astype(np.int32),
        "n_slots": np.array([degree.max(initial=0)]),
        "n_edges": np.array([len(first)]),
    }


_NOTHING = {
    "degree": np.zeros(0, dtype=np.int64),
    "vectors_ang": np.zeros((1, 3)),  # one bond more than there are, for stores without any
    "neighbour": np.zeros(1, dtype=np.int32),
    "reverse_slot": np.zeros(1, dtype=np.int32),
    "n_slots": np.zeros(0, dtype=np.int64),
    "n_edges": np.zeros(0, dtype=np.int64),
}


def _virials(frames: FrameSet) -> tuple[np.ndarray, np.ndarray]:
    """dE/dstrain (n_frames, 3, 3) in eV and volumes in Å³; NaN where there is no stress, or no cell."""
    volume = np.abs(np.linalg.det(frames.cell_ang))
    volume[~frames.pbc.any(axis=1)] = np.nan
    virial = np.full((len(frames), 3, 3), np.nan)
    for component, (a, b) in enumerate(VOIGT):
        virial[:, a, b] = virial[:, b, a] = frames.stress_ev_per_ang3[:, component] * volume
    return virial, volume


def _followed_by_pairs(
    inputs: GraphTensors, system: torch.Tensor, n_frames: int, pair_numbers: torch.Tensor, distance_ang: torch.Tensor
) -> tuple[GraphTensors, torch.Tensor]:
    """The graph with a system of two atoms for each pair, along z, the second atom above the first."""
    numbers, vectors, neighbours, mask, reverse = inputs
    n_before, n_slots, device = len(numbers), mask.shape[1], numbers.device
    n_new = 2 * len(distance_ang)
    own = torch.arange(n_before, n_before + n_new, device=device).unsqueeze(1)
    other = torch.arange(n_before, n_before + n_new, device=device).view(-1, 2).flip(1).reshape(-1)
    slots = torch.arange(n_slots, device=device)
    new_vectors = vectors.new_zeros(n_new, n_slots, 3)
    distance = distance_ang.to(vectors.dtype)
    new_vectors[0::2, 0, 2], new_vectors[1::2, 0, 2] = distance, -distance
    is_bond = (slots == 0).expand(n_new, n_slots)
    new_neighbours = torch.where(is_bond, other.unsqueeze(1), own)
    new_reverse = new_neighbours * n_slots + slots
    whose = torch.arange(n_frames, n_frames + n_new // 2, device=device).repeat_interleave(2, output_size=n_new)
    return (
        torch.cat([numbers, pair_numbers.reshape(-1)]),
        torch.cat([vectors, new_vectors]),
        torch.cat([neighbours, new_neighbours]),
        torch.cat([mask, is_bond]),
        torch.cat([reverse, new_reverse.flatten()]),
    ), torch.cat([system, whose])


def _cut(order: np.ndarray, costs: np.ndarray, per_batch: int) -> list[np.ndarray]:
    """Runs of `order` whose costs add up to at least `per_batch`; the last one may be smaller."""
    batches, start, total = [], 0, 0
    for end, index in enumerate(order, start=1):
        total += int(costs[index])
        if total >= per_batch:
            batches.append(order[start:end])
            start, total = end, 0
    return [*batches, order[start:]] if start < len(order) else batches

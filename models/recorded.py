"""The pass on a GPU, recorded once for each shape as a CUDA graph and replayed: one launch instead of hundreds.

A graph of atoms is padded to the next of few shapes, with atoms that have no neighbours and slots that hold none, so
that a recording serves many systems. What is recorded is compared with the eager pass in float64 before it is used.
"""

from __future__ import annotations

import threading
import warnings
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import torch

from equipot.models.compiled import TOLERANCE, CompilationWarning, largest_deviation
from equipot.models.network import Network
from equipot.models.potential import GraphTensors, PassTensors, eager_pass

MOST_RECORDINGS = 16  # the one used longest ago is dropped
SLOTS_STEP = 4
WARM_UPS = 3  # outside the recording: libraries set themselves up in the first calls


def room_for(n_atoms: int, n_slots: int) -> tuple[int, int]:
    """The padded shape: atoms to a multiple of an eighth of the power of two below, slots to a multiple of four."""
    step = max(8, 2 ** (max(n_atoms, 1).bit_length() - 4))
    return -(-n_atoms // step) * step, -(-n_slots // SLOTS_STEP) * SLOTS_STEP


def padded(inputs: GraphTensors, n_atoms: int, n_slots: int) -> GraphTensors:
    """The same graph with room for more atoms and slots, all of them empty."""
    numbers, vectors, neighbours, mask, reverse, *condition = inputs
    own_atoms, own_slots = neighbours.shape
    more_atoms, more_slots = n_atoms - own_atoms, n_slots - own_slots
    pad = torch.nn.functional.pad
    slot = torch.arange(n_atoms * n_slots, device=numbers.device).view(n_atoms, n_slots)
    reverse = reverse.view(own_atoms, own_slots)
    slot[:own_atoms, :own_slots] = (reverse // own_slots) * n_slots + reverse % own_slots
    return (
        torch.cat([numbers, numbers[:1].expand(more_atoms)]),
        pad(vectors, (0, 0, 0, more_slots, 0, more_atoms)),
        pad(neighbours, (0, more_slots, 0, more_atoms)),
        pad(mask, (0, more_slots, 0, more_atoms)),
        slot.flatten(),
        *(torch.cat([rows, rows[:1].expand(more_atoms, -1)]) for rows in condition),
    )


@dataclass(frozen=True, eq=False)
class _Recording:
    graph: torch.cuda.CUDAGraph
    inputs: GraphTensors
    outputs: PassTensors


class RecordedPass:
    """`eager_pass` of one network on a CUDA device; safe to call from several threads, which take turns."""

    def __init__(self, network: Network) -> None:
        self._network = network
        self._recordings: OrderedDict[tuple[int, int], _Recording] = OrderedDict()
        self._lock = threading.Lock()
        self._pool: Any = None

    def __call__(
        self,
        numbers: torch.Tensor,
        vectors_ang: torch.Tensor,
        neighbours: torch.Tensor,
        mask: torch.Tensor,
        reverse: torch.Tensor,
        *condition: torch.Tensor,
    ) -> PassTensors:
        """See `eager_pass`."""
        n_atoms, n_slots = neighbours.shape
        shape = room_for(n_atoms, n_slots)
        inputs = padded((numbers, vectors_ang, neighbours, mask, reverse, *condition), *shape)
        with self._lock:
            recording = self._recordings.pop(shape, None) or self._record(inputs)
            self._recordings[shape] = recording
            for room, given in zip(recording.inputs, inputs, strict=True):
                room.copy_(given)
            recording.graph.replay()
            energies, forces, virials, descriptors = (out[:n_atoms].clone() for out in recording.outputs)
        return energies, forces, virials, descriptors

    def forget(self) -> None:
        """Drop all recordings and the memory they work in."""
        with self._lock:
            self._recordings.clear()
            self._pool = None

    def _record(self, inputs: GraphTensors) -> _Recording:
        while len(self._recordings) >= MOST_RECORDINGS:
            self._recordings.popitem(last=False)
        kept = tuple(tensor.clone() for tensor in inputs)
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UPS):
                eager_pass(self._network, *kept)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            outputs = eager_pass(self._network, *kept)
        self._pool = graph.pool()  # shared: only one recording is replayed at a time, and its outputs are copied
        return _Recording(graph, kept, outputs)


def recorded_pass(network: Network, name: str) -> RecordedPass | None:
    """The recorded pass of a network on a GPU; None (and a warning) if recording fails or changes what is computed."""
    dtype = next(network.parameters()).dtype
    try:
        recorded = RecordedPass(network)
        deviation = largest_deviation(recorded, network)
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        warnings.warn(f"{name} could not be recorded and runs eagerly: {reason}", CompilationWarning, stacklevel=4)
        return None
    if not deviation <= TOLERANCE[dtype]:
        message = f"{name} differs by {deviation:.1e} from the eager float64 pass when recorded; it runs eagerly."
        warnings.warn(message, CompilationWarning, stacklevel=4)
        return None
    return recorded

"""Systems that stay on a device while they move: a step sends positions there, and energies and forces come back.

The candidates of a neighbour search (pairs within cutoff + skin) are laid out once; bond vectors, and which candidates
are neighbours now, are found on the device. On a GPU the whole step is one recording (CUDA graph).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from equipot.models.graph import AtomGraph, batch_graphs
from equipot.models.potential import Potential, eager_pass, graph_tensors
from equipot.models.recorded import WARM_UPS
from equipot.models.reliability import ByElement


@dataclass(frozen=True, eq=False)
class ResidentStep:
    """What a step gives, numpy, float64: energies_ev (n_systems,) with reference energies, forces_ev_per_ang
    (n_atoms, 3), virials_ev (n_systems, 3, 3), domain_distances (n_systems,) or None."""

    energies_ev: np.ndarray
    forces_ev_per_ang: np.ndarray
    virials_ev: np.ndarray
    domain_distances: np.ndarray | None


class ResidentBatch:
    """Systems side by side on the potential's device, their candidates fixed.

    `candidates` are graphs of all pairs within cutoff + skin whose `vectors_ang` are the lattice offsets
    (`NeighbourSearch.candidates`). Who moves atoms must make another batch once one has moved half the skin.
    """

    def __init__(self, potential: Potential, candidates: Sequence[AtomGraph]) -> None:
        self._potential = potential
        self._device, self._dtype = potential.torch_device, potential.torch_dtype
        graph = batch_graphs(list(candidates))
        if graph.head is None and potential.head:
            graph = replace(graph, head=np.full(graph.n_systems, potential.head))
        self.n_atoms, self.n_slots, self.n_systems = graph.n_atoms, graph.neighbours.shape[1], graph.n_systems
        as_tensor, architecture = torch.as_tensor, potential.network.architecture
        self._offsets = as_tensor(graph.vectors_ang, device=self._device)
        tensors = graph_tensors(graph, self._dtype, self._device, architecture)
        self._numbers, _, self._neighbours, self._mask, self._reverse, *self._condition = tensors
        sizes = np.bincount(graph.system_idx, minlength=graph.n_systems)
        head = potential.head if graph.head is None else graph.head[graph.system_idx]
        self._reference = np.bincount(graph.system_idx, potential.reference_ev[head, graph.numbers], graph.n_systems)
        members = np.full((graph.n_systems, int(sizes.max())), graph.n_atoms)
        for system, (end, size) in enumerate(zip(np.cumsum(sizes), sizes, strict=True)):
            members[system, :size] = np.arange(end - size, end)
        self._members = as_tensor(members, device=self._device)  # n_atoms, one past the last, where there is none
        species = potential.network.species_of_number.cpu().numpy()[graph.numbers]
        self._elements = ByElement.of(species, self._device)
        self._positions = torch.zeros(graph.n_atoms, 3, dtype=torch.float64, device=self._device)
        on_gpu = self._device.type == "cuda"
        self._sent = torch.zeros(graph.n_atoms, 3, dtype=torch.float64, pin_memory=on_gpu)
        self._recording: torch.cuda.CUDAGraph | None = None
        self._packed: torch.Tensor | None = None
        self._fetched: torch.Tensor | None = None

    def step(self, positions_ang: np.ndarray) -> ResidentStep:
        """Energies and forces at positions (n_atoms, 3) in Å, the systems one after the other."""
        self._sent.numpy()[:] = positions_ang
        self._positions.copy_(self._sent, non_blocking=True)
        packed = self._run()
        if self._fetched is None:
            self._fetched = torch.empty(packed.shape, dtype=packed.dtype, pin_memory=packed.is_cuda)
        self._fetched.copy_(packed, non_blocking=True)
        if packed.is_cuda:
            torch.cuda.current_stream(self._device).synchronize()
        return self._unpacked(self._fetched.numpy().copy())

    def _run(self) -> torch.Tensor:
        """The step on the device, from the recording on a GPU."""
        if self._device.type != "cuda":
            return self._compute()
        if self._recording is None:
            stream = torch.cuda.Stream(self._device)
            stream.wait_stream(torch.cuda.current_stream(self._device))
            with torch.cuda.stream(stream):
                for _ in range(WARM_UPS):
                    self._compute()
            torch.cuda.current_stream(self._device).wait_stream(stream)
            self._recording = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self._recording):
                self._packed = self._compute()
        self._recording.replay()
        assert self._packed is not None
        return self._packed

    def _compute(self) -> torch.Tensor:
        """Everything a step gives in one row of numbers, so that it is fetched at once."""
        positions = self._positions
        ends = positions.index_select(0, self._neighbours.flatten()).view(self.n_atoms, self.n_slots, 3)
        vectors = ends - positions.unsqueeze(1) + self._offsets
        near = self._mask & (vectors.square().sum(-1) < self._potential.cutoff_ang**2)
        bonds = (vectors.to(self._dtype), self._neighbours, near, self._reverse)
        energies, forces, virials, descriptors = eager_pass(
            self._potential.network, self._numbers, *bonds, *self._condition
        )
        parts = [self._summed(energies), self._summed(virials.double().flatten(1)), forces.double()]
        if self._potential.domain is not None:
            parts.append(self._farthest(descriptors).double())
        return torch.cat([part.flatten() for part in parts])

    def _summed(self, of_atoms: torch.Tensor) -> torch.Tensor:
        """Sums over the atoms of each system, in a fixed order."""
        return torch.cat([of_atoms, torch.zeros_like(of_atoms[:1])])[self._members].sum(1)

    def _farthest(self, descriptors: torch.Tensor) -> torch.Tensor:
        domain = self._potential.domain
        assert domain is not None
        distances = domain.distances(descriptors, self._elements)
        return torch.nn.functional.pad(distances, (0, 1))[self._members].amax(1)

    def _unpacked(self, row: np.ndarray) -> ResidentStep:
        s, n = self.n_systems, self.n_atoms
        energies, virials, forces, distances = np.split(row, np.cumsum([s, 9 * s, 3 * n]))
        virials = virials.reshape(s, 3, 3)
        return ResidentStep(
            energies_ev=energies + self._reference,
            forces_ev_per_ang=forces.reshape(n, 3),
            virials_ev=0.5 * (virials + virials.transpose(0, 2, 1)),
            domain_distances=distances if len(distances) else None,
        )

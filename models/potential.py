"""The potential: energy, and forces and virial as its exact derivatives. The one place where signs live."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from equipot.cards import PotentialCard
from equipot.elements import NUMBERS
from equipot.models.graph import AtomGraph
from equipot.models.network import Network, reversed_bonds

#: ASE's Voigt order: xx, yy, zz, yz, xz, xy
VOIGT = ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))

GraphTensors = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]
#: energies (n_atoms,) float64, forces (n_atoms, 3), virials (n_atoms, 3, 3), descriptors (n_atoms, n_features)
PassTensors = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]


@dataclass(frozen=True, eq=False)
class Prediction:
    """What a potential says of one system, float64.

    energy_ev; energies_ev (n_atoms,); forces_ev_per_ang (n_atoms, 3); virial_ev (3, 3) = dE/dε for a homogeneous
    strain ε, so the stress in ASE's sign is virial / volume; domain_distance: above 1 some atom sits in
    surroundings unlike those of the training data (None where the potential cannot tell).
    """

    energy_ev: float
    energies_ev: np.ndarray
    forces_ev_per_ang: np.ndarray
    virial_ev: np.ndarray
    domain_distance: float | None

    def stress_ev_per_ang3(self, volume_ang3: float) -> np.ndarray:
        """Stress (6,) in ASE's sign and Voigt order, of a cell of this volume."""
        return np.array([self.virial_ev[component] for component in VOIGT]) / volume_ang3


def graph_tensors(graph: AtomGraph, dtype: torch.dtype, device: torch.device) -> GraphTensors:
    """The graph as the network takes it."""
    return (
        torch.as_tensor(graph.numbers, dtype=torch.int64, device=device),  # what compiled code expects
        torch.as_tensor(graph.vectors_ang, dtype=dtype, device=device),
        torch.as_tensor(graph.neighbours, device=device),
        torch.as_tensor(graph.mask, device=device),
        torch.as_tensor(graph.reverse, device=device),
    )


def forces_and_virials(
    gradient: torch.Tensor, vectors_ang: torch.Tensor, reverse: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Forces (n_atoms, 3) and virials of atoms (n_atoms, 3, 3) from g_ij = dE/dr_ij, r_ij = r_j - r_i.

    F_i = -dE/dr_i = Σ_j (g_ij - g_ji). Under r -> (1 + ε) r, dE/dε = Σ_ij r_ij ⊗ g_ij; it is symmetric because the
    energy is invariant under rotation (Thompson, Plimpton, Mattson, J. Chem. Phys. 131, 154107, 2009).
    """
    forces = (gradient - reversed_bonds(gradient, reverse)).sum(1)
    virials = vectors_ang.transpose(1, 2) @ gradient
    return forces, virials


def eager_pass(
    network: Network,
    numbers: torch.Tensor,
    vectors_ang: torch.Tensor,
    neighbours: torch.Tensor,
    mask: torch.Tensor,
    reverse: torch.Tensor,
) -> PassTensors:
    """Everything a pass over a graph gives for its atoms; the energies without their reference, in float64."""
    vectors = vectors_ang.detach().requires_grad_(True)
    with torch.enable_grad():
        out = network(numbers, vectors, neighbours, mask, reverse)
        (gradient,) = torch.autograd.grad((out.learned_ev + out.fixed_ev).sum(), vectors)
    with torch.no_grad():
        forces, virials = forces_and_virials(gradient, vectors, reverse)
        energies = out.learned_ev.double() + out.fixed_ev.double()
    return energies.detach(), forces.detach(), virials.detach(), out.descriptors.detach()


class TrainingDomain:
    """How far the surroundings of atoms are from those in the training data, one ellipsoid for each element.

    The Mahalanobis distance of an atom's invariant features, per feature, over the distance that holds the training
    environments: 1 is the border.
    """

    def __init__(self, mean: torch.Tensor, whitening: torch.Tensor, threshold: float) -> None:
        self.mean = mean  # (n_elements, n_features)
        self.whitening = whitening  # (n_elements, n_features, n_kept)
        self.threshold = threshold

    def distances(self, descriptors: torch.Tensor, species: torch.Tensor) -> torch.Tensor:
        """Distance of every atom, (n_atoms,)."""
        out = torch.empty_like(descriptors[:, 0])
        for element in species.unique().tolist():
            atoms = (species == element).nonzero().squeeze(1)
            out.index_copy_(0, atoms, self.distances_of(element, descriptors.index_select(0, atoms)))
        return out

    def distances_of(self, element: int, descriptors: torch.Tensor) -> torch.Tensor:
        """Distances of atoms of one element, which is counted as in the network."""
        white = (descriptors - self.mean[element]) @ self.whitening[element]
        return white.square().mean(-1).sqrt() / self.threshold


@dataclass(frozen=True, eq=False)
class AtomicQuantities:
    """What a pass over a graph gives for every atom, numpy and float64 (the distances in the dtype of the pass).

    energies_ev (n_atoms,) without the reference energies; forces_ev_per_ang (n_atoms, 3); virials_ev (n_atoms, 3, 3);
    domain_distances (n_atoms,) or None.
    """

    energies_ev: np.ndarray
    forces_ev_per_ang: np.ndarray
    virials_ev: np.ndarray
    domain_distances: np.ndarray | None


class Potential:
    """A network with its weights, its reference energies and its card; made by `load_potential`."""

    def __init__(
        self,
        card: PotentialCard,
        network: Network,
        reference_ev: np.ndarray,
        domain: TrainingDomain | None,
        dtype: torch.dtype,
        device: torch.device,
        compiled: Callable[..., PassTensors] | None = None,
    ) -> None:
        self.card = card
        self.network = network
        self.reference_ev = reference_ev  # (119,) by atomic number, float64
        self.domain = domain
        self.torch_dtype = dtype
        self.torch_device = device
        self.execution = "eager" if compiled is None else "compiled"  # the last bits depend on it: a resume pins it
        self._run = partial(eager_pass, network) if compiled is None else compiled

    @property
    def name(self) -> str:
        return self.card.name

    @property
    def sha256(self) -> str:
        return self.card.weights_sha256

    @property
    def cutoff_ang(self) -> float:
        return self.card.cutoff_ang

    @property
    def elements(self) -> tuple[str, ...]:
        return tuple(sorted(self.card.elements, key=NUMBERS.__getitem__))

    @property
    def dtype(self) -> str:
        return str(self.torch_dtype).removeprefix("torch.")

    @property
    def device(self) -> str:
        return str(self.torch_device)

    def evaluate(self, graph: AtomGraph) -> Prediction:
        """Energy, forces and virial of one system."""
        return self._split(graph, self._compute(graph), [slice(0, graph.n_atoms)])[0]

    def evaluate_many(self, graph: AtomGraph) -> list[Prediction]:
        """One prediction for each of the systems side by side in `graph` (`batch_graphs`), in one pass.

        Each equals `evaluate` of the system alone up to rounding (1e-10 eV/Å in float64): for GPUs, where a pass
        costs nearly the same for one system as for many.
        """
        ends = np.cumsum(np.bincount(graph.system_idx, minlength=graph.n_systems))
        starts = np.concatenate([[0], ends[:-1]])
        return self._split(graph, self._compute(graph), [slice(a, b) for a, b in zip(starts, ends, strict=True)])

    def _compute(self, graph: AtomGraph) -> AtomicQuantities:
        tensors = graph_tensors(graph, self.torch_dtype, self.torch_device)
        energies, forces, virials, descriptors = self._run(*tensors)
        distances = None
        if self.domain is not None:
            distances = self.domain.distances(descriptors, self.network.species_of_number[tensors[0]]).cpu().numpy()
        return AtomicQuantities(
            energies.cpu().numpy(), forces.double().cpu().numpy(), virials.double().cpu().numpy(), distances
        )

    def _split(self, graph: AtomGraph, atoms: AtomicQuantities, systems: list[slice]) -> list[Prediction]:
        energies = atoms.energies_ev + self.reference_ev[graph.numbers]
        predictions = []
        for system in systems:
            virial = atoms.virials_ev[system].sum(0)
            distances = atoms.domain_distances
            predictions.append(
                Prediction(
                    energy_ev=float(energies[system].sum()),
                    energies_ev=energies[system],
                    forces_ev_per_ang=atoms.forces_ev_per_ang[system],
                    virial_ev=0.5 * (virial + virial.T),
                    domain_distance=None if distances is None else float(distances[system].max()),
                )
            )
        return predictions

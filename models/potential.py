"""The potential: energy, and forces and virial as its exact derivatives. The one place where signs live."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch

from equipot.cards import PotentialCard
from equipot.elements import NUMBERS
from equipot.models.graph import AtomGraph
from equipot.models.network import Architecture, Network, reversed_bonds

#: ASE's Voigt order: xx, yy, zz, yz, xz, xy
VOIGT = ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))

#: numbers, vectors, neighbours, mask, reverse, and the condition for a network that takes one
GraphTensors = tuple[torch.Tensor, ...]
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
    uncertainties_ev_per_ang: np.ndarray | None = None  # (n_atoms,) expected length of the error of each force

    @property
    def uncertainty_ev_per_ang(self) -> float | None:
        """The largest of any atom."""
        found = self.uncertainties_ev_per_ang
        return None if found is None else float(found.max(initial=0.0))

    def stress_ev_per_ang3(self, volume_ang3: float) -> np.ndarray:
        """Stress (6,) in ASE's sign and Voigt order, of a cell of this volume."""
        return np.array([self.virial_ev[component] for component in VOIGT]) / volume_ang3


def graph_tensors(
    graph: AtomGraph, dtype: torch.dtype, device: torch.device, architecture: Architecture | None = None
) -> GraphTensors:
    """The graph as the network takes it; a network that is conditioned needs its architecture named."""
    tensors = (
        torch.as_tensor(graph.numbers, dtype=torch.int64, device=device),  # what compiled code expects
        torch.as_tensor(graph.vectors_ang, dtype=dtype, device=device),
        torch.as_tensor(graph.neighbours, device=device),
        torch.as_tensor(graph.mask, device=device),
        torch.as_tensor(graph.reverse, device=device),
    )
    if architecture is None or not architecture.is_conditioned:
        return tensors
    nothing = np.zeros(graph.n_systems, dtype=np.int64)
    head = nothing if graph.head is None else graph.head
    charge = charge_indices(nothing if graph.charge is None else graph.charge, architecture.charges)
    return (*tensors, torch.as_tensor(np.stack([head, charge], axis=1)[graph.system_idx], device=device))


def charge_indices(charge: np.ndarray, charges: Sequence[int]) -> np.ndarray:
    """Where the charges (n_systems,) stand among those a network was trained for; 0 where it is not told of charges."""
    if not charges:
        return np.zeros(len(charge), dtype=np.int64)
    place = {q: index for index, q in enumerate(charges)}
    return np.array([place[int(q)] for q in charge], dtype=np.int64)


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
    *condition: torch.Tensor,
) -> PassTensors:
    """Everything a pass over a graph gives for its atoms; the energies without their reference, in float64."""
    vectors = vectors_ang.detach().requires_grad_(True)
    with torch.enable_grad():
        out = network(numbers, vectors, neighbours, mask, reverse, *condition)
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
        for element in species.unique():
            chosen = species == element
            white = (descriptors[chosen] - self.mean[element]) @ self.whitening[element]
            out[chosen] = white.square().mean(-1).sqrt() / self.threshold
        return out


class ForceUncertainty:
    """Expected error of the force on each atom: how poorly training determines what its readout says (last layer).

    The posterior of a linear readout of the features φ, Gaussian, has the variance φᵀ (Φᵀ Φ + λ)⁻¹ φ = |L φ|² with one
    factor L for each element (a Laplace approximation of the last layer; Daxberger et al., NeurIPS 2021). Its root is
    mapped to an error of forces by a power law that was fitted on held-out molecules.
    """

    def __init__(self, factors: torch.Tensor, scales: Sequence[float]) -> None:
        self.factors = factors  # (n_elements, n_features + 1, n_features + 1), float64
        self.scales = tuple(scales)  # exp(a) and b of error = exp(a) s^b, and the smallest error

    def spreads(self, features: torch.Tensor, species: torch.Tensor) -> torch.Tensor:
        """(n_atoms,) the uncalibrated spread, of features (n_atoms, n_features)."""
        phi = torch.cat([features.double(), features.new_ones(len(features), 1).double()], dim=1)
        return (self.factors[species] @ phi.unsqueeze(-1)).squeeze(-1).square().sum(-1).sqrt()

    def errors_ev_per_ang(self, features: torch.Tensor, species: torch.Tensor) -> torch.Tensor:
        """(n_atoms,) the expected length of the error of the force."""
        factor, power, least = self.scales
        return (factor * self.spreads(features, species) ** power).clamp(min=least)


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
    uncertainties_ev_per_ang: np.ndarray | None = None


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
        head: int = 0,
        uncertainty: ForceUncertainty | None = None,
    ) -> None:
        self.card = card
        self.network = network
        self.reference_ev = np.atleast_2d(reference_ev)  # (n_heads, 119) by level of theory and atomic number, float64
        self.domain = domain
        self.uncertainty = uncertainty
        self.head = head  # the level of theory it speaks
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
    def level_of_theory(self) -> str:
        return self.card.level_names[self.head]

    @property
    def charges(self) -> tuple[int, ...]:
        """Total charges it was trained for at this level of theory."""
        return tuple(self.card.charges_of(self.head))

    @property
    def elements(self) -> tuple[str, ...]:
        return tuple(sorted(self.card.elements_of(self.head), key=NUMBERS.__getitem__))

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
        if graph.head is None and self.head:
            graph = replace(graph, head=np.full(graph.n_systems, self.head))
        tensors = graph_tensors(graph, self.torch_dtype, self.torch_device, self.network.architecture)
        energies, forces, virials, descriptors = self._run(*tensors)
        distances = None
        if self.domain is not None:
            distances = self.domain.distances(descriptors, self.network.species_of_number[tensors[0]]).cpu().numpy()
        errors = None
        if self.uncertainty is not None:
            a = self.network.architecture
            species = self.network.species_of_number[tensors[0]]
            features = descriptors[:, : a.n_layers * a.n_channels]
            errors = self.uncertainty.errors_ev_per_ang(features, species).cpu().numpy()
        return AtomicQuantities(
            energies.cpu().numpy(), forces.double().cpu().numpy(), virials.double().cpu().numpy(), distances, errors
        )

    def _split(self, graph: AtomGraph, atoms: AtomicQuantities, systems: list[slice]) -> list[Prediction]:
        head = self.head if graph.head is None else graph.head[graph.system_idx]
        energies = atoms.energies_ev + self.reference_ev[head, graph.numbers]
        predictions = []
        for system in systems:
            virial = atoms.virials_ev[system].sum(0)
            distances, errors = atoms.domain_distances, atoms.uncertainties_ev_per_ang
            predictions.append(
                Prediction(
                    energy_ev=float(energies[system].sum()),
                    energies_ev=energies[system],
                    forces_ev_per_ang=atoms.forces_ev_per_ang[system],
                    virial_ev=0.5 * (virial + virial.T),
                    domain_distance=None if distances is None else float(distances[system].max()),
                    uncertainties_ev_per_ang=None if errors is None else errors[system],
                )
            )
        return predictions

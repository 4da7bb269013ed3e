"""The potential: energy, and forces and virial as its exact derivatives. The one place where signs live."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch

from equipot.cards import PotentialCard
from equipot.elements import NUMBERS
from equipot.models.graph import AtomGraph, Layout
from equipot.models.kernels import Kernels
from equipot.models.neighbours import NearRows, NeighbourSearch
from equipot.models.network import Architecture, Network, reversed_bonds
from equipot.models.reliability import ByElement, ForceUncertainty, TrainingDomain
from equipot.models.shared_graph import PlacedGraph
from equipot.models.whole_call import CROSSED, Around, Found, Helpers, Moved, WholeCall

#: ASE's Voigt order: xx, yy, zz, yz, xz, xy
VOIGT = ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))

#: how atoms are sorted by element is kept for so many systems of at most so many atoms
MOST_SORTED, SMALL_ATOMS = 4_000, 1_000

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
    layout = graph.layout
    numbers, neighbours, mask, reverse = (
        layout.once("tensors", lambda: _layout_tensors(layout, device))
        if device.type == "cpu"
        else _layout_tensors(layout, device)  # memory of a GPU is not kept
    )
    tensors = (numbers, torch.as_tensor(graph.vectors_ang, dtype=dtype, device=device), neighbours, mask, reverse)
    if architecture is None or not architecture.is_conditioned:
        return tensors
    nothing = np.zeros(graph.n_systems, dtype=np.int64)
    head = nothing if graph.head is None else graph.head
    charge = charge_indices(nothing if graph.charge is None else graph.charge, architecture.charges)
    return (*tensors, conditions(head, charge, graph.system_idx).to(device))


def conditions(head: np.ndarray, charge_index: np.ndarray, system_idx: np.ndarray) -> torch.Tensor:
    """What a conditioned network is told of every atom, (n_atoms, 2), from level and charge of the systems."""
    return torch.as_tensor(np.stack([head, charge_index], axis=1)[system_idx])


def _layout_tensors(layout: Layout, device: torch.device) -> GraphTensors:
    return (
        torch.as_tensor(layout.numbers, dtype=torch.int64, device=device),  # what compiled code expects
        torch.as_tensor(layout.neighbours, device=device),
        torch.as_tensor(layout.mask, device=device),
        torch.as_tensor(layout.reverse, device=device),
    )


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


@dataclass(frozen=True, eq=False)
class AtomicQuantities:
    """What a pass over a graph gives for every atom, numpy and float64 (the distances in the dtype of the pass).

    energies_ev (n_atoms,); forces_ev_per_ang (n_atoms, 3); virials_ev (n_atoms, 3, 3);
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
        kernels: Kernels | None = None,
        whole_call: WholeCall | None = None,
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
        self._species = network.species_of_number.cpu().numpy()
        self._kernels = kernels  # for what a call computes beside the pass
        self._whole_call = whole_call
        self._sorted: dict[tuple[str, bytes], ByElement] = {}

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

    def neighbour_search(self, skin_ang: float = 0.5) -> NeighbourSearch:
        """Neighbour lists of one system as it moves, for this potential."""
        dtype = np.float32 if self.torch_dtype is torch.float32 else np.float64
        return NeighbourSearch(self.cutoff_ang, skin_ang, dtype)

    def evaluate(self, graph: AtomGraph) -> Prediction:
        """Energy, forces and virial of one system."""
        atoms = self._compute_laid_out(graph)
        distances = atoms.domain_distances
        virial = atoms.virials_ev.sum(0)
        return Prediction(
            energy_ev=float(atoms.energies_ev.sum()),
            energies_ev=atoms.energies_ev,
            forces_ev_per_ang=atoms.forces_ev_per_ang,
            virial_ev=0.5 * (virial + virial.T),
            domain_distance=None if distances is None else float(distances.max()),
            uncertainties_ev_per_ang=atoms.uncertainties_ev_per_ang,
        )

    def evaluate_moved(
        self,
        search: NeighbourSearch,
        numbers: np.ndarray,
        positions_ang: np.ndarray,
        cell_ang: np.ndarray | None,
        pbc: tuple[bool, bool, bool] | np.ndarray,
        charge_e: float = 0.0,
    ) -> Prediction | None:
        """`evaluate` of a system whose atoms have moved a little since the search made its last graph, bit by bit, and
        faster. None where the potential is not compiled, or neighbours must be searched anew: then evaluate a graph.
        """
        moved = self.moved(search, numbers, positions_ang, cell_ang, pbc, charge_e)
        if moved is None or self._whole_call is None:
            return None
        return self.prediction_of(moved, self._whole_call(moved), search, charge_e)

    def helpers(self, n: int) -> Helpers | None:
        """So many threads to which calls for `moved` systems can be given; None where there are none."""
        return None if self._whole_call is None else self._whole_call.helpers(n)

    def moved(
        self,
        search: NeighbourSearch,
        numbers: np.ndarray,
        positions_ang: np.ndarray,
        cell_ang: np.ndarray | None,
        pbc: tuple[bool, bool, bool] | np.ndarray,
        charge_e: float = 0.0,
    ) -> Moved | None:
        """The call behind `evaluate_moved`, not made yet; None where there is none."""
        rows = None if self._whole_call is None else search.last_rows(numbers, cell_ang, pbc)
        if rows is None or (around := self._around(rows, charge_e)) is None:
            return None
        positions = np.ascontiguousarray(positions_ang, dtype=np.float64)
        return Moved(around, positions, search.squared_leeway, np.empty(len(rows.near), dtype=np.bool_))

    def prediction_of(
        self, moved: Moved, found: Found | None, search: NeighbourSearch, charge_e: float
    ) -> Prediction | None:
        """What a call has found; None if neighbours must be searched anew."""
        if moved.said == CROSSED and self._whole_call is not None:
            around = self._around(search.rows_where(moved.near), charge_e)
            if around is None:
                return None
            moved = Moved(around, moved.positions_ang, moved.squared_leeway, moved.near)
            found = self._whole_call(moved)
        if found is None:
            return None
        energies = found.energies_ev + moved.around.reference_ev
        return Prediction(
            energy_ev=float(energies.sum()),
            energies_ev=energies,
            forces_ev_per_ang=found.forces_ev_per_ang,
            virial_ev=0.5 * (found.virial_ev + found.virial_ev.T),
            domain_distance=None if self.domain is None else self.domain.distance_of(found.domain_length),
            uncertainties_ev_per_ang=None
            if self.uncertainty is None
            else self.uncertainty.errors_ev_per_ang(found.spreads),
        )

    def _around(self, rows: NearRows, charge_e: float) -> Around | None:
        """Kept with the rows; None for a lone atom or a lone bond, which compiled code does not take."""
        n_atoms, n_slots = rows.layout.mask.shape
        if n_atoms < 2 or n_slots < 2:
            return None
        return rows.layout.once(("around", charge_e), lambda: self._make_around(rows, charge_e))

    def _make_around(self, rows: NearRows, charge_e: float) -> Around:
        layout, architecture = rows.layout, self.network.architecture
        tensors = layout.once("tensors", lambda: _layout_tensors(layout, self.torch_device))
        if architecture.is_conditioned:
            charge = charge_indices(np.array([round(charge_e)]), architecture.charges)
            tensors = (*tensors, conditions(np.array([self.head]), charge, layout.system_idx))
        reference_ev = self.reference_ev[self.head, layout.numbers]
        return Around.of(rows, tensors, self._by_element(layout.numbers), reference_ev)

    def evaluate_many(self, graph: AtomGraph | PlacedGraph) -> list[Prediction]:
        """One prediction for each of the systems side by side in `graph` (`batch_graphs`, `SharedGraph`), in one pass.

        Each equals `evaluate` of the system alone up to rounding (1e-10 eV/Å in float64): for GPUs, where a pass
        costs nearly the same for one system as for many.
        """
        if isinstance(graph, AtomGraph):
            return _each(self._compute_laid_out(graph), np.searchsorted(graph.system_idx, np.arange(graph.n_systems)))
        tensors: GraphTensors = (graph.numbers, graph.vectors_ang, graph.neighbours, graph.mask, graph.reverse)
        architecture = self.network.architecture
        if architecture.is_conditioned:
            charge = charge_indices(graph.charge, architecture.charges)
            sizes = np.diff([*graph.starts, len(graph.atomic_numbers)])
            system_idx = np.repeat(np.arange(len(sizes)), sizes)
            tensors = (*tensors, conditions(np.full_like(charge, self.head), charge, system_idx).to(self.torch_device))
        return _each(self._compute(tensors, graph.atomic_numbers, self.head), graph.starts)

    def _compute_laid_out(self, graph: AtomGraph) -> AtomicQuantities:
        if graph.head is None and self.head:
            graph = replace(graph, head=np.full(graph.n_systems, self.head))
        tensors = graph_tensors(graph, self.torch_dtype, self.torch_device, self.network.architecture)
        head = 0 if graph.head is None else graph.head[graph.system_idx]
        return self._compute(tensors, graph.numbers, head)

    def _by_element(self, numbers: np.ndarray) -> ByElement:
        """The atoms sorted by element; what was found for small systems is kept."""
        if len(numbers) > SMALL_ATOMS:
            return ByElement.of(self._species[numbers], self.torch_device, self._kernels)
        key = (numbers.dtype.char, numbers.tobytes())
        found = self._sorted.get(key)
        if found is None:
            if len(self._sorted) >= MOST_SORTED:
                self._sorted.clear()
            elements = ByElement.of(self._species[numbers], self.torch_device, self._kernels)
            found = self._sorted[key] = elements
        return found

    def _compute(self, tensors: GraphTensors, numbers: np.ndarray, head: int | np.ndarray) -> AtomicQuantities:
        elements = self._by_element(numbers)
        energies, forces, virials, descriptors = self._run(*tensors)
        distances = None
        if self.domain is not None:
            distances = self.domain.distances(descriptors, elements).cpu().numpy()
        errors = None
        if self.uncertainty is not None:
            a = self.network.architecture
            features = descriptors[:, : a.n_layers * a.n_channels]
            errors = self.uncertainty.errors_ev_per_ang(self.uncertainty.spreads(features, elements).cpu().numpy())
        return AtomicQuantities(
            energies.cpu().numpy() + self.reference_ev[head, numbers],
            forces.cpu().numpy().astype(np.float64),
            virials.cpu().numpy().astype(np.float64),
            distances,
            errors,
        )


def _each(atoms: AtomicQuantities, starts: np.ndarray) -> list[Prediction]:
    """The predictions of systems whose atoms begin at `starts`."""
    totals = np.add.reduceat(atoms.energies_ev, starts).tolist()
    virials = np.add.reduceat(atoms.virials_ev, starts, axis=0)
    virials = 0.5 * (virials + virials.transpose(0, 2, 1))
    distances: list[float | None] = [None] * len(starts)
    if atoms.domain_distances is not None:
        distances = np.maximum.reduceat(atoms.domain_distances, starts).astype(np.float64).tolist()
    errors = atoms.uncertainties_ev_per_ang
    ends = [*starts[1:].tolist(), len(atoms.energies_ev)]
    return [
        Prediction(
            energy,
            atoms.energies_ev[start:end],
            atoms.forces_ev_per_ang[start:end],
            virial,
            distance,
            uncertainties_ev_per_ang=None if errors is None else errors[start:end],
        )
        for energy, virial, distance, start, end in zip(totals, virials, distances, starts.tolist(), ends, strict=True)
    ]

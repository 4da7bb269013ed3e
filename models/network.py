"""The network: from a graph to the energy of every atom. Equivariant, smooth, size-extensive.

Each layer looks at the neighbours and then at itself:

    s_ij,k  = P_k[z_i, z_j]                              in the first layer, a number for each message channel k
            = P_k[z_i, z_j] h_j,k(r̂_ij)                  later: the neighbour's feature functions along the bond
    G_i,nlmk = 1/√n Σ_j s_ij,k b_n(r_ij) Y_lm(r̂_ij)       b_n the radial basis
    A_i,lm  = Σ_nk W_l,nk G_i,nlmk                       the radial functions are linear maps of the basis
            + Σ_nk W'_l,nk Σ_j P'_k[z_i, z_j] b_n(r_ij) h_j,lmk   on request: the neighbours' functions as they are
    B_i     = Σ_ν c_ν[z_i] A_i^ν                         powers of a function on the sphere, ν = 1, 2, 3
    h_i    <- W' B_i + g[z_i] h_i                        and the energy reads the scalars of h_i

h_j(r̂) Y_lm(r̂) is the Gaunt product of h_j with a point on the sphere, that is a factorised tensor product of
rank one; it costs a number per edge and channel. The radial map is applied on nodes, after the sum over edges.
There is no scatter: rows of neighbours are padded, bonds know their reverse, and every sum is a matrix product.
Features are laid out (component, atom, channel), so that maps of channels and of components are single products.

An atom without neighbours has h = 0, so its energy is its reference energy exactly.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from math import isqrt, pi, sqrt
from typing import Any, ClassVar

import torch

from equipot.models.radial import BesselBasis, Repulsion, envelope
from equipot.models.spherical import Harmonics
from equipot.models.tensor_product import PolynomialProduct

#: how quickly the reference energy turns from the free atom's to the bound atom's as neighbours come within twice
#: the length of a bond
BINDING_RATE = 3.0


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How large the network is: what a training configuration chooses."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    cutoff_ang: float = 5.0
    n_channels: int = 64
    n_pair_channels: int = 16
    n_message_channels: int = 32
    n_layers: int = 2
    l_max: int = 3
    l_hidden: int = 2
    n_basis: int = 8
    readout_width: int = 32
    factorisation: str = "gaunt"  # of the tensor product: gaunt, cg, cp or vector
    mean_neighbours: float = 15.0  # messages are divided by its square root
    energy_scale_ev: float = 1.0
    n_tensor_channels: int = 0  # of the neighbours' functions that are passed on as they are, not along the bond only
    mixes_by_element: bool = False  # W' of the update is another for each element z_i
    is_calibrated: bool = False  # messages are scaled by numbers taken from the training data (Network.calibrate)
    repulsion_reach: float = 1.0  # where the repulsion ends, in units of the sum of covalent radii


@dataclass(frozen=True, kw_only=True)
class Architecture(Sizes):
    """Everything needed to build the network; it stands in the card."""

    elements: tuple[int, ...]
    n_heads: int = 1  # levels of theory, each with readouts of its own
    charges: tuple[int, ...] = ()  # total charges that it was trained for; none: it is not told the charge

    @property
    def is_conditioned(self) -> bool:
        """Whether the network is told of each atom the level of theory and the total charge of its system."""
        return self.n_heads > 1 or bool(self.charges)

    def as_dict(self) -> dict[str, Any]:
        known = {**asdict(self), "elements": list(self.elements), "charges": list(self.charges)}
        return known if self.is_conditioned else {k: v for k, v in known.items() if k not in ("n_heads", "charges")}


@dataclass(frozen=True)
class Bonds:
    """What a layer needs to know of the bonds; slots last, so that loops over them are contiguous."""

    pair: torch.Tensor  # (n_atoms, n_slots), species of both ends as one index
    harmonics: torch.Tensor  # (n_atoms, (l_max + 1)², n_slots)
    functions: torch.Tensor  # (n_atoms, (l_max + 1)² n_basis, n_slots), b_n Y_lm, 0 in masked slots


@dataclass(frozen=True)
class AtomicEnergies:
    """The answer of the network: learned_ev and fixed_ev (n_atoms,), descriptors (n_atoms, n_features).

    The energy of atom i is learned_ev[i] + fixed_ev[i] + its reference energy. The descriptors, the scalars of every
    layer and the radial densities of the elements, tell one environment from another.
    """

    learned_ev: torch.Tensor
    fixed_ev: torch.Tensor
    descriptors: torch.Tensor


class _Reverse(torch.autograd.Function):
    """x[reverse] for an involution: its own transpose, so no scatter in any derivative."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, reverse: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(reverse)
        return x.index_select(0, reverse)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None]:
        (reverse,) = ctx.saved_tensors
        return _Reverse.apply(grads[0], reverse), None


def reversed_bonds(x: torch.Tensor, reverse: torch.Tensor) -> torch.Tensor:
    """A quantity of every bond (n_atoms, n_slots, ...), seen from the other end."""
    flat: torch.Tensor = _Reverse.apply(x.flatten(0, 1), reverse)
    return flat.view_as(x)


def degrees_of_components(l_max: int) -> torch.Tensor:
    """The degree of each component, ((l_max + 1)²,): 0, 1, 1, 1, 2, ..."""
    return torch.repeat_interleave(torch.arange(l_max + 1), 2 * torch.arange(l_max + 1) + 1)


class _DegreeMaps(torch.autograd.Function):
    """x_m w_l for each component m of each degree l, ((l_max + 1)², n, c_in) and (l_max + 1, c_in, c_out).

    Gradients are one product for each degree instead of one for each component.
    """

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x, weight)
        blocks = zip(_degrees(x), weight.unbind(), strict=True)
        return torch.cat([block.bmm(w.expand(len(block), -1, -1)) for block, w in blocks])

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        x, weight = ctx.saved_tensors
        rows = [block.flatten(0, 1) for block in _degrees(grads[0])]
        grad_x = grad_weight = None
        if ctx.needs_input_grad[0]:
            grad_x = torch.cat([own @ w.T for own, w in zip(rows, weight.unbind(), strict=True)]).view(x.shape)
        if ctx.needs_input_grad[1]:
            inputs = [block.flatten(0, 1) for block in _degrees(x)]
            grad_weight = torch.stack([given.T @ own for given, own in zip(inputs, rows, strict=True)])
        return grad_x, grad_weight


def _degrees(x: torch.Tensor) -> list[torch.Tensor]:
    """The components of each degree, (2l + 1, ...), of ((l_max + 1)², ...)."""
    return [x[d * d : (d + 1) ** 2] for d in range(isqrt(len(x)))]


class DegreeLinear(torch.nn.Module):
    """A linear map of the channels for each degree: ((l_max + 1)², n, c_in) -> ((l_max + 1)², n, c_out)."""

    def __init__(self, l_max: int, n_in: int, n_out: int) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.randn(l_max + 1, n_in, n_out) / sqrt(n_in))
        self.register_buffer("degrees", degrees_of_components(l_max), persistent=False)
        self.degrees: torch.Tensor

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.is_cuda:  # one product: launching several costs more than copies of the weights
            return x.bmm(self.weight.index_select(0, self.degrees))
        mapped: torch.Tensor = _DegreeMaps.apply(x, self.weight)
        return mapped


class ElementLinear(torch.nn.Module):
    """A linear map of the channels for each degree and element of the atom: ((l_max + 1)², n, c_in) -> (..., c_out)."""

    def __init__(self, n_elements: int, l_max: int, n_in: int, n_out: int) -> None:
        super().__init__()
        shared, own = torch.randn(l_max + 1, 1, n_in, n_out), torch.randn(l_max + 1, n_elements, n_in, n_out)
        self.weight = torch.nn.Parameter((0.8 * shared + 0.6 * own) / sqrt(n_in))
        self.register_buffer("degrees", degrees_of_components(l_max), persistent=False)
        self.degrees: torch.Tensor

    def forward(self, x: torch.Tensor, species: torch.Tensor) -> torch.Tensor:
        """One product: the channels of every atom, among zeros where other elements have theirs."""
        is_element = torch.nn.functional.one_hot(species, self.weight.shape[1]).to(x).unsqueeze(-1)
        x = (x.unsqueeze(2) * is_element).flatten(2)
        if x.is_cuda:
            return x.bmm(self.weight.flatten(1, 2).index_select(0, self.degrees))
        return torch.cat([own @ w.flatten(0, 1) for own, w in zip(_degrees(x), self.weight, strict=True)])


class Layer(torch.nn.Module):
    """One round of looking at the neighbours (module docstring), in steps that need no atom but their own.

    What an atom sends along a bond reaches the other end through `reversed_bonds`, between `send` and `receive`.
    """

    def __init__(self, a: Architecture, is_first: bool, l_out: int) -> None:
        super().__init__()
        n_elements, c = len(a.elements), a.n_channels
        n_messages = a.n_pair_channels if is_first else a.n_message_channels
        self.n_hidden, self.l_out = (a.l_hidden + 1) ** 2, l_out
        self.scale = 1.0 / sqrt(a.mean_neighbours)
        self.pair_weight = torch.nn.Parameter(torch.randn(n_elements**2, n_messages))
        self.mix_messages = DegreeLinear(a.l_max, a.n_basis * n_messages, c)
        coefficients = torch.tensor([1.0, 0.3, 0.1])[:, None] * (1.0 + 0.1 * torch.randn(n_elements, 3, c))
        self.power_weight = torch.nn.Parameter(coefficients)
        self.product = PolynomialProduct(a.factorisation, a.l_max, l_out)
        self.mix_product = ElementLinear(n_elements, l_out, c, c) if a.mixes_by_element else DegreeLinear(l_out, c, c)
        self.n_tensors = 0 if is_first else a.n_tensor_channels
        if not is_first:
            self.mix_features = DegreeLinear(a.l_hidden, c, n_messages)
            self.keep_weight = torch.nn.Parameter(torch.ones(n_elements, l_out + 1, c))
        if self.n_tensors:
            self.tensor_pair_weight = torch.nn.Parameter(0.25 * torch.randn(n_elements**2, self.n_tensors))
            self.tensor_features = DegreeLinear(a.l_hidden, c, self.n_tensors)
            self.mix_tensors = DegreeLinear(a.l_hidden, a.n_basis * self.n_tensors, c)
        self.register_buffer("gain", torch.ones(()) if a.is_calibrated else None)
        self.gain: torch.Tensor | None

    def send(self, h: torch.Tensor, bonds: Bonds) -> torch.Tensor:
        """What goes along the bonds, (n_atoms, n_slots, ...): the feature functions h ((l_hidden + 1)², n_atoms, c)
        in the bond's direction, and behind them those that are passed on as they are."""
        directions = bonds.harmonics[:, : self.n_hidden].transpose(1, 2)
        along_bond: torch.Tensor = directions @ self.mix_features(h).transpose(0, 1)
        if not self.n_tensors:
            return along_bond
        whole = self.tensor_features(h).transpose(0, 1).flatten(1).unsqueeze(1)
        return torch.cat([along_bond, whole.expand(-1, along_bond.shape[1], -1)], dim=-1)

    def receive(self, received: torch.Tensor | None, bonds: Bonds) -> torch.Tensor:
        """What the neighbours sent, or only which elements they are, -> A ((l_max + 1)², n_atoms, c)."""
        strength = self.pair_weight[bonds.pair] * (self.scale if self.gain is None else self.scale * self.gain)
        if received is not None:
            strength = strength * received[..., : strength.shape[2]]
        gathered = (bonds.functions @ strength).view(strength.shape[0], bonds.harmonics.shape[1], -1)
        seen: torch.Tensor = self.mix_messages(gathered.transpose(0, 1))
        if received is None or not self.n_tensors:
            return seen
        tensors = self._sum_tensors(received[..., strength.shape[2] :], bonds)
        return torch.cat([seen[: self.n_hidden] + tensors, seen[self.n_hidden :]])

    def update(self, seen: torch.Tensor, h: torch.Tensor | None, species: torch.Tensor) -> torch.Tensor:
        """A and the features before -> new features ((l_out + 1)², n_atoms, c)."""
        product = self.product(seen, self.power_weight[species])
        by_element = isinstance(self.mix_product, ElementLinear)
        new: torch.Tensor = self.mix_product(product, species) if by_element else self.mix_product(product)
        if h is not None:
            keep = self.keep_weight[species].unbind(1)  # of the degrees up to l_out
            new = new + torch.cat([own * factor for own, factor in zip(_degrees(h), keep, strict=False)])
        return new

    def _sum_tensors(self, theirs: torch.Tensor, bonds: Bonds) -> torch.Tensor:
        """The neighbours' functions weighted by distance and elements, what lies across the bond included."""
        n_atoms, n_slots, _ = theirs.shape
        weight = self.tensor_pair_weight[bonds.pair].unsqueeze(2)
        weighted = (theirs.view(n_atoms, n_slots, self.n_hidden, self.n_tensors) * weight).flatten(2)
        radial = bonds.functions[:, : bonds.functions.shape[1] // bonds.harmonics.shape[1]]  # b_n Y_00
        summed = (radial @ weighted).view(n_atoms, -1, self.n_hidden, self.n_tensors)
        mixed: torch.Tensor = self.mix_tensors(summed.permute(2, 0, 1, 3).flatten(2))
        return mixed * (self.scale * sqrt(4.0 * pi))


class Film(torch.nn.Module):
    """Scale and shift of a layer's features by what is known of the whole system (FiLM; Perez et al., AAAI 2018).

    Scalars are scaled and shifted, functions of l > 0 only scaled, so everything stays equivariant. A level of theory
    and a charge add up. At first nothing is changed.
    """

    def __init__(self, a: Architecture, l_out: int) -> None:
        super().__init__()
        c = a.n_channels
        self.head_scale = torch.nn.Parameter(torch.zeros(a.n_heads, l_out + 1, c))
        self.head_shift = torch.nn.Parameter(torch.zeros(a.n_heads, c))
        n_charges = max(1, len(a.charges))
        self.charge_scale = torch.nn.Parameter(torch.zeros(n_charges, l_out + 1, c))
        self.charge_shift = torch.nn.Parameter(torch.zeros(n_charges, c))

    def forward(self, h: torch.Tensor, condition: torch.Tensor, bound: torch.Tensor) -> torch.Tensor:
        """h ((l_out + 1)², n_atoms, c), condition (n_atoms, 2): head and charge, bound (n_atoms,): 0 for a lone atom,
        which is not shifted."""
        head, charge = condition.unbind(1)
        scale = 1.0 + self.head_scale[head] + self.charge_scale[charge]
        shift = (self.head_shift[head] + self.charge_shift[charge]) * bound.unsqueeze(1)
        scaled = [own * factor for own, factor in zip(_degrees(h), scale.unbind(1), strict=True)]
        return torch.cat([scaled[0] + shift, *scaled[1:]])


class Network(torch.nn.Module):
    """Energies of atoms from bond vectors; everything that is learned, and the repulsion beside it."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        a = self.architecture = architecture
        n_elements, c = len(a.elements), a.n_channels
        self.basis = BesselBasis(a.n_basis, a.cutoff_ang)
        self.harmonics = Harmonics(a.l_max)
        self.repulsion = Repulsion(list(a.elements), a.repulsion_reach)
        l_out = [a.l_hidden] * (a.n_layers - 1) + [0]
        self.is_chiral = a.factorisation != "gaunt"
        self.layers = torch.nn.ModuleList(Layer(a, is_first=t == 0, l_out=l_out[t]) for t in range(a.n_layers))
        n_kinds = n_elements * a.n_heads  # an atom is read by its element and the level of theory
        self.linear_readout = torch.nn.Parameter(torch.zeros(a.n_layers, n_kinds, c))
        self.hidden_readout = torch.nn.Parameter(torch.randn(c, a.readout_width) / sqrt(c))
        output = 0.1 * torch.randn(n_elements, a.readout_width) / sqrt(a.readout_width)
        self.output_readout = torch.nn.Parameter(output.repeat(a.n_heads, 1))
        self.films = torch.nn.ModuleList(Film(a, l_film) for l_film in l_out) if a.is_conditioned else None
        species = torch.full((119,), -1, dtype=torch.int64)
        species[list(a.elements)] = torch.arange(n_elements)
        self.register_buffer("species_of_number", species, persistent=False)
        self.species_of_number: torch.Tensor
        #: mean energy of a bound atom relative to the free one, per head and element, eV
        self.register_buffer("binding_ev", torch.zeros(n_kinds))
        self.binding_ev: torch.Tensor
        self.register_buffer("empty_bond", torch.tensor([0.0, 0.0, a.cutoff_ang]), persistent=False)
        self.empty_bond: torch.Tensor

    def forward(
        self,
        numbers: torch.Tensor,
        vectors_ang: torch.Tensor,
        neighbours: torch.Tensor,
        mask: torch.Tensor,
        reverse: torch.Tensor,
        condition: torch.Tensor | None = None,
    ) -> AtomicEnergies:
        """Energies of atoms; see AtomGraph for the arguments.

        condition (n_atoms, 2): index of the level of theory, and of the charge among `charges`, of each atom's system;
        only for a network that is conditioned.
        """
        a = self.architecture
        if a.is_conditioned and condition is None:
            raise ValueError("This network must be told the level of theory and the charge of each atom's system.")
        # A masked slot gets a harmless bond at the cutoff, where every radial function is zero.
        vectors_ang = torch.where(mask.unsqueeze(-1), vectors_ang, self.empty_bond)
        distance = vectors_ang.square().sum(-1).sqrt()
        species = self.species_of_number[numbers]
        pair = (species.unsqueeze(1).expand_as(neighbours), species[neighbours])
        radial = self.basis(distance) * self.repulsion.switch(distance, pair).unsqueeze(1)
        unit = (vectors_ang / distance.unsqueeze(-1)).transpose(1, 2)
        crowding = envelope(distance / (2.0 * self.repulsion.reach_ang[pair]).clamp(max=a.cutoff_ang)).sum(-1)
        boundness = -torch.expm1(-BINDING_RATE * crowding)
        told = None if condition is None else (condition, boundness)
        kind = species if condition is None else species + len(a.elements) * condition[:, 0]
        learned, scalars = self._look(species, kind, pair, unit, radial, reverse, told)
        if self.is_chiral:  # the mean over a system and its mirror image is the true part of what is seen
            learned_mirrored, scalars_mirrored = self._look(species, kind, pair, -unit, radial, reverse, told)
            learned, scalars = 0.5 * (learned + learned_mirrored), 0.5 * (scalars + scalars_mirrored)

        zbl = 0.5 * self.repulsion(distance, pair).sum(-1)
        bound = self.binding_ev[kind] * boundness
        descriptors = torch.cat([scalars, self._densities(radial.detach(), pair[1])], dim=-1)
        return AtomicEnergies(learned * a.energy_scale_ev, zbl + bound, descriptors)

    def _look(
        self,
        species: torch.Tensor,
        kind: torch.Tensor,
        pair: tuple[torch.Tensor, torch.Tensor],
        unit: torch.Tensor,
        radial: torch.Tensor,
        reverse: torch.Tensor,
        told: tuple[torch.Tensor, torch.Tensor] | None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Learned energies (n_atoms,) and scalars (n_atoms, n_layers c) of the layers that see these directions."""
        harmonics = self.harmonics(unit)
        functions = (harmonics.unsqueeze(2) * radial.unsqueeze(1)).flatten(1, 2)
        bonds = Bonds(pair[0] * len(self.architecture.elements) + pair[1], harmonics, functions)
        h: torch.Tensor | None = None
        learned = torch.zeros_like(unit[:, 0, 0])
        scalars = []
        for t, (layer, readout) in enumerate(zip(self.layers, self.linear_readout, strict=True)):
            assert isinstance(layer, Layer)
            received = None if h is None else reversed_bonds(layer.send(h, bonds), reverse)
            h = layer.update(layer.receive(received, bonds), h, species)
            if told is not None and self.films is not None:
                h = self.films[t](h, *told)
            scalars.append(h[0])
            learned = learned + (h[0] * readout[kind]).sum(-1)
        hidden = torch.nn.functional.silu(scalars[-1] @ self.hidden_readout)
        return learned + (hidden * self.output_readout[kind]).sum(-1), torch.cat(scalars, dim=-1)

    @torch.no_grad()
    def calibrate(
        self,
        numbers: torch.Tensor,
        vectors_ang: torch.Tensor,
        neighbours: torch.Tensor,
        mask: torch.Tensor,
        reverse: torch.Tensor,
        condition: torch.Tensor | None = None,
    ) -> None:
        """Scale the messages so that the functions they make are of size one on the sphere in these surroundings.

        Before training, with is_calibrated: else squares and cubes of functions are tiny at first and learn late.
        """
        component = sqrt(4.0 * pi / (self.architecture.l_max + 1) ** 2)
        for layer in self.layers:
            assert isinstance(layer, Layer)
            assert layer.gain is not None
            sizes: list[torch.Tensor] = []
            hook = layer.mix_messages.register_forward_hook(
                lambda _module, _inputs, out, sizes=sizes: sizes.append(out.square().mean().sqrt())
            )
            self(numbers, vectors_ang, neighbours, mask, reverse, condition)
            hook.remove()
            layer.gain *= component / sizes[0]

    def _densities(self, radial: torch.Tensor, neighbour_species: torch.Tensor) -> torch.Tensor:
        """Radial density of each element around each atom, (n_atoms, n_basis n_elements)."""
        is_element = torch.nn.functional.one_hot(neighbour_species, len(self.architecture.elements))
        return (radial @ is_element.to(radial)).flatten(1)

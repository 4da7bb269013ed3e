"""How far a potential can be trusted for an atom: is it like the training data, and how wrong may its force be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import sqrt

import numpy as np
import torch

from equipot.models.kernels import Kernels, in_blocks


@dataclass(frozen=True, eq=False)
class ByElement:
    """Atoms sorted by element, so that those of one stand together.

    order (n_atoms,): which atom stands where; place (n_atoms,): where every atom stands; runs (n_runs, 3): element,
    counted as in the network, first place and the one after the last. `kernels` compute faster if they are there.
    """

    order: torch.Tensor
    place: torch.Tensor
    runs: np.ndarray
    kernels: Kernels | None = None

    @classmethod
    def of(cls, species: np.ndarray, device: torch.device, kernels: Kernels | None = None) -> ByElement:
        """Of atoms whose elements are counted as in the network; on the host, so that no device is waited for."""
        order = np.argsort(species, kind="stable")
        place = np.empty_like(order)
        place[order] = np.arange(len(order))
        elements, starts = np.unique(species[order], return_index=True)
        runs = np.stack([elements, starts, np.append(starts[1:], len(order))], axis=1).astype(np.int64)
        return cls(torch.as_tensor(order, device=device), torch.as_tensor(place, device=device), runs, kernels)

    def lengths(self, vectors: torch.Tensor, origins: torch.Tensor | None, maps: Maps) -> torch.Tensor:
        """|(x - o) M| of every atom's vector x, (n_atoms,), with the origin o and the map M of its element.

        origins (n_elements, n_in), maps (n_elements, n_in, n_out).
        """
        if self.kernels is not None:
            return self.kernels.lengths(vectors, self.order, self.runs, origins, maps.in_blocks)
        sorted_vectors = vectors.index_select(0, self.order)
        mapped = vectors.new_empty(len(vectors), maps.plain.shape[2])
        for element, start, end in self.runs.tolist():
            own = sorted_vectors[start:end]
            torch.mm(own if origins is None else own - origins[element], maps.plain[element], out=mapped[start:end])
        lengths: torch.Tensor = torch.linalg.vector_norm(mapped, dim=1)
        return lengths.index_select(0, self.place)


class Maps:
    """A linear map for each element, (n_elements, n_in, n_out), as torch takes it and as compiled code does."""

    def __init__(self, plain: torch.Tensor) -> None:
        self.plain = plain

    @cached_property
    def in_blocks(self) -> torch.Tensor:
        return in_blocks(self.plain)


class TrainingDomain:
    """How far the surroundings of atoms are from those in the training data, one ellipsoid for each element.

    The Mahalanobis distance of an atom's invariant features, per feature, over the distance that holds the training
    environments: 1 is the border. Single precision is enough for it, and half the memory to read.
    """

    def __init__(self, mean: torch.Tensor, whitening: torch.Tensor, threshold: float) -> None:
        self.mean = mean  # (n_elements, n_features)
        self.whitening = whitening  # (n_elements, n_features, n_kept)
        self.threshold = threshold
        self._means, self._maps = mean.float().contiguous(), Maps(whitening.float())
        self._scale = 1.0 / (threshold * sqrt(whitening.shape[2]))

    def distances(self, descriptors: torch.Tensor, elements: ByElement) -> torch.Tensor:
        """Distance of every atom, (n_atoms,)."""
        return elements.lengths(descriptors.float(), self._means, self._maps) * self._scale

    @property
    def origins_and_maps(self) -> tuple[torch.Tensor, Maps]:
        """By which `ByElement.lengths` finds the length behind a distance."""
        return self._means, self._maps

    def distance_of(self, length: float) -> float:
        """The distance behind such a length, in single precision as `distances` are."""
        return float(np.float32(length) * np.float32(self._scale))


class ForceUncertainty:
    """Expected error of the force on each atom: how poorly training determines what its readout says (last layer).

    The posterior of a linear readout of the features φ, Gaussian, has the variance φᵀ (Φᵀ Φ + λ)⁻¹ φ = |L φ|² with one
    factor L for each element (a Laplace approximation of the last layer; Daxberger et al., NeurIPS 2021). Its root is
    mapped to an error of forces by a power law that was fitted on held-out molecules.
    """

    def __init__(self, factors: torch.Tensor, scales: Sequence[float]) -> None:
        self.factors = factors  # (n_elements, n_features + 1, n_features + 1), float64
        self.scales = tuple(scales)  # exp(a) and b of error = exp(a) s^b, and the smallest error
        self.maps = Maps(factors.transpose(1, 2))

    def spreads(self, features: torch.Tensor, elements: ByElement) -> torch.Tensor:
        """(n_atoms,) the uncalibrated spread, of features (n_atoms, n_features)."""
        phi = torch.nn.functional.pad(features.double(), (0, 1), value=1.0)
        return elements.lengths(phi, None, self.maps)

    def errors_ev_per_ang(self, spreads: np.ndarray) -> np.ndarray:
        """(n_atoms,) the expected length of the error of the force, from the spreads."""
        factor, power, least = self.scales
        return np.maximum(factor * spreads**power, least)

"""Functions of the distance: smooth cutoff, Bessel basis, short-range switch, screened nuclear repulsion."""

from __future__ import annotations

from math import pi, sqrt

import numpy as np
import torch

from equipot.elements import COVALENT_RADII_ANG
from equipot.units import ANG_PER_BOHR

COULOMB_EV_ANG = 14.3996454784  # e²/(4π ε0)
#: the learned part is whole above the first and gone below the second, in units of the sum of covalent radii
SWITCH_ON, SWITCH_OFF = 0.6, 0.4
#: weight and decay of the terms of the universal screening function φ (Ziegler, Biersack, Littmark 1985), in the
#: single precision in which potentials are fitted
SCREENING = np.array(
    [(0.18175, 3.19980), (0.50986, 0.94229), (0.28022, 0.40290), (0.02817, 0.20162)], np.float32
).tolist()


def envelope(x: torch.Tensor) -> torch.Tensor:
    """1 at x = 0, and 0 from x = 1 on with two continuous derivatives (Gasteiger et al., arXiv 2003.03123, p = 6)."""
    x3 = x * x * x
    value = 1.0 + x3 * x3 * (-28.0 + x * (48.0 - 21.0 * x))
    return torch.where(x < 1.0, value, torch.zeros_like(x))


def smooth_step(x: torch.Tensor) -> torch.Tensor:
    """0 for x <= 0, 1 for x >= 1, with two continuous derivatives."""
    x = x.clamp(0.0, 1.0)
    return x * x * x * (10.0 + x * (6.0 * x - 15.0))


class BesselBasis(torch.nn.Module):
    """√(2/r_c) sin(nπ r/r_c)/r times the envelope, n = 1 ... n_basis (arXiv 2003.03123, eq. 7), r in Å."""

    def __init__(self, n_basis: int, cutoff_ang: float) -> None:
        super().__init__()
        self.cutoff_ang = cutoff_ang
        frequencies = torch.arange(1, n_basis + 1, dtype=torch.float64) * (pi / cutoff_ang)
        self.register_buffer("frequencies", frequencies, persistent=False)
        self.frequencies: torch.Tensor

    def forward(self, distance_ang: torch.Tensor) -> torch.Tensor:
        """(n, ...) -> (n, n_basis, ...)."""
        scale = sqrt(2.0 / self.cutoff_ang) * envelope(distance_ang / self.cutoff_ang) / distance_ang
        frequencies = self.frequencies.view(-1, *[1] * (distance_ang.dim() - 1))
        return torch.sin(distance_ang.unsqueeze(1) * frequencies) * scale.unsqueeze(1)


class Repulsion(torch.nn.Module):
    """The universal screened nuclear repulsion of Ziegler, Biersack and Littmark (1985), faded out where bonds begin.

    V(r) = Z_i Z_j e²/r φ(r/a), a = 0.8854 a_0/(Z_i^0.23 + Z_j^0.23), times an envelope that ends at `reach` times the
    sum of the covalent radii. It stands in place while the network is fitted, so the network learns the rest.
    """

    def __init__(self, elements: list[int], reach: float = 1.0) -> None:
        super().__init__()
        self.reach = reach
        z = torch.tensor(elements, dtype=torch.float64)
        radii = torch.tensor(COVALENT_RADII_ANG[elements], dtype=torch.float64)
        self.register_buffer("charge", COULOMB_EV_ANG * z[:, None] * z[None, :], persistent=False)
        length = 0.8854 * ANG_PER_BOHR / (z[:, None] ** 0.23 + z[None, :] ** 0.23)
        self.register_buffer("inverse_length", 1.0 / length, persistent=False)
        self.register_buffer("reach_ang", radii[:, None] + radii[None, :], persistent=False)
        self.charge: torch.Tensor
        self.inverse_length: torch.Tensor
        self.reach_ang: torch.Tensor

    def forward(self, distance_ang: torch.Tensor, pair: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        """Energy of each bond in eV; `pair` are the species of its two ends."""
        reduced = distance_ang * self.inverse_length[pair]
        screening = sum(weight * torch.exp(-decay * reduced) for weight, decay in SCREENING)
        end = envelope(distance_ang / (self.reach * self.reach_ang[pair]))
        energy: torch.Tensor = self.charge[pair] / distance_ang * screening * end
        return energy

    def switch(self, distance_ang: torch.Tensor, pair: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        """What the learned part is multiplied with, so that two atoms pushed together feel the repulsion alone."""
        return smooth_step((distance_ang / self.reach_ang[pair] - SWITCH_OFF) / (SWITCH_ON - SWITCH_OFF))

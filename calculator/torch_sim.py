"""A potential of ours as a model of TorchSim: `torch_sim.optimize(system=..., model=EquipotModel("elements"), ...)`."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import torch

from equipot.elements import NUMBERS, SYMBOLS
from equipot.errors import InvalidParameterError, UnsupportedElementError
from equipot.models.graph import batch_graphs
from equipot.models.loading import load_potential
from equipot.models.potential import Potential

try:
    from torch_sim.models.interface import ModelInterface
except ImportError as error:
    raise InvalidParameterError(
        "The package torch-sim-atomistic is not installed.", hint="Install it: pip install 'equipot[torch-sim]'"
    ) from error


class EquipotModel(ModelInterface):  # type: ignore[misc]  # TorchSim is not typed here
    """Energies, forces and stresses of all systems of a TorchSim state, in one pass.

    `model`, `device` and `dtype` are those of `load_potential`. Energies (n_systems,) in eV, forces (n_atoms, 3) in
    eV/Å, stresses (n_systems, 3, 3) in eV/Å³, positive when stretched: zero for systems that are not periodic.
    Neighbours are searched anew at every step, on the CPU.

    Raises UnsupportedElementError for an element that the potential does not know.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | Potential = "organic",
        device: str | None = None,
        dtype: str | None = None,
    ) -> None:
        super().__init__()
        self.potential = model if isinstance(model, Potential) else load_potential(model, device=device, dtype=dtype)
        self._device, self._dtype = self.potential.torch_device, self.potential.torch_dtype
        self._compute_stress = self._compute_forces = True
        self._memory_scales_with = "n_atoms_x_density"
        self._known = [NUMBERS[symbol] for symbol in self.potential.elements]

    def forward(self, state: Any, **_unused: Any) -> dict[str, torch.Tensor]:
        """What TorchSim asks for; `state` is a SimState or the mapping that stands for one."""
        if isinstance(state, dict):
            from torch_sim.state import SimState

            state = SimState(**state, masses=torch.ones_like(state["positions"][:, 0]))
        numbers = state.atomic_numbers.cpu().long().numpy()
        self._refuse_unknown(numbers)
        positions = state.positions.detach().cpu().double().numpy()
        cells = state.row_vector_cell.detach().cpu().double().numpy()
        pbc = np.broadcast_to(np.asarray(torch.as_tensor(state.pbc).cpu()), (3,))
        owner = state.system_idx.cpu().numpy()
        graphs = []
        for system, cell in enumerate(cells):
            chosen = owner == system
            search = self.potential.neighbour_search(skin_ang=0.0)
            graphs.append(search.graph(numbers[chosen], positions[chosen], cell if pbc.any() else None, pbc))
        predictions = self.potential.evaluate_many(batch_graphs(graphs))
        stresses = np.zeros_like(cells)
        for system, (prediction, cell) in enumerate(zip(predictions, cells, strict=True)):
            if pbc.any():
                stresses[system] = prediction.virial_ev / abs(np.linalg.det(cell))
        return {
            "energy": self._tensor([prediction.energy_ev for prediction in predictions]),
            "forces": self._tensor(np.concatenate([prediction.forces_ev_per_ang for prediction in predictions])),
            "stress": self._tensor(stresses),
        }

    def _tensor(self, values: Any) -> torch.Tensor:
        return torch.as_tensor(np.asarray(values), dtype=self._dtype, device=self._device)

    def _refuse_unknown(self, numbers: np.ndarray) -> None:
        for number in np.unique(numbers[~np.isin(numbers, self._known)]):
            raise UnsupportedElementError(
                f"{self.potential.name} does not know {SYMBOLS[number]}.",
                hint=f"It knows {', '.join(self.potential.elements)}.",
            )

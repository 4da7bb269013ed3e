"""Relax the structures of a file with TorchSim on a potential of ours; for `engine.py --torch-sim PYTHON`.

Prints {"seconds", "processor", "n_steps"} as JSON. The Python that runs this has torch-sim-atomistic (tried with
0.3.0) and finds equipot, for example by PYTHONPATH. All systems share one pass, as TorchSim means it.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import torch
import torch_sim
from ase.io import read
from torch_sim.models.interface import ModelInterface

from equipot import load_potential
from equipot.models.graph import batch_graphs
from equipot.models.neighbours import NeighbourSearch
from equipot.models.potential import Potential


class PotentialModel(ModelInterface):
    """A potential of ours as TorchSim takes it, for systems without a cell."""

    def __init__(self, potential: Potential) -> None:
        super().__init__()
        self._device, self._dtype = potential.torch_device, potential.torch_dtype
        self._compute_stress, self._compute_forces = False, True
        self._memory_scales_with = "n_atoms"
        self.potential = potential
        self.n_evaluations = 0

    def forward(self, state: Any) -> dict[str, torch.Tensor]:
        positions = state.positions.detach().cpu().numpy()
        numbers, owner = state.atomic_numbers.cpu().long().numpy(), state.system_idx.cpu().numpy()
        graphs = []
        for system in range(int(owner.max()) + 1):
            chosen = owner == system
            search = NeighbourSearch(self.potential.cutoff_ang)
            graphs.append(search.graph(numbers[chosen], positions[chosen], None, (False, False, False)))
        predictions = self.potential.evaluate_many(batch_graphs(graphs))
        self.n_evaluations += len(graphs)
        forces = torch.cat([torch.as_tensor(p.forces_ev_per_ang) for p in predictions])
        energy = torch.tensor([p.energy_ev for p in predictions])
        return {"energy": energy.to(self._device, self._dtype), "forces": forces.to(self._device, self._dtype)}


def main() -> None:
    path, task = sys.argv[1], json.loads(sys.argv[2])
    torch.set_num_threads(1)
    systems = read(path, ":")
    model = PotentialModel(
        load_potential(task["model"], device="cpu", **({"compile": True} if task["compile"] else {}))
    )
    settings: dict[str, Any] = {
        "model": model,
        "optimizer": torch_sim.optimizers.fire,
        "convergence_fn": torch_sim.generate_force_convergence_fn(task["fmax"], include_cell_forces=False),
        "max_steps": task["max_steps"],
        "steps_between_swaps": 1,
    }
    torch_sim.optimize(system=systems[:1], **{**settings, "max_steps": 2})  # what is made once
    model.n_evaluations = 0
    before, processor_before = time.perf_counter(), time.process_time()
    torch_sim.optimize(system=systems, **settings)
    seconds, processor = time.perf_counter() - before, time.process_time() - processor_before
    print(json.dumps({"seconds": seconds, "processor": processor, "n_steps": model.n_evaluations}))


if __name__ == "__main__":
    main()

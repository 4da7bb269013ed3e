"""Our potential under TorchSim's own optimizer: two crystals in one state. Needs `pip install 'equipot[torch-sim]'`."""

import torch_sim
from ase.build import bulk

from equipot.calculator.torch_sim import EquipotModel

crystals = [bulk("Si", cubic=True), bulk("Cu", cubic=True)]
for crystal in crystals:
    crystal.rattle(0.1, seed=1)

state = torch_sim.optimize(
    system=crystals,
    model=EquipotModel("elements"),
    optimizer=torch_sim.optimizers.fire,
    convergence_fn=torch_sim.generate_force_convergence_fn(0.02, include_cell_forces=False),
    max_steps=200,
)
for atoms, energy in zip(state.to_atoms(), state.energy, strict=True):
    print(atoms.get_chemical_formula(), f"{energy.item():.4f} eV")
assert state.forces.abs().max() < 0.05

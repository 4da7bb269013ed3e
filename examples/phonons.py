"""Phonons of copper with phonopy: displaced supercells, their forces in one call, frequencies and a free energy."""

import numpy as np
from ase import Atoms
from ase.build import bulk
from phonopy import Phonopy
from phonopy.structure.atoms import PhonopyAtoms

from equipot import relax, singlepoint

(relaxed,) = relax([bulk("Cu")], "elements", cell_filter="frechet", fix_symmetry=True, fmax_ev_per_ang=1e-4)
copper = relaxed.atoms
unit_cell = PhonopyAtoms(symbols=copper.symbols, cell=copper.cell[:], scaled_positions=copper.get_scaled_positions())
phonons = Phonopy(unit_cell, supercell_matrix=np.diag([3, 3, 3]))
phonons.generate_displacements(distance=0.01)

cells = [
    Atoms(cell.symbols, cell=cell.cell, scaled_positions=cell.scaled_positions, pbc=True)
    for cell in phonons.supercells_with_displacements
]
phonons.forces = [result.forces_ev_per_ang for result in singlepoint(cells, "elements")]
phonons.produce_force_constants()
phonons.symmetrize_force_constants()

phonons.run_mesh([12, 12, 12])
frequencies = phonons.get_mesh_dict()["frequencies"]
print(f"highest frequency {frequencies.max():.2f} THz (experiment 7.3), lowest {frequencies.min():.2f}")
phonons.run_thermal_properties(t_min=300, t_max=300, t_step=1)
print(f"heat capacity at 300 K: {phonons.thermal_properties.heat_capacity[0]:.2f} J/(K mol)")
assert frequencies.min() > -0.1  # no imaginary frequencies
assert 6.0 < frequencies.max() < 9.0

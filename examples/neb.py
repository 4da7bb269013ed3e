"""How high is the barrier of ammonia's inversion? A nudged elastic band between the molecule and its mirror image.

GFN2-xTB, on which `organic` was trained, has 0.2 to 0.3 eV; experiment 0.25 eV.
"""

from ase.build import molecule
from ase.mep import NEB
from ase.optimize import FIRE

from equipot import EquipotCalculator, load_potential, relax

(start,) = relax([molecule("NH3")], "organic", fmax_ev_per_ang=0.01)
end = start.atoms.copy()
end.positions[:, 2] *= -1  # ASE's ammonia has its axis along z
end.positions += start.atoms.positions[1:].mean(0) - end.positions[1:].mean(0)  # the hydrogens stay where they are

potential = load_potential("organic")  # loaded once; every image has a calculator of its own on it
images = [start.atoms.copy(), *(start.atoms.copy() for _ in range(5)), end]
for image in images:
    image.calc = EquipotCalculator(potential)
band = NEB(images, climb=True, method="improvedtangent")
band.interpolate()
FIRE(band, logfile=None).run(fmax=0.05, steps=200)

energies = [image.get_potential_energy() - start.energy_ev for image in images]
print("energies along the way:", " ".join(f"{energy:.3f}" for energy in energies), "eV")
print(f"barrier: {max(energies):.3f} eV")
assert 0.1 < max(energies) < 0.5
assert abs(energies[-1]) < 0.01  # a molecule and its mirror image have one energy

"""Molecular dynamics by ASE's integrator, written to a trajectory: look at it with `ase gui ethanol.traj`."""

import numpy as np
from ase.build import molecule
from ase.io import read
from ase.md.velocitydistribution import Stationary, thermalize_momenta
from ase.md.verlet import VelocityVerlet
from ase.units import fs

from equipot import EquipotCalculator

ethanol = molecule("CH3CH2OH")
ethanol.calc = EquipotCalculator("organic", dtype="float32")
thermalize_momenta(ethanol, temperature_K=300, rng=np.random.default_rng(1))
Stationary(ethanol)

before = ethanol.get_total_energy()
dynamics = VelocityVerlet(ethanol, timestep=0.5 * fs, trajectory="ethanol.traj", loginterval=10)
dynamics.run(200)
drift_mev = 1000 * (ethanol.get_total_energy() - before) / len(ethanol)
print(f"{len(read('ethanol.traj', ':'))} frames; the energy changed by {drift_mev:.3f} meV per atom in 100 fs")
assert abs(drift_mev) < 2.0

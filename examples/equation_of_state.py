"""The bulk modulus of tungsten from eleven volumes, computed as one batch."""

import numpy as np
from ase.build import bulk
from ase.eos import EquationOfState
from ase.units import GPa

from equipot import singlepoint

constants = np.linspace(3.10, 3.27, 11)
results = singlepoint([bulk("W", a=a) for a in constants], "elements")
fit = EquationOfState(constants**3 / 2, [result.energy_ev for result in results], eos="birchmurnaghan")
volume, energy, modulus = fit.fit(warn=False)
print(f"a = {(2 * volume) ** (1 / 3):.3f} Å (experiment 3.165), B = {modulus / GPa:.0f} GPa (experiment 310)")
assert abs((2 * volume) ** (1 / 3) - 3.18) < 0.03
assert 250 < modulus / GPa < 370

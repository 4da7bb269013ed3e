"""Relax a crystal with ASE's own optimizer and cell filter: the calculator is one like any other."""

from ase.build import bulk
from ase.filters import FrechetCellFilter
from ase.optimize import BFGS
from ase.units import GPa

from equipot import EquipotCalculator, relax

silicon = bulk("Si", cubic=True, a=5.3)
silicon.rattle(0.05, seed=1)
start = silicon.copy()

silicon.calc = EquipotCalculator("elements")
optimizer = BFGS(FrechetCellFilter(silicon, scalar_pressure=1.0 * GPa), logfile=None)
converged = optimizer.run(fmax=0.01, steps=200)
print(f"ASE:  {optimizer.nsteps} steps, {silicon.get_volume():.3f} Å³")
assert converged

# The same minimum, by the engine that also runs thousands of these at once and can be interrupted.
(result,) = relax([start], "elements", cell_filter="frechet", pressure_gpa=1.0, optimizer="lbfgs", fmax_ev_per_ang=0.01)
print(f"here: {result.n_steps} steps, {result.volume_ang3:.3f} Å³, {result.pressure_gpa:.3f} GPa")
assert abs(result.volume_ang3 - silicon.get_volume()) < 0.1

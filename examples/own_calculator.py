"""Does a calculator keep what relaxations and dynamics rely on? Eight promises, checked on a system of yours."""

from ase.build import bulk, molecule
from ase.calculators.lj import LennardJones

from equipot import EquipotCalculator
from equipot.calculator.contract import check_calculator


class Careless(LennardJones):
    """Forces half a percent too large: relaxations still converge, and dynamics drift."""

    def calculate(self, *args, **kwargs):
        super().calculate(*args, **kwargs)
        self.results["forces"] = 1.005 * self.results["forces"]


argon = bulk("Ar", a=1.6, cubic=True)  # in units of sigma
argon.rattle(0.02, seed=1)
acid = molecule("HCOOH")
acid.rattle(0.05, seed=1)

print("ours, on formic acid")
ours = list(check_calculator(lambda: EquipotCalculator("organic"), [acid]))
print(*ours, sep="\n")
print("the careless one, on argon")
careless = list(check_calculator(Careless, [argon]))
print(*careless, sep="\n")
assert not any(finding.broken for finding in ours)
assert any(finding.broken for finding in careless if finding.promise.startswith("forces"))

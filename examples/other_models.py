"""Models by name: ours, ours with dispersion, and those of other packages once they are installed."""

from ase.build import bulk

from equipot import relax
from equipot.calculator.plugins import find_calculators
from equipot.errors import InvalidParameterError

copper = bulk("Cu", cubic=True)
for model in ("elements", "elements+d3", "emt", "sevennet-0"):
    try:
        (result,) = relax([copper], model, cell_filter="frechet", optimizer="lbfgs")
    except InvalidParameterError as error:
        print(f"{model:12} {error}")
        continue
    print(f"{model:12} a = {result.volume_ang3 ** (1 / 3):.3f} Å (experiment 3.615)")

installed = [name for name, plugin in find_calculators().items() if plugin.is_installed]
print("announced and installed:", ", ".join(sorted(installed)))

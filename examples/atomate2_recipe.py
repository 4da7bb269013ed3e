"""atomate2's makers with EquipotCalculator: a relaxation, and a static job on what comes out (needs atomate2).

The calculator is named by where it is imported from; a job that is sent to another machine needs equipot there. In the
place of EquipotCalculator may stand RemoteCalculator, with the address of a service in `calculator_kwargs`.
"""

from ase.build import bulk
from atomate2.forcefields.jobs import ForceFieldRelaxMaker, ForceFieldStaticMaker
from jobflow import Flow, run_locally
from pymatgen.io.ase import AseAtomsAdaptor

EQUIPOT = {"@module": "equipot", "@callable": "EquipotCalculator"}
OPTIONS = {"model": "elements"}

relax = ForceFieldRelaxMaker(force_field_name=EQUIPOT, calculator_kwargs=OPTIONS, relax_kwargs={"fmax": 0.02})
static = ForceFieldStaticMaker(force_field_name=EQUIPOT, calculator_kwargs=OPTIONS)

if __name__ == "__main__":
    relaxed = relax.make(AseAtomsAdaptor.get_structure(bulk("Mo", cubic=True, a=3.1)))
    energy = static.make(relaxed.output.structure)
    documents = run_locally(Flow([relaxed, energy]), log=False, ensure_success=True)
    first, second = (documents[one.uuid][1].output for one in (relaxed, energy))
    print(first.structure.lattice.a, "Å", second.output.energy, "eV", second.forcefield_name, second.forcefield_version)
    assert first.is_force_converged
    assert abs(second.output.energy - first.output.energy) < 1e-6

"""A recipe as workflow managers want it: a plain function from a structure to a plain dictionary.

With quacc put `@job` (from quacc import job) above it, with jobflow and atomate2 `@job` (from jobflow import job), with
Prefect `@task`, with Parsl `@python_app`: nothing else changes. The structure may be pymatgen's, by way of
`AseAtomsAdaptor`, and goes in and out as a dictionary, which any store can keep.
"""

import json
from typing import Any

from ase import Atoms
from ase.build import bulk
from ase.io.jsonio import decode, encode

from equipot import __version__, relax, singlepoint


def relax_job(structure: dict[str, Any], model: str = "elements", **params: Any) -> dict[str, Any]:
    """Relax cell and atoms, then a single point; everything in the answer is JSON."""
    atoms = Atoms.fromdict(structure)
    (relaxed,) = relax([atoms], model, **{"cell_filter": "frechet", "fmax_ev_per_ang": 0.02, **params})
    (static,) = singlepoint([relaxed.atoms], model)
    final = relaxed.atoms.copy()
    return {
        "name": "equipot relax",
        "is_converged": relaxed.converged,
        "outcome": relaxed.outcome,
        "energy_ev": static.energy_ev,
        "stress_ev_per_ang3": static.stress_ev_per_ang3.tolist(),
        "structure": plain(final),
        "model": relaxed.model,
        "model_sha256": relaxed.model_sha256,
        "equipot": __version__,
    }


def plain(atoms: Atoms) -> dict[str, Any]:
    """Atoms as a dictionary that JSON can hold."""
    return json.loads(encode(atoms.todict()))


if __name__ == "__main__":
    document = relax_job(decode(json.dumps(plain(bulk("Mo", cubic=True, a=3.1)))), pressure_gpa=0.0)
    print(json.dumps({key: document[key] for key in ("is_converged", "energy_ev", "model", "model_sha256")}, indent=2))
    assert document["is_converged"]
    again = decode(json.dumps(document["structure"]))
    assert Atoms.fromdict(again).get_volume() > 0

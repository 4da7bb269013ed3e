"""A recipe as workflow managers want it: a plain function from a structure to a plain dictionary, all of it JSON.

`job` (from jobflow import job, or from quacc import job), Prefect's `task` or Parsl's `python_app` around it make it a
step of theirs: `job(relax_job)(structure)`. What comes out goes into the next step as it is. For the documents that
quacc and atomate2 write themselves see quacc_recipe.py and atomate2_recipe.py.
"""

import json
from typing import Any

from ase.build import bulk

from equipot import __version__, relax
from equipot.calculator.convert import from_atoms


def relax_job(structure: dict[str, Any], model: str = "elements", **params: Any) -> dict[str, Any]:
    """Relax cell and atoms; `structure` is the JSON form that the HTTP API takes, in and out."""
    (relaxed,) = relax([structure], model, **{"cell_filter": "frechet", "fmax_ev_per_ang": 0.02, **params})
    return {
        "name": "equipot relax",
        "is_converged": relaxed.converged,
        "outcome": str(relaxed.outcome.value),
        "energy_ev": relaxed.energy_ev,
        "stress_ev_per_ang3": relaxed.stress_ev_per_ang3.tolist(),
        "structure": from_atoms(relaxed.atoms).to_json(),
        "model": relaxed.model,
        "model_sha256": relaxed.model_sha256,
        "level_of_theory": relaxed.level_of_theory,
        "equipot": __version__,
    }


if __name__ == "__main__":
    loose = relax_job(from_atoms(bulk("Mo", cubic=True, a=3.1)).to_json())
    pressed = relax_job(json.loads(json.dumps(loose))["structure"], pressure_gpa=10.0)  # the next step of a workflow
    for document in (loose, pressed):
        print(document["outcome"], document["energy_ev"], document["model"], document["level_of_theory"])
        assert document["is_converged"]
    assert pressed["structure"]["cell"][0][0] < loose["structure"]["cell"][0][0]

"""A recipe of quacc with EquipotCalculator: relax cell and atoms, and get quacc's own document (needs quacc).

Run it with QUACC_WORKFLOW_ENGINE set to the manager you use (or to None: then it runs at once, as here).
"""

import os

os.environ.setdefault("QUACC_WORKFLOW_ENGINE", "None")

from typing import Any

from ase import Atoms
from ase.build import bulk
from quacc import job
from quacc.runners.ase import Runner
from quacc.schemas.ase import Summarize

from equipot import EquipotCalculator


@job
def relax_job(atoms: Atoms, model: str = "elements", relax_cell: bool = True, **opt_params: Any) -> dict[str, Any]:
    """Relax by quacc's optimizer; the document says on which weights (parameters: model, sha256, level_of_theory)."""
    dyn = Runner(atoms, EquipotCalculator(model)).run_opt(relax_cell=relax_cell, **opt_params)
    return Summarize(additional_fields={"name": "equipot relax"}).opt(dyn)


if __name__ == "__main__":
    document = relax_job(bulk("Mo", cubic=True, a=3.1), fmax=0.02)
    print(document["results"]["energy"], "eV", document["parameters"])
    assert document["converged"]
    assert document["parameters"]["model"] == "elements-2"

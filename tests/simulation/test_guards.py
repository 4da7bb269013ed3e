"""Guards look where the atoms are, and watching costs no library that the forces do not need."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.calculators.emt import EMT

from equipot.simulation.api import relax

RELAX_WITH_A_GUARD = """
import sys
from ase.build import bulk
from ase.calculators.emt import EMT
from equipot.params import Guard, Guards
from equipot.simulation.api import relax

relax(bulk("Cu", cubic=True), model=EMT(), max_steps=1, guards=Guards(min_distance_ang=Guard(limit=1.0)))
print(sorted({"torch", "vesin"} & set(sys.modules)))
"""


def test_two_atoms_that_meet_across_the_edge_of_the_cell_are_close() -> None:
    atoms = Atoms("Cu2", positions=[(0.5, 5, 5), (9.1, 5, 5)], cell=np.eye(3) * 10, pbc=True)
    guards = {"min_distance_ang": {"limit": 1.5, "policy": "stop"}}
    (result,) = relax(atoms, model=EMT(), max_steps=1, guards=guards)
    assert result.outcome == "guard_stopped"
    atoms.pbc = False
    (result,) = relax(atoms, model=EMT(), max_steps=1, guards=guards)
    assert result.outcome == "converged"


def test_a_relaxation_with_another_calculator_and_a_guard_loads_no_torch(tmp_path: Path) -> None:
    command = [sys.executable, "-c", RELAX_WITH_A_GUARD]
    out = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    assert out.stdout.strip() == "[]"

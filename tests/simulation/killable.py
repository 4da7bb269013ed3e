"""A run made to be killed: `python killable.py KIND DIRECTORY [STEPS]` begins it or goes on where it was left."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from ase.build import bulk, fcc111, molecule
from ase.calculators.emt import EMT
from ase.constraints import FixAtoms

from equipot.calculator.convert import from_atoms
from equipot.params import RelaxParams
from equipot.simulation.api import run_md
from equipot.simulation.providers import AseProvider
from equipot.simulation.run import Run

RAMP_K = [{"time_ps": 0, "temperature_k": 100}, {"time_ps": 0.08, "temperature_k": 600}]
RAMP_GPA = [{"time_ps": 0, "pressure_gpa": 0}, {"time_ps": 0.06, "pressure_gpa": 5}]


def main(kind: str, folder: str, n_steps: str = "100") -> None:
    """KIND: relax, lbfgs, an ensemble, or an ensemble and a thermostat with ramps (npt-bussi)."""
    directory = Path(folder)
    crystal, slab, water = bulk("Cu", cubic=True), fcc111("Cu", (2, 1, 2), vacuum=5.0), molecule("H2O")
    slab.set_constraint(FixAtoms(indices=[0]))
    structures = [crystal, slab, water]
    for atoms in structures:
        atoms.rattle(0.12, seed=4)
    if kind in ("relax", "lbfgs"):
        if (directory / "request.json").exists():
            run = Run.resume(directory, AseProvider(EMT()))
        else:
            params = RelaxParams(fmax_ev_per_ang=1e-5, max_steps=80, checkpoint_every_s=0.01)
            if kind == "lbfgs":  # small steps make a long history
                more = {"optimizer": "lbfgs", "cell_filter": "frechet", "max_step_ang": 0.002}
                params = RelaxParams.model_validate({**params.model_dump(), **more})
                structures = [crystal, crystal.repeat((2, 1, 1)), crystal.repeat((1, 1, 2))]
            run = Run.start(
                directory,
                kind="relax",
                structures=[from_atoms(atoms) for atoms in structures],
                params=params,
                provider=AseProvider(EMT()),
            )
        with run:
            while run.advance(seconds=0.05):
                pass
        return
    ensemble, _, thermostat = kind.partition("-")
    given: dict[str, Any] = (
        {"thermostat": {"type": thermostat}, "temperature_k": RAMP_K} if thermostat else {"temperature_k": 500.0}
    )
    if ensemble == "npt":
        given["barostat"] = {"pressure_gpa": RAMP_GPA, "pdamp_fs": 100.0, "isotropic": False}
        structures = [crystal, crystal.repeat((2, 1, 1)), crystal.repeat((1, 1, 2))]
    run_md(
        structures,
        EMT(),
        output=directory,
        resume=True,
        ensemble=ensemble,
        n_steps=int(n_steps),
        timestep_fs=1.0,
        **given,
        seed=[7, 8, 9],
        save_every=7,
        thermo_every=3,
        checkpoint_every_s=0.01,
    )


if __name__ == "__main__":
    main(*globals().get("arguments", sys.argv[1:]))  # runpy hands them over as a global

"""L-BFGS learns the Hessian, forgets what is old, and carries all of it through a checkpoint."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase.build import bulk, molecule
from ase.calculators.emt import EMT
from hypothesis import given, settings
from hypothesis import strategies as st

from equipot.calculator.convert import from_atoms, to_atoms
from equipot.params import RelaxParams
from equipot.simulation.api import relax
from equipot.simulation.engine import Engine, Moving
from equipot.simulation.motions.lbfgs import MEMORY, Lbfgs, newton_step
from equipot.simulation.providers import AseProvider
from equipot.simulation.run import Run
from equipot.simulation.trajectory import read_frames, read_results, read_thermo
from equipot.simulation.verdicts import Outcome

from .relaxation_set import ASE_OPTIMIZERS, rattled


def everything(directory: Path) -> list[Any]:
    """All that can be read of a run, as bits."""
    frames = [
        (frame.tags, frame.structure.positions_ang.tobytes(), frame.structure.cell_ang.tobytes(), frame.energy_ev)
        for frame in read_frames(directory)
        if frame.structure.cell_ang is not None
    ]
    return [frames, list(read_thermo(directory)), sorted(read_results(directory), key=lambda r: int(r["system_idx"]))]


@settings(max_examples=5, deadline=None, derandomize=True)
@given(
    st.sampled_from(["fire", "lbfgs"]),
    st.sampled_from(["frechet", "unit_cell"]),
    st.booleans(),
    st.lists(st.integers(1, 12), min_size=1, max_size=3),
)
def test_a_relaxation_resumed_at_any_step_ends_in_the_same_bits(
    tmp_path_factory: pytest.TempPathFactory, optimizer: str, cell_filter: str, fix_symmetry: bool, turns: list[int]
) -> None:
    folder = tmp_path_factory.mktemp("resumed")
    params = RelaxParams.model_validate(
        {
            "optimizer": optimizer,
            "cell_filter": cell_filter,
            "fix_symmetry": fix_symmetry,
            "pressure_gpa": 2.0,
            "fmax_ev_per_ang": 1e-4,
            "max_steps": 20,
            "checkpoint_every_s": 1e6,
        }
    )
    shaken = 0.001 if fix_symmetry else 0.1
    structures = [from_atoms(rattled(bulk(s, cubic=True), 0.1 * shaken, stdev=shaken)) for s in ("Cu", "Al")]
    for name in ("once", "again"):
        run = Run.start(folder / name, kind="relax", structures=structures, params=params, provider=AseProvider(EMT()))
        for steps in turns if name == "again" else []:
            run.advance(steps=steps)
            if run.done:
                break
            run.checkpoint()
            run.advance(steps=2)  # is lost, and done again
            run.close()
            run = Run.resume(folder / name, AseProvider(EMT()))
        with run:
            while run.advance():
                pass
    assert everything(folder / "once") == everything(folder / "again")


def test_the_newton_step_is_the_exact_one_where_the_hessian_has_been_seen() -> None:
    """After steps along every direction of a quadratic valley, one step leads to its floor."""
    random = np.random.default_rng(1)
    root = random.normal(size=(6, 6))
    hessian = root @ root.T + np.eye(6)
    steps = np.linalg.qr(random.normal(size=(6, 6)))[0]
    for i in range(6):  # conjugate directions keep what was learned before them
        for j in range(i):
            steps[i] -= steps[j] * (steps[j] @ hessian @ steps[i]) / (steps[j] @ hessian @ steps[j])
    changes = steps @ hessian
    curvatures = 1.0 / (steps * changes).sum(axis=1)
    force = random.normal(size=6)
    shape = (6, 2, 3)
    found = newton_step(force.reshape(2, 3), steps.reshape(shape), changes.reshape(shape), curvatures)
    assert np.abs(found.ravel() - np.linalg.solve(hessian, force)).max() < 1e-12


def test_no_atom_moves_farther_than_allowed_and_the_farthest_goes_all_the_way() -> None:
    structure = from_atoms(rattled(bulk("Cu", cubic=True), stdev=0.3))
    motion = Lbfgs(structure, RelaxParams(optimizer="lbfgs", max_step_ang=0.02))
    engine = Engine(AseProvider(EMT()))
    engine.add(Moving(0, structure, motion, motion.start()))
    places = [engine.step()[0].system.state.positions_ang for _ in range(6)]
    longest = [np.linalg.norm(b - a, axis=1).max() for a, b in pairwise(places)]
    assert longest == pytest.approx([0.02] * 5, rel=1e-12)


def test_it_remembers_a_hundred_steps_as_ase_does() -> None:
    """Small steps over a long way: the 130th is still ASE's, and no more than the last hundred are kept."""
    structure = from_atoms(rattled(bulk("Cu", cubic=True).repeat((2, 1, 1)), stdev=0.25))
    atoms = to_atoms(structure)
    atoms.calc = EMT()
    theirs = ASE_OPTIMIZERS["lbfgs"](atoms, logfile=None, maxstep=0.002).irun(fmax=1e-6, steps=130)
    motion = Lbfgs(structure, RelaxParams(optimizer="lbfgs", max_step_ang=0.002, fmax_ev_per_ang=1e-6, max_steps=130))
    engine = Engine(AseProvider(EMT()))
    engine.add(Moving(0, structure, motion, motion.start()))
    for _ in theirs:
        (event,) = engine.step()
        assert np.abs(event.system.state.positions_ang - atoms.positions).max() < 1e-9
    kept = event.system.state.tensors
    assert event.system.state.step == 130
    assert {len(np.asarray(kept[name])) for name in ("steps", "changes", "curvatures")} == {MEMORY}


def test_it_needs_far_fewer_forces_than_fire() -> None:
    structures = [rattled(bulk("Cu", cubic=True)), rattled(bulk("Ni"), 0.03), rattled(molecule("CH4"))]
    n_calls = {
        optimizer: sum(
            result.n_steps
            for result in relax(structures, EMT(), optimizer=optimizer, fmax_ev_per_ang=0.01, max_steps=1000)
            if result.outcome == Outcome.CONVERGED
        )
        for optimizer in ("fire", "lbfgs")
    }
    assert 0 < 2 * n_calls["lbfgs"] < n_calls["fire"]


def test_every_system_has_a_history_of_its_own() -> None:
    """Together or alone, in any company: the same bits."""
    structures = [rattled(bulk(s, cubic=True), seed=i) for i, s in enumerate(["Cu", "Al", "Ni"])]
    params: dict[str, Any] = {"optimizer": "lbfgs", "cell_filter": "frechet", "fmax_ev_per_ang": 0.01}
    together = relax(structures, EMT(), **params)
    alone = [relax(structure, EMT(), **params)[0] for structure in structures]
    for one, other in zip(together, alone, strict=True):
        assert one.atoms is not None
        assert other.atoms is not None
        assert one.n_steps == other.n_steps
        assert one.atoms.positions.tobytes() == other.atoms.positions.tobytes()
        assert one.atoms.cell.array.tobytes() == other.atoms.cell.array.tobytes()

"""`relax`, `run_md` and `singlepoint` as a user meets them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones
from ase.constraints import FixAtoms, FixBondLength

import equipot
from equipot.calculator.convert import from_atoms
from equipot.errors import (
    AtomsTooCloseError,
    ConflictError,
    InvalidParameterError,
    NotResumableError,
    UnknownModelError,
    UnsupportedElementError,
)
from equipot.models.loading import load_potential
from equipot.simulation.api import relax, resume_run, run_md, singlepoint
from equipot.simulation.verdicts import Outcome

same: Any = np.array_equal  # of values that may be None too


def rattled() -> Atoms:
    atoms: Atoms = bulk("Cu", cubic=True)
    atoms.rattle(0.08, seed=3)
    return atoms


def water() -> Atoms:
    atoms: Atoms = molecule("H2O")
    atoms.rattle(0.05, seed=3)
    return atoms


def test_relax_takes_atoms_structures_and_json_and_gives_the_same(tmp_path: Path) -> None:
    atoms = rattled()
    structure = from_atoms(atoms)
    results = relax([atoms, structure, structure.to_json()], EMT())
    assert [r.system_idx for r in results] == [0, 1, 2]
    assert all(r.converged and r.outcome == Outcome.CONVERGED for r in results)
    assert len({r.energy_ev for r in results}) == 1
    places = [r.atoms.positions for r in results if r.atoms is not None]
    assert len(places) == 3
    assert all(same(place, places[0]) for place in places)
    assert relax(atoms, EMT())[0].energy_ev == results[0].energy_ev


def test_the_atoms_given_are_not_changed_and_those_returned_know_their_numbers() -> None:
    atoms = rattled()
    atoms.info["name"] = "mine"
    atoms.set_tags([1, 2, 3, 4])
    atoms.set_constraint(FixAtoms([0]))
    calculator = atoms.calc = EMT()
    before = atoms.copy()
    (result,) = relax(atoms, EMT())
    assert atoms == before
    assert atoms.calc is calculator
    assert result.atoms is not None
    assert result.atoms is not atoms
    assert result.atoms.info == {"name": "mine"}
    assert result.atoms.get_tags().tolist() == [1, 2, 3, 4]
    assert result.atoms.get_potential_energy() == result.energy_ev
    assert same(result.atoms.get_forces(apply_constraint=False), result.forces_ev_per_ang)
    assert same(result.atoms.get_stress(apply_constraint=False), result.stress_ev_per_ang3)
    assert np.linalg.norm(result.atoms.get_forces(), axis=1).max() == result.fmax_ev_per_ang


def test_singlepoint_is_what_the_calculator_says() -> None:
    atoms = rattled()
    (result,) = singlepoint(atoms, EMT())
    atoms.calc = EMT()
    assert result.energy_ev == atoms.get_potential_energy()
    assert same(result.forces_ev_per_ang, atoms.get_forces())
    assert same(result.stress_ev_per_ang3, atoms.get_stress())


def test_any_ase_calculator_will_do() -> None:
    pair = Atoms("Ar2", [[0, 0, 0], [0, 0, 1.3]])
    (result,) = relax(pair, LennardJones(), fmax_ev_per_ang=0.001)
    assert result.atoms is not None
    assert result.atoms.get_distance(0, 1) == pytest.approx(2 ** (1 / 6), abs=1e-3)


def test_a_calculator_finds_charge_and_spin_where_the_user_put_them() -> None:
    class Curious(EMT):
        seen: ClassVar[list[Any]] = []

        def calculate(self, atoms: Any = None, *rest: Any, **more: Any) -> None:
            self.seen.append((atoms.info.get("charge"), atoms.info.get("spin_multiplicity")))
            super().calculate(atoms, *rest, **more)

    ion = water()
    ion.info.update(charge=1, spin_multiplicity=2)
    (result,) = singlepoint(ion, Curious())
    assert set(Curious.seen) == {(1.0, 2)}
    assert result.atoms is not None
    assert result.atoms.info["charge"] == 1


def test_a_model_is_a_name_a_card_or_a_potential_and_all_give_the_same(data_dir: Path) -> None:
    models = ("tiny", "tiny-1", data_dir / "potentials" / "tiny-1.json", load_potential("tiny", device="cpu"))
    results = [singlepoint(water(), model)[0] for model in models]
    assert len({r.energy_ev for r in results}) == 1
    assert all(r.model == "tiny-1" and r.model_sha256 == load_potential("tiny").sha256 for r in results)
    assert results[0].dtype == "float64"
    assert results[0].level_of_theory
    single = singlepoint(water(), "tiny", dtype="float32", device="cpu")[0]
    assert single.dtype == "float32"
    assert single.energy_ev == pytest.approx(results[0].energy_ev, abs=1e-3)


def test_our_own_calculator_gives_what_the_model_gives_by_name() -> None:
    calculator = equipot.EquipotCalculator("tiny")
    (by_name,), (by_calculator,) = singlepoint(water(), "tiny"), singlepoint(water(), calculator)
    assert by_calculator.energy_ev == by_name.energy_ev
    assert by_calculator.model_sha256 == by_name.model_sha256


def test_a_relaxation_with_a_potential_ends_where_its_calculator_agrees() -> None:
    (result,) = relax(water(), "tiny", fmax_ev_per_ang=0.02, max_steps=300)
    assert result.atoms is not None
    fresh = result.atoms.copy()
    fresh.calc = equipot.EquipotCalculator("tiny")
    assert fresh.get_potential_energy() == result.energy_ev
    assert same(fresh.get_forces(), result.forces_ev_per_ang)
    assert result.converged == (result.fmax_ev_per_ang is not None and result.fmax_ev_per_ang < 0.02)


FRESH_PROCESS = """
import json, sys
from equipot.simulation.api import relax, run_md

answers = []
for case in json.loads(sys.stdin.read()):
    (result,) = {"relax": relax, "md": run_md}[case["kind"]](case["structure"], "tiny", device="cpu", **case["params"])
    guard = result.guard and {name: result.guard[name] for name in ("name", "limit", "value")}
    answers.append([str(result.outcome), result.energy_ev, result.fmax_ev_per_ang, guard])
print(json.dumps(answers))
"""


def test_the_structure_returned_gives_the_same_verdict_in_another_process() -> None:
    """Converged, used up and stopped, to the last bit (of the temperature nearly: Atoms hold momenta)."""
    given: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
        ("relax", {"fmax_ev_per_ang": 0.3, "max_steps": 200}, {"max_steps": 0}),
        ("relax", {"fmax_ev_per_ang": 1e-6, "max_steps": 3}, {"max_steps": 0}),
        ("relax", {"guards": {"max_force_ev_per_ang": {"limit": 0.1}}, "fmax_ev_per_ang": 0.01}, {"max_steps": 0}),
        (
            "md",
            {"ensemble": "nve", "n_steps": 50, "seed": 4, "guards": {"max_temperature_k": {"limit": 330.0}}},
            {"n_steps": 0, "velocities": "given"},
        ),
    ]
    cases: list[dict[str, Any]] = []
    expected: list[list[Any]] = []
    for kind, params, again in given:
        (result,) = (relax if kind == "relax" else run_md)(water(), "tiny", device="cpu", **params)
        assert result.atoms is not None
        structure = from_atoms(result.atoms).to_json()
        cases.append({"kind": kind, "params": {**params, **again}, "structure": structure})
        guard = result.guard and {name: result.guard[name] for name in ("name", "limit", "value")}
        expected.append([str(result.outcome), result.energy_ev, result.fmax_ev_per_ang, guard])
    assert [outcome for outcome, *_ in expected] == ["converged", "max_steps", "guard_stopped", "guard_stopped"]
    command = [sys.executable, "-c", FRESH_PROCESS]
    answer = subprocess.run(command, input=json.dumps(cases), capture_output=True, text=True, check=True)
    found = json.loads(answer.stdout)
    assert found[3][-1].pop("value") == pytest.approx(expected[3][-1].pop("value"), rel=1e-12)
    assert found == expected


def test_one_bad_structure_in_a_list_is_rejected_and_the_others_go_on() -> None:
    close, unknown = Atoms("H2", [[0, 0, 0], [0, 0, 0.01]]), molecule("NaCl")
    bonded = water()
    bonded.set_constraint(FixBondLength(0, 1))
    results = singlepoint([water(), close, unknown, {"numbers": [1]}, bonded], "tiny")
    assert [r.outcome for r in results] == [Outcome.COMPLETED, *[Outcome.REJECTED] * 4]
    codes = [r.reason.code if r.reason else None for r in results]
    assert codes[:4] == [None, "atoms-too-close", "unsupported-element", "invalid-structure"]
    for i, result in enumerate(results[1:], 1):
        assert result.reason is not None
        assert result.reason.culprits[0].pointer.startswith(f"/structures/{i}")
        assert result.atoms is None
    assert results[0].energy_ev == singlepoint(water(), "tiny")[0].energy_ev


def test_a_bad_structure_alone_raises_its_error() -> None:
    with pytest.raises(AtomsTooCloseError):
        singlepoint(Atoms("H2", [[0, 0, 0], [0, 0, 0.01]]), "tiny")
    with pytest.raises(UnsupportedElementError, match="Na"):
        relax(molecule("NaCl"), "tiny")


def test_wrong_arguments_are_refused_before_anything_runs() -> None:
    with pytest.raises(InvalidParameterError, match="fmax"):
        relax(water(), EMT(), fmax=0.1)
    with pytest.raises(InvalidParameterError, match="exactly one of n_steps and duration_ps"):
        run_md(water(), EMT())
    with pytest.raises(UnknownModelError, match="tiny"):
        relax(water(), "tinny")
    with pytest.raises(InvalidParameterError, match="dtype"):
        relax(water(), EMT(), dtype="float32")


MD: dict[str, Any] = {"n_steps": 20, "timestep_fs": 1.0, "temperature_k": 300, "seed": 5, "save_every": 6}


def test_run_md_gives_the_end_the_trajectory_and_progress(tmp_path: Path) -> None:
    steps: list[int] = []
    frames: list[Atoms] = []
    results = run_md(
        [rattled(), water()], EMT(), on_progress=lambda p: steps.append(p.step), on_frame=frames.append, **MD
    )
    assert [r.outcome for r in results] == [Outcome.COMPLETED] * 2
    assert results[1].time_fs == 20.0
    assert [a.info["step"] for a in results[1].trajectory] == [0, 6, 12, 18, 20]
    assert results[1].trajectory[-1] == results[1].atoms, "positions and momenta, to the last bit"
    assert steps[-1] == 20
    assert len(frames) == 10
    assert results[0].seed == 5
    assert results[0].temperature_k is not None
    assert results[0].temperature_k > 0


def test_run_md_with_output_keeps_a_trajectory_that_is_read_when_asked_for(tmp_path: Path) -> None:
    (kept,) = run_md(water(), EMT(), output=tmp_path / "run", **MD)
    (not_kept,) = run_md(water(), EMT(), **MD)
    assert kept.atoms == not_kept.atoms
    assert len(kept.trajectory) == len(not_kept.trajectory) == 5
    assert kept.trajectory[1] == not_kept.trajectory[1]
    assert [a.info["step"] for a in kept.trajectory[::2]] == [0, 12, 20]
    assert [a.info["step"] for a in kept.trajectory[::-1]] == [20, 18, 12, 6, 0]
    with pytest.raises(IndexError):
        kept.trajectory[5]


def test_run_md_resumes_where_it_was_interrupted(tmp_path: Path) -> None:
    (whole,) = run_md(water(), "tiny", **MD)

    def interrupt(frame: Atoms) -> None:
        if frame.info["step"] == 12:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_md(water(), "tiny", output=tmp_path / "run", on_frame=interrupt, **MD)
    (resumed,) = run_md(water(), "tiny", output=tmp_path / "run", resume=True, **MD)
    assert resumed.atoms == whole.atoms
    assert resumed.energy_ev == whole.energy_ev
    assert resumed.bitwise
    assert [a.info["step"] for a in resumed.trajectory] == [0, 6, 12, 18, 20]
    (again,) = resume_run(tmp_path / "run")
    assert again.atoms is not None
    assert again.atoms == whole.atoms


def test_a_resume_on_another_number_of_threads_is_still_exact(tmp_path: Path) -> None:
    structures = [water(), rattled(), molecule("CH4")]
    whole = run_md(structures, "tiny", n_threads=3, **MD)

    def interrupt(frame: Atoms) -> None:
        if frame.info["step"] == 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_md(structures, "tiny", output=tmp_path / "run", on_frame=interrupt, n_threads=1, **MD)
    for one, other in zip(resume_run(tmp_path / "run", n_threads=2), whole, strict=True):
        assert one.bitwise
        assert one.energy_ev == other.energy_ev
        assert one.atoms == other.atoms


def test_an_output_folder_is_not_overwritten_and_a_resume_does_what_was_asked_first(tmp_path: Path) -> None:
    run_md(water(), EMT(), output=tmp_path / "run", **MD)
    with pytest.raises(ConflictError, match="already holds a run"):
        run_md(water(), EMT(), output=tmp_path / "run", **MD)
    with pytest.raises(NotResumableError, match="other temperature_k"):
        run_md(water(), EMT(), output=tmp_path / "run", resume=True, **{**MD, "temperature_k": 400})
    with pytest.raises(NotResumableError, match="other structures"):
        run_md(rattled(), EMT(), output=tmp_path / "run", resume=True, **MD)
    with pytest.raises(NotResumableError, match="begun with model emt"):
        run_md(water(), LennardJones(), output=tmp_path / "run", resume=True, **MD)


def test_a_seed_that_is_not_given_is_drawn_and_told(tmp_path: Path) -> None:
    given = {k: v for k, v in MD.items() if k != "seed"}
    (first,), (second,) = run_md(water(), EMT(), **given), run_md(water(), EMT(), **given)
    assert first.seed != second.seed
    (again,) = run_md(water(), EMT(), seed=first.seed, **given)
    assert again.atoms == first.atoms
    assert (
        run_md(water(), EMT(), output=tmp_path / "r", **given)[0].seed
        == run_md(water(), EMT(), output=tmp_path / "r", resume=True, **given)[0].seed
    )


def test_a_system_outside_the_training_domain_says_by_how_much() -> None:
    squeezed = molecule("H2O")
    squeezed.positions *= 0.6
    (result,) = singlepoint(squeezed, "tiny")
    assert result.domain_distance is not None
    assert result.domain_distance > 1.0
    assert f"{result.domain_distance:.2f} times" in result.warnings[0]

"""What equipot promises, tried on the whole stack from outside: real processes, a real Redis, real kills."""

from __future__ import annotations

import io
import os
import signal
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.io import read

from equipot import EquipotCalculator

from .conftest import Stack

N_STEPS = 200
SAME_EV = 1e-8  # eV and eV/Å: 17 digits of positions, another process and another batch in between
MD = {
    "ensemble": "nvt",
    "temperature_k": 300.0,
    "timestep_fs": 0.5,
    "n_steps": N_STEPS,
    "save_every": 10,
    "seed": 5,
    "checkpoint_every_s": 0.2,
}


def as_json(atoms: Atoms) -> dict[str, Any]:
    return {
        "symbols": list(atoms.symbols),
        "positions": atoms.get_positions().tolist(),
        "cell": atoms.cell.tolist() if atoms.pbc.any() else None,
        "pbc": atoms.pbc.tolist(),
    }


def ethanol() -> dict[str, Any]:
    return as_json(molecule("CH3CH2OH"))


def copper() -> dict[str, Any]:
    atoms = bulk("Cu", cubic=True).repeat((2, 1, 1))
    atoms.rattle(0.05, seed=1)
    return as_json(atoms)


def trajectory(stack: Stack, job_id: str, **query: Any) -> list[Atoms]:
    answer = stack.client.get(f"/v1/jobs/{job_id}/trajectory", params={"format": "extxyz", **query})
    assert answer.status_code == 200, answer.text
    frames = read(io.StringIO(answer.text), index=":", format="extxyz")
    assert isinstance(frames, list)
    return frames


def assert_same_bits(frames: list[Atoms], others: list[Atoms]) -> None:
    assert len(frames) == len(others)
    for frame, other in zip(frames, others, strict=True):
        np.testing.assert_array_equal(frame.get_positions(), other.get_positions())
        np.testing.assert_array_equal(frame.get_momenta(), other.get_momenta())
        np.testing.assert_array_equal(frame.get_forces(), other.get_forces())


@pytest.fixture(scope="module")
def uninterrupted(stack: Stack) -> list[Atoms]:
    """The frames of an MD run that nothing happened to."""
    job_id = stack.submit(kind="md", structures=[ethanol()], params=MD)
    record = stack.ended(job_id)
    assert record["state"] == "succeeded", record
    assert record["attempt"] == 1
    return trajectory(stack, job_id)


@pytest.mark.parametrize("structure", [ethanol, copper], ids=["molecule", "crystal"])
@pytest.mark.parametrize("kind", ["relax", "md"])
def test_every_saved_frame_has_the_energy_and_forces_a_notebook_gets_for_it(
    stack: Stack, kind: str, structure: Any
) -> None:
    params = {**MD, "n_steps": 40} if kind == "md" else {"fmax_ev_per_ang": 0.05, "max_steps": 30}
    job_id = stack.submit(kind=kind, structures=[structure()], params=params, tags=["frames"])
    assert stack.ended(job_id)["state"] == "succeeded"
    frames = trajectory(stack, job_id)
    assert len(frames) >= 2
    calculator = EquipotCalculator("tiny")
    for frame in frames:
        again = frame.copy()
        again.calc = calculator
        assert frame.get_potential_energy() == pytest.approx(again.get_potential_energy(), abs=SAME_EV)
        np.testing.assert_allclose(frame.get_forces(), again.get_forces(), rtol=0, atol=SAME_EV)


def test_a_job_can_be_followed_listed_and_its_results_read(stack: Stack) -> None:
    structures = [ethanol(), as_json(molecule("H2O"))]
    job_id = stack.submit(kind="relax", structures=structures, params={"fmax_ev_per_ang": 0.1}, tags=["followed"])
    events = stack.events(job_id)
    kinds = [kind for kind, _ in events]
    assert kinds[-1] == "end"
    assert {"state", "system"} <= set(kinds)

    record = stack.ended(job_id)
    assert record["params"]["max_steps"] == 500  # a default, resolved
    assert len(record["model_sha256"]) == 64
    assert record["progress"]["n_done"] == record["progress"]["n_systems"] == 2

    listed = stack.client.get("/v1/jobs", params={"tag": "followed"}).json()
    assert [item["id"] for item in listed["items"]] == [job_id]
    assert listed["next_page_token"] == ""

    systems = stack.client.get(f"/v1/jobs/{job_id}/systems").json()["items"]
    assert [item["system_idx"] for item in systems] == [0, 1]
    for item in systems:
        assert item["outcome"] in {"converged", "max_steps"}
        fmax = np.linalg.norm(item["forces_ev_per_ang"], axis=1).max()
        assert item["fmax_ev_per_ang"] == pytest.approx(fmax, rel=1e-12)
        assert (item["outcome"] == "converged") == (fmax <= 0.1)
        last = trajectory(stack, job_id, system=item["system_idx"])[-1]
        np.testing.assert_array_equal(last.get_positions(), item["structure"]["positions"])


def test_a_worker_killed_in_the_middle_leaves_no_trace_in_the_trajectory(
    stack: Stack, uninterrupted: list[Atoms]
) -> None:
    job_id = stack.submit(kind="md", structures=[ethanol()], params=MD)
    stack.wait_until("past a checkpoint", lambda: 0 < (stack.job(job_id)["checkpoint_step"] or 0) < N_STEPS, 60)
    workers = stack.descendants("worker")
    assert workers
    for pid in workers:
        os.kill(pid, signal.SIGKILL)
    early = trajectory(stack, job_id)

    record = stack.ended(job_id)
    assert record["state"] == "succeeded", record
    assert record["attempt"] == 2
    frames = trajectory(stack, job_id)
    assert_same_bits(frames, uninterrupted)
    assert_same_bits(frames[: len(early)], early)  # what was read is never taken back


@pytest.mark.parametrize("how", ["Ctrl-C", "power cut"])
def test_a_restart_of_everything_leaves_no_trace_in_the_trajectory(
    stack: Stack, uninterrupted: list[Atoms], how: str
) -> None:
    job_id = stack.submit(kind="md", structures=[ethanol()], params=MD)
    stack.wait_until("past a checkpoint", lambda: 0 < (stack.job(job_id)["checkpoint_step"] or 0) < N_STEPS, 60)
    if how == "Ctrl-C":
        stack.stop()
    else:
        stack.kill_everything()
    stack.start()
    record = stack.ended(job_id)
    assert record["state"] == "succeeded", record
    assert record["attempt"] == 2
    assert_same_bits(trajectory(stack, job_id), uninterrupted)


def test_a_cancelled_job_stops_soon_and_keeps_what_it_computed(stack: Stack) -> None:
    job_id = stack.submit(kind="md", structures=[ethanol()], params={**MD, "n_steps": 1_000_000})
    stack.wait_until("past a checkpoint", lambda: (stack.job(job_id)["checkpoint_step"] or 0) > 0, 60)
    assert stack.client.post(f"/v1/jobs/{job_id}/cancel").status_code == 202
    record = stack.ended(job_id)
    assert record["state"] == "cancelled"
    assert len(trajectory(stack, job_id)) > 1
    (system,) = stack.client.get(f"/v1/jobs/{job_id}/systems").json()["items"]
    assert system["outcome"] == "cancelled"


def test_a_bad_structure_is_refused_with_its_place_and_queues_nothing(stack: Stack) -> None:
    before = stack.client.get("/v1/jobs", params={"page_size": 1000}).json()["items"]
    body = {"kind": "relax", "model": "tiny", "structures": [ethanol(), as_json(molecule("PH3"))]}
    answer = stack.client.post("/v1/jobs", json=body)
    assert answer.status_code == 422
    assert answer.headers["Content-Type"] == "application/problem+json"
    problem = answer.json()
    assert problem["type"] == "/problems/unsupported-element"
    assert problem["errors"][0]["pointer"].startswith("/structures/1")
    assert problem["hint"]
    after = stack.client.get("/v1/jobs", params={"page_size": 1000}).json()["items"]
    assert [job["id"] for job in after] == [job["id"] for job in before]

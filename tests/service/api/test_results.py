"""What a job gives, computed by a real worker: results, trajectories in every format, time series, provenance."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

import h5py
import numpy as np
import pytest
from ase.io import iread
from ase.io.trajectory import TrajectoryReader

from equipot import __version__
from equipot.errors import PayloadTooLargeError
from equipot.service.api import downloads
from equipot.structure import structure_from_json

from .conftest import WATER, LiveApi

N_STEPS, SAVE_EVERY = 40, 10
N_FRAMES = N_STEPS // SAVE_EVERY + 1
N_SYSTEMS = 3  # in shards of two


@pytest.fixture(scope="module")
def finished(working_api: LiveApi) -> dict[str, Any]:
    """The record of a dynamics of three molecules that has ended."""
    params = {"n_steps": N_STEPS, "save_every": SAVE_EVERY, "thermo_every": 5, "seed": [1, 2, 3], "temperature_k": 50}
    body = working_api.job(kind="md", structures=[WATER] * N_SYSTEMS, params=params)
    answer = working_api.http.post("/v1/jobs", json=body, headers={"Prefer": "wait=25"})
    assert answer.status_code == 202
    record: dict[str, Any] = answer.json()
    assert record["state"] == "succeeded", record
    return record


def get(api: LiveApi, job: dict[str, Any], path: str, **query: Any) -> Any:
    answer = api.http.get(f"/v1/jobs/{job['id']}/{path}", params=query)
    assert answer.status_code == 200, answer.text
    return answer


def test_waiting_for_a_submission_gives_the_ended_job(finished: dict[str, Any]) -> None:
    assert finished["progress"] == {"step": N_STEPS, "n_steps": N_STEPS, "n_systems": N_SYSTEMS, "n_done": N_SYSTEMS}
    assert finished["outcomes"] == {"completed": N_SYSTEMS}


def test_every_system_has_a_result_with_numbers_and_a_final_structure(
    working_api: LiveApi, finished: dict[str, Any]
) -> None:
    page = get(working_api, finished, "systems", page_size=2).json()
    rest = get(working_api, finished, "systems", page_size=2, page_token=page["next_page_token"]).json()
    results = page["items"] + rest["items"]
    assert rest["next_page_token"] == ""
    assert [result["system_idx"] for result in results] == [0, 1, 2]
    for result in results:
        assert result["outcome"] == "completed"
        assert result["n_steps"] == N_STEPS
        assert result["model_sha256"] == finished["model_sha256"]
        forces = np.array(result["forces_ev_per_ang"])
        assert forces.shape == (3, 3)
        assert np.abs(forces.sum(axis=0)).max() < 1e-9  # nothing pushes the molecule as a whole
        structure_from_json(result["structure"])


def test_extxyz_traj_npz_and_jsonl_hold_the_same_frames(working_api: LiveApi, finished: dict[str, Any]) -> None:
    def data(format: str) -> bytes:
        answer = get(working_api, finished, "trajectory", format=format, system=1)
        assert answer.headers["x-frames"] == str(N_FRAMES)
        assert finished["id"] in answer.headers["content-disposition"]
        content: bytes = answer.content
        return content

    from_xyz = list(iread(io.StringIO(data("extxyz").decode()), format="extxyz", index=":"))
    from_traj = list(TrajectoryReader(io.BytesIO(data("traj"))))
    from_npz = np.load(io.BytesIO(data("npz")), allow_pickle=False)
    from_json = [json.loads(line) for line in data("jsonl").splitlines()]
    assert len(from_xyz) == len(from_traj) == len(from_npz["step"]) == len(from_json) == N_FRAMES
    assert [atoms.info["step"] for atoms in from_xyz] == list(range(0, N_STEPS + 1, SAVE_EVERY))
    for i in range(N_FRAMES):
        positions = from_traj[i].positions
        assert np.array_equal(from_xyz[i].positions, positions)
        assert np.array_equal(from_npz["positions_ang"][i], positions)
        assert np.array_equal(np.array(from_json[i]["positions"]), positions)
        assert from_xyz[i].get_potential_energy() == from_traj[i].get_potential_energy() == from_npz["energy_ev"][i]
        assert np.array_equal(from_xyz[i].get_forces(), from_traj[i].get_forces())


def test_h5md_of_one_system_has_the_same_numbers(working_api: LiveApi, finished: dict[str, Any]) -> None:
    from_npz = np.load(io.BytesIO(get(working_api, finished, "trajectory", format="npz", system=2).content))
    answer = get(working_api, finished, "trajectory", format="h5md", system=2)
    assert answer.headers["content-type"] == "application/x-hdf5"
    with h5py.File(io.BytesIO(answer.content)) as file:
        particles = file["particles/trajectory"]
        assert np.array_equal(particles["position/value"][:], from_npz["positions_ang"])
        assert np.array_equal(particles["velocity/value"][:], 1000 * from_npz["velocities_ang_per_fs"])
        assert file["parameters/equipot"].attrs["model_sha256"] == finished["model_sha256"]
        assert file["parameters/equipot"].attrs["seed"] == 3


def test_h5md_of_several_systems_is_refused_with_the_field_to_fill_in(
    working_api: LiveApi, finished: dict[str, Any]
) -> None:
    answer = working_api.http.get(f"/v1/jobs/{finished['id']}/trajectory", params={"format": "h5md"})
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["pointer"] == "query:system"


def test_a_file_that_would_fill_the_disk_is_refused_before_it_is_made(
    working_api: LiveApi, finished: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = downloads.Trajectory(working_api.store.shard_dirs(finished["id"]), downloads.Selection())
    n_bytes = found.n_frames * 3 * 9 * 8  # position, velocity and force of three atoms
    monkeypatch.setattr(downloads, "LARGEST_FILE_BYTES", n_bytes)
    assert b"".join(found.chunks("traj"))
    monkeypatch.setattr(downloads, "LARGEST_FILE_BYTES", n_bytes - 1)
    with pytest.raises(PayloadTooLargeError, match="fewer with stride"):
        found.chunks("traj")
    assert b"".join(found.chunks("extxyz"))


def test_a_frame_can_be_submitted_again(working_api: LiveApi, finished: dict[str, Any]) -> None:
    (line,) = get(working_api, finished, "trajectory", format="jsonl", system=0, start=-1).text.splitlines()
    body = working_api.job(kind="singlepoint", structures=[json.loads(line)])
    job = working_api.http.post("/v1/jobs", json=body, headers={"Prefer": "wait=20"}).json()
    (again,) = get(working_api, job, "systems").json()["items"]
    first = get(working_api, finished, "systems").json()["items"][0]
    assert again["energy_ev"] == first["energy_ev"]  # to the last bit
    assert again["forces_ev_per_ang"] == first["forces_ev_per_ang"]


@pytest.mark.parametrize(
    "selection",
    [
        {},
        {"start": 2},
        {"stop": -1},
        {"stride": 4},
        {"start": 1, "stop": 14, "stride": 3},
        {"start": 7, "stride": 2},
        {"start": -3},
        {"start": 9, "stop": 3},
        {"start": 10**30},
    ],
    ids=str,
)
def test_a_selection_over_all_shards_is_the_slice_of_the_whole(
    working_api: LiveApi, finished: dict[str, Any], selection: dict[str, int]
) -> None:
    def tags(**query: int) -> list[tuple[int, int]]:
        lines = get(working_api, finished, "trajectory", format="jsonl", **query).text.splitlines()
        infos = [json.loads(line)["info"] for line in lines]
        return [(info["system"], info["step"]) for info in infos]

    whole = tags()
    assert len(whole) == len(set(whole)) == N_SYSTEMS * N_FRAMES
    wanted = slice(selection.get("start"), selection.get("stop"), selection.get("stride"))
    assert tags(**selection) == whole[wanted]


def test_the_time_series_is_the_same_in_every_format(working_api: LiveApi, finished: dict[str, Any]) -> None:
    rows = get(working_api, finished, "thermo", system=2).json()["items"]
    assert [row["step"] for row in rows] == list(range(0, N_STEPS + 1, 5))
    assert {row["system"] for row in rows} == {2}
    assert all(row["temperature_k"] > 0 for row in rows[1:])
    lines = get(working_api, finished, "thermo", system=2, format="jsonl").text.splitlines()
    assert [json.loads(line) for line in lines] == rows
    table = list(csv.DictReader(io.StringIO(get(working_api, finished, "thermo", system=2, format="csv").text)))
    assert [float(row["energy_ev"]) for row in table] == [row["energy_ev"] for row in rows]
    some = get(working_api, finished, "thermo", system=2, start=1, stop=6, stride=2).json()["items"]
    assert some == rows[1:6:2]


def test_the_manifest_says_where_the_numbers_come_from(working_api: LiveApi, finished: dict[str, Any]) -> None:
    manifest = get(working_api, finished, "manifest").json()
    assert manifest["model"]["sha256"] == finished["model_sha256"]
    assert manifest["model"]["level_of_theory"]
    assert manifest["seed"] == [1, 2, 3]
    assert manifest["params"] == finished["params"]
    assert manifest["versions"]["equipot"] == __version__
    assert len(manifest["shards"]) == 2
    for shard in manifest["shards"]:
        assert shard["provider"]["sha256"] == finished["model_sha256"]
        assert (shard["provider"]["dtype"], shard["provider"]["device"]) == ("float64", "cpu")
        assert "torch" in shard["provider"]["pins"]


def test_a_trajectory_can_be_read_while_the_job_runs_and_only_grows(working_api: LiveApi) -> None:
    params = {"n_steps": 1_000_000, "save_every": 1, "checkpoint_every_s": 0.2, "seed": 1}
    job = working_api.submit(kind="md", params=params)
    earlier = b""
    for _ in range(300):
        now = get(working_api, job, "trajectory", stop=50).content
        assert now.startswith(earlier)
        earlier = now
        if now.count(b"Properties=") == 50:
            break
    state = working_api.http.get(f"/v1/jobs/{job['id']}").json()["state"]
    working_api.http.post(f"/v1/jobs/{job['id']}/cancel")
    assert state == "running"
    assert earlier.count(b"Properties=") == 50
    over = working_api.http.get(f"/v1/jobs/{job['id']}", headers={"Prefer": "wait=20"}).json()
    assert over["state"] == "cancelled"


def test_readiness_and_workers_show_the_loaded_potential(working_api: LiveApi) -> None:
    assert working_api.http.get("/readyz").json() == {"status": "ready"}
    (worker,) = working_api.http.get("/v1/workers").json()["items"]
    assert worker["ready"] is True
    assert "equipot_workers 1.0" in working_api.http.get("/metrics").text

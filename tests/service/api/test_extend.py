"""More steps for a dynamics that has ended: the same job, bit by bit the one submitted for longer."""

from __future__ import annotations

from typing import Any

import pytest

from equipot.errors import ConflictError
from equipot.service.client import Client

from .conftest import WATER, LiveApi

MD = {"seed": [1, 2, 3], "thermo_every": 4, "save_every": 10, "temperature_k": 80}


def ended(api: LiveApi, n_steps: int, **changes: Any) -> dict[str, Any]:
    body = api.job(kind="md", structures=[WATER] * 3, params={**MD, "n_steps": n_steps}, **changes)
    answer = api.http.post("/v1/jobs", json=body, headers={"Prefer": "wait=30"})
    record: dict[str, Any] = answer.json()
    assert record["state"] == "succeeded", record
    return record


def told(api: LiveApi, job_id: str) -> tuple[list[Any], bytes, bytes]:
    """Results, trajectory and time series, as a reader gets them."""
    path = f"/v1/jobs/{job_id}"
    results = api.http.get(f"{path}/systems").json()["items"]
    return (
        results,
        api.http.get(f"{path}/trajectory", params={"format": "jsonl"}).content,
        api.http.get(f"{path}/thermo", params={"format": "jsonl"}).content,
    )


def test_an_extended_job_is_the_longer_job_bit_by_bit(working_api: LiveApi) -> None:
    job = ended(working_api, 27)
    answer = working_api.http.post(f"/v1/jobs/{job['id']}/extend", json={"n_steps": 33})
    assert answer.status_code == 202, answer.text
    record = answer.json()
    assert record["id"] == job["id"]
    assert (record["finished_at"], record["params"]["n_steps"], record["progress"]["n_steps"]) == (None, 60, 60)
    record = working_api.http.get(f"/v1/jobs/{job['id']}", headers={"Prefer": "wait=30"}).json()
    assert (record["state"], record["outcomes"], record["attempt"]) == ("succeeded", {"completed": 3}, 2)
    long = ended(working_api, 60)
    assert record["params"] == long["params"]
    assert told(working_api, job["id"]) == told(working_api, long["id"])
    assert [entry["to_n_steps"] for entry in working_api.store.files.read_request(job["id"])["extensions"]] == [60]


def test_time_may_be_given_and_a_key_makes_it_happen_once(working_api: LiveApi) -> None:
    job = ended(working_api, 10)
    headers = {"Idempotency-Key": "longer"}
    first = working_api.http.post(f"/v1/jobs/{job['id']}/extend", json={"duration_ps": 0.005}, headers=headers)
    assert first.json()["params"]["n_steps"] == 20
    working_api.http.get(f"/v1/jobs/{job['id']}", headers={"Prefer": "wait=30"})
    again = working_api.http.post(f"/v1/jobs/{job['id']}/extend", json={"duration_ps": 0.005}, headers=headers)
    assert (again.status_code, again.headers["idempotent-replayed"]) == (202, "true")
    assert (again.json()["state"], again.json()["params"]["n_steps"]) == ("succeeded", 20)


def test_only_a_dynamics_that_has_completed_is_extended(api: LiveApi) -> None:
    relax, md = api.submit(), api.submit(kind="md", params={"n_steps": 10})
    for job, word in ((relax, "molecular dynamics"), (md, "Wait")):
        answer = api.http.post(f"/v1/jobs/{job['id']}/extend", json={"n_steps": 5})
        assert (answer.status_code, answer.json()["type"]) == (409, "/problems/conflict")
        assert word in answer.json()["hint"]


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({}, "/n_steps"),
        ({"n_steps": 5, "duration_ps": 1.0}, "/n_steps"),
        ({"n_steps": 0}, "/n_steps"),
        ({"n_steps": 2.5}, "/n_steps"),
        ({"duration_ps": -1}, "/duration_ps"),
        ({"steps": 5}, "/steps"),
    ],
)
def test_how_much_longer_must_be_said_once(api: LiveApi, body: dict[str, Any], pointer: str) -> None:
    job = api.submit(kind="md", params={"n_steps": 10})
    answer = api.http.post(f"/v1/jobs/{job['id']}/extend", json=body)
    assert answer.status_code == 422
    assert pointer in [entry["pointer"] for entry in answer.json()["errors"]]


def test_a_handle_extends_its_job(working_api: LiveApi) -> None:
    with Client(working_api.url) as client:
        job = client.submit("md", WATER, model="tiny", params={"n_steps": 5, "seed": 1}).wait(timeout_s=60)
        assert job.extend(n_steps=5).wait(timeout_s=60).record.progress.step == 10
        with pytest.raises(ConflictError):
            client.submit("singlepoint", WATER, model="tiny").extend(n_steps=5)

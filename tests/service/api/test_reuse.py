"""Results used again, jobs that expire, and estimates from what was measured."""

from __future__ import annotations

import time
from typing import Any

import pytest

from equipot.service.access import Signer
from equipot.service.artifacts import Exports
from equipot.service.chores import Chores

from .conftest import WATER, LiveApi

MD = {"n_steps": 30, "seed": 4, "save_every": 10}
#: a water that no other test of this service computes
OWN = {**WATER, "positions": [[x + 0.0137 * row * row for x in xyz] for row, xyz in enumerate(WATER["positions"])]}


def ended(api: LiveApi, **changes: Any) -> dict[str, Any]:
    body = api.job(**{"kind": "md", "params": MD, **changes})
    answer = api.http.post("/v1/jobs", json=body, headers={"Prefer": "wait=30"})
    record: dict[str, Any] = answer.json()
    assert record["state"] == "succeeded", record
    return record


def test_a_job_that_was_computed_before_is_there_at_once_and_stands_on_its_own(working_api: LiveApi) -> None:
    first = ended(working_api, structures=[WATER] * 3)
    assert first["cached"] is False
    body = working_api.job(kind="md", params=MD, structures=[WATER] * 3, use_cache=True, tags=["again"])
    second = working_api.http.post("/v1/jobs", json=body).json()
    assert (second["cached"], second["state"], second["tags"]) == (True, "succeeded", ["again"])
    assert second["id"] != first["id"]

    def told(job: dict[str, Any]) -> list[bytes]:
        path = f"/v1/jobs/{job['id']}"
        addresses = (f"{path}/systems", f"{path}/trajectory?format=jsonl", f"{path}/thermo")
        return [working_api.http.get(address).content for address in addresses]

    assert told(first) == told(second)
    manifests = [working_api.http.get(f"/v1/jobs/{job['id']}/manifest").json() for job in (first, second)]
    assert manifests[0]["input_sha256"] == manifests[1]["input_sha256"]
    assert manifests[1]["cached_from"] == first["id"]
    before = told(second)
    working_api.http.post(f"/v1/jobs/{first['id']}/extend", json={"n_steps": 10})
    working_api.http.get(f"/v1/jobs/{first['id']}", headers={"Prefer": "wait=30"})
    assert told(second) == before, "the copy does not change with its original"
    working_api.http.delete(f"/v1/jobs/{first['id']}")
    assert told(second) == before
    events = working_api.http.get(f"/v1/jobs/{second['id']}/events").text
    assert "event: end" in events


@pytest.mark.parametrize(
    "changes",
    [
        {"params": {**MD, "seed": 5}},
        {"structures": [{**OWN, "symbols": ["O", "H", "C"]}]},
        {"dtype": "float32"},
        {"kind": "relax", "params": {}},
    ],
)
def test_whatever_changes_the_numbers_is_computed(working_api: LiveApi, changes: dict[str, Any]) -> None:
    same = {"structures": [OWN]}
    ended(working_api, **same)
    assert ended(working_api, use_cache=True, **{**same, **changes})["cached"] is False


def test_an_ended_job_goes_when_its_time_has_come(api: LiveApi) -> None:
    store = api.store
    record, _ = store.submit(**_submission(api), retention_s=0.2)
    assert record.expires_at is None
    chores = Chores(store, Signer(store.settings.data_dir), Exports(store.settings.data_dir))
    assert chores.remove_expired() == 0
    ended_record = store.request_cancel(record.id)
    assert ended_record.expires_at is not None
    assert ended_record.finished_at is not None
    assert ended_record.expires_at > ended_record.finished_at
    deadline = time.monotonic() + 30
    while record.id in store.files.known():  # the chores of the API may be quicker than these
        chores.remove_expired()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert api.http.get(f"/v1/jobs/{record.id}").status_code == 404


def _submission(api: LiveApi) -> dict[str, Any]:
    from equipot.cards import find_model
    from equipot.params import RelaxParams
    from equipot.structure import structure_from_json

    structure = structure_from_json(WATER)
    params = RelaxParams().resolved([structure.numbers])
    card = find_model("tiny")[1]
    return {"kind": "relax", "model_card": card, "params": params, "structures": [structure], "request_json": {}}


def test_an_estimate_grows_with_the_work_and_stands_on_measurements(working_api: LiveApi) -> None:
    ended(working_api)

    def estimate(n_steps: int, n_systems: int = 1) -> dict[str, Any]:
        body = working_api.job(kind="md", params={"n_steps": n_steps}, structures=[WATER] * n_systems)
        answer: dict[str, Any] = working_api.http.post("/v1/jobs?validate_only=true", json=body).json()
        return answer

    for _ in range(20):  # a worker notes how long a run took when its job has ended already
        short, long, many = estimate(99), estimate(9999), estimate(99, 10)
        if estimate(99) == short:
            break
        time.sleep(0.2)
    assert short["measured_on"] == "this potential"
    assert 0 < short["seconds"] <= short["seconds_at_most"]
    assert long["seconds"] == pytest.approx(100 * short["seconds"], rel=0.02)
    assert many["seconds"] == pytest.approx(10 * short["seconds"], rel=0.02)
    assert many["n_edges"] == 10 * short["n_edges"]


def test_a_level_of_theory_that_is_not_the_models_is_refused(api: LiveApi) -> None:
    level = api.http.get("/v1/models/tiny").json()["level_of_theory"]
    assert api.http.post("/v1/jobs", json=api.job(level_of_theory=level)).status_code == 202
    answer = api.http.post("/v1/jobs", json=api.job(level_of_theory="CCSD(T)"))
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["pointer"] == "/level_of_theory"


def test_every_field_of_a_job_is_in_its_record(api: LiveApi) -> None:
    given = {
        "name": "n",
        "tags": ["t"],
        "priority": 3,
        "dtype": "float32",
        "device": "cpu",
        "reproducible": True,
        "compile": False,
        "max_wall_time_s": 60.0,
        "webhook_url": "https://example.org/hook",
    }
    job = api.submit(**given)
    assert {name: job[name] for name in given} == given
    refused = api.http.post("/v1/jobs", json=api.job(webhook_url="http://169.254.169.254/latest"))
    assert (refused.status_code, refused.json()["errors"][0]["pointer"]) == (422, "/webhook_url")

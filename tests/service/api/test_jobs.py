"""Jobs over HTTP: submitted once, listed in pages, found by what they are, changed only where that makes sense."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from .conftest import WATER, LiveApi

SILICON = {
    "symbols": ["Si", "Si"],
    "positions": [[0.0, 0.0, 0.0], [1.3575, 1.3575, 1.3575]],
    "cell": [[0.0, 2.715, 2.715], [2.715, 0.0, 2.715], [2.715, 2.715, 0.0]],
    "pbc": [True, True, True],
}


def test_a_submitted_job_has_an_address_a_full_model_name_and_every_default_resolved(api: LiveApi) -> None:
    body = {"kind": "md", "model": "tiny", "structures": [WATER], "params": {"duration_ps": 0.01}, "tags": ["a", "b"]}
    answer = api.http.post("/v1/jobs", json=body)
    assert answer.status_code == 202
    job = answer.json()
    assert answer.headers["location"] == f"/v1/jobs/{job['id']}"
    assert job["model"] == "tiny-1"
    assert len(job["model_sha256"]) == 64
    assert job["state"] == "queued"
    assert job["queue_position"] == 1
    assert job["tags"] == ["a", "b"]
    assert job["params"]["timestep_fs"] == 0.5  # there is hydrogen
    assert job["params"]["n_steps"] == 20
    assert isinstance(job["params"]["seed"], int)
    assert job["params"]["thermostat"] == {"type": "langevin", "friction_per_fs": 0.01}
    assert job["progress"] == {"step": 0, "n_steps": 20, "n_systems": 1, "n_done": 0}
    assert job["error"] is None
    assert api.http.get(answer.headers["location"]).json() == job


def test_the_body_needs_no_content_type(api: LiveApi) -> None:
    """`curl -d` says that it sends a form."""
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    body = b'{"kind": "singlepoint", "model": "tiny", "structures": [{"symbols": ["H"], "positions": [[0, 0, 0]]}]}'
    assert api.http.post("/v1/jobs", content=body, headers=headers).status_code == 202


def test_the_same_key_and_body_give_the_same_job(api: LiveApi) -> None:
    headers = {"Idempotency-Key": "abc"}
    first = api.http.post("/v1/jobs", json=api.job(), headers=headers)
    second = api.http.post("/v1/jobs", json=api.job(), headers=headers)
    assert second.status_code == 202
    assert second.json()["id"] == first.json()["id"]
    assert "idempotent-replayed" not in first.headers
    assert second.headers["idempotent-replayed"] == "true"
    assert api.n_jobs() == 1


def test_a_hundred_requests_at_once_with_one_key_make_one_job(api: LiveApi) -> None:
    def post(number: int) -> tuple[int, str]:
        answer = api.http.post("/v1/jobs", json=api.job(), headers={"Idempotency-Key": "all-at-once"})
        return answer.status_code, answer.json().get("id", answer.json().get("type"))

    with ThreadPoolExecutor(50) as pool:
        answers = set(pool.map(post, range(100)))
    [job] = api.store.list(100)[0]
    assert answers == {(202, job.id)}
    assert api.store.files.known().count(job.id) == 1


def test_validate_only_estimates_and_queues_nothing(api: LiveApi) -> None:
    answer = api.http.post("/v1/jobs?validate_only=true", json=api.job(structures=[WATER, SILICON]))
    assert answer.status_code == 200
    estimate = answer.json()
    assert estimate["valid"] is True
    assert (estimate["n_systems"], estimate["n_atoms"]) == (2, 5)
    cutoff_ang = api.http.get("/v1/models/tiny").json()["cutoff_ang"]
    shells = ((2.351, 4), (3.839, 12), (4.502, 12), (5.430, 6), (5.917, 12))  # of diamond silicon
    of_silicon = sum(n for distance, n in shells if distance < cutoff_ang)
    assert estimate["n_edges"] == 6 + 2 * of_silicon
    assert estimate["queue_position"] == 1
    assert estimate["params"]["max_steps"] == 500
    assert api.n_jobs() == 0


def test_pages_hold_every_job_once_newest_first(api: LiveApi) -> None:
    ids = [api.submit(name=str(i))["id"] for i in range(7)]
    seen, token = [], ""
    for _ in range(4):
        page = api.http.get("/v1/jobs", params={"page_size": 2, "page_token": token}).json()
        assert set(page) == {"items", "next_page_token"}
        seen += [job["id"] for job in page["items"]]
        token = page["next_page_token"]
        if not token:
            break
    assert seen == ids[::-1]
    assert token == ""


def test_jobs_are_found_by_state_kind_model_and_tag(api: LiveApi) -> None:
    relax = api.submit(tags=["mine"])["id"]
    single = api.submit(kind="singlepoint")["id"]
    api.http.post(f"/v1/jobs/{single}/cancel")

    def found(**wanted: str) -> list[str]:
        return [job["id"] for job in api.http.get("/v1/jobs", params=wanted).json()["items"]]

    assert found(tag="mine") == [relax]
    assert found(kind="singlepoint") == [single]
    assert found(state="queued") == [relax]
    assert found(state="cancelled") == [single]
    assert found(model="tiny-1") == found(model="tiny") == [single, relax]
    assert found(model="a-potential-that-is-gone") == []
    assert found(model="tiny-1", kind="relax", tag="other") == []


def test_a_waiting_job_is_cancelled_at_once_resumed_cancelled_again_and_deleted(api: LiveApi) -> None:
    path = "/v1/jobs/" + api.submit()["id"]
    cancelled = api.http.post(path + "/cancel")
    assert (cancelled.status_code, cancelled.json()["state"]) == (202, "cancelled")
    again = api.http.post(path + "/cancel")
    assert (again.status_code, again.json()["state"]) == (200, "cancelled")
    resumed = api.http.post(path + "/resume")
    assert (resumed.status_code, resumed.json()["state"]) == (202, "queued")
    api.http.post(path + "/cancel")
    assert api.http.delete(path).status_code == 204
    assert api.http.get(path).status_code == 404


def test_a_long_poll_ends_when_the_time_is_up(api: LiveApi) -> None:
    job = api.submit()
    started = time.monotonic()
    answer = api.http.get(f"/v1/jobs/{job['id']}", headers={"Prefer": "respond-async, wait=1"})
    assert answer.json()["state"] == "queued"
    assert answer.headers["preference-applied"] == "wait=1"
    assert 0.9 < time.monotonic() - started < 5.0


def test_a_structure_can_be_sent_as_text_and_its_remarks_reach_the_record(api: LiveApi) -> None:
    text = "2\nProperties=species:S:1:pos:R:3 energy=-7.0\nH 0 0 0\nH 0 0 0.8\n"
    job = api.submit(structures=[WATER, {"format": "extxyz", "text": text}])
    assert job["progress"]["n_systems"] == 2
    (warning,) = api.http.get(f"/v1/jobs/{job['id']}").json()["warnings"]
    assert warning["system_idx"] == 1
    assert "energy" in warning["message"]


def test_a_job_for_a_gpu_is_told_that_there_is_none(api: LiveApi) -> None:
    [warning] = api.http.post("/v1/jobs", json=api.job(device="cuda")).json()["warnings"]
    assert "waits until one comes" in warning["message"]
    assert api.http.post("/v1/jobs", json=api.job(device="cpu")).json()["warnings"] == []


@pytest.mark.parametrize("path", ["/v1/models", "/v1/workers", "/v1/jobs"])
def test_lists_look_alike(api: LiveApi, path: str) -> None:
    assert set(api.http.get(path).json()) == {"items", "next_page_token"}


def test_a_model_is_found_by_its_alias_and_shows_its_card(api: LiveApi) -> None:
    assert [m["name"] for m in api.http.get("/v1/models").json()["items"] if "tiny" in m["aliases"]] == ["tiny-1"]
    card = api.http.get("/v1/models/tiny").json()
    assert card["name"] == "tiny-1"
    assert {"training_data", "test_errors", "limits", "sha256"} <= set(card)


def test_limits_and_queue_say_what_holds_here(api: LiveApi) -> None:
    limits = api.http.get("/v1/limits").json()
    assert limits["max_queued_jobs"] == api.store.settings.max_queued_jobs
    api.submit()
    assert api.http.get("/v1/queue").json()["jobs"]["queued"] == 1


def test_metrics_count_requests_by_route_not_by_address(api: LiveApi) -> None:
    job = api.submit()
    api.http.get(f"/v1/jobs/{job['id']}")
    text = api.http.get("/metrics").text
    assert 'equipot_http_requests_total{method="GET",route="/v1/jobs/{job_id}",status="200"}' in text
    assert 'equipot_queue{what="jobs_queued"} 1.0' in text
    assert job["id"] not in text

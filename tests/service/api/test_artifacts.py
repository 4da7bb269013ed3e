"""The files of a job: listed with digests, fetched whole, in part, or not at all by who has them."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest

from equipot.service.api.ranges import wanted_range

from .conftest import WATER, LiveApi


@pytest.fixture(scope="module")
def job(working_api: LiveApi) -> dict[str, Any]:
    params = {"n_steps": 20, "save_every": 5, "seed": 1}
    body = working_api.job(kind="md", structures=[WATER] * 3, params=params)
    record: dict[str, Any] = working_api.http.post("/v1/jobs", json=body, headers={"Prefer": "wait=30"}).json()
    assert record["state"] == "succeeded"
    return record


@pytest.fixture(scope="module")
def path(job: dict[str, Any]) -> str:
    return f"/v1/jobs/{job['id']}/artifacts"


def test_every_listed_file_has_the_size_and_the_digest_it_is_said_to_have(working_api: LiveApi, path: str) -> None:
    items = working_api.http.get(path).json()["items"]
    names = {item["name"] for item in items}
    assert {"request.json", "inputs.0001.json", "thermo.0000.jsonl", "manifest.json", "trajectory.extxyz"} <= names
    for item in items:
        answer = working_api.http.get(item["url"])
        assert answer.status_code == 200
        digest = hashlib.sha256(answer.content).hexdigest()
        assert item["sha256"] in (None, digest)
        assert item["size_bytes"] in (None, len(answer.content))
        if item["role"] != "manifest":
            assert answer.headers["etag"] == f'"{digest}"'
        head = working_api.http.head(item["url"])
        assert (head.status_code, head.headers["content-length"]) == (200, str(len(answer.content)))
    again = {item["name"]: item for item in working_api.http.get(path).json()["items"]}
    assert again["trajectory.extxyz"]["sha256"] is not None


def test_an_export_is_what_the_trajectory_address_gives(working_api: LiveApi, job: dict[str, Any], path: str) -> None:
    whole = working_api.http.get(f"/v1/jobs/{job['id']}/trajectory", params={"format": "extxyz"}).content
    assert working_api.http.get(f"{path}/trajectory.extxyz").content == whole
    systems = working_api.http.get(f"/v1/jobs/{job['id']}/systems").json()["items"]
    assert [json.loads(line) for line in working_api.http.get(f"{path}/systems.jsonl").text.splitlines()] == systems


def test_parts_put_together_are_the_file(working_api: LiveApi, path: str) -> None:
    url = f"{path}/trajectory.extxyz"
    whole = working_api.http.get(url)
    tag, n_bytes = whole.headers["etag"], len(whole.content)
    first = working_api.http.get(url, headers={"Range": "bytes=0-999"})
    assert (first.status_code, first.headers["content-range"]) == (206, f"bytes 0-999/{n_bytes}")
    rest = working_api.http.get(url, headers={"Range": "bytes=1000-", "If-Range": tag})
    assert rest.status_code == 206
    assert first.content + rest.content == whole.content
    last = working_api.http.get(url, headers={"Range": "bytes=-10"})
    assert last.content == whole.content[-10:]


def test_who_has_another_version_gets_the_whole_and_who_has_this_one_nothing(working_api: LiveApi, path: str) -> None:
    url = f"{path}/thermo.0000.jsonl"
    tag = working_api.http.get(url).headers["etag"]
    assert working_api.http.get(url, headers={"Range": "bytes=0-1", "If-Range": '"other"'}).status_code == 200
    for given in (tag, f'"x", {tag}', f"W/{tag}", "*"):
        answer = working_api.http.get(url, headers={"If-None-Match": given})
        assert (answer.status_code, answer.content, answer.headers["etag"]) == (304, b"", tag)
    assert working_api.http.get(url, headers={"If-None-Match": '"other"'}).status_code == 200


def test_bytes_that_are_not_there_and_files_that_are_not_there_are_problems(working_api: LiveApi, path: str) -> None:
    answer = working_api.http.get(f"{path}/request.json", headers={"Range": "bytes=99999999-"})
    assert (answer.status_code, answer.json()["type"]) == (416, "/problems/range-not-satisfiable")
    assert answer.headers["content-range"].startswith("bytes */")
    for name in ("record.json", "..%2F..%2Flock", "thermo.0009.jsonl"):
        assert working_api.http.get(f"{path}/{name}").status_code == 404


@pytest.mark.parametrize(
    ("header", "bytes_given"),
    [
        ("bytes=0-0", range(1)),
        ("bytes=5-100", range(5, 10)),
        ("bytes=-3", range(7, 10)),
        ("bytes=-30", range(10)),
        ("bytes=10-", range(0)),
        ("bytes=-0", range(0)),
        ("bytes=3-2", None),
        ("bytes=0-1,3-4", None),
        ("lines=0-1", None),
        ("bytes=-", None),
        ("", None),
    ],
)
def test_a_range_is_read_as_the_standard_says(header: str, bytes_given: range | None) -> None:
    assert wanted_range(header, 10) == bytes_given


def test_the_manifest_has_digests_of_weights_input_and_every_file(
    working_api: LiveApi, job: dict[str, Any], path: str
) -> None:
    manifest = working_api.http.get(f"/v1/jobs/{job['id']}/manifest").json()
    assert manifest["model"]["sha256"] == job["model_sha256"]
    assert manifest["seed"] == 1
    assert len(manifest["input_sha256"]) == 64
    assert manifest["shards"][0]["provider"]["pins"]["torch"]
    assert {entry["role"] for entry in manifest["files"]} == {"input", "output", "state"}
    assert working_api.http.get(f"{path}/manifest.json").json() == manifest


def test_a_waiting_job_shows_what_it_was_given(api: LiveApi) -> None:
    job = api.submit()
    items = api.http.get(f"/v1/jobs/{job['id']}/artifacts").json()["items"]
    assert [item["name"] for item in items] == ["request.json", "inputs.0000.json"]
    assert api.http.get(items[1]["url"]).json()[0]["numbers"] == [8, 1, 1]

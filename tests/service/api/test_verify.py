"""`equipot verify`: what holds is said to hold, and any byte that changed is found."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from equipot.service.client import Client, RemoteJob
from equipot.service.verification import verify

from .conftest import WATER, LiveApi


@pytest.fixture(scope="module")
def job(working_api: LiveApi) -> Iterator[RemoteJob]:
    params = {"n_steps": 10, "seed": 1, "save_every": 5}
    with Client(working_api.url) as client:
        yield client.submit("md", [WATER] * 3, model="tiny", params=params).wait(timeout_s=60)


def test_a_job_that_was_left_alone_holds_to_the_recomputed_energy(
    working_api: LiveApi, job: RemoteJob, in_process: Callable[..., Any]
) -> None:
    said = in_process("verify", job.id, "--server", working_api.url, "--recompute", "2", "--json")
    assert said.returncode == 0, said
    document = json.loads(said.stdout)
    assert document["verified"] is True
    names = [check["name"] for check in document["checks"]]
    assert {"request.json", "input", "record", "weights", "energy of system 0", "energy of system 1"} <= set(names)
    assert all(check["holds"] for check in document["checks"])
    assert "ok" in in_process("verify", job.id, "--server", working_api.url).stdout


@pytest.mark.parametrize("name", ["results.jsonl", "thermo.jsonl", "segments/0001.traj", "checkpoint.npz"])
def test_one_changed_byte_is_found(
    working_api: LiveApi, job: RemoteJob, name: str, in_process: Callable[..., Any]
) -> None:
    path = working_api.store.files.shard(job.id, 1) / name
    whole = path.read_bytes()
    place = len(whole) // 2
    try:
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        failed = [check.name for check in verify(job) if check.holds is False]
        assert any(name.partition(".")[0].rpartition("/")[2] in found or "trajectory" in found for found in failed)
    finally:
        path.write_bytes(whole)
    assert all(check.holds for check in verify(job))


def test_a_job_that_has_not_ended_is_not_vouched_for(api: LiveApi, in_process: Callable[..., Any]) -> None:
    said = in_process("verify", api.submit()["id"], "--server", api.url)
    assert said.returncode == 1
    assert "queued" in said.stdout

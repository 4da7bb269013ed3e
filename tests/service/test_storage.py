"""Copies of jobs in object storage, here a folder: two hosts are two data directories."""

from __future__ import annotations

from pathlib import Path

import pytest

from equipot.errors import InvalidParameterError
from equipot.service.job_files import JobFiles, new_job_id
from equipot.service.storage import Storage
from equipot.structure import structure_from_json

pytest.importorskip("obstore")
WATER = structure_from_json({"symbols": ["O", "H", "H"], "positions": [[0, 0, 0], [0.9, 0.3, 0], [-0.3, 0.9, 0]]})


def test_only_one_can_create_an_object_and_anybody_can_overwrite_and_remove_it(tmp_path: Path) -> None:
    storage = Storage(f"file://{tmp_path}")
    assert storage.create("jobs/a/attempts/0000.0001", b"one")
    assert not storage.create("jobs/a/attempts/0000.0001", b"two")
    assert storage.get("jobs/a/attempts/0000.0001") == b"one"
    storage.put("jobs/a/record.json", b"{}")
    assert sorted(storage.list("jobs/a/")) == ["jobs/a/attempts/0000.0001", "jobs/a/record.json"]
    assert list(storage.folders("jobs/")) == ["a"]
    storage.delete("jobs/a/record.json")
    assert storage.get("jobs/a/record.json") is None


@pytest.mark.parametrize("address", ["s3://", "ftp://host/x", "s3://bucket/x?colour=blue", "bucket"])
def test_an_address_that_is_none_is_refused_with_an_example(address: str) -> None:
    with pytest.raises(InvalidParameterError, match="not an address") as caught:
        Storage(address)
    assert "s3://bucket" in str(caught.value.hint)


def test_what_one_host_writes_another_reads_and_only_one_attempt_and_one_result_count(tmp_path: Path) -> None:
    address = f"file://{tmp_path / 'bucket'}"
    here, there = JobFiles(tmp_path / "here", address), JobFiles(tmp_path / "there", address)
    job_id = new_job_id()
    here.write_request(job_id, {"shards": [{"offset": 0, "n_systems": 1}]}, [[WATER]])
    assert there.known() == [job_id]
    assert there.read_request(job_id)["shards"] == [{"offset": 0, "n_systems": 1}]
    assert there.read_inputs(job_id, 0)[0].sha256() == WATER.sha256()
    assert there.create_attempt(job_id, 0, 1)
    assert not here.create_attempt(job_id, 0, 1)
    assert here.last_attempt(job_id, 0) == 1
    there.shard(job_id, 0).mkdir(parents=True)
    (there.shard(job_id, 0) / "thermo.jsonl").write_text("{}\n")
    there.push_shard(job_id, 0, 1)
    here.fetch(job_id)
    assert (here.shard(job_id, 0) / "thermo.jsonl").read_text() == "{}\n"
    assert here.create_attempt(job_id, 0, 2)
    (there.shard(job_id, 0) / "thermo.jsonl").write_text("late\n")
    there.push_shard(job_id, 0, 1)  # superseded: says nothing more
    here.fetch(job_id)
    assert (here.shard(job_id, 0) / "thermo.jsonl").read_text() == "{}\n"
    assert there.create_result(job_id, 0, {"state": "done"})
    assert not here.create_result(job_id, 0, {"state": "failed"})
    assert here.read_result(job_id, 0) == {"state": "done"}
    here.withdraw_result(job_id, 0)
    assert there.read_result(job_id, 0) is None
    here.remove(job_id)
    assert not here.job(job_id).exists()
    assert Storage(address).list("jobs/") == {}

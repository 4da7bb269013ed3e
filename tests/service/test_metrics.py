"""What an operator can read: the numbers of /metrics, readiness, and the request in a worker's log."""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any

import httpx
import pytest

from equipot.service.api.app import create_app
from equipot.service.meter import Meter
from equipot.service.store import JobStore

WATER = {"symbols": ["O", "H", "H"], "positions": [[0, 0, 0], [0.9, 0.3, 0], [-0.3, 0.9, 0]]}


class _Api:
    """The application without a server."""

    def __init__(self, service: Any) -> None:
        self._app = create_app(service.settings, service.store)

    def get(self, path: str) -> httpx.Response:
        return asyncio.run(self._ask("GET", path))

    def post(self, path: str, **fields: Any) -> httpx.Response:
        return asyncio.run(self._ask("POST", path, **fields))

    async def _ask(self, method: str, path: str, **fields: Any) -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(self._app), base_url="http://api") as http:
            return await http.request(method, path, **fields)


def _numbers(page: str) -> dict[str, float]:
    return {name: float(value) for name, value in re.findall(r"^(equipot\S+) (\S+)$", page, re.MULTILINE)}


def test_the_queue_is_counted_in_atoms_and_the_work_in_atoms_and_seconds(one_worker: Any) -> None:
    client = _Api(one_worker)
    job = {"kind": "md", "model": "tiny", "structures": [WATER], "params": {"n_steps": 20, "seed": 1}}
    answer = client.post("/v1/jobs", json=job, headers={"X-Request-ID": "asked-by-a-test"})
    one_worker.wait_until_over(answer.json()["id"])
    one_worker.wait_for(lambda: one_worker.store.counters().get("shards_done", 0) >= 1)
    numbers = _numbers(client.get("/metrics").text)
    assert numbers["equipot_atom_steps_total"] >= 3 * 21
    assert 0 < numbers["equipot_model_seconds_total"] <= numbers["equipot_busy_seconds_total"]
    assert numbers["equipot_us_per_atom_step"] > 0
    assert numbers["equipot_batch_fill"] >= 1
    assert numbers['equipot_queue_waiting{device="cpu",what="atoms"}'] == 0
    for name in ("equipot_memory_splits_total", "equipot_retries_total", "equipot_wait_seconds_total"):
        assert name in numbers
    lines = [json.loads(line) for line in one_worker.log.read_text().splitlines() if line.startswith("{")]
    ended = [line for line in lines if line["event"] == "ended" and line["job_id"] == answer.json()["id"]]
    assert [line["request_id"] for line in ended] == ["asked-by-a-test"]


def test_what_waits_is_counted(service: Any) -> None:
    service.submit(n_systems=2)
    assert service.store.depth()["cpu"] == (1, 2, 18)


def test_a_service_that_cannot_write_is_not_ready(one_worker: Any, monkeypatch: Any) -> None:
    client = _Api(one_worker)
    one_worker.wait_for(lambda: client.get("/readyz").status_code == 200)  # another test may have emptied Redis
    monkeypatch.setattr(JobStore, "is_durable", lambda self: False)
    answer = client.get("/readyz")
    assert answer.status_code == 503
    assert "cannot be written" in answer.json()["detail"]


def test_counts_survive_a_redis_that_is_away(service: Any) -> None:
    class Away:
        def pipeline(self) -> Any:
            raise ConnectionError

    meter = Meter()
    meter.add(systems=3)
    with pytest.raises(ConnectionError):
        meter.flush(Away())  # type: ignore[arg-type]
    meter.add(systems=1)
    meter.flush(service.store.redis)
    assert service.store.counters()["systems"] == 4

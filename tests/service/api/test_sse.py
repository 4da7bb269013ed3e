"""Event streams: everything once and in order, from where a client left off, to the end of the job or of the server."""

from __future__ import annotations

import json
import threading
import time
from typing import Any

import httpx
import pytest

from equipot.service.api.sse import END

from .conftest import LiveApi, running_api


def events_of(http: httpx.Client, job_id: str, last_id: str | None = None, most: int = 10**6) -> list[dict[str, Any]]:
    """The events of a stream, read until it ends or `most` have come."""
    headers = {} if last_id is None else {"Last-Event-ID": last_id}
    found: list[dict[str, Any]] = []
    current: dict[str, Any] = {}
    with http.stream("GET", f"/v1/jobs/{job_id}/events", headers=headers, timeout=30.0) as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        for line in answer.iter_lines():
            name, _, value = line.partition(": ")
            if name in ("id", "event", "data"):
                current[name] = json.loads(value) if name == "data" else value
            elif not line and current:
                found.append(current)
                current = {}
                if len(found) == most:
                    break
    return found


@pytest.fixture(scope="module")
def followed(working_api: LiveApi) -> tuple[str, list[dict[str, Any]]]:
    """A job followed live from its submission to its end."""
    job = working_api.submit(kind="md", params={"n_steps": 150, "seed": 1, "checkpoint_every_s": 0.5})
    return job["id"], events_of(working_api.http, job["id"])


def test_a_job_is_told_from_its_queueing_to_its_end(followed: tuple[str, list[dict[str, Any]]]) -> None:
    _, events = followed
    states = [event["data"]["state"] for event in events if event["event"] == "state"]
    assert states[0] == "queued"
    assert "running" in states
    assert [event["event"] for event in events].count(END) == 1
    assert events[-1]["event"] == END
    assert events[-1]["data"]["state"] == "succeeded"
    assert {"state", "progress", "system", END} <= {event["event"] for event in events}


def test_ids_grow_and_none_comes_twice(followed: tuple[str, list[dict[str, Any]]]) -> None:
    _, events = followed
    places = [tuple(int(part) for part in event["id"].split("-")) for event in events]
    assert places == sorted(set(places))


def test_a_client_that_comes_back_gets_exactly_what_it_missed(
    working_api: LiveApi, followed: tuple[str, list[dict[str, Any]]]
) -> None:
    job_id, events = followed
    for place in (0, len(events) // 2, len(events) - 2):
        assert events_of(working_api.http, job_id, last_id=events[place]["id"]) == events[place + 1 :]


def test_two_who_watch_see_the_same(working_api: LiveApi) -> None:
    job = working_api.submit(kind="md", params={"n_steps": 150, "seed": 2})
    seen: list[list[dict[str, Any]]] = []

    def watch() -> None:
        with httpx.Client(base_url=working_api.url) as http:
            seen.append(events_of(http, job["id"]))

    threads = [threading.Thread(target=watch) for _ in range(4)]
    for thread in threads:
        thread.start()
        time.sleep(0.1)
    for thread in threads:
        thread.join()
    assert len(seen) == 4
    assert all(events == seen[0] for events in seen)


def test_the_end_is_told_even_when_the_history_is_lost(working_api: LiveApi) -> None:
    job = working_api.submit(kind="singlepoint")
    working_api.http.get(f"/v1/jobs/{job['id']}", headers={"Prefer": "wait=20"})
    working_api.store.redis.delete(f"equipot:events:{job['id']}")
    (event,) = events_of(working_api.http, job["id"])
    assert (event["event"], event["data"]["state"]) == (END, "succeeded")


def test_the_end_of_an_earlier_run_does_not_end_the_stream_of_a_resumed_job(api: LiveApi) -> None:
    job = api.submit()
    api.http.post(f"/v1/jobs/{job['id']}/cancel")
    api.http.post(f"/v1/jobs/{job['id']}/resume")
    threading.Timer(1.0, api.http.post, [f"/v1/jobs/{job['id']}/cancel"]).start()
    events = events_of(api.http, job["id"])
    assert [event["event"] for event in events].count(END) == 2
    assert [e["data"]["state"] for e in events if e["event"] == "state"].count("cancelled") == 2


def test_a_server_that_is_told_to_stop_ends_its_streams(redis_url: str, tmp_path_factory: Any) -> None:
    with running_api(redis_url, tmp_path_factory.mktemp("stopping")) as api:
        job = api.submit()
        stopped: list[float] = []

        def stop() -> None:
            stopped.append(time.monotonic())
            api.process.terminate()

        threading.Timer(0.7, stop).start()
        events = events_of(api.http, job["id"])
        ended = time.monotonic()
        assert events[0]["data"]["state"] == "queued"
        api.process.wait(10)
    assert ended - stopped[0] < 4.0

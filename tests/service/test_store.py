"""The job store on a real Redis: submissions, fences, and coming back from disk. Workers are claims made here."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from redis import Redis

from equipot.errors import (
    ConflictError,
    EquipotError,
    IdempotencyKeyReusedError,
    InvalidParameterError,
    JobNotFoundError,
    NotResumableError,
    QueueFullError,
    TimedOutError,
)
from equipot.service.claims import Claims
from equipot.service.redis_server import connect
from equipot.service.store import JobStore

DONE = {"completed": 1}


def _many_at_once(n: int, action: Callable[[int], Any]) -> list[Any]:
    """The answers of `n` threads that start together."""
    barrier = threading.Barrier(n)

    def wait_and_act(number: int) -> Any:
        barrier.wait()
        return action(number)

    with ThreadPoolExecutor(n) as pool:
        return list(pool.map(wait_and_act, range(n)))


def _claims(service: Any, name: str = "w1") -> Claims:
    return Claims(service.store, name, "cpu")


def _crash(service: Any, *, wait_s: float = 1.7) -> None:
    """The lease of everything claimed runs out."""
    time.sleep(wait_s)
    service.reconciler.look()


def test_fifty_submissions_with_one_key_make_one_job(service: Any) -> None:
    answers = _many_at_once(50, lambda _: service.submit(key="k").id)
    assert len(set(answers)) == 1
    records, _ = service.store.list()
    assert [record.id for record in records] == [answers[0]]
    assert service.store.files.known() == [answers[0]]
    with pytest.raises(IdempotencyKeyReusedError):
        service.submit(key="k", request_json={"another": "body"})
    assert service.submit(key="other").id != answers[0]


def test_a_refused_submission_leaves_nothing_behind_and_frees_its_key(service: Any) -> None:
    service.store.settings = service.settings.model_copy(update={"max_queued_jobs": 2})
    first, second = service.submit(), service.submit()
    with pytest.raises(QueueFullError):
        service.submit(key="k")
    assert service.store.files.known() == sorted([first.id, second.id])
    service.store.request_cancel(first.id)
    assert service.submit(key="k").state == "queued"


def test_fifty_claims_of_one_shard_give_it_to_one_worker(service: Any) -> None:
    service.submit()
    claims = _many_at_once(50, lambda number: _claims(service, f"w{number}").claim(64))
    assert sum(claim is not None for claim in claims) == 1


def test_two_deliveries_give_one_result_and_the_stale_attempt_is_turned_away(service: Any) -> None:
    record = service.submit()
    slow, fast = _claims(service, "slow"), _claims(service, "fast")
    stale = slow.claim(64)
    assert stale is not None
    _crash(service)
    fresh = fast.claim(64)
    assert fresh is not None
    assert (stale.attempt, fresh.attempt) == (1, 2)
    assert slow.beat([stale]) == ["lost"]
    nothing: dict[str, Any] = {"checkpoint_step": None, "new_checkpoint": False}
    assert slow.progress(stale, step=9, n_done=1, outcomes=DONE, **nothing) == "lost"
    assert slow.hand_back(stale) == "lost"
    assert slow.commit(stale, step=9, outcomes={"failed": 1}) == "lost"
    assert service.store.get(record.id).progress.step == 0
    assert fast.commit(fresh, step=100, outcomes=DONE) == "ok"
    assert slow.commit(stale, step=9, outcomes={"failed": 1}) == "lost"
    record = service.store.get(record.id)
    assert (record.state, record.outcomes, record.attempt) == ("succeeded", DONE, 2)
    assert service.store.files.read_result(record.id, 0)["attempt"] == 2


def test_of_two_commits_of_one_attempt_the_result_is_made_once(service: Any) -> None:
    record = service.submit()
    claims = _claims(service)
    claim = claims.claim(64)
    assert claim is not None
    answers = _many_at_once(8, lambda number: claims.commit(claim, step=number, outcomes=DONE))
    assert "ok" in answers
    ends = [event for event in service.store.events(record.id) if event.type == "end"]
    assert len(ends) == 1
    assert len(list((service.store.files.job(record.id) / "results").iterdir())) == 1


def test_a_result_whose_worker_died_before_saying_so_is_adopted(service: Any) -> None:
    record = service.submit()
    claims = _claims(service)
    claim = claims.claim(64)
    assert claim is not None
    result = {"state": "done", "step": 100, "outcomes": DONE, "error": None}
    assert service.store.files.create_result(record.id, 0, result)
    _crash(service)
    again = claims.claim(64)
    assert again is not None
    earlier = claims.earlier_result(again)
    assert earlier == result
    assert claims.adopt(again, earlier) == "ok"
    assert service.store.get(record.id).state == "succeeded"


def test_larger_priorities_go_first_and_equals_in_the_order_they_came(service: Any) -> None:
    low, first, second, high = (service.submit(priority=p) for p in (-5, 0, 0, 7))
    positions = [service.store.get(record.id).queue_position for record in (high, first, second, low)]
    assert positions == [1, 2, 3, 4]
    claimed = [_claims(service, f"w{number}").claim(64).job_id for number in range(4)]  # type: ignore[union-attr]
    assert claimed == [high.id, first.id, second.id, low.id]


def test_a_large_job_is_cut_into_shards_whose_results_add_up(service: Any) -> None:
    service.store.settings = service.settings.model_copy(update={"shard_max_systems": 4})
    record = service.submit(n_systems=10)
    workers = [_claims(service, f"w{number}") for number in range(3)]
    claims = [worker.claim(64) for worker in workers]
    assert [(c.system_offset, c.n_systems) for c in claims if c] == [(0, 4), (4, 4), (8, 2)]
    assert [len(service.store.files.read_inputs(record.id, idx)) for idx in range(3)] == [4, 4, 2]
    for number, (worker, claim) in enumerate(zip(workers, claims, strict=True)):
        assert claim is not None
        assert worker.begin(claim) == "ok"
        assert service.store.get(record.id).state == "running"
        problem = TimedOutError("too slow") if number == 1 else None
        if problem:
            worker.fail(claim, problem, step=5, outcomes={"completed": 1})
        else:
            worker.commit(claim, step=100, outcomes={"completed": claim.n_systems})
    record = service.store.get(record.id)
    assert record.state == "partially_succeeded"
    assert record.outcomes == {"completed": 7, "failed": 3}
    assert record.error["type"] == "/problems/timeout"
    results, _ = service.store.systems(record.id, page_size=100)
    assert [r["system_idx"] for r in results if r["outcome"] == "failed"] == [4, 5, 6, 7]


def test_one_worker_takes_one_shard_of_a_job_and_leaves_the_others_to_others(service: Any) -> None:
    service.store.settings = service.settings.model_copy(update={"shard_max_systems": 1})
    service.submit(n_systems=3)
    claims = _claims(service)
    assert claims.claim(64) is not None
    assert claims.claim(64) is None
    other = service.submit()
    taken = claims.claim(64)
    assert taken is not None
    assert taken.job_id == other.id


def test_after_a_crash_in_company_nobody_is_blamed_and_each_runs_alone_until_a_checkpoint(service: Any) -> None:
    jobs = [service.submit() for _ in range(3)]
    doomed = _claims(service, "doomed")
    assert all(doomed.claim(64) for _ in jobs)
    _crash(service)
    crashes = [service.store.redis.hget(f"equipot:shard:{job.id}:0", "crashes") for job in jobs]
    assert crashes == [None, None, None]
    careful = _claims(service, "careful")
    first = careful.claim(64)
    assert first is not None
    assert first.alone
    assert careful.claim(64) is None
    report: dict[str, Any] = {"step": 10, "n_done": 0, "outcomes": {}, "checkpoint_step": 10, "new_checkpoint": True}
    assert careful.progress(first, **report) == "ok"
    second = careful.claim(64)  # a first shard that runs for a week must not keep the others from their turn alone
    assert second is not None
    assert second.alone
    _crash(service)
    crashes = [service.store.redis.hget(f"equipot:shard:{job.id}:0", "crashes") for job in jobs[:2]]
    assert crashes == ["0", "1"], "only the shard that had the turns is to blame"


def test_a_shard_that_crashes_alone_twice_without_a_checkpoint_between_fails_with_worker_lost(service: Any) -> None:
    record = service.submit()
    claims = _claims(service)
    for attempt in (1, 2, 3):
        claim = claims.claim(64)
        assert claim is not None
        assert claim.attempt == attempt
        if attempt == 2:  # a checkpoint makes up for the crash before it, not for the one after it
            claims.progress(claim, step=5, n_done=0, outcomes={}, checkpoint_step=5, new_checkpoint=True)
        assert service.store.get(record.id).state != "failed"
        _crash(service)
    record = service.store.get(record.id)
    assert record.state == "failed"
    assert record.error["type"] == "/problems/worker-lost"
    assert record.outcomes == {"failed": 1}
    assert claims.claim(64) is None


def test_cancelling_ends_waiting_shards_at_once_and_tells_running_ones(service: Any) -> None:
    service.store.settings = service.settings.model_copy(update={"shard_max_systems": 1})
    record = service.submit(n_systems=2)
    claims = _claims(service)
    claim = claims.claim(64)
    assert claim is not None
    assert service.store.request_cancel(record.id).state == "cancelling"
    assert service.store.request_cancel(record.id).state == "cancelling"
    assert claims.beat([claim]) == ["cancel"]
    assert _claims(service, "other").claim(64) is None
    assert claims.hand_back(claim) == "ok"  # a worker that is stopped before it hears of it
    record = service.store.get(record.id)
    assert (record.state, record.outcomes) == ("cancelled", {"cancelled": 2})
    assert service.store.request_cancel(record.id).state == "cancelled"


def test_what_has_ended_well_can_neither_be_cancelled_nor_resumed_but_deleted(service: Any) -> None:
    record = service.submit()
    claims = _claims(service)
    with pytest.raises(ConflictError):
        service.store.delete(record.id)
    with pytest.raises(NotResumableError):
        service.store.resume(record.id)
    claim = claims.claim(64)
    assert claim is not None
    claims.commit(claim, step=100, outcomes=DONE)
    with pytest.raises(ConflictError):
        service.store.request_cancel(record.id)
    with pytest.raises(NotResumableError):
        service.store.resume(record.id)
    service.store.delete(record.id)
    assert not service.store.files.job(record.id).exists()
    for look in (service.store.get, service.store.request_cancel, service.store.resume, service.store.delete):
        with pytest.raises(JobNotFoundError):
            look(record.id)
    assert not [key for key in service.store.redis.keys("*") if record.id in key]


@pytest.mark.parametrize("job_id", ["../../etc/passwd", "", "x" * 22, "0" * 22])
def test_what_is_not_a_job_is_not_found(service: Any, job_id: str) -> None:
    with pytest.raises(JobNotFoundError):
        service.store.get(job_id)


def test_pages_of_a_list_hold_every_job_once_newest_first(service: Any) -> None:
    made = [service.submit(tags=["odd" if number % 2 else "even"]).id for number in range(25)]
    seen, token = [], ""
    while True:
        records, token = service.store.list(page_size=7, page_token=token)
        seen += [record.id for record in records]
        assert len(records) == 7 or not token
        if not token:
            break
    assert sorted(seen) == sorted(made)
    assert seen == sorted(seen, reverse=True)
    odd, _ = service.store.list(tag="odd")
    assert len(odd) == 12
    assert service.store.list(state="running") == ([], "")
    assert service.store.list(page_size=25)[1] == "", "a page that holds everything is the last"
    with pytest.raises(InvalidParameterError):
        service.store.list(page_token="nonsense")


def test_waiting_ends_with_the_first_change_and_not_before(service: Any) -> None:
    record = service.submit()
    begun = time.monotonic()
    assert service.store.wait(record.id, 0.3).state == "queued"
    assert time.monotonic() - begun >= 0.29
    timer = threading.Timer(0.3, lambda: service.store.request_cancel(record.id))
    timer.start()
    begun = time.monotonic()
    assert service.store.wait(record.id, 20).state == "cancelled"
    assert time.monotonic() - begun < 5
    timer.join()


def test_events_can_be_replayed_from_any_of_them(service: Any) -> None:
    record = service.submit()
    claims = _claims(service)
    claim = claims.claim(64)
    assert claim is not None
    claims.begin(claim)
    warning: dict[str, Any] = {"system_idx": 0, "message": "odd"}
    events: list[tuple[str, dict[str, Any]]] = [("thermo", {"step": 1}), ("warning", warning)]
    claims.progress(claim, step=1, n_done=0, outcomes={}, checkpoint_step=None, new_checkpoint=False, events=events)
    claims.commit(claim, step=2, outcomes=DONE)
    all_events = service.store.events(record.id)
    kinds = [event.type for event in all_events]
    assert kinds == ["state", "state", "state", "thermo", "warning", "progress", "state", "end"]
    assert [event.data["state"] for event in all_events if event.type == "state"] == [
        "queued",
        "starting",
        "running",
        "succeeded",
    ]
    assert service.store.events(record.id, all_events[3].id) == all_events[4:]
    assert service.store.events(record.id, all_events[-1].id, block_ms=10) == []
    assert [warning.message for warning in service.store.get(record.id).warnings] == ["odd"]


def test_there_are_never_more_tickets_than_workers(service: Any) -> None:
    _many_at_once(30, lambda _: service.submit().id)
    assert service.store.redis.llen("rq:queue:equipot:cpu") == 1, "nobody is there: one ticket for the first to come"
    for number in range(3):
        service.store.roster.announce(f"w{number}", {"device": "cpu", "ready": True, "n_shards": 0}, 5)
    _many_at_once(30, lambda _: service.submit().id)
    assert service.store.redis.llen("rq:queue:equipot:cpu") == 3
    service.reconciler.look()
    assert service.store.redis.llen("rq:queue:equipot:cpu") == 3


def test_a_lost_ticket_is_replaced_by_the_reconciler(service: Any) -> None:
    service.submit()
    service.store.redis.delete("rq:queue:equipot:cpu")
    service.reconciler.look()
    assert service.store.redis.llen("rq:queue:equipot:cpu") == 1


def _comparable(record: Any) -> dict[str, Any]:
    return dict(record.model_dump(exclude={"queue_position"}))


def test_a_redis_that_was_emptied_is_rebuilt_from_the_job_directories(service: Any) -> None:
    service.store.settings = service.settings.model_copy(update={"shard_max_systems": 2})
    claims = _claims(service)

    def ended(state: str) -> Any:
        record = service.submit(n_systems=4, key=f"key of {state}", priority=9)
        if state == "cancelled":
            return service.store.request_cancel(record.id)
        for _ in range(2):
            claim = claims.claim(64)
            assert claim is not None
            assert claim.job_id == record.id
            if state == "failed":
                claims.fail(claim, TimedOutError("too slow"), step=3, outcomes={})
            else:
                claims.commit(claim, step=100, outcomes={"completed": 2})
        return service.store.get(record.id)

    finished = [ended(state) for state in ("succeeded", "failed", "cancelled")]
    half = service.submit(n_systems=4)
    claim = claims.claim(64)
    assert claim is not None
    claims.commit(claim, step=100, outcomes={"completed": 2})
    assert claims.claim(64) is not None  # the second shard was running
    waiting = service.submit()
    service.store.redis.flushall()
    assert service.store.get(half.id).id == half.id, "its directory knows it"
    service.reconciler.look()
    for before in finished:
        after = service.store.get(before.id)
        assert _comparable(after) == _comparable(before)
    assert [service.store.get(job.id).state for job in (half, waiting)] == ["queued", "queued"]
    assert service.store.get(half.id).outcomes == {"completed": 2}
    again = claims.claim(64)
    assert again is not None
    assert (again.job_id, again.shard_idx, again.attempt) == (half.id, 1, 2)
    assert service.submit(n_systems=4, key="key of failed").id == finished[1].id, "the key was forgotten"


def test_an_attempt_number_that_redis_has_forgotten_is_not_used_again(service: Any) -> None:
    record = service.submit()
    for attempt in (1, 2, 3):
        assert service.store.files.create_attempt(record.id, 0, attempt)
    claim = _claims(service).claim(64)
    assert claim is not None
    assert claim.attempt == 4
    assert service.store.get(record.id).attempt == 4


def test_an_end_that_redis_has_forgotten_is_taken_from_the_record(service: Any) -> None:
    record = service.submit()
    claims = _claims(service)
    claim = claims.claim(64)
    assert claim is not None
    claims.commit(claim, step=100, outcomes=DONE)
    service.store.redis.hset(f"equipot:job:{record.id}", "state", "running")  # as it was a second before
    service.store.redis.sadd("equipot:live", record.id)
    service.store.redis.hset(f"equipot:shard:{record.id}:0", mapping={"state": "pending"})
    service.reconciler.rebuild()
    assert service.store.get(record.id).state == "succeeded"
    assert claims.claim(64) is None


def test_a_job_without_files_is_forgotten_only_by_the_owner_of_the_redis(service: Any) -> None:
    record = service.submit()
    service.store.files.remove(record.id)
    service.reconciler.rebuild()
    assert service.store.get(record.id).state == "queued", "another data directory must not empty a shared Redis"
    service.reconciler.rebuild(forget_missing=True)
    with pytest.raises(JobNotFoundError):
        service.store.get(record.id)


def test_the_record_on_disk_follows_every_move(service: Any) -> None:
    def on_disk() -> str:
        return str(json.loads((service.store.files.job(record.id) / "record.json").read_text())["state"])

    record = service.submit()
    claims = _claims(service)
    assert on_disk() == "queued"
    claim = claims.claim(64)
    assert claim is not None
    claims.begin(claim)
    assert on_disk() == "running"
    claims.hand_back(claim)
    assert on_disk() == "queued"
    service.store.request_cancel(record.id)
    assert on_disk() == "cancelled"


def test_a_client_that_answers_with_bytes_is_refused(service: Any) -> None:
    client = Redis.from_url(service.settings.redis_url)
    with pytest.raises(EquipotError, match="decode_responses"):
        JobStore(client, service.settings.data_dir, service.settings)
    client.close()


def test_an_unreachable_redis_is_not_healthy(service: Any, tmp_path: Any) -> None:
    assert service.store.healthy()
    store = JobStore(connect(f"unix://{tmp_path}/none.sock", patience_s=0), tmp_path, service.settings)
    assert not store.healthy()

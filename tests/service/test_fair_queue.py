"""Who is next when several owners have jobs in the queue."""

from __future__ import annotations

from itertools import count
from typing import Any

from equipot.service.claims import Claims

_numbers = count()


def _claimed(service: Any, n: int) -> list[str]:
    """The owners of the next shards, each taken by a worker of its own."""
    owners = []
    for _ in range(n):
        claim = Claims(service.store, f"worker-{next(_numbers)}", "cpu").claim(1)
        assert claim is not None
        owners.append(claim.owner or claim.job_id)
    return owners


def _submit(service: Any, owner: str, **fields: Any) -> str:
    """A job of an owner, as if its request had said so."""
    record = service.submit(**fields)
    request = service.store.files.read_request(record.id)
    request["static"]["owner"] = owner
    service.store.scripts.run("delete", record.id, "1")
    assert service.store.register(request)
    return str(record.id)


def test_the_first_job_of_somebody_new_stands_before_the_tenth_of_somebody_else(service: Any) -> None:
    for _ in range(10):
        _submit(service, "many")
    assert _claimed(service, 2) == ["many", "many"]
    _submit(service, "few")
    assert _claimed(service, 2).count("few") == 1


def test_priority_goes_before_fairness_and_one_owners_jobs_come_in_order(service: Any) -> None:
    first, second = (_submit(service, "") for _ in range(2))
    urgent = _submit(service, "", priority=1)
    assert _claimed(service, 3) == [urgent, first, second]

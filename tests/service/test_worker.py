"""Real worker processes on a real Redis, with the tiny potential."""

from __future__ import annotations

from typing import Any

from equipot.params import RelaxParams, SinglepointParams


def test_every_kind_of_job_is_run_to_its_end_by_one_warm_worker(service: Any) -> None:
    service.start_worker()
    jobs = {
        "completed": [service.submit(), service.submit(params=SinglepointParams())],
        "converged": [service.submit(n_systems=3, params=RelaxParams(fmax_ev_per_ang=10.0))],
        "max_steps": [service.submit(params=RelaxParams(fmax_ev_per_ang=1e-6, max_steps=5))],
    }
    for outcome, records in jobs.items():
        for submitted in records:
            record = service.wait_until_over(submitted.id)
            assert record.state == "succeeded", (record.error, service.log.read_text())
            assert record.outcomes == {outcome: record.progress.n_systems}
            assert record.attempt == 1
            assert record.started_at is not None
            assert record.finished_at is not None
            results, _ = service.store.systems(record.id)
            assert [result["system_idx"] for result in results] == list(range(record.progress.n_systems))
            assert all(len(result["forces_ev_per_ang"]) == 9 for result in results)
    assert "potential loaded" in service.log.read_text()
    assert service.log.read_text().count("potential loaded") == 1

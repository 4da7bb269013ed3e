"""What a worker does with jobs: claim a shard, show signs of life, report, and end it one way or another.

Every call carries the number of the attempt. Once another worker has claimed the shard the number is stale: the
calls answer "lost" and change nothing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal
from uuid import uuid4

from equipot.errors import EquipotError
from equipot.params import AnyParams, Device, parse_params
from equipot.service.records import ShardClaim, utc_now
from equipot.service.states import ShardState
from equipot.service.store import JobStore

Answer = Literal["ok", "cancel", "lost"]
Events = Sequence[tuple[str, Mapping[str, Any]]]


class Claims:
    """The claims of one worker."""

    def __init__(self, store: JobStore, worker_id: str, device: Literal["cpu", "cuda"]) -> None:
        self._store = store
        self._scripts = store.scripts
        self._worker_id = worker_id
        self.device = device
        self._device: Device = device
        self._classes = ("cuda", "cpu") if device == "cuda" else ("cpu",)
        self._lease_ms = int(1000 * store.settings.lease_s)

    def claim(self, most: int) -> ShardClaim | None:
        """The next shard that waits of an owner of whom fewer than `most` are held; its attempt is ours alone."""
        answer = self._scripts.run(
            "claim", self._worker_id, uuid4().hex, self._lease_ms, most, self._device, *self._ready_classes()
        )
        if answer is None:
            return None
        return self._with_unused_attempt(self._as_claim(*answer))

    def somebody_else_is_idle(self) -> bool:
        """Whether another worker for the same devices has nothing to do."""
        return any(
            worker["ready"] and not worker["n_shards"] and worker["device"] == self.device
            for worker in self._store.workers()
            if worker["id"] != self._worker_id
        )

    def _ready_classes(self) -> Sequence[str]:
        """A worker with a GPU takes what asks for the CPU only if nobody else can."""
        if self._device == "cuda" and any(worker["device"] == "cpu" for worker in self._store.workers()):
            return ("cuda",)
        return self._classes

    def _as_claim(
        self, name: str, attempt: str, static_json: str, offset: str, n_systems: str, ran_ms: str, alone: str
    ) -> ShardClaim:
        job_id, _, shard_idx = name.partition("/")
        static = json.loads(static_json)
        limit_s = static["max_wall_time_s"]
        return ShardClaim(
            job_id=job_id,
            shard_idx=int(shard_idx),
            attempt=int(attempt),
            worker_id=self._worker_id,
            directory=self._store.files.shard(job_id, int(shard_idx)),
            kind=static["kind"],
            model=static["model"],
            model_sha256=static["model_sha256"],
            params=static["params"],
            dtype=static["dtype"],
            level_of_theory=static["level_of_theory"],
            device=self._device if static["device"] == "auto" else static["device"],
            reproducible=static.get("reproducible", False),
            compile=static.get("compile"),
            system_offset=int(offset),
            n_systems=int(n_systems),
            owner=static.get("owner") or "",
            request_id=static.get("request_id") or "",
            wall_left_s=None if limit_s is None else limit_s - float(ran_ms) / 1000,
            alone=alone == "1",
        )

    def _with_unused_attempt(self, claim: ShardClaim) -> ShardClaim | None:
        """The claim under a number that was never used, even if Redis has forgotten some; None if it was lost."""
        files = self._store.files
        files.fetch(claim.job_id)
        while not files.create_attempt(claim.job_id, claim.shard_idx, claim.attempt):
            number = files.last_attempt(claim.job_id, claim.shard_idx) + 1
            if not self._scripts.run("advance_attempt", *self._fence(claim), number):
                return None
            claim = replace(claim, attempt=number)
        return claim

    def begin(self, claim: ShardClaim) -> Answer:
        """The potential is loaded, the shard computes from now on."""
        answer: Answer = self._scripts.run("begin", *self._fence(claim))
        self._store.save_record(claim.job_id)
        return answer

    def beat(self, claims: Sequence[ShardClaim]) -> list[Answer]:
        """Renew the leases; for each claim whether it is still ours and whether cancel was asked for."""
        if not claims:
            return []
        pairs = [part for claim in claims for part in (claim.name, claim.attempt)]
        answers: list[Answer] = self._scripts.run("beat", self._worker_id, self._lease_ms, *pairs)
        return answers

    def progress(
        self,
        claim: ShardClaim,
        *,
        step: int,
        n_done: int,
        outcomes: Mapping[str, int],
        checkpoint_step: int | None,
        new_checkpoint: bool,
        events: Events = (),
    ) -> Answer:
        """Report how far the shard is; also a sign of life. A new checkpoint clears the memory of crashes."""
        if new_checkpoint:
            self._push(claim)
        answer: Answer = self._scripts.run(
            "progress",
            *self._fence(claim),
            self._lease_ms,
            step,
            n_done,
            json.dumps(dict(outcomes)),
            "" if checkpoint_step is None else checkpoint_step,
            int(new_checkpoint),
            json.dumps([[kind, json.dumps(data)] for kind, data in events]),
        )
        return answer

    def commit(
        self,
        claim: ShardClaim,
        *,
        step: int,
        outcomes: Mapping[str, int],
        state: ShardState = ShardState.DONE,
        problem: EquipotError | None = None,
    ) -> Answer:
        """End the shard. Its result file is made by one attempt only; a second attempt finds it and adopts it."""
        if self.beat([claim]) == ["lost"]:
            return "lost"
        self._push(claim)
        result = {
            "state": state.value,
            "step": step,
            "outcomes": dict(outcomes),
            "error": problem.as_problem() if problem else None,
            "attempt": claim.attempt,
            "worker": claim.worker_id,
            "finished_at": utc_now(),
        }
        if not self._store.files.create_result(claim.job_id, claim.shard_idx, result):
            result = self.earlier_result(claim) or result
        return self._end(claim, result)

    def earlier_result(self, claim: ShardClaim) -> dict[str, Any] | None:
        """The result an earlier attempt left before it could say so."""
        return self._store.files.read_result(claim.job_id, claim.shard_idx)

    def adopt(self, claim: ShardClaim, result: Mapping[str, Any]) -> Answer:
        """End the shard with a result that is there already."""
        return self._end(claim, result)

    def _end(self, claim: ShardClaim, result: Mapping[str, Any]) -> Answer:
        outcomes = result["outcomes"]
        error = json.dumps(result["error"]) if result["error"] else ""
        answer: Answer = self._scripts.run(
            "commit",
            *self._fence(claim),
            result["state"],
            result["step"],
            sum(outcomes.values()),
            json.dumps(outcomes),
            error,
        )
        self._store.settle(claim.job_id)
        self._store.save_record(claim.job_id)
        return answer

    def fail(self, claim: ShardClaim, problem: EquipotError, *, step: int, outcomes: Mapping[str, int]) -> Answer:
        """End the shard with a problem; what its ended systems gave is kept."""
        return self.commit(claim, step=step, outcomes=outcomes, state=ShardState.FAILED, problem=problem)

    def hand_back(self, claim: ShardClaim) -> Answer:
        """Give the shard back to go on elsewhere. Not a failed attempt."""
        self._push(claim)
        answer: Answer = self._scripts.run("hand_back", *self._fence(claim))
        self._store.settle(claim.job_id)
        self._store.save_record(claim.job_id)
        self._store.doorbell.ring(self._device)
        return answer

    def _push(self, claim: ShardClaim) -> None:
        """Let other hosts see the shard's files, if they see them by copies."""
        self._store.files.push_shard(claim.job_id, claim.shard_idx, claim.attempt)

    def params(self, claim: ShardClaim) -> AnyParams:
        """The shard's parameters; of a list of seeds, those of its systems."""
        given = dict(claim.params)
        if isinstance(given.get("seed"), list):
            given["seed"] = given["seed"][claim.system_offset : claim.system_offset + claim.n_systems]
        return parse_params(claim.kind, given)

    def _fence(self, claim: ShardClaim) -> tuple[str, int, str]:
        return claim.name, claim.attempt, claim.worker_id

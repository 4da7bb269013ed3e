"""The jobs: submit, look up, list, cancel, resume, delete, follow.

Live state is in Redis and changes by the scripts in `lua/` alone; what must outlast Redis is in the job's directory
(`job_files.py`). The methods are synchronous and may be called from several threads. What a worker does with a job
is in `claims.py`, bringing jobs back from disk in `reconciler.py`.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from redis import Redis
from redis.exceptions import RedisError

from equipot.cards import PotentialCard
from equipot.errors import (
    ConflictError,
    InvalidParameterError,
    JobNotFoundError,
    NotResumableError,
    QueueFullError,
)
from equipot.params import AnyParams, Device, Dtype, JobKind, MDParams, RelaxParams
from equipot.service import reuse
from equipot.service.doorbell import DEVICE_CLASSES, Doorbell
from equipot.service.idempotency import Reservation
from equipot.service.job_files import JOB_ID, JobFiles, new_job_id, write_atomically
from equipot.service.manifest import digest_of, write_manifest
from equipot.service.records import Event, JobRecord, JobWarning, record_from_hash, utc_now
from equipot.service.roster import Roster
from equipot.service.scripts import Scripts, require_text
from equipot.service.settings import Settings
from equipot.service.states import JobState, derive_job_state
from equipot.service.webhook_queue import await_end
from equipot.structure import Structure

EVENT_ID = re.compile(r"\d{1,20}(-\d{1,20})?|\$")
RETAINED = "equipot:retained"  #: jobs that are removed some time after their end
COUNTERS = "equipot:counters"  #: what workers have counted (see `meter`)
TELLING_EVENTS = frozenset({"state", "progress", "system", "end"})

# Named here because JobStore.list hides the builtin inside the class.
Objects = list[dict[str, Any]]
Records = list[JobRecord]
RecordsOrNone = list[JobRecord | None]
Events = list[Event]
Paths = list[Path]
Ranges = list[tuple[int, int]]
Shard = list[Structure]


def job_key(job_id: str) -> str:
    return f"equipot:job:{job_id}"


def shard_key(job_id: str, shard_idx: int) -> str:
    return f"equipot:shard:{job_id}:{shard_idx}"


def events_key(job_id: str) -> str:
    return f"equipot:events:{job_id}"


class JobStore:
    """All jobs of one service. `redis` must decode responses (`redis_server.connect`)."""

    def __init__(self, redis: Redis, data_dir: Path, settings: Settings) -> None:
        require_text(redis)
        self.redis: Any = redis
        self.settings = settings
        self.files = JobFiles(data_dir, settings.storage)
        self.scripts = Scripts(redis)
        self.doorbell = Doorbell(redis)
        self.roster = Roster(redis)

    # -- submit

    def submit(
        self,
        *,
        kind: JobKind,
        model_card: PotentialCard,
        params: AnyParams,
        structures: Sequence[Structure],
        request_json: dict[str, Any],
        tags: Sequence[str] = (),
        name: str = "",
        priority: int = 0,
        dtype: Dtype = "float64",
        device: Device = "auto",
        reproducible: bool = False,
        compile: bool | None = None,
        max_wall_time_s: float | None = None,
        level_of_theory: str | None = None,
        warnings: Sequence[JobWarning] = (),
        idempotency_key: str | None = None,
        webhook_url: str | None = None,
        use_cache: bool = False,
        owner: str = "",
        retention_s: float | None = None,
        admit: Callable[[str], None] | None = None,
        request_id: str = "",
    ) -> tuple[JobRecord, bool]:
        """Queue a job. Returns its record and whether it is the replay of an earlier submission.

        `params` must be resolved; `request_json` is what the user sent, compared when an `idempotency_key` comes
        again from the same owner. With `use_cache` the results of an earlier job that computed exactly this are
        taken over. `admit` may refuse a new job, knowing its id. Raises IdempotencyKeyReusedError,
        IdempotencyKeyInUseError or QueueFullError.
        """
        job_id = new_job_id()
        key = f"{owner}:{idempotency_key}" if owner else idempotency_key
        reservation = Reservation(self.redis, key, job_id, request_json) if key and idempotency_key else None
        if reservation and (earlier := reservation.take()):
            return self.get(earlier), True
        static = {
            "id": job_id,
            "kind": kind,
            "model": model_card.name,
            "model_sha256": model_card.weights_sha256,
            "level_of_theory": model_card.level_names[model_card.head_of(level_of_theory)],
            "name": name,
            "tags": list(tags),
            "priority": priority,
            "params": params.model_dump(mode="json"),
            "dtype": dtype,
            "device": device,
            "reproducible": reproducible,
            "compile": compile,
            "max_wall_time_s": max_wall_time_s,
            "webhook_url": webhook_url,
            "owner": owner,
            "retention_s": retention_s,
            "n_steps": n_steps_of(params),
            "n_systems": len(structures),
            "created_at": utc_now(),
            "request_id": request_id,
        }
        inputs = [*self._cut(structures)]
        request = {
            "static": static,
            "shards": _sizes(inputs),
            "idempotency": reservation.final if reservation else None,
            "warnings": [warning.model_dump() for warning in warnings],
            "structures_sha256": digest_of(structures),
            "sent": {key: value for key, value in request_json.items() if key != "structures"},
        }
        try:
            if admit is not None:
                admit(job_id)
            if self.redis.scard("equipot:live") >= self.settings.max_queued_jobs:
                raise self._full()
            same = reuse.earlier_job(self, request) if use_cache else None
            if same is not None and reuse.take_over(self, request, same):
                return self.save_record(job_id), False
            self.files.write_request(job_id, request, inputs)
            self.register(request, most=self.settings.max_queued_jobs)
        except BaseException:
            if reservation:
                reservation.release()
            self.files.remove(job_id)
            raise
        record = self.save_record(job_id)
        self.doorbell.ring(self.device_class(device), len(inputs))
        return record, False

    def register(
        self,
        request: dict[str, Any],
        *,
        kept: dict[str, Any] | None = None,
        shards: Objects | None = None,
        most: int | None = None,
    ) -> bool:
        """Make a job on disk known to Redis. Returns False if it was known.

        `kept` and `shards` are fields of the job and its shards that outlast Redis; new ones if absent.
        """
        static = request["static"]
        await_end(self.redis, static)
        idempotency = request.get("idempotency") or {"key": "", "value": ""}
        answer = self.scripts.run(
            "submit",
            static["id"],
            json.dumps(static),
            static["priority"],
            self.device_class(static["device"]),
            "" if most is None else most,
            idempotency["key"],
            idempotency["value"],
            self.settings.idempotency_ttl_s,
            json.dumps(shards or [{"state": "pending", **shard} for shard in request["shards"]]),
            json.dumps(kept or {}),
        )
        if answer == "full":
            raise self._full()
        if answer == "ok":
            reuse.remember(self, request)
            if static.get("retention_s"):
                self.redis.sadd(RETAINED, static["id"])
        if answer == "ok" and request.get("warnings"):
            self.redis.rpush(f"equipot:warnings:{static['id']}", *map(json.dumps, request["warnings"]))
        return bool(answer == "ok")

    def _full(self) -> QueueFullError:
        return QueueFullError(
            f"The queue is full ({self.settings.max_queued_jobs} jobs).", hint="Try again when some jobs have ended."
        )

    def _cut(self, structures: Sequence[Structure]) -> Iterator[Shard]:
        """The structures in shards, in order, each within the limits unless one structure alone is not."""
        shard: Shard = []
        n_atoms = 0
        for structure in structures:
            too_many = len(shard) == self.settings.shard_max_systems
            if shard and (too_many or n_atoms + structure.n_atoms > self.settings.shard_max_atoms):
                yield shard
                shard, n_atoms = [], 0
            shard.append(structure)
            n_atoms += structure.n_atoms
        yield shard

    def device_class(self, device: str) -> str:
        """The queue a job goes to: where it asks for, else cuda if a worker has a GPU."""
        if device in DEVICE_CLASSES:
            return device
        return "cuda" if any(worker["device"] == "cuda" for worker in self.workers()) else "cpu"

    # -- look up

    def get(self, job_id: str) -> JobRecord:
        """The record of a job. Raises JobNotFoundError."""
        self.files.job(job_id)
        [record] = self._records([job_id])
        if record is None and (kept := self.files.read_record(job_id)):
            record = JobRecord.model_validate(kept)  # Redis has lost it and the reconciler has not been by yet
        if record is None:
            raise JobNotFoundError(f"There is no job {job_id!r}.", hint="GET /v1/jobs lists the jobs.")
        return record

    def _records(self, job_ids: Sequence[str]) -> RecordsOrNone:
        pipeline = self.redis.pipeline(transaction=False)
        for job_id in job_ids:
            pipeline.hgetall(job_key(job_id))
            pipeline.lrange(f"equipot:warnings:{job_id}", 0, -1)
        answers = pipeline.execute()
        records = [
            record_from_hash(fields, warnings) if fields else None
            for fields, warnings in zip(answers[::2], answers[1::2], strict=True)
        ]
        return self._with_positions(records, answers[::2])

    def _with_positions(self, records: RecordsOrNone, fields: Sequence[dict[str, str]]) -> RecordsOrNone:
        """The records with `queue_position` where a job is queued."""
        queued = [i for i, record in enumerate(records) if record and record.state is JobState.QUEUED]
        if not queued:
            return records
        pipeline = self.redis.pipeline(transaction=False)
        for i in queued:
            pipeline.zcount(f"equipot:pending:{fields[i]['class']}", "-inf", f"({fields[i]['score']}")
        for i, before in zip(queued, pipeline.execute(), strict=True):
            record = records[i]
            assert record is not None
            records[i] = record.model_copy(update={"queue_position": before + 1})
        return records

    def position_of_next(self, device: str, priority: int, owner: str) -> int:
        """The place in the queue that a job submitted now would have (see lua/common.lua)."""
        reached = int(self.redis.get(f"equipot:reached:{device}") or 0)
        start = max(reached, int(self.redis.hget(f"equipot:queued:{device}", owner) or 0)) + 1
        return int(self.redis.zcount(f"equipot:pending:{device}", "-inf", priority * -1e12 + start)) + 1

    def list(
        self,
        page_size: int = 50,
        page_token: str = "",
        *,
        state: JobState | str | None = None,
        kind: str | None = None,
        model: str | None = None,
        tag: str | None = None,
        owner: str | None = None,
    ) -> tuple[Records, str]:
        """Jobs, newest first, that have all that is asked for, and the token of the next page ('' at the end)."""
        if page_token and not JOB_ID.fullmatch(page_token):
            raise InvalidParameterError(
                "page_token is not one that a list answered with.",
                pointer="/page_token",
                hint="Use next_page_token of the page before.",
            )
        found: Records = []
        below = f"({page_token}" if page_token else "+"
        while True:
            job_ids = self.redis.zrevrangebylex("equipot:jobs", below, "-", 0, max(100, page_size))
            for record in self._records(job_ids):
                if record is None or not _matches(record, state, kind, model, tag, owner):
                    continue
                if len(found) == page_size:
                    return found, found[-1].id
                found.append(record)
            if not job_ids:
                return found, ""
            below = f"({job_ids[-1]}"

    def shard_dirs(self, job_id: str) -> Paths:
        """The run directories of a job in the order of its systems; one that has not begun does not exist yet."""
        self.files.fetch(job_id, often=True)
        return [self.files.shard(job_id, shard_idx) for shard_idx in range(self._n_shards(job_id))]

    def structures(self, job_id: str) -> Iterator[Structure]:
        """The structures as they were submitted, in order."""
        for shard_idx in range(self._n_shards(job_id)):
            yield from self.files.read_inputs(job_id, shard_idx)

    def systems(self, job_id: str, page_size: int = 50, page_token: str = "") -> tuple[Objects, str]:
        """Results of the systems that have ended, by index, and the token of the next page ('' at the end).

        Systems of a shard that ended with a problem have `outcome` failed or cancelled and that problem.
        """
        if page_token and not page_token.isdecimal():
            raise InvalidParameterError("page_token is not one that a list answered with.", pointer="/page_token")
        self.files.fetch(job_id, often=True)
        first = int(page_token or 0)
        page: Objects = []
        for shard_idx, (offset, n_systems) in enumerate(self._shard_sizes(job_id)):
            if offset + n_systems <= first:
                continue
            for result in self._shard_results(job_id, shard_idx, offset, n_systems):
                if result["system_idx"] < first:
                    continue
                if len(page) == page_size:
                    return page, str(result["system_idx"])
                page.append(result)
        return page, ""

    def _shard_results(self, job_id: str, shard_idx: int, offset: int, n_systems: int) -> Objects:
        results = self.files.system_results(job_id, shard_idx)
        state, error = self.redis.hmget(shard_key(job_id, shard_idx), "state", "error")
        if state in ("failed", "cancelled"):
            for system_idx in range(offset, offset + n_systems):
                problem = json.loads(error) if error else None
                results.setdefault(system_idx, {"system_idx": system_idx, "outcome": state, "error": problem})
        return [results[system_idx] for system_idx in sorted(results)]

    def _n_shards(self, job_id: str) -> int:
        return len(self._shard_sizes(job_id))

    def _shard_sizes(self, job_id: str) -> Ranges:
        """First system and number of systems of each shard."""
        return [(shard["offset"], shard["n_systems"]) for shard in self.files.read_request(job_id)["shards"]]

    # -- change

    def request_cancel(self, job_id: str) -> JobRecord:
        """Ask a job to stop; what was computed is kept. Raises JobNotFoundError, or ConflictError if it has ended."""
        self.files.job(job_id)
        answer = self.scripts.run("cancel", job_id)
        if answer == "unknown":
            self.get(job_id)
        self.settle(job_id)
        record = self.save_record(job_id)
        if answer == "over" and record.state is not JobState.CANCELLED:
            raise ConflictError(f"The job has already {record.state.value}.", hint="There is nothing to cancel.")
        return record

    def resume(self, job_id: str) -> JobRecord:
        """Queue what did not end well again, from the last checkpoint. Raises NotResumableError."""
        with self.files.locked(job_id):
            before = self.get(job_id)
            if not before.is_over:
                raise NotResumableError(f"The job is {before.state.value}.", hint="Only an ended job can be resumed.")
            for shard_idx in range(self._n_shards(job_id)):
                shard_state = self.redis.hget(shard_key(job_id, shard_idx), "state")
                if shard_state in ("failed", "cancelled"):
                    self.files.withdraw_result(job_id, shard_idx)
                if shard_state == "cancelled":
                    self.files.undo_cancellation(job_id, shard_idx)
            n_resumed = self.scripts.run("resume", job_id)
        if n_resumed <= 0:
            raise NotResumableError(
                "Every part of the job has run to its end.", hint="Submit a new job to compute more."
            )
        record = self.save_record(job_id)
        self.doorbell.ring(self.device_class(record.device), n_resumed)
        return record

    def delete(self, job_id: str) -> None:
        """Forget an ended job and remove its files. Raises JobNotFoundError, or ConflictError while it runs."""
        self.files.job(job_id)
        with suppress(JobNotFoundError, ValueError):
            if self.get(job_id).is_over:
                reuse.forget(self, self.files.read_request(job_id))
        answer = self.scripts.run("delete", job_id, "")
        if answer == "live":
            raise ConflictError("The job has not ended.", hint="Cancel it first.")
        if answer == "unknown":
            raise JobNotFoundError(f"There is no job {job_id!r}.", hint="GET /v1/jobs lists the jobs.")
        self.files.remove(job_id)

    def settle(self, job_id: str) -> bool:
        """End a job all of whose shards have ended; anybody may try at any time. Returns whether this call did it."""
        state, text, n_shards = self.redis.hmget(job_key(job_id), "state", "outcomes", "n_shards")
        if state is None or JobState(state).is_terminal:
            return False
        pipeline = self.redis.pipeline(transaction=False)
        for shard_idx in range(int(n_shards)):
            pipeline.hget(shard_key(job_id, shard_idx), "state")
        shard_states = set(pipeline.execute())
        if shard_states & {"pending", "running"}:
            return False
        end = derive_job_state(json.loads(text), cancelled="cancelled" in shard_states)
        if not self.scripts.run("finish", job_id, end.value):
            return False
        with suppress(OSError):  # made when it is asked for, if it cannot be written now
            write_manifest(self.files, self.get(job_id))
        return True

    def save_record(self, job_id: str) -> JobRecord:
        """Write the record as it is now to the job's directory, and return it."""
        with self.files.locked(job_id) as folder:
            record = self.get(job_id)
            write_atomically(folder / "record.json", record.model_dump_json())
            self.files.push(job_id, "record.json")
        return record

    # -- follow

    def wait(self, job_id: str, seconds: float) -> JobRecord:
        """The record as soon as state, progress or a system's result changes, or after `seconds`, or if it is over."""
        deadline = time.monotonic() + seconds
        newest = self.redis.xrevrange(events_key(job_id), count=1)
        last_id = newest[0][0] if newest else "0"
        record = self.get(job_id)
        while not record.is_over and (left := deadline - time.monotonic()) > 0:
            events = self.events(job_id, last_id, block_ms=max(1, int(1000 * left)))
            if any(event.type in TELLING_EVENTS for event in events):
                return self.get(job_id)
            last_id = events[-1].id if events else last_id
        return record

    def events(self, job_id: str, last_id: str = "0", block_ms: int | None = None) -> Events:
        """Up to 200 events after `last_id` ('0' the oldest kept, '$' only new ones), waiting for one if asked to."""
        self.files.job(job_id)
        if not EVENT_ID.fullmatch(last_id):
            raise InvalidParameterError("The event id is not one that a stream sent.", pointer="/Last-Event-ID")
        answer = self.redis.xread({events_key(job_id): last_id}, count=200, block=block_ms)
        entries = answer[0][1] if isinstance(answer, list) and answer else []
        if isinstance(answer, dict):
            entries = [entry for batch in answer.get(events_key(job_id), []) for entry in batch]
        return [Event(entry_id, fields["type"], json.loads(fields["data"])) for entry_id, fields in entries]

    # -- the service as a whole

    def queue(self) -> dict[str, Any]:
        """How many jobs have not ended, by state, and how many shards wait for each class of device."""
        job_ids = sorted(self.redis.smembers("equipot:live"))
        pipeline = self.redis.pipeline(transaction=False)
        for job_id in job_ids:
            pipeline.hget(job_key(job_id), "state")
        for device in DEVICE_CLASSES:
            pipeline.zcard(f"equipot:pending:{device}")
        pipeline.zcard("equipot:leases")
        answers = pipeline.execute()
        states = answers[: len(job_ids)]
        waiting = dict(zip(DEVICE_CLASSES, answers[len(job_ids) :], strict=False))
        jobs = {state.value: states.count(state.value) for state in JobState if not state.is_terminal}
        return {"jobs": jobs, "shards_waiting": waiting, "shards_running": answers[-1]}

    def counters(self) -> dict[str, float]:
        """What the workers have counted since Redis was emptied (see `meter`)."""
        return {name: float(text) for name, text in self.redis.hgetall(COUNTERS).items()}

    def depth(self) -> dict[str, tuple[int, int, int]]:
        """Shards, systems and atoms that wait, for each class of device."""
        return {device: tuple(self.scripts.run("depth", device)) for device in DEVICE_CLASSES}

    def is_durable(self) -> bool:
        """Whether Redis takes writes and the data directory too."""
        probe = self.files.jobs / f".probe.{os.getpid()}"
        try:
            self.redis.set("equipot:probe", "1", ex=60)
            probe.write_bytes(b"1")
            probe.unlink()
        except (RedisError, OSError):
            return False
        return True

    def workers(self) -> Objects:
        """The workers that are alive: id, device, ready, host, pid, models, n_shards, started_at."""
        return self.roster.alive()

    def put_structure(self, structure: Structure) -> str:
        """Keep an uploaded structure on disk; returns its id."""
        return self.files.put_structure(structure)

    def get_structure(self, structure_id: str) -> Structure:
        """An uploaded structure. Raises InvalidStructureError."""
        return self.files.get_structure(structure_id)

    def healthy(self) -> bool:
        """Whether Redis answers and the data directory is there."""
        try:
            return bool(self.redis.ping()) and self.files.jobs.is_dir()
        except (RedisError, OSError):
            return False


def n_steps_of(params: AnyParams) -> int:
    """The most steps one system can take."""
    if isinstance(params, MDParams):
        return params.n_steps or 0
    return params.max_steps if isinstance(params, RelaxParams) else 0


def _sizes(inputs: Sequence[Sequence[Structure]]) -> list[dict[str, int]]:
    offset, sizes = 0, []
    for structures in inputs:
        n_atoms = sum(structure.n_atoms for structure in structures)
        sizes.append({"offset": offset, "n_systems": len(structures), "n_atoms": n_atoms})
        offset += len(structures)
    return sizes


def _matches(
    record: JobRecord, state: str | None, kind: str | None, model: str | None, tag: str | None, owner: str | None
) -> bool:
    wanted = ((state, record.state), (kind, record.kind), (model, record.model), (owner, record.owner))
    return all(value is None or value == has for value, has in wanted) and (tag is None or tag in record.tags)

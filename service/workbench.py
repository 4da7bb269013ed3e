"""The shards a worker has claimed, and the turns it gives them."""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import structlog

from equipot.errors import EquipotError, TimedOutError, error_from_problem
from equipot.service.calibration import note_run
from equipot.service.claims import Answer, Claims
from equipot.service.engines import Engines
from equipot.service.pace import Pace
from equipot.service.records import ShardClaim
from equipot.service.settings import Settings
from equipot.service.states import UNUSABLE_OUTCOMES, ShardState
from equipot.service.store import JobStore
from equipot.simulation.checkpoint import NEWEST, read_header
from equipot.simulation.run import Run
from equipot.simulation.trajectory import REQUEST

log = structlog.get_logger()

SLICE_S = 0.1  #: between two looks at what was asked of the worker
MOST_THERMO_ROWS = 16  #: in one report; the table on disk has them all
SYSTEM_EVENT = ("system_idx", "outcome", "converged", "n_steps", "energy_ev", "fmax_ev_per_ang")


class ShardAtWork:
    """One claimed shard: its run, and what is to be reported of it."""

    def __init__(self, claim: ShardClaim) -> None:
        self.claim = claim
        self.run: Run | None = None
        self.alone = claim.alone
        self.answer: Answer = "ok"  #: the last the store said; set by the heartbeat too
        self.busy_s = 0.0  #: spent in the run
        self._begun = time.monotonic()
        self._reported = 0.0
        self._checkpoint: tuple[int, int] | None = None  # inode and time of the file
        self._checkpoint_step: int | None = None
        self._thermo: dict[int, dict[str, Any]] = {}
        self._events: list[tuple[str, dict[str, Any]]] = []

    def open(self, store: JobStore, claims: Claims, engines: Engines) -> None:
        """Load the potential and begin the run, or go on from its last checkpoint."""
        claim = self.claim
        provider = engines.get(
            claim.model,
            claim.model_sha256,
            claim.dtype,
            claim.device,
            claim.level_of_theory,
            reproducible=claim.reproducible,
            compile=claim.compile,
        )
        callbacks: dict[str, Callable[..., None]] = {
            "on_thermo": self._on_thermo,
            "on_system": self._on_system,
            "on_warning": self._on_warning,
        }
        if (claim.directory / REQUEST).exists():
            self._checkpoint = _identity_of(claim.directory / NEWEST)
            self.run = Run.resume(claim.directory, provider, claim.attempt, **callbacks)
            return
        self.run = Run.start(
            claim.directory,
            kind=claim.kind,
            structures=store.files.read_inputs(claim.job_id, claim.shard_idx),
            params=claims.params(claim),
            provider=provider,
            attempt=claim.attempt,
            system_offset=claim.system_offset,
            **callbacks,
        )

    def _on_thermo(self, row: dict[str, Any]) -> None:
        if len(self._thermo) < MOST_THERMO_ROWS or row["system"] in self._thermo:
            self._thermo[row["system"]] = row

    def _on_system(self, result: dict[str, Any]) -> None:
        self._events.append(("system", {name: result.get(name) for name in SYSTEM_EVENT}))

    def _on_warning(self, system_idx: int, message: str) -> None:
        self._events.append(("warning", {"system_idx": system_idx, "message": message}))

    @property
    def step(self) -> int:
        """The smallest step of a system that has not ended; of an ended run the largest step of any."""
        if self.run is None:
            return 0
        if self.run.done:
            return max((int(result["n_steps"] or 0) for result in self.run.results), default=0)
        return self.run.progress.step

    @property
    def outcomes(self) -> dict[str, int]:
        """How many systems have ended, by outcome."""
        return dict(Counter(str(result["outcome"]) for result in self.run.results)) if self.run else {}

    @property
    def out_of_time(self) -> bool:
        """Whether the job has used up its running time."""
        left_s = self.claim.wall_left_s
        return left_s is not None and time.monotonic() - self._begun > left_s

    def report(self, claims: Claims, least_interval_s: float) -> None:
        """Tell the store how far the run is, unless that was done a moment ago."""
        now = time.monotonic()
        if self.run is None or now - self._reported < least_interval_s:
            return
        self._reported = now
        is_new = self._look_for_checkpoint()
        events = [("thermo", row) for row in self._thermo.values()] + self._events
        outcomes = self.outcomes
        answer = claims.progress(
            self.claim,
            step=self.step,
            n_done=sum(outcomes.values()),
            outcomes=outcomes,
            checkpoint_step=self._checkpoint_step,
            new_checkpoint=is_new,
            events=events,
        )
        self._thermo, self._events = {}, []
        self.alone = self.alone and not is_new
        self.answer = answer if self.answer == "ok" else self.answer

    def _look_for_checkpoint(self) -> bool:
        """Whether there is a checkpoint that was not there at the last look."""
        found = _identity_of(self.claim.directory / NEWEST)
        if found is None or found == self._checkpoint:
            return False
        self._checkpoint = found
        header = read_header(self.claim.directory)
        if header is not None:
            steps = [system["step"] for system in header["systems"]]
            self._checkpoint_step = min(steps, default=self.step)
        return True

    def close(self) -> None:
        """Let go of the run without another word."""
        if self.run is not None:
            self.run.close()


class Workbench:
    """Gives every claimed shard turns of about a second, and looks for new ones between turns.

    What was claimed last has the next turn, so that a small job never waits for long ones.
    """

    def __init__(self, store: JobStore, claims: Claims, engines: Engines, settings: Settings) -> None:
        self._store, self._claims, self._engines, self._settings = store, claims, engines, settings
        self._shards: deque[ShardAtWork] = deque()
        self._guard = threading.Lock()
        self.preempted = threading.Event()  #: set by SIGTERM: hand everything back

    @property
    def held(self) -> list[ShardAtWork]:
        """What is claimed now; safe from another thread."""
        with self._guard:
            return list(self._shards)

    def work(self) -> None:
        """Claim and run until nothing waits and nothing is held, or until pre-empted."""
        while not self.preempted.is_set():
            self._take_more()
            shard = self._next()
            if shard is None:
                return
            with structlog.contextvars.bound_contextvars(job_id=shard.claim.job_id, shard=shard.claim.shard_idx):
                self._turn(shard)
        for shard in self.held:
            self._hand_back(shard)

    def _take_more(self) -> None:
        if self._shards and self._somebody_else_is_idle():
            return
        claim = self._claims.claim(self._settings.max_shards_per_worker)
        if claim is None:
            return
        shard = ShardAtWork(claim)
        with self._guard:
            self._shards.appendleft(shard)
        with structlog.contextvars.bound_contextvars(job_id=claim.job_id, shard=claim.shard_idx):
            self._store.save_record(claim.job_id)
            log.info("claimed", attempt=claim.attempt, kind=claim.kind, n_systems=claim.n_systems)
            self._guarded(shard, lambda: self._open(shard))

    def _somebody_else_is_idle(self) -> bool:
        return any(worker["ready"] and not worker["n_shards"] for worker in self._store.workers())

    def _next(self) -> ShardAtWork | None:
        """Whose turn it is; a shard that must run alone has every turn until it has passed a checkpoint."""
        with self._guard:
            for shard in self._shards:
                if shard.alone:
                    return shard
            if not self._shards:
                return None
            self._shards.rotate(-1)
            return self._shards[-1]

    def _open(self, shard: ShardAtWork) -> None:
        earlier = self._claims.earlier_result(shard.claim)
        if earlier is not None:  # an earlier attempt ended it and died before it could say so
            self._claims.adopt(shard.claim, earlier)
            self._drop(shard)
            return
        if shard.out_of_time:
            raise self._timeout()
        shard.open(self._store, self._claims, self._engines)
        shard.answer = self._claims.begin(shard.claim)

    def _turn(self, shard: ShardAtWork) -> None:
        self._guarded(shard, lambda: self._advance(shard))

    def _advance(self, shard: ShardAtWork) -> None:
        """One turn, in slices between which requests are heard."""
        assert shard.run is not None
        until = time.monotonic() + self._settings.turn_s
        more = not shard.run.done
        while more and shard.answer == "ok" and not self.preempted.is_set() and time.monotonic() < until:
            if shard.out_of_time:
                raise self._timeout()
            begun = time.perf_counter()
            more = shard.run.advance(seconds=SLICE_S)
            shard.busy_s += time.perf_counter() - begun
            shard.report(self._claims, self._settings.event_interval_s)
        if shard.alone and more:
            shard.run.checkpoint()
        shard.report(self._claims, 0.0 if shard.alone or not more else self._settings.event_interval_s)
        if shard.answer == "lost":
            log.warning("the shard was given to another worker")
            self._drop(shard)
        elif not more:
            self._commit(shard, ShardState.DONE)
        elif shard.answer == "cancel":
            shard.run.checkpoint()  # from which the job can be resumed
            shard.run.cancel()
            shard.report(self._claims, 0.0)
            self._commit(shard, ShardState.CANCELLED)

    def _commit(self, shard: ShardAtWork, state: ShardState) -> None:
        answer = self._claims.commit(
            shard.claim,
            step=shard.step,
            outcomes=shard.outcomes,
            state=state,
            problem=self._why_nothing_is_usable(shard),
        )
        log.info("ended", state=state.value, answer=answer, **shard.outcomes)
        if shard.run is not None and shard.claim.attempt == 1 and state is ShardState.DONE:
            with suppress(EquipotError):  # an estimate that cannot be bettered must not cost a result
                note_run(Pace(self._store.redis), shard.run, shard.busy_s, shard.claim.dtype, shard.claim.device)
        self._drop(shard)

    @staticmethod
    def _why_nothing_is_usable(shard: ShardAtWork) -> EquipotError | None:
        """What stopped the first system of a shard none of whose systems can be used."""
        if shard.run is None or set(shard.outcomes) - UNUSABLE_OUTCOMES:
            return None
        reasons = (result["reason"] for result in shard.run.results)
        reason = next(filter(None, reasons), None)
        return error_from_problem(reason) if reason else None

    def _guarded(self, shard: ShardAtWork, action: Callable[[], None]) -> None:
        """Do something to a shard; if that fails, the shard fails and the worker goes on."""
        try:
            action()
        except EquipotError as problem:
            log.warning("failed", problem=problem.code, detail=problem.detail)
            self._fail(shard, problem)
        except (MemoryError, ArithmeticError, LookupError, OSError, RuntimeError, TypeError, ValueError) as error:
            if isinstance(error, ConnectionError):
                raise
            log.exception("failed unexpectedly")
            self._fail(shard, EquipotError(f"The worker could not compute this: {type(error).__name__}."))

    def _fail(self, shard: ShardAtWork, problem: EquipotError) -> None:
        """End a shard with a problem; what it has computed is kept if it still can be written."""
        if shard.run is not None:
            try:
                shard.run.checkpoint()
            except Exception as error:
                log.warning("no checkpoint after the failure", error=str(error))
        self._claims.fail(shard.claim, problem, step=shard.step, outcomes=shard.outcomes)
        self._drop(shard)

    def _hand_back(self, shard: ShardAtWork) -> None:
        with structlog.contextvars.bound_contextvars(job_id=shard.claim.job_id, shard=shard.claim.shard_idx):

            def give() -> None:
                if shard.run is not None and shard.answer != "lost":
                    shard.run.checkpoint()
                    shard.report(self._claims, 0.0)
                step = shard.step
                self._drop(shard)
                log.info("handed back", answer=self._claims.hand_back(shard.claim), step=step)

            self._guarded(shard, give)

    def _drop(self, shard: ShardAtWork) -> None:
        with self._guard:
            if shard in self._shards:
                self._shards.remove(shard)
        shard.close()

    def _timeout(self) -> TimedOutError:
        return TimedOutError(
            "The job used up its max_wall_time_s.", hint="Resume it to go on from its last checkpoint."
        )


def _identity_of(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_mtime_ns

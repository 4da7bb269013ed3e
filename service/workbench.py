"""The shards a worker has claimed, and the turns it gives them."""

from __future__ import annotations

import errno
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any

import structlog

from equipot.errors import EquipotError, TimedOutError, error_from_problem
from equipot.service.calibration import note_run
from equipot.service.claims import Answer, Claims
from equipot.service.engines import Engines
from equipot.service.meter import Meter, MeteredProvider
from equipot.service.pace import Pace
from equipot.service.records import ShardClaim, seconds_since
from equipot.service.settings import Settings
from equipot.service.states import UNUSABLE_OUTCOMES, ShardState
from equipot.service.store import JobStore
from equipot.simulation.checkpoint import NEWEST, read_header
from equipot.simulation.disk import LASTING
from equipot.simulation.run import Run
from equipot.simulation.together import advance_together
from equipot.simulation.trajectory import REQUEST

log = structlog.get_logger()

SHARDS_TOGETHER = 32  #: taken at a time by a worker with a GPU
ATOMS_TOGETHER = 5_000  #: of several shards in one pass on a GPU, which takes hardly longer than for a few
STEP_ATOMS = 400  #: moved in one step on a CPU, so that a step stays short
LISTEN_S = 0.5  #: between two looks at what was asked of all shards
YOUNG_S = 10.0  #: of turns, within which a small shard is run to its end before others have more turns
FEW_SYSTEMS = 16  #: that a small shard has at most
STARVED_S = 10.0  #: without a turn, after which a shard that is not small and young goes before all others
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
        self.provider: MeteredProvider | None = None
        self.begun = self.last_turn = time.monotonic()
        self.n_turns = 0
        self.used_s = 0.0  #: of its turns together
        self.busy_s = 0.0  #: its share of the time in runs
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
        self.provider = provider
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
            disk=LASTING,
            **callbacks,
        )

    def named_in_logs(self) -> AbstractContextManager[Any]:
        """Every line that is logged in it says which job this is, and by which request it came."""
        claim = self.claim
        asked = {"request_id": claim.request_id} if claim.request_id else {}
        return structlog.contextvars.bound_contextvars(job_id=claim.job_id, shard=claim.shard_idx, **asked)

    def place_in_line(self, now: float) -> tuple[int, float]:
        """Lowest first: what came last; then the small and young, the oldest first until it ends; then others in turns.

        Turns for all alike would let nothing end while much waits. Those others have one every `STARVED_S` at least.
        """
        if self.n_turns == 0:
            return 1, -self.begun
        if self.used_s < YOUNG_S and self.claim.n_systems <= FEW_SYSTEMS:
            return 2, self.begun
        return (0 if now - self.last_turn >= STARVED_S else 3), self.last_turn

    @property
    def open_run(self) -> Run:
        """The run of a shard that has been opened."""
        assert self.run is not None
        return self.run

    @property
    def n_at_once(self) -> int:
        """Small systems that its provider computes at the same time."""
        return 1 if self.provider is None else self.provider.n_at_once

    @property
    def size(self) -> float:
        """What a step of it takes of a turn: atoms on a GPU, systems on a CPU."""
        return self.open_run.n_atoms if self.claim.device == "cuda" else self.claim.n_systems

    @property
    def room_beside(self) -> float:
        """What others may take beside it without making it wait: on a CPU two systems for each thread."""
        if self.run is None or self.alone or self.claim.reproducible:
            return 0.0
        whole = ATOMS_TOGETHER if self.claim.device == "cuda" else 2 * self.n_at_once if self.n_at_once > 1 else 0
        return whole - self.size

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
        return left_s is not None and time.monotonic() - self.begun > left_s

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
    """Gives shards turns of about a second and looks for new ones between and during turns.

    Turns are shared out by time among owners; among the shards of one owner see `place_in_line`. Small shards with the
    same forces have their turn together.
    """

    def __init__(
        self, store: JobStore, claims: Claims, engines: Engines, settings: Settings, meter: Meter | None = None
    ) -> None:
        self._store, self._claims, self._engines, self._settings = store, claims, engines, settings
        self._meter = meter or Meter()
        self._shards: list[ShardAtWork] = []
        self._used_s: dict[str, float] = {}  # time of each owner's turns
        self._listened = 0.0
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
            begun = time.monotonic()
            self._take_more()
            turn = self._next_turn()
            if not turn:
                return
            self._turn(turn)
            self._meter.add(busy_seconds=time.monotonic() - begun)
        for shard in self.held:
            self._hand_back(shard)

    # -- what is taken

    def _take_more(self) -> bool:
        """Claim what waits, as much as a turn has use for. Returns whether anything was."""
        taken = False
        for _ in range(max(1, self._room() - len(self._shards))):
            if (self._shards and self._claims.somebody_else_is_idle()) or not self._take_one():
                break
            taken = True
        return taken

    def _room(self) -> int:
        """Shards that a turn can have use for, each of one small system."""
        if self._claims.device == "cuda":
            return SHARDS_TOGETHER
        return 2 * max((shard.n_at_once for shard in self._shards), default=1) - 1

    def _take_one(self) -> bool:
        claim = self._claims.claim(self._settings.max_shards_per_worker)
        if claim is None:
            return False
        shard = ShardAtWork(claim)
        with self._guard:
            self._shards.append(shard)
        with shard.named_in_logs():
            record = self._store.save_record(claim.job_id)
            self._meter.add(wait_seconds=seconds_since(record.created_at) if claim.attempt == 1 else 0.0, claims=1)
            log.info("claimed", attempt=claim.attempt, kind=claim.kind, n_systems=claim.n_systems)
            self._guarded(shard, lambda: self._open(shard))
        return True

    # -- whose turn it is

    def _next_turn(self) -> list[ShardAtWork]:
        """The shards whose turn it is; one that must run alone has every turn until it has passed a checkpoint."""
        if not self._shards:
            self._used_s = {}
            return []
        for shard in self._shards:
            if shard.alone:
                return [shard]
        least_s = min((self._used_s[o] for o in self._owners & self._used_s.keys()), default=0.0)
        self._used_s = {owner: self._used_s.get(owner, least_s) for owner in self._owners}
        owner = min(self._used_s, key=lambda owner: (self._used_s[owner], -self._newest(owner)))
        now = time.monotonic()
        line = [shard for shard in self._shards if shard.claim.owner == owner]
        line.sort(key=lambda shard: shard.place_in_line(now))
        return self._with_mates(line)

    @property
    def _owners(self) -> set[str]:
        return {shard.claim.owner for shard in self._shards}

    def _newest(self, owner: str) -> float:
        return max(shard.begun for shard in self._shards if shard.claim.owner == owner)

    def _with_mates(self, line: Sequence[ShardAtWork]) -> list[ShardAtWork]:
        """The first in line, and others of its kind while all together are small."""
        first = line[0]
        turn, room = [first], first.room_beside
        for shard in line[1:]:
            if shard.run is not None and shard.provider is first.provider and shard.size <= room:
                turn.append(shard)
                room -= shard.size
        return turn

    # -- a turn

    def _turn(self, turn: list[ShardAtWork]) -> None:
        """One turn, in slices between which requests are heard."""
        begun = time.monotonic()
        first_turn = any(shard.n_turns == 0 for shard in turn) and self._claims.device == "cpu"
        staying = list(turn)
        while len(staying) == len(turn) and not self.preempted.is_set():
            self._slice(staying)
            self._listen()
            held = self.held
            staying = [shard for shard in staying if shard in held]
            if time.monotonic() - begun >= self._settings.turn_s or (not first_turn and self._take_more()):
                break
        now = time.monotonic()
        owner = turn[0].claim.owner
        self._used_s[owner] = self._used_s.get(owner, 0.0) + now - begun
        for shard in staying:
            shard.n_turns += 1
            shard.used_s += now - begun
            shard.last_turn = now
            if shard.alone:
                self._guarded(shard, lambda shard=shard: self._vouch_for(shard))  # type: ignore[misc]

    def _slice(self, turn: Sequence[ShardAtWork]) -> None:
        """Some steps of every shard, and what follows from them."""
        going = [shard for shard in turn if shard.run is not None and not shard.run.done and shard.answer == "ok"]
        most_atoms = None if self._claims.device == "cuda" else STEP_ATOMS
        until = time.monotonic() + SLICE_S
        while going:
            n_atoms = {shard: shard.open_run.n_atoms for shard in going}
            n_atoms_together = max(sum(n_atoms.values()), 1)
            begun = time.perf_counter()
            failed = advance_together([shard.open_run for shard in going], SLICE_S, most_atoms)
            took_s = time.perf_counter() - begun
            for shard in going:
                shard.busy_s += took_s * n_atoms[shard] / n_atoms_together
                if error := failed.get(shard.open_run):
                    self._guarded(shard, lambda error=error: _raise(error))  # type: ignore[misc]
            if time.monotonic() >= until or any(shard.open_run in failed or shard.open_run.done for shard in going):
                break
        for shard in turn:
            if shard in self.held:
                self._guarded(shard, lambda shard=shard: self._look_at(shard))  # type: ignore[misc]

    def _listen(self) -> None:
        """What was asked of any shard, whether it has its turn or not."""
        now = time.monotonic()
        if now - self._listened < LISTEN_S:
            return
        self._listened = now
        held = self.held
        for shard, answer in zip(held, self._claims.beat([shard.claim for shard in held]), strict=True):
            if answer != "ok":
                shard.answer = answer
                self._guarded(shard, lambda shard=shard: self._look_at(shard))  # type: ignore[misc]

    def _look_at(self, shard: ShardAtWork) -> None:
        """Report how far a shard is, and end it if it has ended, was given away, or is to stop."""
        run = shard.run
        if run is None:
            return
        if shard.out_of_time and not run.done:
            raise self._timeout()
        shard.report(self._claims, 0.0 if run.done else self._settings.event_interval_s)
        if shard.answer == "lost":
            log.warning("the shard was given to another worker")
            self._drop(shard)
        elif run.done:
            self._commit(shard, ShardState.DONE)
        elif shard.answer == "cancel":
            run.checkpoint()  # from which the job can be resumed
            run.cancel()
            shard.report(self._claims, 0.0)
            self._commit(shard, ShardState.CANCELLED)

    def _vouch_for(self, shard: ShardAtWork) -> None:
        """Let a shard that runs alone pass a checkpoint, after which it need not."""
        shard.open_run.checkpoint()
        shard.report(self._claims, 0.0)

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

    def _commit(self, shard: ShardAtWork, state: ShardState) -> None:
        answer = self._claims.commit(
            shard.claim,
            step=shard.step,
            outcomes=shard.outcomes,
            state=state,
            problem=self._why_nothing_is_usable(shard),
        )
        self._meter.add(**{f"shards_{state.value}": 1})
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
        with shard.named_in_logs():
            try:
                action()
            except EquipotError as problem:
                log.warning("failed", problem=problem.code, detail=problem.detail)
                self._fail(shard, problem)
            except (MemoryError, ArithmeticError, LookupError, OSError, RuntimeError, TypeError, ValueError) as error:
                if isinstance(error, ConnectionError):
                    raise
                log.exception("failed unexpectedly")
                self._fail(shard, _unexpected(error))

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


def _unexpected(error: Exception) -> EquipotError:
    """What a user is told of an error nobody foresaw; a full disk is an operator's matter, and can be resumed."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return EquipotError(
            f"The results could not be written: {os.strerror(error.errno)}.",
            hint="What was computed until the last checkpoint is kept. Make room, then resume the job.",
        )
    return EquipotError(f"The worker could not compute this: {type(error).__name__}.")


def _raise(error: Exception) -> None:
    raise error


def _identity_of(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_mtime_ns

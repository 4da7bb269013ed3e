"""A run: one shard of systems on disk, from its request to its results."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from equipot import __version__
from equipot.errors import ConflictError, EquipotError, NotResumableError
from equipot.params import AnyParams, JobKind
from equipot.simulation import snapshot
from equipot.simulation.checkpoint import load_checkpoint
from equipot.simulation.disk import LASTING, Disk
from equipot.simulation.engine import Engine, Moving, StepEvent
from equipot.simulation.progress import Progress
from equipot.simulation.providers import Evaluation, ForceProvider, System
from equipot.simulation.recorder import Recorder
from equipot.simulation.reports import frame_of, rejected_result, result_of, thermo_row
from equipot.simulation.request import RunRequest
from equipot.simulation.threads import LARGE_SYSTEM_ATOMS, LARGE_THREADS_PIN
from equipot.simulation.trajectory import Frame, attempts_begun, read_results
from equipot.simulation.verdicts import Outcome, SystemResult, Verdict
from equipot.structure import Structure

SOON_S = 1.0  # a first checkpoint, and one for systems that have ended, need not wait for the interval
REPORT_EVERY_S = 0.2


@dataclass(frozen=True)
class Callbacks:
    """Whom to tell. `on_system` comes after the checkpoint that holds the result; the others come at once.

    A resumed run tells again what happened after its last checkpoint.
    """

    on_progress: Callable[[Progress], None] | None = None
    on_frame: Callable[[Frame], None] | None = None
    on_thermo: Callable[[dict[str, Any]], None] | None = None
    on_system: Callable[[dict[str, Any]], None] | None = None
    on_warning: Callable[[int, str], None] | None = None


@dataclass
class _Files:
    """What the run has put into its files so far, as far as a checkpoint must know it."""

    last_saved: dict[int, int] = field(default_factory=dict)  # step of the last frame of each system
    told: list[dict[str, Any]] = field(default_factory=list)  # results waiting for their checkpoint
    committing: list[dict[str, Any]] = field(default_factory=list)  # results in the checkpoint being written


class Run:
    """One shard on disk. Made by `start` or `resume`; `advance` until it says False; then `results`.

    Nothing in the dynamics depends on when or how often any of the methods is called.
    """

    def __init__(
        self,
        directory: Path,
        request: RunRequest,
        provider: ForceProvider,
        attempt: int,
        callbacks: Callbacks,
        disk: Disk = LASTING,
    ) -> None:
        """Use `start` or `resume`."""
        self.directory = directory
        self.request = request
        self.attempt = attempt
        self._disk = disk
        self._callbacks = callbacks
        self.provider = provider
        self._engine = Engine(provider)
        self._files = _Files()
        self._results: dict[int, dict[str, Any]] = {}
        self._completed: list[Moving] = []  # as they were at their last step: a dynamics can be made longer
        self._differences: tuple[str, ...] = ()
        self._failure: BaseException | None = None
        self._recorder: Recorder | None = None
        self._last_commit = self._last_report = time.monotonic()
        self._has_checkpoint = False
        try:
            self._take_up(provider.identity)
        except BaseException:
            self.close()
            raise

    @classmethod
    def start(
        cls,
        directory: Path,
        *,
        kind: JobKind,
        structures: Sequence[Structure | EquipotError],
        params: AnyParams,
        provider: ForceProvider,
        attempt: int = 1,
        system_offset: int = 0,
        disk: Disk = LASTING,
        **callbacks: Callable[..., None] | None,
    ) -> Self:
        """Begin a run in a directory that holds none; systems that cannot be computed are rejected, others go on.

        A structure may be the error that kept it from being read. A list of seeds has one for each structure given
        here. Raises ConflictError if the directory holds a run, InvalidParameterError if the parameters do not fit.
        """
        directory = Path(directory)
        request = RunRequest.prepare(kind, structures, params, provider.identity, system_offset)
        directory.mkdir(parents=True, exist_ok=True)
        request.write(directory, disk)
        return cls(directory, request, provider, attempt, Callbacks(**callbacks), disk)

    @classmethod
    def resume(
        cls,
        directory: Path,
        provider: ForceProvider,
        attempt: int | None = None,
        **callbacks: Callable[..., None] | None,
    ) -> Self:
        """Go on from the last checkpoint, or from the beginning if there is none; `attempt` None takes the next number.

        A run that is complete is only opened. Raises JobNotFoundError, NotResumableError (other weights, damaged
        checkpoints) or ConflictError (this attempt has been begun).
        """
        directory = Path(directory)
        request = RunRequest.read(directory)
        _refuse_other_forces(request.provider, provider.identity)
        begun = attempts_begun(directory)
        number = attempt if attempt is not None else (begun[-1] if begun else 0) + 1
        return cls(directory, request, provider, number, Callbacks(**callbacks))

    @property
    def done(self) -> bool:
        """True when every system has ended."""
        return len(self._engine) == 0

    @property
    def results(self) -> list[dict[str, Any]]:
        """The results of the systems that have ended (see SystemResult), by system_idx."""
        return [self._results[idx] for idx in sorted(self._results)]

    @property
    def progress(self) -> Progress:
        n_steps = self.request.n_steps
        return Progress(
            step=min((s.state.step for s in self._engine.systems.values()), default=self._steps_taken),
            n_steps=n_steps,
            n_systems=len(self.request.structures),
            n_done=len(self._results),
            n_max_steps=sum(r["outcome"] == Outcome.MAX_STEPS for r in self._results.values()),
        )

    @property
    def _steps_taken(self) -> int:
        return max((r["n_steps"] or 0 for r in self._results.values()), default=0)

    @property
    def bitwise(self) -> bool:
        """False if the run was resumed where the last digits come out differently."""
        return not self._differences

    @property
    def n_atoms(self) -> int:
        """Of the systems that have not ended."""
        return sum(system.structure.n_atoms for system in self._engine.systems.values())

    def advance(self, seconds: float | None = None, steps: int | None = None, most_atoms: int | None = None) -> bool:
        """Take steps until the time or the number is used up or every system has ended; True while work is left.

        The time is looked at between steps only. `most_atoms` keeps a step short: systems then move in turns.
        """
        self._refuse_if_broken()
        begun, n_told = time.monotonic(), 0

        def goes_on() -> bool:
            return seconds is None or time.monotonic() - begun < seconds

        with closing(self._engine.advance(goes_on, steps, most_atoms)) as turns:
            for events in turns:  # if one raises, its systems have not moved and a checkpoint is possible
                self._record_events(events)
                n_told += len(events)
                if n_told >= len(self._engine):  # once around
                    n_told = 0
                    self._commit_if_due()
                    self._report()
        if not self.done:
            self._commit_if_due()
        else:
            self._finish()
        self._report(now=True)
        return not self.done

    def begin_step(self, most_atoms: int | None = None) -> list[System]:
        """The systems to be evaluated for the next step (see Engine); `end_step` must come next."""
        self._refuse_if_broken()
        return self._engine.begin_step(most_atoms)

    def end_step(self, evaluations: Sequence[Evaluation]) -> None:
        """Record what the evaluations make of the systems; of a run whose systems have all ended, everything."""
        self._record_events(self._engine.end_step(evaluations))
        self._commit_if_due()
        if self.done:
            self._finish()

    def checkpoint(self) -> None:
        """Write a checkpoint now and wait until it is on disk."""
        self._refuse_if_broken()
        if self._recorder is not None:
            self._commit(wait=True)

    def cancel(self) -> None:
        """End every system that is still running with the verdict `cancelled`; what was computed is kept."""
        self._refuse_if_broken()
        verdict = Verdict(Outcome.CANCELLED, "cancelled on request")
        for idx in self._engine.systems:
            self._end(self._engine.remove(idx), verdict)
        self._finish()
        self._report(now=True)

    def close(self) -> None:
        """Close the files, without a checkpoint: what came after the last one is computed again on resume."""
        recorder, self._recorder = self._recorder, None
        for idx in self._engine.systems:
            self._engine.remove(idx)
        if recorder is not None:
            recorder.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _take_up(self, identity: Mapping[str, Any]) -> None:
        """Begin, go on, or only open what is complete."""
        checkpoint = load_checkpoint(self.directory)
        if checkpoint is None or not checkpoint[0]["complete"]:
            self._recorder = Recorder(self.directory, self.attempt, self._disk)
            checkpoint = load_checkpoint(self.directory)  # once more, now that no earlier attempt can write another
            self._recorder.go_on_from(checkpoint[0] if checkpoint else None)
        self._has_checkpoint = checkpoint is not None
        if checkpoint is None:
            self._begin()
        else:
            self._continue(*checkpoint, identity)

    def _begin(self) -> None:
        for idx, structure in enumerate(self.request.structures, self.request.system_offset):
            if isinstance(structure, EquipotError):
                self._keep(rejected_result(idx, structure, self.request))
                continue
            motion = self.request.motion(idx)
            self._engine.add(Moving(idx, structure, motion, motion.start(), self.request.guards))
            for sentence in self.request.start_warnings(idx):
                self._tell(self._callbacks.on_warning, idx, sentence)
        if self.done:
            self._finish()

    def _continue(self, header: dict[str, Any], tensors: Mapping[str, np.ndarray], identity: Mapping[str, Any]) -> None:
        self._results = {result["system_idx"]: result for result in read_results(self.directory)}
        self._files.last_saved = {int(idx): step for idx, step in header["last_saved"].items()}
        if header["complete"]:
            self._differences = tuple(header["differences"])
            return
        request = self.request
        found = _differences(self.request, {**identity, "equipot": __version__})
        self._differences = tuple(dict.fromkeys([*header["differences"], *found]))
        how = tensors, request.structure, request.motion, request.guards
        for system in snapshot.restore(header["systems"], *how):
            self._engine.add(system)
        self._completed = snapshot.restore(header.get("completed", ()), *how)

    def _record_events(self, events: Sequence[StepEvent]) -> None:
        try:
            calls = [call for event in events for call in self._record(event)]
        except BaseException as error:
            self._failure = error
            raise
        for call in calls:
            call()

    def _record(self, event: StepEvent) -> list[Callable[[], None]]:
        """Put what happened to one system into the files; gives the calls that tell others."""
        calls: list[Callable[[], None]] = []
        assert self._recorder is not None
        system, state = event.system, event.system.state
        request, told = self.request, self._callbacks
        ended = event.verdict is not None
        for sentence in event.warnings:
            calls.append(lambda sentence=sentence: self._tell(told.on_warning, system.idx, sentence))  # type: ignore[misc]
        if event.advanced and (ended or state.step % request.thermo_every == 0):
            row = thermo_row(system)
            self._recorder.thermo(row)
            if told.on_thermo is not None:
                calls.append(lambda: self._tell(told.on_thermo, row))
        if not ended and state.step % request.save_every == 0:
            frame = self._save_frame(system)
            calls.append(lambda: self._tell(told.on_frame, frame))
        if event.verdict is not None:
            last = self._end(system, event.verdict)
            if last is not None:
                calls.append(lambda: self._tell(told.on_frame, last))
        return calls

    def _save_frame(self, system: Moving) -> Frame:
        assert self._recorder is not None
        frame = frame_of(system)
        self._recorder.frame(frame)
        self._files.last_saved[system.idx] = frame.step
        return frame

    def _end(self, system: Moving, verdict: Verdict) -> Frame | None:
        """Keep the last frame, if it is not there yet, and the result."""
        frame = None
        if system.state.evaluation is not None and self._files.last_saved.get(system.idx) != system.state.step:
            frame = self._save_frame(system)
        self._keep(result_of(system, verdict, self.request, self._differences))
        if verdict.outcome is Outcome.COMPLETED and self.request.kind == "md":
            self._completed.append(system)
        return frame

    def _keep(self, result: SystemResult) -> None:
        assert self._recorder is not None
        record = dict(vars(result))  # `asdict` copies every number
        self._recorder.result(record)
        self._results[result.system_idx] = record
        self._files.told.append(record)

    def _commit_if_due(self) -> None:
        assert self._recorder is not None
        try:
            if self._recorder.is_writing:
                return
        except BaseException as error:
            self._failure = error
            raise
        self._tell_of_systems()
        soon = self._files.told or not self._has_checkpoint
        interval = min(SOON_S, self.request.checkpoint_every_s) if soon else self.request.checkpoint_every_s
        if time.monotonic() - self._last_commit >= interval:
            self._commit(wait=False)

    def _commit(self, wait: bool) -> None:
        assert self._recorder is not None
        entries, tensors = snapshot.take(self._engine.systems.values())
        completed, last_tensors = snapshot.take(self._completed)
        tensors |= last_tensors
        header = {
            "complete": self.done,
            "systems": entries,
            "completed": completed,
            "last_saved": dict(self._files.last_saved),
            "differences": list(self._differences),
            "equipot": __version__,
        }
        try:
            self._recorder.commit(header, tensors)
            self._files.committing += self._files.told
            self._files.told = []
            if wait:
                self._recorder.wait()
        except BaseException as error:
            self._failure = error
            raise
        self._has_checkpoint = True
        self._last_commit = time.monotonic()
        if wait:
            self._tell_of_systems()

    def _finish(self) -> None:
        """The last checkpoint: the run is complete."""
        if self._recorder is not None:
            self._commit(wait=True)
            recorder, self._recorder = self._recorder, None
            recorder.close()

    def _tell_of_systems(self) -> None:
        committed, self._files.committing = self._files.committing, []
        for result in committed:
            self._tell(self._callbacks.on_system, result)

    def _report(self, now: bool = False) -> None:
        if self._callbacks.on_progress is not None and (now or time.monotonic() - self._last_report > REPORT_EVERY_S):
            self._last_report = time.monotonic()
            self._callbacks.on_progress(self.progress)

    @staticmethod
    def _tell(callback: Callable[..., None] | None, *what: Any) -> None:
        if callback is not None:
            callback(*what)

    def _refuse_if_broken(self) -> None:
        if self._failure is not None:
            raise ConflictError(
                f"The run stopped when its files could not be written: {self._failure}",
                hint="Resume it from its last checkpoint.",
            ) from self._failure


def _refuse_other_forces(begun_with: Mapping[str, Any], identity: Mapping[str, Any]) -> None:
    for name in ("model", "sha256"):
        if begun_with[name] != identity[name]:
            raise NotResumableError(
                f"The run was begun with {name} {begun_with[name]}, not {identity[name]}.",
                hint="A resume never changes weights. Give the same model, or start a new run.",
            )


def _differences(request: RunRequest, identity: Mapping[str, Any]) -> list[str]:
    """What is not as it was and decides the last digits of a result, in words."""
    begun_with = request.provider
    was = {**begun_with["pins"], **{name: begun_with[name] for name in ("dtype", "device", "equipot")}}
    now = {**identity["pins"], **{name: identity[name] for name in ("dtype", "device", "equipot")}}
    names = {*was, *now}
    if not any(isinstance(s, Structure) and s.n_atoms > LARGE_SYSTEM_ATOMS for s in request.structures):
        names -= {LARGE_THREADS_PIN}
    return [f"{name}: {was.get(name)} -> {now.get(name)}" for name in sorted(names) if was.get(name) != now.get(name)]

"""Relaxation, dynamics and single points from Python."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType
from typing import TYPE_CHECKING, Any, TypeAlias

from ase import Atoms

from equipot.calculator.convert import from_atoms
from equipot.calculator.known import KnownModel, find_known
from equipot.errors import EquipotError, InvalidParameterError, NotResumableError, error_from_problem
from equipot.params import AnyParams, JobKind, parse_params
from equipot.simulation.disk import LASTING, PASSING
from equipot.simulation.native import NativeProvider
from equipot.simulation.progress import Progress
from equipot.simulation.providers import AseProvider, ForceProvider
from equipot.simulation.request import RunRequest
from equipot.simulation.results import MDResult, RelaxResult, SavedTrajectory, SinglepointResult, final_atoms
from equipot.simulation.run import Run
from equipot.simulation.threads import torch_threads
from equipot.simulation.trajectory import REQUEST, Frame, read_frames
from equipot.simulation.verdicts import Outcome
from equipot.structure import Structure, structure_from_json

if TYPE_CHECKING:
    from ase.calculators.calculator import BaseCalculator

    from equipot.models.potential import Potential

OneStructure: TypeAlias = "Atoms | Structure | Mapping[str, Any]"
Model: TypeAlias = "str | os.PathLike[str] | Potential | BaseCalculator | ForceProvider"
TURN_S = 0.2  # how long a signal may wait


def relax(
    structures: OneStructure | Sequence[OneStructure],
    model: Model = "organic",
    *,
    device: str | None = None,
    dtype: str | None = None,
    compile: bool = False,
    n_threads: int | None = None,
    reproducible: bool = False,
    level_of_theory: str | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    **params: Any,
) -> list[RelaxResult]:
    """Relax structures together, each by its own course; the keywords are those of RelaxParams.

    structures: ASE Atoms, Structure, the JSON form, or a list of them; none of them is changed.
    model: a model name (with +d3 behind it: plus dispersion), the path of a card, a potential, or any ASE calculator.
    device, dtype and compile are for the first two; `compile` takes up to a minute once and makes every evaluation
    several times faster. n_threads: systems computed at a time, if absent as many as torch has threads, or one unless
    compiled; it changes no result. reproducible: also on a GPU, compute every system by itself. level_of_theory: one
    that the potential was trained on, if absent its first; the charge of a structure is its own (`charge`, or
    `info["charge"]` of Atoms).
    In a list, a structure that cannot be computed is `rejected` and the others go on; alone, it raises its error.
    """
    forces = Forces(model, device, dtype, compile, n_threads, reproducible, level_of_theory)
    records, given = _run("relax", structures, forces, params, on_progress=on_progress)
    return [RelaxResult.from_record(r, final_atoms(g, r)) for r, g in zip(records, given, strict=True)]


def singlepoint(
    structures: OneStructure | Sequence[OneStructure],
    model: Model = "organic",
    *,
    device: str | None = None,
    dtype: str | None = None,
    compile: bool = False,
    n_threads: int | None = None,
    reproducible: bool = False,
    level_of_theory: str | None = None,
) -> list[SinglepointResult]:
    """Energy, forces and stress of structures where they stand; arguments as in `relax`."""
    forces = Forces(model, device, dtype, compile, n_threads, reproducible, level_of_theory)
    records, given = _run("singlepoint", structures, forces, {})
    return [SinglepointResult.from_record(r, final_atoms(g, r)) for r, g in zip(records, given, strict=True)]


def run_md(
    structures: OneStructure | Sequence[OneStructure],
    model: Model = "organic",
    *,
    output: str | os.PathLike[str] | None = None,
    resume: bool = False,
    device: str | None = None,
    dtype: str | None = None,
    compile: bool = False,
    n_threads: int | None = None,
    reproducible: bool = False,
    level_of_theory: str | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    on_frame: Callable[[Atoms], None] | None = None,
    **params: Any,
) -> list[MDResult]:
    """Run molecular dynamics; the keywords are those of MDParams, the other arguments as in `relax`.

    With `output`, the run is kept in that folder: after a crash or Ctrl-C, the same call with resume=True goes on from
    the last checkpoint and ends where an uninterrupted run would have, bit for bit. Without it, trajectories are kept
    in memory.
    """
    with _folder(output) as folder:
        records, given = _run(
            "md",
            structures,
            Forces(model, device, dtype, compile, n_threads, reproducible, level_of_theory),
            params,
            folder=folder,
            keep=output is not None,
            resume=resume,
            on_progress=on_progress,
            on_frame=_as_atoms(on_frame),
        )
        return [
            MDResult.from_record(r, final_atoms(g, r), trajectory=_trajectory(folder, r["system_idx"], output is None))
            for r, g in zip(records, given, strict=True)
        ]


def resume_run(
    directory: str | os.PathLike[str],
    model: Model | None = None,
    *,
    n_threads: int | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    on_frame: Callable[[Atoms], None] | None = None,
) -> list[SinglepointResult]:
    """Go on with the run in a folder, of whatever kind, with the model it was begun with; give calculators anew."""
    folder = Path(directory)
    request = RunRequest.read(folder)
    provider = (Forces.as_begun(request, n_threads) if model is None else Forces(model, n_threads=n_threads)).provider()
    run = Run.resume(folder, provider, on_progress=on_progress, on_frame=_as_atoms(on_frame))
    records = _to_the_end(run, keep=True)
    if request.kind == "md":
        return [
            MDResult.from_record(r, final_atoms(None, r), trajectory=SavedTrajectory(folder, r["system_idx"]))
            for r in records
        ]
    kind = RelaxResult if request.kind == "relax" else SinglepointResult
    return [kind.from_record(r, final_atoms(None, r)) for r in records]


def provider_for(
    model: Model,
    device: str | None = None,
    dtype: str | None = None,
    compile: bool = False,
    n_threads: int | None = None,
    reproducible: bool = False,
    level_of_theory: str | None = None,
) -> ForceProvider:
    """The force provider behind a model name, a card's path, a potential or a calculator; arguments as in `relax`.

    Raises InvalidParameterError if device, dtype or compile are given for something that already has its own.
    """
    return Forces(model, device, dtype, compile, n_threads, reproducible, level_of_theory).provider()


@dataclass(frozen=True)
class Forces:
    """What `relax` and the others are told of where forces come from."""

    model: Any
    device: str | None = None
    dtype: str | None = None
    compile: bool = False
    n_threads: int | None = None
    reproducible: bool = False
    level_of_theory: str | None = None

    @classmethod
    def as_begun(cls, request: RunRequest, n_threads: int | None = None) -> Forces:
        """What a run was begun with."""
        begun = request.provider
        compiled = begun["pins"].get("execution") == "native compiled"
        level = begun.get("level_of_theory")
        return cls(begun["model"], begun["device"], begun["dtype"], compiled, n_threads, level_of_theory=level)

    def provider(self) -> ForceProvider:
        """The provider itself."""
        if isinstance(self.model, str | os.PathLike):
            known = find_known(os.fspath(self.model), self.level_of_theory)
            if not known.is_potential:
                return self._announced(known)
            from equipot.models.loading import load_potential

            with torch_threads(1):  # compiled code has the number of threads built in
                potential = load_potential(self.model, self.device, self.dtype, **self._options)
            return self._native(potential)
        self._refuse_what_is_settled()
        potential = getattr(self.model, "potential", self.model)  # our own calculator carries its potential
        if hasattr(potential, "cutoff_ang"):
            return self._native(potential)
        return self.model if hasattr(self.model, "identity") else AseProvider(self.model)

    def _announced(self, known: KnownModel) -> AseProvider:
        if self.compile:
            raise InvalidParameterError(
                f"{known.name} cannot be compiled.", pointer="/compile", hint="Only potentials of ours can."
            )
        calculator = known.load_calculator(self.device, self.dtype)
        return AseProvider(calculator, known.name, known.elements, known.level_of_theory, known.sha256)

    def _native(self, potential: Potential) -> NativeProvider:
        return NativeProvider(potential, self.n_threads, reproducible=self.reproducible)

    @property
    def _options(self) -> dict[str, Any]:
        options = {"compile": self.compile, "level_of_theory": self.level_of_theory}
        return {name: value for name, value in options.items() if value}

    def _refuse_what_is_settled(self) -> None:
        for name in ("device", "dtype", "compile", "level_of_theory"):
            if getattr(self, name):
                raise InvalidParameterError(
                    "device, dtype, compile and level_of_theory cannot be changed once a model is loaded.",
                    pointer=f"/{name}",
                    hint="Give the model by name, or load it the way you want it.",
                )


def _run(
    kind: JobKind,
    structures: OneStructure | Sequence[OneStructure],
    forces: Forces,
    params: Mapping[str, Any],
    *,
    folder: Path | None = None,
    keep: bool = False,
    resume: bool = False,
    **callbacks: Any,
) -> tuple[list[dict[str, Any]], list[OneStructure]]:
    """The records of a run, and the structures it was given."""
    alone = isinstance(structures, Atoms | Structure | Mapping)
    given: list[OneStructure] = [structures] if alone else list(structures)  # type: ignore[list-item, arg-type]
    checked = parse_params(kind, params)
    read = [_read(structure, f"/structures/{i}") for i, structure in enumerate(given)]
    if alone and isinstance(read[0], EquipotError):
        raise read[0]
    provider = forces.provider()
    with _folder(folder) as directory:
        if resume and (directory / REQUEST).exists():
            _refuse_other_request(RunRequest.read(directory), kind, read, checked, provider)
            run = Run.resume(directory, provider, **callbacks)
        else:
            run = Run.start(
                directory,
                kind=kind,
                structures=read,
                params=checked,
                provider=provider,
                disk=PASSING if folder is None else LASTING,
                **callbacks,
            )
        records = _to_the_end(run, keep)
    if alone and records[0]["outcome"] == Outcome.REJECTED:
        raise error_from_problem(records[0]["reason"])
    return records, given


def _to_the_end(run: Run, keep: bool) -> list[dict[str, Any]]:
    """Run until every system has ended; on Ctrl-C or SIGTERM, finish the step and write a checkpoint first."""
    with run, _signals_between_turns() as received:
        while run.advance(seconds=TURN_S):
            if received:
                if keep:
                    run.checkpoint()
                break
        results, interrupted = run.results, not run.done
    if interrupted:
        _die_of(received[0])
    return results


@contextmanager
def _signals_between_turns() -> Iterator[list[int]]:
    """Ctrl-C and SIGTERM are noted in the list, a second one acts at once; only the main thread can do this."""
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received
        return
    defaults = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
    before = {number: signal.getsignal(number) for number in defaults}
    ours = [number for number, default in defaults.items() if before[number] == default]

    def note(number: int, frame: FrameType | None) -> None:
        received.append(number)
        for each in ours:
            signal.signal(each, before[each])

    for number in ours:
        signal.signal(number, note)
    try:
        yield received
    finally:
        for number in ours:
            signal.signal(number, before[number])


def _die_of(number: int) -> None:
    """Do what the signal would have done."""
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    os.kill(os.getpid(), number)


def _read(structure: OneStructure, pointer: str) -> Structure | EquipotError:
    try:
        if isinstance(structure, Structure):
            return structure
        if isinstance(structure, Mapping):
            return structure_from_json(structure, pointer)
    except EquipotError as error:
        return error
    try:
        return from_atoms(structure)
    except EquipotError as error:
        return error.moved_under(pointer)


def _refuse_other_request(
    old: RunRequest,
    kind: JobKind,
    structures: list[Structure | EquipotError],
    params: AnyParams,
    provider: ForceProvider,
) -> None:
    """A resume goes on with what was asked first; what is asked now must not contradict it."""
    new = RunRequest.prepare(kind, structures, params, provider.identity)
    was, wanted = old.params.model_dump(mode="json"), new.params.model_dump(mode="json")
    if "seed" not in params.model_fields_set:
        wanted["seed"] = was.get("seed")
    changed = [name for name in wanted if wanted[name] != was.get(name)]
    if old.kind != kind:
        changed = ["kind"]
    elif [_digest(s) for s in old.structures] != [_digest(s) for s in new.structures]:
        changed = ["structures"]
    if changed:
        raise NotResumableError(
            f"The run in this folder was begun with other {' and '.join(changed)}.",
            hint="Resume with the same arguments, or choose another output folder.",
        )


def _digest(structure: Structure | EquipotError) -> str:
    return structure.code if isinstance(structure, EquipotError) else structure.sha256()


def _trajectory(folder: Path, system: int, in_memory: bool) -> Sequence[Atoms]:
    if in_memory:
        return [frame.to_atoms() for frame in read_frames(folder, system)]
    return SavedTrajectory(folder, system)


def _as_atoms(on_frame: Callable[[Atoms], None] | None) -> Callable[[Frame], None] | None:
    return None if on_frame is None else lambda frame: on_frame(frame.to_atoms())


@contextmanager
def _folder(path: str | os.PathLike[str] | None) -> Iterator[Path]:
    """The folder given, or a temporary one."""
    if path is not None:
        yield Path(path)
        return
    with TemporaryDirectory(prefix="equipot-") as name:
        yield Path(name)

"""The client of a service for everybody else: the rules of `asynchronous`, run to their end in each call."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx

from equipot.params import JobKind
from equipot.service.client.asynchronous import AsyncClient
from equipot.service.client.calls import headers_for, server_url
from equipot.service.client.events import START
from equipot.service.client.job import AsyncJob
from equipot.service.client.many import CHUNK, N_IN_FLIGHT
from equipot.service.client.values import OneStructure, Structures
from equipot.service.client.wire import BlockingWire, each, now
from equipot.service.records import Event, JobRecord
from equipot.simulation.progress import Progress

if TYPE_CHECKING:
    from ase import Atoms

    from equipot.simulation.results import MDResult, RelaxResult, SinglepointResult


class Client:
    """A service at `url`. It may be used from several threads; close it or use it in a `with` block.

        with Client("http://127.0.0.1:8000") as client:
            (result,) = client.relax(atoms, fmax_ev_per_ang=0.01)

    url: EQUIPOT_SERVER if absent, else http://127.0.0.1:8000; api_key: EQUIPOT_API_KEY if absent. When the service is
    away (restarted, network down) or busy, calls are tried again for `patience_s`; a submission carries an
    Idempotency-Key, so trying again never makes a second job. Problems are raised as the errors they are
    (equipot.errors), with the hint of the service: InvalidParameterError, AtomsTooCloseError, UnknownModelError, ...
    """

    def __init__(self, url: str | None = None, api_key: str | None = None, *, patience_s: float = 30.0) -> None:
        wire = BlockingWire(server_url(url), headers_for(api_key))
        self.rules = AsyncClient(url, patience_s=patience_s, wire=wire)

    def __repr__(self) -> str:
        return f"<Client {self.url}>"

    @property
    def url(self) -> str:
        return self.rules.url

    # -- run to the end

    def relax(
        self,
        structures: Structures,
        model: str = "organic",
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
        """Relax structures there and wait; as `equipot.relax`, with the same results.

        structures: ASE Atoms, Structure, the JSON form, or a list of them. model: a name the service knows.
        `compile` and `n_threads` are for the service to decide: they change how fast it is, and are not sent.
        reproducible: on a CPU, where every job is. More structures than one job may have become several jobs.
        In a list, a structure that cannot be computed is `rejected` and the others go on; alone, it raises its error.
        On Ctrl-C the jobs are cancelled.
        """
        return now(
            self.rules.relax(
                structures,
                model,
                device=device,
                dtype=dtype,
                compile=compile,
                n_threads=n_threads,
                reproducible=reproducible,
                level_of_theory=level_of_theory,
                on_progress=on_progress,
                **params,
            )
        )

    def run_md(
        self,
        structures: Structures,
        model: str = "organic",
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
        """Run molecular dynamics there and wait; as `equipot.run_md`, with the same results.

        `on_frame` gets every saved frame while the job runs, soon after the checkpoint that vouches for it.
        With `output` the folder says which job it is for, and in the end holds its trajectory, final structures and
        results. After Ctrl-C, a crash here or a lost network the job goes on there; the same call with resume=True
        takes it up again, wherever it is by then. Without it, trajectories are fetched when looked at, and Ctrl-C
        cancels the job. The other arguments as in `relax`.
        """
        return now(
            self.rules.run_md(
                structures,
                model,
                output=output,
                resume=resume,
                device=device,
                dtype=dtype,
                compile=compile,
                n_threads=n_threads,
                reproducible=reproducible,
                level_of_theory=level_of_theory,
                on_progress=on_progress,
                on_frame=on_frame,
                **params,
            )
        )

    def singlepoint(
        self,
        structures: Structures,
        model: str = "organic",
        *,
        device: str | None = None,
        dtype: str | None = None,
        compile: bool = False,
        n_threads: int | None = None,
        reproducible: bool = False,
        level_of_theory: str | None = None,
    ) -> list[SinglepointResult]:
        """Energy, forces and stress of structures where they stand; as `equipot.singlepoint`."""
        return now(
            self.rules.singlepoint(
                structures,
                model,
                device=device,
                dtype=dtype,
                compile=compile,
                n_threads=n_threads,
                reproducible=reproducible,
                level_of_theory=level_of_theory,
            )
        )

    def map(
        self,
        structures: Iterable[OneStructure],
        kind: JobKind = "relax",
        model: str = "organic",
        *,
        chunk_size: int = CHUNK,
        n_in_flight: int = N_IN_FLIGHT,
        ordered: bool = True,
        key: str | None = None,
        progress: bool | None = None,
        on_progress: Callable[[Progress], None] | None = None,
        device: str | None = None,
        dtype: str | None = None,
        level_of_theory: str | None = None,
        **params: Any,
    ) -> Iterator[Any]:
        """The results of thousands of structures, each as soon as it is there: RelaxResult, MDResult, ...

        Structures are read as they are needed, so a generator will do: jobs of `chunk_size`, at most `n_in_flight` of
        them at a time; a full queue is waited for, and who stops taking results stops the queueing. Every structure
        gives one result, under its number as `system_idx`; what cannot be computed is `rejected` and says why.
        ordered: in the order of the structures, else job by job as they end.
        key: a name for this call. The same call with the same key finds its jobs again instead of making new ones, for
        as long as the service remembers (a day): after a crash, what was computed is there at once. Without a key,
        whoever stops early has the jobs cancelled.
        progress: show a bar, or lines in a log; if absent, on a terminal or in a notebook.
        """
        return each(
            self.rules.map(
                structures,
                kind,
                model,
                chunk_size=chunk_size,
                n_in_flight=n_in_flight,
                ordered=ordered,
                key=key,
                progress=progress,
                on_progress=on_progress,
                device=device,
                dtype=dtype,
                level_of_theory=level_of_theory,
                **params,
            )
        )

    def evaluate(
        self,
        structures: Structures,
        model: str = "organic",
        *,
        dtype: str = "float64",
        device: str = "auto",
        level_of_theory: str | None = None,
    ) -> dict[str, Any]:
        """Energy, forces and stress at once, without a job: `items` has one entry for each structure, in order.

        An entry that could not be computed has an `error`. The charge of a system stands in `atoms.info["charge"]`.
        Raises InvalidParameterError for a level of theory or a charge that the model was not trained on,
        UnavailableError without a worker.
        """
        return now(self.rules.evaluate(structures, model, dtype=dtype, device=device, level_of_theory=level_of_theory))

    # -- jobs

    def submit(
        self,
        kind: JobKind,
        structures: Structures,
        *,
        model: str = "organic",
        params: Mapping[str, Any] | None = None,
        idempotency_key: str | None = None,
        **fields: Any,
    ) -> RemoteJob:
        """Queue a job. `fields` are tags, name, priority, level_of_theory, dtype, device, max_wall_time_s.

        Nothing is queued unless everything is valid. Raises what the service answers, typed, with its hint:
        InvalidParameterError, AtomsTooCloseError, UnknownModelError, QueueFullError, ...
        """
        job = self.rules.submit(kind, structures, model=model, params=params, idempotency_key=idempotency_key, **fields)
        return RemoteJob(now(job))

    def check(
        self,
        kind: JobKind,
        structures: Structures,
        *,
        model: str = "organic",
        params: Mapping[str, Any] | None = None,
        **fields: Any,
    ) -> dict[str, Any]:
        """Check a job and queue nothing: resolved parameters, atoms, edges, place in the queue. Raises as `submit`."""
        return now(self.rules.check(kind, structures, model=model, params=params, **fields))

    def get(self, job_id: str) -> RemoteJob:
        """A job by its id. Raises JobNotFoundError."""
        return RemoteJob(now(self.rules.get(job_id)))

    def jobs(
        self, *, state: str | None = None, kind: str | None = None, model: str | None = None, tag: str | None = None
    ) -> Iterator[RemoteJob]:
        """Jobs, newest first, that have all that is asked for."""
        return map(RemoteJob, each(self.rules.jobs(state=state, kind=kind, model=model, tag=tag)))

    # -- the rest

    def models(self) -> list[dict[str, Any]]:
        """The potentials there."""
        return now(self.rules.models())

    def limits(self) -> dict[str, Any]:
        """What a request may be at most there."""
        return now(self.rules.limits())

    def upload(self, path: str | os.PathLike[str], format: str | None = None) -> dict[str, Any]:
        """Send a structure file; the answer has `structure_id`, `structure`, `structure_ids` and `warnings`."""
        return now(self.rules.upload(path, format))

    def request(self, method: str, path: str, **given: Any) -> httpx.Response:
        """One call to any address, tried again while the service is away. Raises the typed error of a problem."""
        return now(self.rules.request(method, path, **given))

    def close(self) -> None:
        """Give the connections back."""
        now(self.rules.close())

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class RemoteJob:
    """A job of a service. `record` is what was last heard of it.

    In a notebook it shows itself: state, plot, and the structure or trajectory to turn and play.
    """

    def __init__(self, job: AsyncJob) -> None:
        self.rules = job

    def __repr__(self) -> str:
        return f"<RemoteJob {self.id} {self.record.kind} {self.record.state}>"

    def _repr_html_(self) -> str:
        return now(self.rules.html())

    @property
    def id(self) -> str:
        return self.rules.id

    @property
    def record(self) -> JobRecord:
        return self.rules.record

    @property
    def progress(self) -> Progress:
        """How far it was when it was last heard of."""
        return self.rules.progress

    def refresh(self, wait_s: int = 0) -> RemoteJob:
        """Ask how it is; with `wait_s`, when it has ended or after so many seconds."""
        now(self.rules.refresh(wait_s))
        return self

    def wait(
        self,
        on_progress: Callable[[Progress], None] | None = None,
        timeout_s: float | None = None,
        *,
        progress: bool | None = None,
    ) -> RemoteJob:
        """Wait for the end, with a bar on a terminal and in a notebook, or telling `on_progress` about once a second.

        progress: False for silence, True for lines in a log file too. Raises TimedOutError after `timeout_s`; the job
        goes on. A job that failed raises nothing: see `record.error`, or `results`.
        """
        now(self.rules.wait(on_progress, timeout_s, progress=progress))
        return self

    def cancel(self) -> RemoteJob:
        """Ask it to stop; what was computed is kept."""
        now(self.rules.cancel())
        return self

    def resume(self) -> RemoteJob:
        """Let it go on from its last checkpoint. Raises NotResumableError."""
        now(self.rules.resume())
        return self

    def extend(self, *, n_steps: int | None = None, duration_ps: float | None = None) -> RemoteJob:
        """Let a dynamics that has ended go on for so many more steps, or so much more time. Raises ConflictError."""
        now(self.rules.extend(n_steps=n_steps, duration_ps=duration_ps))
        return self

    def delete(self) -> None:
        """Remove it with all its data. Raises ConflictError while it runs."""
        now(self.rules.delete())

    def systems(self) -> Iterator[dict[str, Any]]:
        """The results of the systems that have ended, as the service tells them."""
        return each(self.rules.systems())

    def results(self) -> list[Any]:
        """The same as RelaxResult, MDResult or SinglepointResult. Raises the job's error if it has nothing to give."""
        return now(self.rules.results())

    def trajectory(self, format: str = "extxyz", **selection: int) -> bytes:
        """The frames as a file: extxyz, traj, npz, jsonl or h5md. `selection` is system, start, stop, stride."""
        return now(self.rules.trajectory(format, **selection))

    def download(self, path: str | os.PathLike[str], format: str = "extxyz", **selection: int) -> Path:
        """The same, written to a file as it comes; nothing is held in memory."""
        return now(self.rules.download(Path(path), format, **selection))

    def frames(self, **selection: int) -> list[Atoms]:
        """The frames until now as ASE Atoms with their energies and forces; `selection` as in `trajectory`."""
        return now(self.rules.frames(**selection))

    def stream(
        self, system: int | None = None, on_progress: Callable[[Progress], None] | None = None
    ) -> Iterator[Atoms]:
        """Every frame as ASE Atoms while the job runs, from the first to the last, of one system or of all.

        A frame comes soon after the checkpoint that vouches for it (`checkpoint_every_s`), so none is ever taken back.
        """
        return each(self.rules.stream(system, on_progress))

    def thermo(self, system: int | None = None) -> list[dict[str, Any]]:
        """The rows of the time series."""
        return now(self.rules.thermo(system))

    def manifest(self) -> dict[str, Any]:
        """Where the numbers come from."""
        return now(self.rules.manifest())

    def artifacts(self) -> list[dict[str, Any]]:
        """The files that can be fetched: name, role, size_bytes, sha256, url, signed_url."""
        return now(self.rules.artifacts())

    def artifact_chunks(self, name: str) -> Iterator[bytes]:
        """The bytes of a file, piece by piece, each asked for again where a connection breaks. Raises ConflictError."""
        return each(self.rules.artifact_chunks(name))

    def events(self, last_id: str = START) -> Iterator[Event]:
        """What happens, as it happens, each event once and to the end, however often the connection breaks."""
        return each(self.rules.events(last_id))

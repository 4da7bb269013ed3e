"""A service from Python: the same parameters, the same results, the same errors as running here.

    from equipot import Client
    client = Client("http://127.0.0.1:8000")
    (result,) = client.relax(atoms, fmax_ev_per_ang=0.01)

Needs httpx only; ASE is loaded when Atoms go in or come out.
"""

from __future__ import annotations

import json
import os
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, overload

import httpx

from equipot.errors import ConflictError, EquipotError, TimedOutError, UnavailableError, error_from_problem
from equipot.params import JobKind
from equipot.service.records import Event, JobRecord, Progress
from equipot.structure import Structure

if TYPE_CHECKING:
    from ase import Atoms

    from equipot.simulation.results import MDResult, RelaxResult, SinglepointResult

OneStructure: TypeAlias = "Atoms | Structure | Mapping[str, Any]"
Structures: TypeAlias = "OneStructure | Sequence[OneStructure]"
OnProgress = Callable[[Progress], None]

EVALUATE = "/v1/evaluate"
LONG_POLL_S = 30
SHORT_POLL_S = 1  # between two calls of on_progress
ANSWER_S = 60.0
SILENCE_S = 45.0  # an event stream sends a ping every 15 s
PAGE = 200
LONGEST_PAUSE_S = 5.0


class Client:
    """A service at `url`. It may be used from several threads; close it or use it in a `with` block.

    When the service is away (restarted, network down) calls are tried again for `patience_s`; a submission carries an
    Idempotency-Key, so trying again never makes a second job.
    """

    def __init__(
        self, url: str = "http://127.0.0.1:8000", api_key: str | None = None, *, patience_s: float = 30.0
    ) -> None:
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self.url = url.rstrip("/")
        self._patience_s = patience_s
        self._http = httpx.Client(base_url=self.url, headers=headers, timeout=ANSWER_S)

    # -- run to the end

    def relax(
        self, structures: Structures, model: str = "organic", *, on_progress: OnProgress | None = None, **params: Any
    ) -> list[RelaxResult]:
        """Relax structures there and wait; as `equipot.relax`."""
        from equipot.simulation.results import RelaxResult

        job = self.submit("relax", structures, model=model, params=params).wait(on_progress)
        return [RelaxResult.from_record(record, atoms) for record, atoms in job.ended_systems()]

    def run_md(
        self, structures: Structures, model: str = "organic", *, on_progress: OnProgress | None = None, **params: Any
    ) -> list[MDResult]:
        """Run molecular dynamics there and wait; as `equipot.run_md`. Trajectories are fetched when looked at."""
        from equipot.simulation.results import MDResult

        job = self.submit("md", structures, model=model, params=params).wait(on_progress)
        return [
            MDResult.from_record(record, atoms, trajectory=RemoteTrajectory(job, record["system_idx"]))
            for record, atoms in job.ended_systems()
        ]

    def singlepoint(self, structures: Structures, model: str = "organic") -> list[SinglepointResult]:
        """Energy, forces and stress of structures where they stand."""
        from equipot.simulation.results import SinglepointResult

        job = self.submit("singlepoint", structures, model=model).wait()
        return [SinglepointResult.from_record(record, atoms) for record, atoms in job.ended_systems()]

    def evaluate(
        self, structures: Structures, model: str = "organic", *, dtype: str = "float64", device: str = "auto"
    ) -> dict[str, Any]:
        """Energy, forces and stress at once, without a job: `items` has one entry for each structure, in order.

        An entry that could not be computed has an `error`. Raises UnavailableError without a worker.
        """
        body = {"model": model, "structures": _as_json(structures), "dtype": dtype, "device": device}
        content = json.dumps(body).encode()
        headers = {"Content-Type": "application/json"}
        answer: dict[str, Any] = self.request("POST", EVALUATE, content=content, headers=headers).json()
        return answer

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
        """Queue a job. `fields` are tags, name, priority, dtype, device, max_wall_time_s.

        Raises what the service answers, typed: InvalidParameterError, AtomsTooCloseError, UnknownModelError, ...
        """
        body = {
            "kind": kind,
            "model": model,
            "structures": _as_json(structures),
            "params": dict(params or {}),
            **fields,
        }
        headers = {"Idempotency-Key": idempotency_key or str(uuid.uuid4()), "Content-Type": "application/json"}
        content = json.dumps(body).encode()  # NaN goes through: the service says where it is
        return RemoteJob(self, _record(self.request("POST", "/v1/jobs", content=content, headers=headers).json()))

    def get(self, job_id: str) -> RemoteJob:
        """A job by its id. Raises JobNotFoundError."""
        return RemoteJob(self, _record(self.request("GET", f"/v1/jobs/{job_id}").json()))

    def jobs(
        self, *, state: str | None = None, kind: str | None = None, model: str | None = None, tag: str | None = None
    ) -> Iterator[RemoteJob]:
        """Jobs, newest first, that have all that is asked for."""
        given = {"state": state, "kind": kind, "model": model, "tag": tag}
        wanted = {name: value for name, value in given.items() if value is not None}
        return (RemoteJob(self, _record(item)) for item in self._items("/v1/jobs", wanted))

    # -- the rest

    def models(self) -> list[dict[str, Any]]:
        """The potentials there."""
        return list(self._items("/v1/models", {}))

    def upload(self, path: str | os.PathLike[str], format: str | None = None) -> dict[str, Any]:
        """Send a structure file; the answer has `structure_id`, `structure`, `structure_ids` and `warnings`."""
        path = Path(path)
        data = {"format": format} if format else {}
        files = {"file": (path.name, path.read_bytes())}
        answer: dict[str, Any] = self.request("POST", "/v1/structures", files=files, data=data).json()
        return answer

    def close(self) -> None:
        """Give the connections back."""
        self._http.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def request(self, method: str, path: str, **given: Any) -> httpx.Response:
        """One call, tried again while the service is away. Raises the typed error of a problem."""
        for pause_s in self._pauses():
            try:
                answer = self._http.request(method, path, **given)
            except httpx.TransportError as error:
                if pause_s is None or not _may_repeat(method, path, given, error):
                    raise self._away(error) from error
            else:
                problem = error_of(answer)
                if problem is None:
                    return answer
                if pause_s is None or not isinstance(problem, UnavailableError):
                    raise problem
            time.sleep(pause_s)
        raise AssertionError("the last pause is None")

    def stream(self, path: str, headers: Mapping[str, str]) -> Iterator[str]:
        """The lines of a stream until it breaks or ends. Raises the typed error of a problem."""
        with self._http.stream("GET", path, headers=dict(headers), timeout=SILENCE_S) as answer:
            if answer.status_code >= 400:
                answer.read()
                raise error_of(answer) or EquipotError("The stream was refused.")
            yield from answer.iter_lines()

    def _pauses(self) -> Iterator[float | None]:
        """Growing pauses in seconds, together about `patience_s`; the last is None."""
        left, pause_s = self._patience_s, 0.1
        while left > 0:
            yield pause_s
            left -= pause_s
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
        yield None

    def _away(self, error: Exception) -> UnavailableError:
        return UnavailableError(
            f"The service at {self.url} does not answer: {error}.", hint="Is it running? `equipot serve` starts one."
        )

    def _items(self, path: str, wanted: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        token = ""
        while True:
            page = self.request("GET", path, params={**wanted, "page_size": PAGE, "page_token": token}).json()
            yield from page["items"]
            token = page["next_page_token"]
            if not token:
                return


class RemoteJob:
    """A job of a service. `record` is what was last heard of it."""

    def __init__(self, client: Client, record: JobRecord) -> None:
        self._client = client
        self.record = record

    def __repr__(self) -> str:
        return f"<RemoteJob {self.id} {self.record.kind} {self.record.state}>"

    @property
    def id(self) -> str:
        return self.record.id

    @property
    def _path(self) -> str:
        return f"/v1/jobs/{self.id}"

    def refresh(self, wait_s: int = 0) -> RemoteJob:
        """Ask how it is; with `wait_s`, when it has ended or after so many seconds."""
        headers = {"Prefer": f"wait={wait_s}"} if wait_s else {}
        self.record = _record(self._client.request("GET", self._path, headers=headers).json())
        return self

    def wait(self, on_progress: OnProgress | None = None, timeout_s: float | None = None) -> RemoteJob:
        """Wait for the end, telling `on_progress` at most once a second.

        Raises TimedOutError after `timeout_s`; the job goes on. A job that failed raises nothing: see `record.error`.
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        told: Progress | None = None
        while not self.record.is_over:
            if deadline is not None and time.monotonic() > deadline:
                raise TimedOutError(f"The job is still {self.record.state.value}.", hint="It goes on; wait again.")
            longest = LONG_POLL_S if on_progress is None else SHORT_POLL_S
            left = longest if deadline is None else max(1, min(longest, round(deadline - time.monotonic())))
            self.refresh(wait_s=left)
            if on_progress is not None and self.record.progress != told:
                told = self.record.progress
                on_progress(told)
        return self

    def cancel(self) -> RemoteJob:
        """Ask it to stop; what was computed is kept."""
        self.record = _record(self._client.request("POST", f"{self._path}/cancel").json())
        return self

    def resume(self) -> RemoteJob:
        """Let it go on from its last checkpoint. Raises NotResumableError."""
        self.record = _record(self._client.request("POST", f"{self._path}/resume").json())
        return self

    def extend(self, *, n_steps: int | None = None, duration_ps: float | None = None) -> RemoteJob:
        """Let a dynamics that has ended go on for more steps, on the same noise. Raises ConflictError while it runs."""
        given = {"n_steps": n_steps, "duration_ps": duration_ps}
        body = {name: value for name, value in given.items() if value is not None}
        headers = {"Idempotency-Key": str(uuid.uuid4())}
        self.record = _record(self._client.request("POST", f"{self._path}/extend", json=body, headers=headers).json())
        return self

    def delete(self) -> None:
        """Remove it with all its data. Raises ConflictError while it runs."""
        self._client.request("DELETE", self._path)

    def systems(self) -> Iterator[dict[str, Any]]:
        """The results of the systems that have ended, as the service tells them."""
        return self._client._items(f"{self._path}/systems", {})

    def ended_systems(self) -> Iterator[tuple[dict[str, Any], Atoms | None]]:
        """The same with the final structures as Atoms. Raises the job's error if it has nothing to give."""
        records = list(self.systems())
        if not records and self.record.error is not None:
            raise error_from_problem(self.record.error)
        for record in records:
            yield _complete(record), _final_atoms(record)

    def trajectory(self, format: str = "extxyz", **selection: int) -> bytes:
        """The frames as a file: extxyz, traj, npz or jsonl. `selection` is system, start, stop, stride."""
        params = {"format": format, **selection}
        return self._client.request("GET", f"{self._path}/trajectory", params=params).content

    def frames(self, **selection: int) -> list[Atoms]:
        """The frames as ASE Atoms with their energies and forces."""
        import io

        from ase.io.trajectory import TrajectoryReader

        data = self.trajectory("traj", **selection)
        return list(TrajectoryReader(io.BytesIO(data))) if data else []

    def thermo(self, system: int | None = None) -> list[dict[str, Any]]:
        """The rows of the time series."""
        params = {} if system is None else {"system": system}
        rows: list[dict[str, Any]] = self._client.request("GET", f"{self._path}/thermo", params=params).json()["items"]
        return rows

    def manifest(self) -> dict[str, Any]:
        """Where the numbers come from."""
        answer: dict[str, Any] = self._client.request("GET", f"{self._path}/manifest").json()
        return answer

    def artifacts(self) -> list[dict[str, Any]]:
        """The files that can be fetched: name, role, size_bytes, sha256, url, signed_url."""
        items: list[dict[str, Any]] = self._client.request("GET", f"{self._path}/artifacts").json()["items"]
        return items

    def artifact_chunks(self, name: str) -> Iterator[bytes]:
        """The bytes of a file, piece by piece; a broken connection goes on where it broke."""
        have, tag = 0, ""
        pauses = self._client._pauses()
        while True:
            headers = {"Range": f"bytes={have}-", "If-Range": tag} if have else {}
            try:
                with self._client._http.stream("GET", f"{self._path}/artifacts/{name}", headers=headers) as answer:
                    if answer.status_code >= 400:
                        answer.read()
                        raise error_of(answer) or EquipotError("The file was refused.")
                    if have and answer.status_code != 206:
                        raise ConflictError("The file changed while it was fetched.", hint="Fetch it again.")
                    tag = answer.headers["ETag"]
                    for chunk in answer.iter_bytes():
                        have += len(chunk)
                        yield chunk
            except httpx.TransportError as error:
                if (pause_s := next(pauses)) is None:
                    raise self._client._away(error) from error
                time.sleep(pause_s)
            else:
                return

    def events(self, last_id: str = "0") -> Iterator[Event]:
        """What happens, as it happens, each event once and to the end, however often the connection breaks."""
        newest, last_type = last_id, ""
        pauses = self._client._pauses()
        while True:
            try:
                lines = self._client.stream(f"{self._path}/events", {"Last-Event-ID": newest})
                for event in _events_in(lines):
                    if not event.id or _place(event.id) > _place(newest):
                        pauses = self._client._pauses()
                        newest, last_type = event.id or newest, event.type
                        yield event
            except httpx.TransportError as error:
                if (pause_s := next(pauses)) is None:
                    raise self._client._away(error) from error
                time.sleep(pause_s)
            else:
                if last_type == "end":  # one in the middle belongs to a run before a resume
                    return
                time.sleep(next(pauses) or LONGEST_PAUSE_S)


class RemoteTrajectory(Sequence["Atoms"]):
    """The saved frames of one system, fetched when they are first looked at."""

    def __init__(self, job: RemoteJob, system: int) -> None:
        self._job = job
        self._system = system

    @cached_property
    def _frames(self) -> list[Atoms]:
        return self._job.frames(system=self._system)

    def __len__(self) -> int:
        return len(self._frames)

    @overload
    def __getitem__(self, index: int) -> Atoms: ...
    @overload
    def __getitem__(self, index: slice) -> list[Atoms]: ...
    def __getitem__(self, index: int | slice) -> Atoms | list[Atoms]:
        return self._frames[index]


def error_of(answer: httpx.Response) -> EquipotError | None:
    """The typed error in an answer, or None if it is none."""
    if answer.status_code < 400:
        return None
    try:
        return error_from_problem(answer.json())
    except (ValueError, KeyError, TypeError, AttributeError):
        if answer.status_code in (502, 503, 504):  # from something between
            return UnavailableError(f"The service cannot be reached (HTTP {answer.status_code}).")
        return EquipotError(f"The service answered HTTP {answer.status_code}.")


def _may_repeat(method: str, path: str, given: Mapping[str, Any], error: httpx.TransportError) -> bool:
    """Whether sending the request again cannot do anything twice."""
    if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
        return True
    return (
        method == "GET" or path == EVALUATE or path.endswith("/cancel") or "Idempotency-Key" in given.get("headers", {})
    )


def _record(data: Mapping[str, Any]) -> JobRecord:
    """The record in an answer; what a newer service says beside it is left out."""
    return JobRecord.model_validate({name: data[name] for name in JobRecord.model_fields if name in data})


def _as_json(structures: Structures) -> list[dict[str, Any]]:
    if isinstance(structures, Structure | Mapping) or hasattr(structures, "get_positions"):
        structures = [structures]  # type: ignore[list-item]
    return [_one_as_json(structure) for structure in structures]


def _one_as_json(structure: OneStructure) -> dict[str, Any]:
    if isinstance(structure, Mapping):
        return dict(structure)
    if isinstance(structure, Structure):
        return structure.to_json()
    from equipot.calculator.convert import from_atoms

    return from_atoms(structure).to_json()


def _complete(record: Mapping[str, Any]) -> dict[str, Any]:
    """A record with every field a result has: a shard that ended with a problem says little of its systems."""
    from equipot.simulation.verdicts import SystemResult

    empty = dict.fromkeys(SystemResult.__dataclass_fields__)
    return {
        **empty,
        "n_steps": 0,
        "warnings": [],
        "bitwise": True,
        "converged": False,
        "criterion": "",
        "reason": record.get("error"),
        **record,
    }


def _final_atoms(record: Mapping[str, Any]) -> Atoms | None:
    """The final structure with its numbers in a calculator."""
    if record.get("structure") is None:
        return None
    import numpy as np
    from ase.calculators.singlepoint import SinglePointCalculator

    from equipot.calculator.convert import to_atoms
    from equipot.simulation.results import final_structure

    atoms = to_atoms(final_structure(record["structure"]))
    names = {"energy": "energy_ev", "forces": "forces_ev_per_ang", "stress": "stress_ev_per_ang3"}
    given = {ours: record[name] for ours, name in names.items() if record.get(name) is not None}
    if given:
        numbers = {ours: np.array(value) if isinstance(value, list) else value for ours, value in given.items()}
        atoms.calc = SinglePointCalculator(atoms, **numbers)
    return atoms


def _events_in(lines: Iterator[str]) -> Iterator[Event]:
    """The server-sent events in the lines of a stream; a half-sent one at its end is left out."""
    fields: dict[str, str] = {}
    for line in lines:
        if line:
            name, _, value = line.partition(":")
            fields[name] = value.removeprefix(" ")
        elif "data" in fields:
            yield Event(fields.get("id", ""), fields.get("event", "message"), json.loads(fields["data"]))
            fields = {}


def _place(event_id: str) -> tuple[int, int]:
    milliseconds, _, number = event_id.partition("-")
    return int(milliseconds), int(number or 0)

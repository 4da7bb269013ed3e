"""The client gives the results, and raises the errors, of running here."""

from __future__ import annotations

import select
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase.build import molecule

from equipot import relax, run_md
from equipot.errors import (
    AtomsTooCloseError,
    ConflictError,
    InvalidParameterError,
    JobNotFoundError,
    NotResumableError,
    TimedOutError,
    UnavailableError,
    UnknownModelError,
    UnsupportedElementError,
)
from equipot.service.client import Client
from equipot.simulation.progress import Progress

from .conftest import WATER, LiveApi


@pytest.fixture(scope="module")
def client(working_api: LiveApi) -> Iterator[Client]:
    with Client(working_api.url) as client:
        yield client


def test_a_relaxation_there_is_the_relaxation_here_to_the_last_bit(client: Client) -> None:
    water = molecule("H2O")
    before = water.positions.copy()
    (there,) = client.relax(water, model="tiny", max_steps=5)
    (here,) = relax(water, model="tiny", max_steps=5)
    assert type(there) is type(here)
    assert (there.outcome, there.converged, there.n_steps) == (here.outcome, here.converged, here.n_steps)
    assert there.energy_ev == here.energy_ev
    assert there.forces_ev_per_ang is not None
    assert here.forces_ev_per_ang is not None
    assert np.array_equal(there.forces_ev_per_ang, here.forces_ev_per_ang)
    assert there.atoms is not None
    assert here.atoms is not None
    assert np.array_equal(there.atoms.positions, here.atoms.positions)
    assert there.atoms.get_potential_energy() == there.energy_ev
    assert there.model_sha256 == here.model_sha256
    assert np.array_equal(water.positions, before)


def test_dynamics_there_are_the_dynamics_here_to_the_last_bit(client: Client) -> None:
    params: dict[str, Any] = {"n_steps": 12, "save_every": 4, "seed": 3, "temperature_k": 100}
    told: list[Progress] = []
    (there,) = client.run_md([WATER], model="tiny", on_progress=told.append, **params)
    (here,) = run_md([WATER], model="tiny", **params)
    assert there.time_fs == here.time_fs == 6.0
    assert len(there.trajectory) == len(here.trajectory) == 4
    for one, other in zip(there.trajectory, here.trajectory, strict=True):
        assert np.array_equal(one.positions, other.positions)
        assert np.array_equal(one.get_momenta(), other.get_momenta())
    assert told[-1].n_done == 1


def test_a_handle_follows_a_job_and_fetches_what_it_gives(client: Client) -> None:
    job = client.submit("md", [WATER, WATER, WATER], model="tiny", params={"n_steps": 20, "seed": 1}, tags=["handle"])
    events = list(job.events())
    assert events[-1].type == "end"
    assert job.refresh().record.state == "succeeded"
    assert [system["system_idx"] for system in job.systems()] == [0, 1, 2]
    assert len(job.frames(system=2)) == job.trajectory("jsonl", system=2).count(b"\n") > 0
    assert {row["system"] for row in job.thermo(system=1)} == {1}
    assert job.manifest()["job_id"] == job.id
    assert [found.id for found in client.jobs(tag="handle")] == [job.id]
    assert client.get(job.id).record == job.record
    job.delete()
    with pytest.raises(JobNotFoundError):
        client.get(job.id)


def test_a_job_is_cancelled_and_resumed_through_its_handle(client: Client) -> None:
    job = client.submit("md", WATER, model="tiny", params={"n_steps": 10**6, "seed": 1})
    with pytest.raises(TimedOutError):
        job.wait(timeout_s=0.5)
    with pytest.raises(ConflictError):
        job.delete()
    assert job.cancel().wait(timeout_s=30).record.state == "cancelled"
    job.resume()
    assert not job.record.is_over
    assert job.cancel().wait(timeout_s=30).record.state == "cancelled"


def test_problems_come_back_as_the_errors_they_are(client: Client) -> None:
    with pytest.raises(InvalidParameterError, match="fmax") as caught:
        client.relax(WATER, model="tiny", fmax=0.1)
    assert caught.value.culprits[0].pointer == "/params/fmax"
    with pytest.raises(UnknownModelError):
        client.relax(WATER, model="nothing")
    with pytest.raises(AtomsTooCloseError):
        client.relax({"symbols": ["H", "H"], "positions": [[0, 0, 0], [0, 0, 0.1]]}, model="tiny")
    with pytest.raises(UnsupportedElementError, match="U"):
        client.relax({"symbols": ["U"], "positions": [[0, 0, 0]]}, model="tiny")
    job = client.submit("singlepoint", WATER, model="tiny").wait()
    with pytest.raises(NotResumableError):
        job.resume()


def test_not_a_number_in_atoms_is_found_by_the_service(client: Client) -> None:
    atoms = molecule("H2O")
    atoms.positions[1, 2] = np.nan
    with pytest.raises(Exception, match="not finite") as caught:
        client.singlepoint(atoms, model="tiny")
    assert caught.value.culprits[0].pointer == "/structures/0/positions/1"  # type: ignore[attr-defined]


def test_a_file_is_uploaded_and_submitted_by_its_id(client: Client, data_dir: Path) -> None:
    answer = client.upload(data_dir / "structures" / "ethanol.extxyz")
    (result,) = client.singlepoint({"structure_id": answer["structure_id"]}, model="tiny")
    assert result.atoms is not None
    assert len(result.atoms) == 9
    assert result.energy_ev is not None


def test_a_service_that_is_not_there_is_said_to_be_away() -> None:
    with Client("http://127.0.0.1:9", patience_s=0.2) as away, pytest.raises(UnavailableError, match="does not answer"):
        away.models()


class BreakingProxy:
    """Forwards connections to a port and cuts each after a number of bytes from there, as a bad network does."""

    def __init__(self, port: int, bytes_each: int, n_cuts: int) -> None:
        self._target, self._bytes_each, self.cuts_left = port, bytes_each, n_cuts
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._forward, args=(client,), daemon=True).start()

    def _forward(self, client: socket.socket) -> None:
        left = self._bytes_each
        with client, socket.create_connection(("127.0.0.1", self._target)) as server, suppress(OSError):
            while True:
                readable, _, _ = select.select([client, server], [], [])
                source = readable[0]
                data = source.recv(256)
                if not data:
                    return
                if source is server:
                    if self.cuts_left and left < len(data):
                        self.cuts_left -= 1
                        return
                    left -= len(data)
                (client if source is server else server).sendall(data)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


def test_events_are_complete_and_come_once_over_a_connection_that_breaks(working_api: LiveApi, client: Client) -> None:
    job = client.submit("md", [WATER] * 2, model="tiny", params={"n_steps": 30, "seed": 1}).wait()
    whole = list(job.events())
    assert len(whole) > 5
    proxy = BreakingProxy(working_api.http.base_url.port or 0, bytes_each=900, n_cuts=3)
    with Client(proxy.url) as through:
        assert list(through.get(job.id).events()) == whole
    assert proxy.cuts_left < 3  # it did break
    proxy.close()


def test_a_submission_whose_answer_was_lost_makes_one_job(working_api: LiveApi) -> None:
    proxy = BreakingProxy(working_api.http.base_url.port or 0, bytes_each=100, n_cuts=2)
    with Client(proxy.url) as through:
        job = through.submit("singlepoint", WATER, model="tiny", tags=["lost"])
    assert proxy.cuts_left == 0
    found = working_api.http.get("/v1/jobs", params={"tag": "lost"}).json()["items"]
    assert [item["id"] for item in found] == [job.id]
    proxy.close()


def test_the_client_needs_neither_torch_nor_ase_until_atoms_come_in(working_api: LiveApi) -> None:
    code = (
        "import sys\nfrom equipot import Client\n"
        f"client = Client({working_api.url!r})\n"
        f"job = client.submit('singlepoint', {WATER!r}, model='tiny').wait()\n"
        "list(job.systems()); list(job.events()); job.trajectory()\n"
        "print(sorted({'torch', 'ase'} & set(sys.modules)))"
    )
    started = time.monotonic()
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert out.stdout.strip() == "[]", out.stderr
    assert time.monotonic() - started < 60

"""Many structures, frames as they come, folders and event loops: what the clients do beside single calls."""

from __future__ import annotations

import asyncio
import inspect
import json
import re
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from ase.constraints import FixAtoms

import equipot
from equipot import AsyncClient, Client, relax, run_md, singlepoint
from equipot.errors import (
    ConflictError,
    InvalidParameterError,
    InvalidStructureError,
    NotResumableError,
    UnavailableError,
    UnsupportedElementError,
)
from equipot.service.client.notebook import plots, scene, viewer
from equipot.simulation.progress import Progress
from equipot.simulation.results import SinglepointResult
from tests.service.api.conftest import MAX_QUEUED_JOBS, WATER, LiveApi, running_api

MD: dict[str, Any] = {"n_steps": 20, "save_every": 5, "thermo_every": 5, "seed": 3, "temperature_k": 100}
URANIUM = {"symbols": ["U"], "positions": [[0, 0, 0]]}
METHODS = [name for name in vars(Client) if not name.startswith("_") and callable(getattr(Client, name))]


@pytest.fixture(scope="module")
def client(working_api: LiveApi) -> Iterator[Client]:
    with Client(working_api.url) as client:
        yield client


def tagged(client: Client, tag: str) -> list[str]:
    return [job.id for job in client.jobs(tag=tag)]


def assert_same(there: SinglepointResult, here: SinglepointResult) -> None:
    """Every field, to the last bit; of a problem what it says, of atoms what they hold."""
    assert type(there) is type(here)
    for name in (field.name for field in fields(here)):
        ours, theirs = getattr(here, name), getattr(there, name)
        if isinstance(ours, np.ndarray):
            assert np.array_equal(ours, theirs), name
        elif isinstance(ours, Atoms):
            assert_same_atoms(theirs, ours)
        elif name == "reason" and ours is not None:
            assert (type(theirs), theirs.culprits[0].pointer) == (type(ours), ours.culprits[0].pointer)
        elif name == "trajectory":
            assert len(theirs) == len(ours)
            for one, other in zip(theirs, ours, strict=True):
                assert_same_atoms(one, other)
        else:
            assert theirs == ours, name


def assert_same_atoms(there: Atoms, here: Atoms) -> None:
    assert there == here
    assert there.info == here.info
    assert there.arrays.keys() == here.arrays.keys()
    assert np.array_equal(there.get_momenta(), here.get_momenta())
    assert np.array_equal(there.get_forces(), here.get_forces())
    assert [str(c) for c in there.constraints] == [str(c) for c in here.constraints]


@pytest.mark.parametrize("name", ["relax", "run_md", "singlepoint"])
@pytest.mark.parametrize("remote", [Client, AsyncClient])
def test_a_remote_function_has_the_signature_of_the_local_one(name: str, remote: type) -> None:
    here = inspect.signature(getattr(equipot, name)).parameters
    there = dict(inspect.signature(getattr(remote, name)).parameters)
    there.pop("self")
    assert list(there) == list(here)
    assert [(p.kind, p.default) for p in there.values()] == [(p.kind, p.default) for p in here.values()]


@pytest.mark.parametrize("name", [name for name in METHODS if name != "close"])
def test_both_clients_have_the_same_methods_with_the_same_arguments(name: str) -> None:
    blocking, awaited = inspect.signature(getattr(Client, name)), inspect.signature(getattr(AsyncClient, name))
    assert [(p.name, p.kind, p.default) for p in blocking.parameters.values()] == [
        (p.name, p.kind, p.default) for p in awaited.parameters.values()
    ]


def test_every_field_of_a_result_is_that_of_a_run_here(client: Client) -> None:
    water = molecule("H2O")
    water.set_tags([7, 8, 9])
    water.set_constraint(FixAtoms([0]))
    water.info["source"] = "hand"
    given = [water, WATER, URANIUM, Atoms("X")]
    for kind, params in ((relax, {"max_steps": 3}), (run_md, MD), (singlepoint, {})):
        there = getattr(client, kind.__name__)(given, model="tiny", **params)
        here = kind(given, model="tiny", **params)
        assert [result.outcome for result in here][2:] == ["rejected", "rejected"]
        for one, other in zip(there, here, strict=True):
            assert_same(one, other)
    assert there[0].atoms.get_tags().tolist() == [7, 8, 9]


def test_a_structure_alone_raises_its_error_and_none_at_all_give_none(client: Client) -> None:
    with pytest.raises(UnsupportedElementError):
        client.relax(URANIUM, model="tiny")
    with pytest.raises(InvalidStructureError):
        client.relax(Atoms("X"), model="tiny")
    with pytest.raises(InvalidParameterError, match="GPU"):
        client.relax(WATER, model="tiny", device="cuda", reproducible=True)
    assert client.relax([], model="tiny") == []


def test_more_structures_than_a_job_may_have_are_one_call_with_the_defaults_of_one_run(
    redis_url: str, tmp_path: Path
) -> None:
    """The service takes two in a job: five are three jobs, with one seed, one time step, and a place for each."""
    told: list[Progress] = []
    with running_api(redis_url, tmp_path, max_structures=2) as api, Client(api.url) as client:
        api.store.redis.flushall()
        with pytest.raises(EnoughError):
            client.run_md([WATER] * 5, model="tiny", n_steps=10, on_progress=_after(told, 1))
        records = [job.record for job in client.jobs()]
    assert sorted(record.progress.n_systems for record in records) == [1, 2, 2]
    assert len({record.params["seed"] for record in records}) == 1
    assert {record.state.value for record in records} == {"cancelled"}  # whoever stops early leaves nothing behind
    assert told[0].n_systems == 5


class EnoughError(Exception):
    pass


def _after(told: list[Progress], n_calls: int) -> Any:
    def on_progress(progress: Progress) -> None:
        told.append(progress)
        if len(told) == n_calls:
            raise EnoughError

    return on_progress


def test_map_reads_no_further_than_it_must_and_gives_each_structure_its_result(client: Client) -> None:
    n_read = 0

    def structures() -> Iterator[Any]:
        nonlocal n_read
        for number in range(40):
            n_read += 1
            yield URANIUM if number == 7 else molecule("H2O")

    results = client.map(structures(), model="tiny", chunk_size=4, n_in_flight=2, max_steps=1)
    first = next(results)
    assert first.system_idx == 0
    assert n_read < 40
    rest = list(results)
    assert [result.system_idx for result in rest] == list(range(1, 40))
    assert [result.system_idx for result in rest if result.outcome == "rejected"] == [7]
    assert isinstance(rest[6].reason, UnsupportedElementError)
    assert all(result.outcome == "max_steps" for result in rest if result.system_idx != 7)


def test_map_with_a_key_finds_its_jobs_again(client: Client, working_api: LiveApi) -> None:
    def ids() -> set[str]:
        return {job.id for job in client.jobs(kind="singlepoint")}

    before = ids()
    call: dict[str, Any] = {"kind": "singlepoint", "model": "tiny", "chunk_size": 2, "key": "screening-1"}
    first = next(iter(client.map([WATER] * 6, **call)))
    made = ids() - before
    again = list(client.map([WATER] * 6, **call, ordered=False))
    assert len(again) == 6
    assert made <= ids() - before
    assert len(ids() - before) == 3
    assert {result.energy_ev for result in again} == {first.energy_ev}


def test_a_full_queue_is_waited_for(api: LiveApi) -> None:
    """Without a worker the queue stays full; room is made by cancelling, and the call goes on."""
    records = [api.submit() for _ in range(MAX_QUEUED_JOBS)]
    with Client(api.url, patience_s=0.2) as client:
        with pytest.raises(equipot.errors.QueueFullError):
            client.submit("relax", WATER, model="tiny")
        told: list[Progress] = []

        async def main() -> None:
            async with AsyncClient(api.url, patience_s=0.2) as awaited:
                results = awaited.map([WATER] * 2, model="tiny", chunk_size=1, on_progress=told.append)
                waiting = asyncio.ensure_future(anext(results))
                await asyncio.sleep(1.0)
                assert not waiting.done()
                for record in records[:2]:
                    await (await awaited.get(record["id"])).cancel()
                while len(told) == 0:
                    await asyncio.sleep(0.05)
                waiting.cancel()
                await asyncio.gather(waiting, return_exceptions=True)

        asyncio.run(asyncio.wait_for(main(), 60))
    assert told[0].n_systems == 2
    queued = [job for job in api.http.get("/v1/jobs").json()["items"] if job["state"] == "queued"]
    assert len(queued) == MAX_QUEUED_JOBS - 2  # what was queued has been cancelled with the call


def test_frames_come_while_the_job_runs_and_each_once(client: Client) -> None:
    params = {**MD, "n_steps": 10**6, "checkpoint_every_s": 0.2}
    job = client.submit("md", [WATER, WATER], model="tiny", params=params)
    seen: dict[int, list[int]] = {0: [], 1: []}
    for atoms in job.stream():
        seen[atoms.info["system"]].append(atoms.info["step"])
        assert atoms.get_forces().shape == (3, 3)
        if not job.record.is_over and all(len(steps) > 1 for steps in seen.values()):
            job.cancel()  # while it ran both have been seen to move
    assert job.record.state.value == "cancelled"
    for system, steps in seen.items():
        assert steps == sorted(set(steps))
        assert steps == [atoms.info["step"] for atoms in job.frames(system=system)]
    trajectory = job.results()[1].trajectory
    assert len(trajectory) == len(seen[1])
    assert [trajectory[k].info["step"] for k in (0, -1)] == [0, seen[1][-1]]
    assert [atoms.info["step"] for atoms in trajectory[1:3]] == seen[1][1:3]
    with pytest.raises(IndexError):
        trajectory[len(trajectory)]


def test_a_folder_remembers_its_job(client: Client, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    frames: list[Atoms] = []
    arguments: dict[str, Any] = {"model": "tiny", "output": folder, **MD}
    params = {**arguments, "n_steps": 100_000}
    with pytest.raises(EnoughError):
        client.run_md([WATER, URANIUM], **params, on_progress=_after([], 2))
    note = json.loads((folder / "job.json").read_text())
    job = client.get(note["job_id"])
    assert not job.record.is_over  # it goes on without us
    with pytest.raises(ConflictError, match="resume=True"):
        client.run_md([WATER, URANIUM], **params)
    with pytest.raises(NotResumableError, match="another request"):
        client.run_md([WATER, URANIUM], **{**params, "seed": 4}, resume=True)
    job.cancel().wait(timeout_s=60)
    job.delete()

    whole, rejected = client.run_md([WATER, URANIUM], **{**arguments, "output": tmp_path / "b"}, on_frame=frames.append)
    assert [atoms.info["step"] for atoms in frames] == [0, 5, 10, 15, 20]
    again, rejected_again = client.run_md([WATER, URANIUM], **{**arguments, "output": tmp_path / "b"}, resume=True)
    assert_same(again, whole)
    assert rejected.outcome == rejected_again.outcome == "rejected"
    assert isinstance(rejected_again.reason, UnsupportedElementError)
    client.get(json.loads((tmp_path / "b" / "job.json").read_text())["job_id"]).delete()
    assert [atoms.info["step"] for atoms in again.trajectory] == [0, 5, 10, 15, 20]  # from the files in the folder
    assert (tmp_path / "b" / "final.extxyz").exists()


def test_an_event_loop_follows_several_jobs_at_once(working_api: LiveApi) -> None:
    async def main() -> None:
        async with AsyncClient(working_api.url) as client:
            runs = [client.run_md(WATER, model="tiny", **{**MD, "seed": seed}) for seed in range(3)]
            results = [result for (result,) in await asyncio.gather(*runs)]
            assert len({result.energy_ev for result in results}) == 3
            assert len(results[0].trajectory) == 5  # looked at without await
            job = await client.submit("md", WATER, model="tiny", params=MD)
            events = [event.type async for event in job.events()]
            assert events[-1] == "end"
            steps = [atoms.info["step"] async for atoms in job.stream()]
            assert steps == [0, 5, 10, 15, 20]
            assert [each.system_idx async for each in client.map([WATER] * 3, "singlepoint", "tiny")] == [0, 1, 2]
            assert "<svg" in await job.html()

    asyncio.run(asyncio.wait_for(main(), 120))


def test_a_check_queues_nothing(client: Client) -> None:
    estimate = client.check("relax", [WATER], model="tiny", tags=["checked"])
    assert (estimate["valid"], estimate["n_atoms"]) == (True, 3)
    assert tagged(client, "checked") == []


def test_the_key_comes_from_the_environment_and_is_never_shown(
    monkeypatch: pytest.MonkeyPatch, working_api: LiveApi
) -> None:
    monkeypatch.setenv("EQUIPOT_API_KEY", "eqp_secret")
    monkeypatch.setenv("EQUIPOT_SERVER", working_api.url)
    with Client() as client:
        request = client.request("GET", "/healthz").request
        assert request.headers["Authorization"] == "Bearer eqp_secret"
        assert "secret" not in repr(client)
    with Client("http://127.0.0.1:9", "eqp_secret", patience_s=0) as away, pytest.raises(UnavailableError) as caught:
        away.models()
    assert "secret" not in str(caught.value)


def test_a_bar_is_plain_lines_where_nobody_looks_and_silence_unless_asked_for(
    client: Client, capsys: pytest.CaptureFixture[str]
) -> None:
    client.submit("relax", WATER, model="tiny").wait()
    assert capsys.readouterr().err == ""
    client.submit("relax", WATER, model="tiny").wait(progress=True)
    said = capsys.readouterr().err
    assert re.search(r"^relax: step \d+/500", said, re.MULTILINE)
    assert "\x1b" not in said


def test_a_notebook_shows_a_job_without_loading_anything(client: Client) -> None:
    job = client.submit("md", [WATER, WATER], model="tiny", params=MD, name="<b>mine</b>").wait()
    html = job._repr_html_()
    assert "succeeded" in html
    assert html.count("<svg") == 2  # energy and temperature
    assert "&lt;b&gt;mine" in html
    assert "sandbox=&quot;" not in html
    assert 'sandbox="allow-scripts"' in html
    assert not re.search(r"(src|href)\s*=\s*[\"']?(https?:)?//", html)
    assert len(html) < 60_000
    queued = client.submit("relax", WATER, model="tiny")
    assert "relax" in queued._repr_html_()  # however far it is


def test_the_viewer_turns_and_plays_in_a_browser(tmp_path: Path) -> None:
    sync_api = pytest.importorskip("playwright.sync_api")
    frames = [{**WATER, "numbers": [8, 1, 1], "info": {"step": k}} for k in range(3)]
    rows = [{"step": k, "energy_ev": -1.0 / (k + 1), "temperature_k": 300.0 + k} for k in range(9)]
    page_file = tmp_path / "page.html"
    page_file.write_text("<meta charset=utf-8>" + "".join(plots(rows, "md")) + viewer(scene(frames)))
    with sync_api.sync_playwright() as playwright:
        try:
            browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        except sync_api.Error as error:
            pytest.skip(f"no Chromium: {str(error).splitlines()[0]}")
        page = browser.new_page(viewport={"width": 460, "height": 680})
        complaints: list[str] = []
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(page_file.as_uri())
        inside = page.frame_locator("iframe")
        canvas = inside.locator("canvas")
        canvas.wait_for()
        colours = "c => new Set(c.getContext('2d').getImageData(0, 0, c.width, c.height).data).size > 20"
        page.frames[1].wait_for_function(f"({colours})(document.querySelector('canvas'))")  # something is drawn
        before = canvas.screenshot()
        canvas.press("ArrowLeft")
        assert canvas.screenshot() != before
        inside.get_by_role("slider").fill("0")
        assert inside.get_by_text("step 0").is_visible()
        inside.get_by_role("button", name="play").click()
        inside.get_by_text("step 2").wait_for()
        assert complaints == []
        browser.close()

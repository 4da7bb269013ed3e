"""What a viewer gets: every frame's positions in one binary piece, and the structures as they were submitted."""

from __future__ import annotations

import io
import json
from typing import Any

import numpy as np
import pytest
from ase.io import read

from .conftest import WATER, LiveApi

MD = {"n_steps": 40, "save_every": 5, "seed": 3, "timestep_fs": 0.5}
FLOAT32_ANG = 1e-5


def unpack(data: bytes) -> tuple[dict[str, Any], list[np.ndarray]]:
    """Header and arrays, read as the description says."""
    length = int.from_bytes(data[:4], "little")
    header = json.loads(data[4 : 4 + length])
    n_frames, n_atoms = header["n_frames"], header.get("n_atoms", 0)
    place, arrays = 4 + length, []
    for dtype, shape in (("<f8", ()), ("<f8", ()), ("<f4", (3, 3)), ("<f4", (n_atoms, 3))):
        size = n_frames * int(np.prod(shape, dtype=int))
        arrays.append(np.frombuffer(data, dtype, size, place).reshape(n_frames, *shape))
        place += arrays[-1].nbytes
    assert place == len(data)
    return header, arrays


@pytest.fixture(scope="module")
def job(working_api: LiveApi) -> dict[str, Any]:
    """A dynamics of two systems that has ended."""
    moved = {**WATER, "positions": [[x, y, z + 0.1 * (k == 0)] for k, (x, y, z) in enumerate(WATER["positions"])]}
    record = working_api.submit(kind="md", params=MD, structures=[WATER, moved])
    answer = working_api.http.get(f"/v1/jobs/{record['id']}", headers={"Prefer": "wait=60"})
    ended: dict[str, Any] = answer.json()
    assert ended["state"] == "succeeded", ended
    return ended


def test_the_frames_of_a_system_are_those_of_its_trajectory(working_api: LiveApi, job: dict[str, Any]) -> None:
    for system in (0, 1):
        text = working_api.http.get(f"/v1/jobs/{job['id']}/trajectory", params={"system": system}).text
        wanted = read(io.StringIO(text), index=":", format="extxyz")
        answer = working_api.http.get(f"/v1/jobs/{job['id']}/frames", params={"system": system})
        assert answer.headers["content-type"] == "application/octet-stream"
        header, (step, time_fs, cell, positions) = unpack(answer.content)
        assert header["n_frames"] == header["n_total"] == len(wanted) == 9
        assert header["numbers"] == [8, 1, 1]
        assert step.tolist() == list(range(0, 41, 5))
        assert np.allclose(time_fs, 0.5 * step)
        assert not cell.any()
        assert np.abs(positions - [atoms.positions for atoms in wanted]).max() < FLOAT32_ANG


def test_frames_are_had_in_parts_that_make_the_whole(working_api: LiveApi, job: dict[str, Any]) -> None:
    def part(**query: int) -> tuple[dict[str, Any], list[np.ndarray]]:
        return unpack(working_api.http.get(f"/v1/jobs/{job['id']}/frames", params=query).content)

    assert part(start=2, stride=3)[1][0].tolist() == [10.0, 25.0, 40.0]
    assert part(start=9)[0]["n_frames"] == 0
    assert part(start=9)[0]["n_total"] == 9


def test_frames_of_a_system_that_is_not_there_are_refused(working_api: LiveApi, job: dict[str, Any]) -> None:
    answer = working_api.http.get(f"/v1/jobs/{job['id']}/frames?system=2")
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["pointer"] == "query:system"


def test_a_job_that_waits_has_no_frames_yet_but_its_structures(api: LiveApi) -> None:
    record = api.submit(structures=[WATER] * 5)
    header, _ = unpack(api.http.get(f"/v1/jobs/{record['id']}/frames").content)
    assert header["n_total"] == 0
    first = api.http.get(f"/v1/jobs/{record['id']}/structures?page_size=3").json()
    rest = api.http.get(f"/v1/jobs/{record['id']}/structures?page_token={first['next_page_token']}").json()
    assert len(first["items"]) == 3
    assert len(rest["items"]) == 2
    assert rest["next_page_token"] == ""
    again = api.submit(structures=[*first["items"], *rest["items"]])  # what is given can be sent
    assert again["progress"]["n_systems"] == 5

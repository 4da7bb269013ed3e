"""The command `equipot` against a service that `equipot serve` has started."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from ase import Atoms
from ase.io import read

from equipot import EquipotCalculator
from equipot.service import cli
from equipot.service.commands.completion import job_ids

EQUIPOT = str(Path(sys.executable).with_name("equipot"))
START_S = 120.0
STOP_S = 60.0
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a service with one worker."""
    folder = tmp_path_factory.mktemp("serve")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    command = [EQUIPOT, "serve", "--port", str(port), "--data-dir", str(folder / "data"), "--workers", "1"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=log, env={**os.environ, "EQUIPOT_PRELOAD_MODEL": "tiny"}, start_new_session=True
        )
    try:
        _wait_until_ready(url, process, folder / "log")
        yield url
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(STOP_S)


def _wait_until_ready(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()
        try:
            if httpx.get(f"{url}/readyz").status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    raise AssertionError(log.read_text())


@pytest.fixture
def run(server: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    """The command in this process, with EQUIPOT_SERVER set; gives status, stdout and stderr."""

    def run_it(*arguments: str | Path) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["equipot", *map(str, arguments)])
        monkeypatch.setenv("EQUIPOT_SERVER", server)
        monkeypatch.chdir(tmp_path)
        status = cli._run()
        text = capsys.readouterr()
        return status, text.out, text.err

    return run_it


def frames(path: Path) -> list[Atoms]:
    """Every frame of a file."""
    found = read(path, ":")
    assert isinstance(found, list)
    return found


def test_a_relaxation_there_leaves_the_same_files_as_one_here(run: Run, tmp_path: Path, data_dir: Path) -> None:
    names = ["water.xyz", "ethanol.extxyz"]
    files = [data_dir / "structures" / name for name in names]
    status, out, err = run("relax", *files, "-m", "tiny", "--max-steps", "4", "-o", "relaxed")
    assert status == 3, err
    for name in names:
        assert re.search(rf"^{re.escape(name)} .*not converged +4 ", out, re.MULTILINE), out
    final = frames(tmp_path / "relaxed" / "final.extxyz")
    assert [atoms.get_chemical_formula() for atoms in final] == ["H2O", "C2H6O"]
    for atoms in final:
        recomputed = atoms.copy()
        recomputed.calc = EquipotCalculator("tiny")
        assert atoms.get_potential_energy() == pytest.approx(recomputed.get_potential_energy(), abs=1e-6)
    trajectory = frames(tmp_path / "relaxed" / "trajectory.traj")
    assert len(trajectory) == 10
    np.testing.assert_allclose(trajectory[-1].positions, final[-1].positions, atol=1e-7)
    assert run("relax", *files, "-m", "tiny", "-o", "relaxed")[0] == 2  # nothing is overwritten


def test_the_life_of_a_job_from_the_shell(run: Run, tmp_path: Path, data_dir: Path) -> None:
    water = data_dir / "structures" / "water.xyz"
    status, out, err = run(
        "md", water, "-m", "tiny", "--n-steps", "40", "--seed", "1", "--save-every", "10", "--detach"
    )
    assert status == 0, err
    job_id = out.strip()
    status, out, _ = run("jobs", "tail", job_id)
    assert status == 0
    assert re.search(r"^\d\d:\d\d:\d\d  end ", out, re.MULTILINE)
    _, out, _ = run("jobs", "ls", "--kind", "md")
    assert re.search(rf"^{job_id} .*succeeded", out, re.MULTILINE)
    _, out, _ = run("jobs", "show", job_id, "--json")
    assert json.loads(out)["params"]["seed"] == 1
    status, out, _ = run("jobs", "get", job_id, "-o", "water.extxyz")
    assert status == 0
    assert "completed" in out
    assert len(frames(tmp_path / "water.extxyz")) == 5
    assert run("jobs", "rm", job_id)[0] == 0
    status, _, err = run("jobs", "show", job_id)
    assert status == 1
    assert "job-not-found" in err


def test_a_folder_finds_its_job_there_again(run: Run, tmp_path: Path, data_dir: Path) -> None:
    water = data_dir / "structures" / "water.xyz"
    options = ["-m", "tiny", "--n-steps", "20", "--seed", "1", "--save-every", "10", "--detach"]
    status, _, err = run("md", water, *options, "-o", "run")
    assert status == 0, err
    assert "equipot resume run" in err
    assert run("md", water, *options, "-o", "run")[0] == 2  # the folder is taken
    status, _, err = run("resume", "run")
    assert status == 0, err
    assert [atoms.info["step"] for atoms in frames(tmp_path / "run" / "trajectory.traj")] == [0, 10, 20]
    (system,) = json.loads((tmp_path / "run" / "result.json").read_text())["systems"]
    assert system["n_steps"] == 20
    assert run("md", water, *options, "-o", "one.extxyz")[0] == 0
    assert run("resume", "one.extxyz.run")[0] == 0
    assert len(frames(tmp_path / "one.extxyz")) == 3
    assert not (tmp_path / "one.extxyz.run").exists()


def test_the_models_jobs_and_health_of_a_service_are_seen_from_here(
    run: Run, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run("singlepoint", data_dir / "structures" / "water.xyz", "-m", "tiny", "--detach")[0] == 0
    assert "tiny-1" in run("models")[1]
    assert "For tests only." in run("models", "tiny")[1]
    _, out, _ = run("doctor", "--json")
    found = {finding["what"]: finding for finding in json.loads(out)["findings"]}
    assert found["service"]["state"] == "ok"
    assert "service version" not in found  # it is the same
    newest = json.loads(run("jobs", "ls", "--json", "-n", "1")[1])["items"][0]["id"]
    assert newest in dict(job_ids(newest[:4]))
    monkeypatch.setenv("EQUIPOT_SERVER", "http://127.0.0.1:1")
    assert job_ids("") == []


def test_a_job_can_be_cancelled_and_resumed(run: Run, data_dir: Path) -> None:
    water = data_dir / "structures" / "water.xyz"
    job_id = run("md", water, "-m", "tiny", "--n-steps", "1000000", "--seed", "1", "--detach")[1].strip()
    assert run("jobs", "cancel", job_id)[0] == 0
    status, out, _ = run("jobs", "tail", job_id)
    assert status == 1
    assert "cancelled" in out
    assert run("jobs", "resume", job_id)[0] == 0
    assert run("jobs", "cancel", job_id)[0] == 0


@pytest.mark.parametrize(
    ("file", "options", "status", "says"),
    [
        ("uranium_dioxide.cif", ["-m", "tiny"], 2, "does not know U"),
        ("water.xyz", ["-m", "tini"], 2, "no model 'tini'"),
        ("acetate_anion.extxyz", ["-m", "tiny"], 2, "charge of -1"),
        ("water.xyz", ["--server", "http://127.0.0.1:1"], 4, "does not answer"),
    ],
)
def test_what_the_service_refuses_is_told_as_if_it_were_here(
    run: Run, data_dir: Path, file: str, options: list[str], status: int, says: str
) -> None:
    done, out, err = run("relax", data_dir / "structures" / file, *options)
    assert done == status, err
    assert not out
    assert says in " ".join(err.replace("│", " ").split())


def test_ctrl_c_leaves_the_job_running_and_says_how_to_watch_it(
    server: str, run: Run, tmp_path: Path, data_dir: Path
) -> None:
    command = [EQUIPOT, "md", str(data_dir / "structures" / "water.xyz"), "-m", "tiny", "--n-steps", "1000000"]
    with subprocess.Popen([*command, "--server", server], stderr=subprocess.PIPE, text=True, cwd=tmp_path) as process:
        assert process.stderr is not None
        first_line = process.stderr.readline()
        process.stderr.readline()  # progress: it waits now
        process.send_signal(signal.SIGINT)
        said = process.stderr.read()
    assert process.returncode == 130
    job_id = first_line.split()[1]
    assert f"equipot jobs tail {job_id}" in said
    assert json.loads(run("jobs", "show", job_id, "--json")[1])["state"] in ("queued", "starting", "running")
    assert run("jobs", "cancel", job_id)[0] == 0

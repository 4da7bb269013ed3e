"""The wheel holds everything equipot needs to run, and runs."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import sysconfig
import time
import zipfile
from pathlib import Path

import httpx
import pytest

from equipot import __version__
from equipot.service.redis_server import RedisServer

LAYERS = ["calculator", "models", "service", "simulation"]
SHIPPED_POTENTIALS = ["organic-1", "organic-3", "elements-1", "elements-2"]

START_S = 60.0  # for the API on a busy machine

SINGLE_POINTS = """
import json
import equipot
from ase.build import bulk, molecule

energies = {}
for model, atoms in (("organic", molecule("CH3CH2OH")), ("elements", bulk("Cu", cubic=True))):
    atoms.calc = equipot.EquipotCalculator(model)
    energies[model] = atoms.get_potential_energy()
print(json.dumps({"file": equipot.__file__, "energies": energies}))
"""


@pytest.fixture(scope="module")
def names(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as archive:
        return archive.namelist()


@pytest.mark.parametrize("layer", LAYERS)
def test_the_wheel_has_every_file_of_every_layer(names: list[str], repository: Path, layer: str) -> None:
    files = (path.relative_to(repository) for path in (repository / layer).rglob("*") if path.is_file())
    wanted = {f"equipot/{path}" for path in files if "__pycache__" not in path.parts}
    assert f"equipot/{layer}/__init__.py" in wanted
    assert wanted <= set(names)


def test_the_wheel_ships_the_weights_with_their_cards(names: list[str]) -> None:
    weights = {f"equipot/models/weights/{name}.{ext}" for name in SHIPPED_POTENTIALS for ext in ("json", "safetensors")}
    assert weights <= set(names)


def test_the_wheel_has_the_web_page_the_scripts_of_redis_and_the_mark_of_a_typed_package(names: list[str]) -> None:
    assert "equipot/py.typed" in names
    assert any(name.startswith("equipot/service/") and name.endswith(".lua") for name in names)
    assert any(name.startswith("equipot/service/") and name.endswith(".html") for name in names)


def test_the_wheel_has_nothing_but_equipot(names: list[str]) -> None:
    assert {name.split("/")[0] for name in names} == {"equipot", f"equipot-{__version__}.dist-info"}
    assert not [name for name in names if "test" in Path(name).name]


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `bin` of an empty virtual environment with this wheel.

    The third-party packages come from the running environment through a path file; the checkout does not, since
    path files of a folder that was itself added by one are not read.
    """
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    python = folder / "bin" / "python"
    install = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", str(python), "install"]
    subprocess.run([*install, "--quiet", "--no-deps", "--no-index", str(wheel)], check=True)
    (site,) = folder.glob("lib/python*/site-packages")
    (site / "third-party.pth").write_text("{purelib}\n{platlib}\n".format(**sysconfig.get_paths()))
    return folder / "bin"


def _environment() -> dict[str, str]:
    hidden = {"EQUIPOT_MODEL_PATH", "EQUIPOT_REDIS_URL", "PYTHONPATH", "VIRTUAL_ENV"}
    return {name: value for name, value in os.environ.items() if name not in hidden}


def test_the_installed_wheel_computes_with_the_shipped_potentials(installed: Path, tmp_path: Path) -> None:
    command = [str(installed / "python"), "-W", "error", "-c", SINGLE_POINTS]
    ran = subprocess.run(command, cwd=tmp_path, env=_environment(), capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    answer = json.loads(ran.stdout)
    assert Path(answer["file"]).is_relative_to(installed.parent)
    assert answer["energies"]["organic"] < -100.0  # eV, GFN2-xTB with its isolated atoms
    assert answer["energies"]["elements"] < 0.0


def test_the_installed_command_knows_its_version_and_its_models(installed: Path, tmp_path: Path) -> None:
    def output(*words: str) -> str:
        command = [str(installed / "equipot"), *words]
        return subprocess.run(
            command, cwd=tmp_path, env=_environment(), capture_output=True, text=True, check=True
        ).stdout

    assert __version__ in output("--version")
    models = output("models")
    assert all(name in models for name in SHIPPED_POTENTIALS)


def test_the_installed_api_starts_answers_and_has_no_torch_in_it(installed: Path, tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with RedisServer(tmp_path / "data") as redis, (tmp_path / "log").open("wb") as log:
        command = [str(installed / "equipot"), "api", "--port", str(port), "--redis-url", redis.url]
        command += ["--data-dir", str(tmp_path / "data")]
        api = subprocess.Popen(command, cwd=tmp_path, env=_environment(), stdout=log, stderr=log)
        try:
            address = f"http://127.0.0.1:{port}"
            assert _answer(f"{address}/healthz", api) == {"status": "ok"}, (tmp_path / "log").read_text()
            models = httpx.get(f"{address}/v1/models").json()["items"]
            assert {item["name"] for item in models} == set(SHIPPED_POTENTIALS)
            assert httpx.get(f"{address}/").headers["Content-Type"].startswith("text/html")
            maps = Path(f"/proc/{api.pid}/maps")  # Linux only
            assert not maps.exists() or "libtorch" not in maps.read_text()
        finally:
            api.terminate()
            assert api.wait(timeout=30) in {0, -signal.SIGTERM}


def _answer(url: str, process: subprocess.Popen[bytes]) -> object:
    """What a server says as soon as it says anything; None if its process ends first."""
    give_up = time.monotonic() + START_S
    while process.poll() is None and time.monotonic() < give_up:
        try:
            return httpx.get(url, timeout=5.0).json()
        except httpx.TransportError:
            time.sleep(0.05)
    return None

"""The command `equipot` on this machine, run as a user runs it."""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from ase import Atoms
from ase.build import bulk
from ase.io import read, write

from equipot import EquipotCalculator, __version__
from equipot.errors import InvalidParameterError
from equipot.params import JOB_REQUEST, PARAMS_OF_KIND
from equipot.service.commands.compute import index_of
from equipot.service.commands.options import params_of
from equipot.service.commands.output import Output
from equipot.service.commands.request import read_request
from equipot.service.commands.status import EXIT_STATUS, ExitStatus
from tests.service.conftest import Said

EQUIPOT = str(Path(sys.executable).with_name("equipot"))
COMMANDS = "singlepoint relax md resume export analyze models serve api worker train evaluate doctor".split()
JOBS_COMMANDS = "ls show tail get cancel resume extend rm".split()
ALL_COMMANDS = [[], *([name] for name in COMMANDS), ["jobs"], *(["jobs", name] for name in JOBS_COMMANDS)]
WIDE = {"COLUMNS": "200", "TERM": "dumb"}
HELP_CPU_S = 1.5  # measured 0.6 on an idle core; torch alone takes more than 1.5
LONG_S = 120
DATA_POTENTIALS = Path(__file__).parents[1] / "data" / "potentials"


def equipot(*arguments: str | Path, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command run to its end."""
    command = [EQUIPOT, *map(str, arguments)]
    variables = {**os.environ, **WIDE, **environment}
    done = subprocess.run(command, cwd=cwd, env=variables, capture_output=True, text=True, timeout=LONG_S, check=False)
    assert "Traceback" not in done.stderr, done.stderr
    return done


def frames(path: Path) -> list[Atoms]:
    """Every frame of a file."""
    found = read(path, ":")
    assert isinstance(found, list)
    return found


@pytest.fixture
def files(data_dir: Path) -> Path:
    return data_dir / "structures"


# -- help


def test_every_help_has_an_example_and_none_loads_torch_or_ase(tmp_path: Path) -> None:
    code = (
        "import sys, io, json, contextlib\n"
        "from equipot.service import cli\n"
        "texts = []\n"
        f"for words in {ALL_COMMANDS!r}:\n"
        "    sys.argv = ['equipot', *words, '--help']\n"
        "    with contextlib.redirect_stdout(io.StringIO()) as text:\n"
        "        assert cli._run() == 0\n"
        "    texts.append(text.getvalue())\n"
        "assert not {'torch', 'ase', 'httpx'} & set(sys.modules), 'loaded too much'\n"
        "print(json.dumps(texts))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    texts = json.loads(done.stdout)
    for words, text in zip(ALL_COMMANDS, texts, strict=True):
        assert "Example: equipot" in text, words
        assert all(f"equipot {word}" in text for word in words[:1]), words


def test_help_takes_well_under_a_second_of_computing(tmp_path: Path) -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert equipot("--help", cwd=tmp_path).returncode == 0
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < HELP_CPU_S


@pytest.mark.parametrize("kind", PARAMS_OF_KIND)
def test_every_parameter_is_an_option_of_the_same_name(in_process: Callable[..., Said], kind: str) -> None:
    text = in_process(kind, "--help").stdout
    for name in PARAMS_OF_KIND[kind].model_fields:
        assert f"--{name.replace('_', '-')}" in text


def test_the_version_is_the_packages(tmp_path: Path) -> None:
    assert equipot("--version", cwd=tmp_path).stdout.strip() == f"equipot {__version__}"


# -- parameters


def test_options_go_over_the_file_and_the_file_over_defaults(tmp_path: Path) -> None:
    file = tmp_path / "params.yaml"
    file.write_text("n_steps: 5\ntemperature_k: 100\nthermostat: {type: langevin, friction_per_fs: 0.5}\n")
    params: Any = params_of(
        "md", {"temperature_k": 200.0, "duration_ps": 1.0, "seed": "[1, 2]"}, read_request(file, "md")["params"]
    )
    assert (params.temperature_k, params.duration_ps, params.n_steps, params.seed) == (200.0, 1.0, None, [1, 2])
    assert params.thermostat.friction_per_fs == 0.5


@pytest.mark.parametrize(
    ("text", "index"), [(None, None), ("-1", -1), (":", slice(None)), ("1:9:2", slice(1, 9, 2)), ("2:", slice(2, None))]
)
def test_an_index_is_written_as_in_python(text: str | None, index: int | slice | None) -> None:
    assert index_of(text) == index


def test_a_request_that_is_printed_is_the_body_a_service_takes_and_the_file_a_run_takes(
    in_process: Callable[..., Said], tmp_path: Path, files: Path
) -> None:
    options = [
        "-m",
        "tiny",
        "--max-steps",
        "2",
        "--guards",
        "{max_force_ev_per_ang: {limit: 50}}",
        "--dtype",
        "float32",
    ]
    as_yaml = in_process("relax", files / "water.xyz", *options, "--print-request").stdout
    as_json = in_process("relax", files / "water.xyz", *options, "--print-request", "--json").stdout
    body = json.loads(as_json)
    assert yaml.safe_load(as_yaml) == body
    job = JOB_REQUEST.validate_python(body)
    assert (job.model, job.dtype, job.params.max_steps) == ("tiny", "float32", 2)  # type: ignore[union-attr]
    (tmp_path / "job.yaml").write_text(as_yaml + "\ntags: [kept]\n")
    done = in_process("relax", "--params", "job.yaml", "--max-steps", "1", "--json", "-o", "a")
    assert done.returncode == ExitStatus.NOT_CONVERGED
    document = json.loads(done.stdout)
    assert document["params"]["max_steps"] == document["systems"][0]["n_steps"] == 1
    assert document["provider"]["dtype"] == "float32"
    again = in_process("relax", "--params", "job.yaml", "--print-request", "--json")
    assert json.loads(again.stdout) == {**body, "tags": ["kept"]}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("kind: relax\nfmax_ev_per_ang: 0.1\n", ["unknown field 'fmax_ev_per_ang'", "stand under params"]),
        ("kind: md\nparams: {n_steps: 5}\n", ["a job of kind md", "equipot md --params"]),
        ("params: 5\n", ["params must hold names and values"]),
        ("structures: [{structure_id: abc}]\n", ["only be read where it was uploaded"]),
        ("structures: [{symbols: [H], positions: [[0, 0, nan]]}]\n", ["positions"]),
        ("fmax: 1\n", ["unknown parameter 'fmax'", "fmax_ev_per_ang"]),
    ],
)
def test_a_file_of_parameters_that_is_wrong_is_told_where(
    in_process: Callable[..., Said], tmp_path: Path, text: str, says: list[str]
) -> None:
    (tmp_path / "job.yaml").write_text(text)
    done = in_process("relax", "--params", "job.yaml", "-m", "tiny")
    assert done.returncode == ExitStatus.WRONG_INPUT
    for part in says:
        assert part in " ".join(done.stderr.replace("│", " ").split())


def test_every_exit_status_is_documented(repository: Path) -> None:
    page = (repository / "docs" / "cli.md").read_text()
    for status in ExitStatus:
        assert f"| {status.value} |" in page
        assert str(status.value) in EXIT_STATUS


def test_names_of_models_are_completed_in_a_shell(tmp_path: Path) -> None:
    asked = {"_EQUIPOT_COMPLETE": "complete_bash", "COMP_WORDS": "equipot relax --model ti", "COMP_CWORD": "3"}
    assert equipot(cwd=tmp_path, **asked).stdout.split() == ["tiny", "tiny-1"]


def test_sigterm_checkpoints_too_and_has_a_status_of_its_own(tmp_path: Path, files: Path) -> None:
    command = [EQUIPOT, "md", str(files / "water.xyz"), "-m", "tiny", "--n-steps", "1000000", "-o", "run.traj"]
    with subprocess.Popen(
        command, cwd=tmp_path, env={**os.environ, **WIDE}, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        process.stderr.readline()
        process.send_signal(signal.SIGTERM)
        said = process.stderr.read()
    assert process.returncode == ExitStatus.TERMINATED, said
    assert "Stopping after this step" in said
    assert "equipot resume run.traj.run" in said
    assert (tmp_path / "run.traj.run" / "checkpoint.npz").exists()


# -- computing


def test_a_single_point_prints_the_calculators_energy_and_leaves_nothing_behind(tmp_path: Path, files: Path) -> None:
    done = equipot("singlepoint", files / "ethanol.extxyz", "-m", "tiny", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (system,) = json.loads(done.stdout)["systems"]
    atoms = frames(files / "ethanol.extxyz")[0]
    atoms.calc = EquipotCalculator("tiny")
    assert system["energy_ev"] == pytest.approx(atoms.get_potential_energy(), abs=1e-9)
    np.testing.assert_allclose(system["forces_ev_per_ang"], atoms.get_forces(), atol=1e-9)
    assert system["outcome"] == "completed"
    assert not list(tmp_path.iterdir())


def test_a_relaxation_writes_what_it_says_and_says_when_it_has_not_converged(tmp_path: Path, files: Path) -> None:
    arguments: list[str | Path] = ["relax", files / "ethanol.extxyz", "-m", "tiny", "--max-steps", "3"]
    done = equipot(*arguments, cwd=tmp_path)
    assert done.returncode == 3
    assert "not converged" in done.stdout
    assert "largest force on a free atom < 0.05" in done.stdout
    folder = tmp_path / "ethanol-relax"
    assert all(str(folder.relative_to(tmp_path) / name) in done.stdout for name in ("trajectory.traj", "final.extxyz"))
    trajectory, (final,) = frames(folder / "trajectory.traj"), frames(folder / "final.extxyz")
    assert len(trajectory) == 4
    assert (folder / "summary.png").read_bytes().startswith(b"\x89PNG")
    np.testing.assert_array_equal(final.positions, trajectory[-1].positions)
    recomputed = final.copy()
    recomputed.calc = EquipotCalculator("tiny")
    assert final.get_potential_energy() == pytest.approx(recomputed.get_potential_energy(), abs=1e-9)
    assert json.loads((folder / "result.json").read_text())["systems"][0]["outcome"] == "max_steps"

    again = equipot(*arguments, cwd=tmp_path)
    assert again.returncode == 2
    assert "exists already" in again.stderr
    assert "equipot resume ethanol-relax" in again.stderr


def test_charge_and_level_of_theory_are_options_and_the_result_says_the_level(
    in_process: Callable[..., Said], tmp_path: Path
) -> None:
    (tmp_path / "hydroxide.xyz").write_text("2\n\nO 0 0 0\nH 0 0 0.97\n")
    command = ("singlepoint", "hydroxide.xyz", "-m", "organic-3")
    (ion,) = json.loads(in_process(*command, "--charge", "-1", "--json").stdout)["systems"]
    (neutral,) = json.loads(in_process(*command, "--level-of-theory", "pbe/def2-svp", "--json").stdout)["systems"]
    assert (ion["level_of_theory"], neutral["level_of_theory"]) == ("GFN2-xTB", "PBE/def2-SVP")
    charged = Atoms("OH", [[0, 0, 0], [0, 0, 0.97]], info={"charge": -1}, calculator=EquipotCalculator("organic-3"))
    assert ion["energy_ev"] == charged.get_potential_energy()
    assert "charge: -1.0" in in_process(*command, "--charge", "-1", "--print-request").stdout
    refused = in_process(*command, "--charge", "-1", "--level-of-theory", "PBE/def2-SVP")
    assert (refused.returncode, "charge of -1 e" in refused.stderr) == (2, True)
    refused = in_process(*command, "--level-of-theory", "PBE")
    assert (refused.returncode, "It knows GFN2-xTB, PBE/def2-SVP" in refused.stderr) == (2, True)


def test_several_files_and_frames_are_one_run_with_a_row_each(tmp_path: Path) -> None:
    crystals = []
    for seed in range(2):
        atoms = bulk("Cu", cubic=True)
        atoms.rattle(0.05, seed=seed)
        crystals.append(atoms)
    write(tmp_path / "two.extxyz", crystals)
    write(tmp_path / "gold.vasp", bulk("Au", cubic=True), format="vasp")
    arguments = ["relax", "two.extxyz", "gold.vasp", "-m", "emt", "-o", "relaxed.extxyz"]
    done = equipot(*arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for name in ("two.extxyz#0", "two.extxyz#1", "gold.vasp"):
        assert re.search(rf"^{re.escape(name)} .*converged", done.stdout, re.MULTILINE)
    assert "converged (3 of 3)" in done.stdout
    assert [atoms.get_chemical_formula() for atoms in frames(tmp_path / "relaxed.extxyz")] == ["Cu4", "Cu4", "Au4"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["gold.vasp", "relaxed.extxyz", "two.extxyz"]
    assert "\x1b" not in done.stdout + done.stderr  # a log file gets plain lines
    assert re.search(r"relax: \d/3 systems  step \d+/500", done.stderr)
    assert equipot(*arguments, cwd=tmp_path).returncode == 2


def test_ctrl_c_checkpoints_and_the_command_it_prints_ends_where_an_uninterrupted_run_does(
    tmp_path: Path, files: Path
) -> None:
    options = ["-m", "tiny", "--n-steps", "800", "--seed", "7", "--save-every", "100"]
    command = [EQUIPOT, "md", str(files / "ethanol.extxyz"), *options, "-o", "run"]
    with subprocess.Popen(
        command, cwd=tmp_path, env={**os.environ, **WIDE}, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        first_line = process.stderr.readline()
        process.send_signal(signal.SIGINT)
        said = first_line + process.stderr.read()
    assert process.returncode == 130, said
    assert "Traceback" not in said
    assert "Interrupted at step" in said
    (resume,) = re.findall(r"Go on with: equipot (resume .*)$", said, re.MULTILINE)
    resumed = equipot(*resume.split(), cwd=tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    assert "completed" in resumed.stdout

    whole = equipot("md", files / "ethanol.extxyz", *options, "-o", "whole.traj", cwd=tmp_path)
    assert whole.returncode == 0
    there, here = frames(tmp_path / "run" / "trajectory.traj"), frames(tmp_path / "whole.traj")
    assert len(there) == len(here) == 9
    for a, b in zip(there, here, strict=True):
        assert np.array_equal(a.positions, b.positions)
        assert np.array_equal(a.get_momenta(), b.get_momenta())


def test_skip_invalid_computes_the_rest_and_says_what_was_left_out(tmp_path: Path, files: Path) -> None:
    names = ["caffeine.xyz", "uranium_dioxide.cif", "na_k_cl_partial_occupancy.cif"]
    arguments: list[str | Path] = ["singlepoint", *(files / name for name in names), "-m", "tiny"]
    refused = equipot(*arguments, cwd=tmp_path)
    assert refused.returncode == 2
    assert not refused.stdout
    done = equipot(*arguments, "--skip-invalid", cwd=tmp_path)
    assert done.returncode == 1
    assert re.search(r"^caffeine.xyz .*completed", done.stdout, re.MULTILINE)
    assert "rejected (2 of 3)" in done.stdout
    assert "uranium_dioxide.cif: " in done.stderr
    assert "occupancy of 0.5" in done.stderr
    assert "caffeine.xyz: charges, energy, forces in the file are ignored" in done.stderr


# -- what goes wrong

MISTAKES: dict[str, tuple[Sequence[str], list[str]]] = {
    "no such file": (["relax", "nowhere.xyz", "-m", "tiny"], ["nowhere.xyz cannot be read", "invalid-structure"]),
    "unknown format": (["relax", "water.traj", "-m", "tiny"], ["not known from its name", "unsupported-format"]),
    "disorder": (["relax", "na_k_cl_partial_occupancy.cif"], ["Na1 has an occupancy", "ordered cell"]),
    "unknown element": (["singlepoint", "uranium_dioxide.cif", "-m", "tiny"], ["does not know U", "It knows H"]),
    "a charge": (["relax", "acetate_anion.extxyz", "-m", "tiny"], ["charge of -1"]),
    "unknown model": (["relax", "water.xyz", "-m", "tini"], ["no model 'tini'", "Did you mean 'tiny'"]),
    "wrong value": (["relax", "water.xyz", "--fmax-ev-per-ang", "-1"], ["fmax_ev_per_ang", "greater than 0"]),
    "not a number": (["relax", "water.xyz", "--max-steps", "many"], ["--max-steps", "valid integer"]),
    "unknown option": (["relax", "water.xyz", "--fmax", "1"], ["No such option", "--fmax"]),
    "unknown key": (["md", "water.xyz", "--n-steps", "1", "--thermostat", "{friction: 1}"], ["thermostat.friction"]),
    "no length": (["md", "water.xyz", "-m", "tiny"], ["exactly one of n_steps and duration_ps"]),
    "large time step": (["md", "water.xyz", "--n-steps", "1", "--timestep-fs", "50"], ["allow_large_timestep"]),
    "no file at all": (["relax"], ["No structure is given", "Name files"]),
    "unknown command": (["relux"], ["relux"]),
    "output format": (["relax", "water.xyz", "-m", "tiny", "-o", "out.cif"], ["cannot be written as .cif"]),
    "output nowhere": (
        ["relax", "water.xyz", "-m", "tiny", "-o", "/dev/null/run"],
        ["cannot be written", "another place"],
    ),
    "wrong index": (["relax", "water.xyz", "--index", "x"], ["not an index"]),
    "no run": (["resume", "."], ["no run"]),
    "wrong port": (["serve", "--port", "70000"], ["--port"]),
    "wrong device": (["worker", "--device", "tpu"], ["worker_device"]),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_told_in_one_panel_and_changes_nothing(
    in_process: Callable[..., Said], tmp_path: Path, files: Path, mistake: str
) -> None:
    arguments, says = MISTAKES[mistake]
    words = [str(files / word) if (files / word).exists() and word != "." else word for word in arguments]
    done = in_process(*words)
    assert done.returncode == (1 if mistake == "no run" else 2), done.stderr
    assert not done.stdout
    text = " ".join(done.stderr.replace("│", " ").split())
    for part in says:
        assert part in text, text
    assert not list(tmp_path.iterdir())


def test_a_mistake_in_a_process_of_its_own_gives_the_same_exit_status(tmp_path: Path) -> None:
    done = equipot("relax", "nowhere.xyz", cwd=tmp_path)
    assert done.returncode == 2
    assert "nowhere.xyz cannot be read" in done.stderr


def test_an_unforeseen_error_is_a_panel_too_and_a_traceback_only_on_request(
    in_process: Callable[..., Said], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("equipot.service.commands.models.registry", lambda: 1 / 0)
    done = in_process("models")
    assert done.returncode == 1
    assert "ZeroDivisionError" in done.stderr
    monkeypatch.setenv("EQUIPOT_DEBUG", "1")
    with pytest.raises(ZeroDivisionError):
        in_process("models")


def test_a_folder_that_is_no_run_is_never_removed(in_process: Callable[..., Said], tmp_path: Path, files: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years of work")
    done = in_process("relax", files / "water.xyz", "-m", "tiny", "-o", "mine", "--overwrite")
    assert done.returncode == 2
    assert (tmp_path / "mine" / "thesis.tex").read_text() == "years of work"


def test_overwrite_removes_a_run_and_its_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "a-relax"
    run.mkdir()
    (run / "request.json").write_text("{}")
    with pytest.raises(InvalidParameterError, match="equipot resume a-relax"):
        Output.choose("relax", [Path("a.xyz")], None, overwrite=False)
    assert Output.choose("relax", [Path("a.xyz.gz")], None, overwrite=True).folder == Path("a-relax")
    assert not run.exists()
    (tmp_path / "b.traj").write_text("old")
    with pytest.raises(InvalidParameterError, match=r"b\.traj exists"):
        Output.choose("md", [Path("a.xyz")], Path("b.traj"), overwrite=False)
    assert Output.choose("md", [Path("a.xyz")], Path("b.traj"), overwrite=True).file == Path("b.traj")


@pytest.mark.parametrize("command", ["api", "worker"])
def test_parts_of_the_service_say_so_when_there_is_nothing_to_join(
    in_process: Callable[..., Said], command: str
) -> None:
    done = in_process(command, "--data-dir", "empty")
    assert done.returncode == 1
    assert "No service runs on" in done.stderr


# -- models


def test_models_are_listed_with_their_elements_and_shown_with_their_limits(in_process: Callable[..., Said]) -> None:
    table = in_process("models").stdout
    assert "tiny-1" in table
    assert "emt" in table
    shown = in_process("models", "tiny").stdout
    assert "H C N O Si Cu" in shown
    assert "For tests only." in shown
    for words in ("models", "models organic-3"):  # every level that can be asked for
        assert "wB97M-D3(BJ)/def2-TZVPPD" in in_process(*words.split()).stdout
    assert "of 45 pairs of elements attract at short range" in in_process("models", "organic").stdout
    assert "5.469 (5.469)" in in_process("models", "elements").stdout  # silicon beside PBE
    listed = json.loads(in_process("models", "--json").stdout)
    assert "tiny-1" in [model["name"] for model in listed["models"]]
    assert [calculator["name"] for calculator in listed["calculators"] if not calculator["requires"]] == ["emt"]


def test_the_doctor_finds_everything_here_and_says_what_is_broken(tmp_path: Path) -> None:
    well = equipot("doctor", "--json", cwd=tmp_path)
    assert well.returncode == 0, well.stdout
    found = {finding["what"]: finding for finding in json.loads(well.stdout)["findings"]}
    assert {"equipot", "torch", "model tiny-1", "model organic-1", "redis", "data directory"} <= set(found)
    assert all(finding["state"] == "ok" or finding["remedy"] for finding in found.values())
    (tmp_path / "models").mkdir()
    for name in ("tiny-1.json", "tiny-1.safetensors"):
        data = (DATA_POTENTIALS / name).read_bytes()
        (tmp_path / "models" / name).write_bytes(data if name.endswith("json") else data[:-100])
    ill = equipot(
        "doctor",
        cwd=tmp_path,
        EQUIPOT_MODEL_PATH=str(tmp_path / "models"),
        EQUIPOT_REDIS_URL="redis://127.0.0.1:9",
        EQUIPOT_SERVER="http://127.0.0.1:9",
    )
    assert ill.returncode == 1
    for what in ("model tiny-1", "redis", "service"):
        assert re.search(rf"broken +{what}", ill.stdout), ill.stdout
    assert "equipot serve" in ill.stdout

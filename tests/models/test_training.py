"""Training learns, repeats itself to the last bit however often it is killed, and writes a potential that says what
it is."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from equipot.errors import ConflictError, EquipotError, InvalidParameterError, NonFiniteError, NotResumableError
from equipot.models.loading import load_potential
from equipot.models.potential import Potential
from equipot.models.training.api import evaluate, train
from equipot.models.training.config import TrainingConfig
from equipot.models.training.files import only_process_in
from equipot.models.training.frames import Frame, FrameSet
from equipot.models.training.log import read_log
from equipot.models.training.loop import fit_binding
from equipot.models.training.state import PREVIOUS, STATE, read_state
from tests.models.conftest import ethanol, graph_of

N_STEPS = 24
TINY_NETWORK = {
    "cutoff_ang": 4.0, "n_channels": 4, "n_pair_channels": 2, "n_message_channels": 2, "l_max": 1, "l_hidden": 1,
    "n_basis": 4, "readout_width": 4,
}  # fmt: skip


@pytest.fixture(scope="module")
def frames(tiny: Potential) -> FrameSet:
    """Rattled ethanol, labelled by the tiny potential."""
    labelled = []
    for seed in range(30):
        structure = ethanol(seed)
        prediction = tiny.evaluate(graph_of(structure, tiny.cutoff_ang))
        labelled.append(
            Frame(
                numbers=structure.numbers,
                positions_ang=structure.positions_ang,
                forces_ev_per_ang=prediction.forces_ev_per_ang,
                energy_ev=prediction.energy_ev,
                cell_ang=np.zeros((3, 3)),
                pbc=np.zeros(3, dtype=bool),
                stress_ev_per_ang3=np.full(6, np.nan),
                config_type="odd" if seed % 2 else "even",
                group="ethanol",
            )
        )
    return FrameSet.from_frames(labelled, "tiny-1")


@pytest.fixture
def settings(frames: FrameSet, tmp_path: Path, tiny: Potential) -> dict[str, Any]:
    """A training of a second or two."""
    frames.select(np.arange(20)).save(tmp_path / "train.npz")
    frames.select(np.arange(20, 25)).save(tmp_path / "valid.npz")
    frames.select(np.arange(25, 30)).save(tmp_path / "test.npz")
    return {
        "name": "student-1",
        "level_of_theory": "tiny-1",
        "isolated_atom_energies_ev": {symbol: tiny.card.isolated_atom_energies_ev[symbol] for symbol in "HCO"},
        "data": {
            "train": [str(tmp_path / "train.npz")],
            "valid": str(tmp_path / "valid.npz"),
            "tests": {"held out": str(tmp_path / "test.npz")},
        },
        "network": TINY_NETWORK,
        "optimiser": {"n_steps": N_STEPS, "atoms_per_batch": 40, "warmup_steps": 5, "validate_every": N_STEPS // 2},
    }


def written(settings: dict[str, Any], folder: Path, **changes: Any) -> Path:
    """The settings as a file, `optimiser__n_steps=3` changed in it."""
    content = json.loads(json.dumps(settings))
    for name, value in changes.items():
        *sections, key = name.split("__")
        place = content
        for section in sections:
            place = place.setdefault(section, {})
        place[key] = value
    path = folder / "student.yaml"
    path.write_text("# a comment that stays\n" + yaml.safe_dump(content))
    return path


def weights(folder: Path) -> bytes:
    return (folder / "student-1.safetensors").read_bytes()


# ---- learning, and what is left of it


def test_a_training_learns_and_leaves_a_potential_a_report_and_its_whole_description(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    config = written(settings, tmp_path)
    outcome = train(config, tmp_path / "run")
    folder = outcome.folder
    first, last = read_log(folder / "log.csv")
    assert last["force_mae_mev_per_ang"] < first["force_mae_mev_per_ang"]
    assert last["loss"] < first["loss"]

    potential = load_potential(outcome.card_path, device="cpu")
    card = potential.card
    validation, held_out = card.test_errors
    assert (validation.test_set, held_out.test_set, held_out.n_frames) == ("validation", "held out", 5)
    assert validation.force_mae_mev_per_ang == pytest.approx(last["force_mae_mev_per_ang"], rel=1e-6)
    assert held_out.by_config_type.keys() == {"even", "odd"}
    assert card.training["yaml"] == config.read_text() == (folder / "config.yaml").read_text()
    assert card.training["n_steps"] == N_STEPS
    assert card.training["reproducible"] is True
    assert card.training["atoms_per_s"] > 0
    assert "thread" in card.training["hardware"]
    assert set(card.training_data.sha256) == {str(tmp_path / f"{name}.npz") for name in ("train", "valid", "test")}
    inside = potential.evaluate(graph_of(ethanol(3), potential.cutoff_ang)).domain_distance
    assert inside is not None
    assert inside < 1.5

    report = {path.name: path.read_bytes() for path in (folder / "report").iterdir()}
    plots = {"learning-curve.png", "parity-validation.png", "parity-held-out.png"}
    assert report.keys() == {"errors.txt", "errors.json", *plots}
    assert all(report[name].startswith(b"\x89PNG") for name in plots)
    assert json.loads(report["errors.json"])["errors"]["held out"]["odd"]["n_frames"] == 3
    assert b"held out" in report["errors.txt"]


def test_what_evaluate_finds_is_what_the_card_says(settings: dict[str, Any], tmp_path: Path) -> None:
    outcome = train(written(settings, tmp_path), tmp_path / "run", quiet=True, plots=False)
    evaluation = evaluate(outcome.card_path, [tmp_path / "test.npz"], dtype="float32", device="cpu")
    on_card = outcome.card.test_errors[1] if outcome.card else None
    assert on_card is not None
    summary = evaluation.together.summary()
    assert summary["force_rmse_mev_per_ang"] == pytest.approx(on_card.force_rmse_mev_per_ang, rel=1e-5)
    assert summary["energy_mae_mev"] == pytest.approx(on_card.energy_mae_mev, rel=1e-3)


# ---- the same, however often it is stopped


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_a_training_stopped_and_resumed_ends_in_the_bits_of_one_that_was_not(
    settings: dict[str, Any], tmp_path: Path, kind: str
) -> None:
    """Through a change of precision, a final stage and a plateau schedule, stopped at any step."""
    config = written(
        settings,
        tmp_path,
        optimiser__kind=kind,
        network__is_calibrated=kind == "muon",
        optimiser__schedule="plateau",
        optimiser__plateau_patience=0,
        optimiser__validate_every=5,
        optimiser__float64_fraction=0.3,
        final_stage={"start": 0.5, "energy": 100.0, "average": "uniform"},
        loss__by_config_type={"odd": {"force": 2.0}},
    )
    train(config, tmp_path / "whole", quiet=True, plots=False)
    asked: list[int] = []

    def should_stop() -> bool:
        asked.append(1)
        return len(asked) in (3, 11, 17, 18)

    n_parts = 1
    while train(config, tmp_path / "parts", resume=True, should_stop=should_stop, quiet=True, plots=False).card is None:
        torch.randn(3)  # what others draw in between must not matter
        n_parts += 1
    assert n_parts == 5
    assert weights(tmp_path / "parts") == weights(tmp_path / "whole")
    times = {"seconds", "atoms_per_s"}
    logs = [read_log(tmp_path / name / "log.csv") for name in ("parts", "whole")]
    assert len({str([{k: v for k, v in row.items() if k not in times} for row in log]) for log in logs}) == 1


def test_a_training_killed_at_any_moment_goes_on_to_the_same_bits(settings: dict[str, Any], tmp_path: Path) -> None:
    config = written(settings, tmp_path, optimiser__n_steps=120, checkpoint_every_s=0.01)
    train(config, tmp_path / "whole", quiet=True, plots=False)
    command = [sys.executable, "-m", "equipot.models.training", str(config), str(tmp_path / "killed")]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    state = tmp_path / "killed" / STATE
    try:
        while not (state.exists() and (tmp_path / "killed" / PREVIOUS).exists()):
            assert process.poll() is None
            time.sleep(0.005)
    finally:
        process.kill()
        process.wait()
    found = read_state(tmp_path / "killed")
    assert found is not None
    assert 0 < found[0].step < 120
    train(config, tmp_path / "killed", resume=True, quiet=True, plots=False)
    assert weights(tmp_path / "killed") == weights(tmp_path / "whole")


def test_slices_of_wall_time_change_nothing_and_another_seed_does(settings: dict[str, Any], tmp_path: Path) -> None:
    config = written(settings, tmp_path, name="student-{seed}")
    whole = train(config, tmp_path / "whole", quiet=True, plots=False)
    while (
        sliced := train(config, tmp_path / "sliced", resume=True, stop_after_s=0.05, quiet=True, plots=False)
    ).card is None:
        pass
    other = train(config, tmp_path / "other", seed=5, quiet=True, plots=False)
    assert whole.card is not None
    assert other.card is not None
    assert whole.card.weights_sha256 == sliced.card.weights_sha256 != other.card.weights_sha256
    assert other.card.name == "student-5"
    assert yaml.safe_load(other.card.training["yaml"])["seed"] == 5


def test_a_damaged_state_gives_way_to_the_one_before(settings: dict[str, Any], tmp_path: Path) -> None:
    config = written(settings, tmp_path, checkpoint_every_s=0.01)
    train(config, tmp_path / "whole", quiet=True, plots=False)
    asked = itertools.count(1)
    train(config, tmp_path / "run", should_stop=lambda: next(asked) == 9, quiet=True, plots=False)
    state = tmp_path / "run" / STATE
    state.write_bytes(state.read_bytes()[:-100])
    train(config, tmp_path / "run", resume=True, quiet=True, plots=False)
    assert weights(tmp_path / "run") == weights(tmp_path / "whole")

    for name in (STATE, PREVIOUS):
        (tmp_path / "run" / name).write_bytes(b"\x80\x04cos\nsystem\n")
    with pytest.raises(NotResumableError, match="is damaged"):
        train(config, tmp_path / "run", resume=True, quiet=True, plots=False)


# ---- refusals


def test_a_folder_with_a_training_is_not_overwritten_nor_resumed_with_something_else(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    config = written(settings, tmp_path)
    run = tmp_path / "run"
    train(config, run, should_stop=lambda: True, quiet=True, plots=False)
    with pytest.raises(InvalidParameterError, match=r"holds a training already.*--resume"):
        train(config, run, quiet=True, plots=False)
    with pytest.raises(NotResumableError, match="another configuration: optimiser differ"):
        train(written(settings, tmp_path, optimiser__learning_rate=0.1), run, resume=True, quiet=True, plots=False)
    (tmp_path / "train.npz").write_bytes((tmp_path / "test.npz").read_bytes())
    with pytest.raises(NotResumableError, match="data are not those"):
        train(written(settings, tmp_path), run, resume=True, quiet=True, plots=False)


def test_two_trainings_do_not_share_a_folder(settings: dict[str, Any], tmp_path: Path) -> None:
    with only_process_in(tmp_path / "run"), pytest.raises(ConflictError, match="Another training is running"):
        train(written(settings, tmp_path), tmp_path / "run", quiet=True, plots=False)


def test_a_training_that_explodes_says_so_and_keeps_the_last_good_state(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    config = written(
        settings, tmp_path, optimiser__learning_rate=1e30, optimiser__clip_norm=1e30, optimiser__warmup_steps=1
    )
    with pytest.raises(NonFiniteError, match="not finite"):
        train(config, tmp_path / "run", quiet=True, plots=False)
    assert not list(tmp_path.glob("run/student-1.*"))


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is always full")
def test_a_full_disk_is_named_and_leaves_nothing_half_written(tmp_path: Path) -> None:
    from equipot.models.training.files import write_whole

    (tmp_path / "log.csv").write_text("before")
    (tmp_path / ".log.csv.part").symlink_to("/dev/full")
    with pytest.raises(EquipotError, match=r"log.csv cannot be written: No space left.*--resume"):
        write_whole(tmp_path / "log.csv", b"x" * 100_000)
    assert [path.name for path in tmp_path.iterdir()] == ["log.csv"]
    assert (tmp_path / "log.csv").read_text() == "before"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"learning_rate": 3}, "learning_rate"),
        ({"optimiser__n_steps": 0}, "n_steps"),
        ({"network__n_chanels": 3}, "n_chanels"),
        ({"data__valid": {"fraction": 0.1, "n_frames": 3}}, "either fraction or n_frames"),
        ({"data__units": {"energy": "furlong"}}, "no unit 'furlong'"),
        ({"loss__force_penalty": "l3"}, "force_penalty"),
        ({"name": "../escape"}, "name"),
    ],
)
def test_a_wrong_key_or_value_in_a_configuration_is_named(
    settings: dict[str, Any], tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidParameterError, match=message):
        TrainingConfig.read(written(settings, tmp_path, **changes))


def test_the_configurations_of_the_shipped_potentials_are_valid(repository: Path) -> None:
    paths = sorted((repository / "models" / "training" / "configs").glob("*.yaml"))
    shipped = {"organic-1", "organic-3", "elements-1", "elements-2"}
    assert {TrainingConfig.read(path).full_name for path in paths} >= shipped
    assert not TrainingConfig.read(paths[0]).is_reproducible  # they ended by the clock, and the card says so


def test_the_configurations_of_the_benchmarks_of_accuracy_are_valid_and_repeatable(repository: Path) -> None:
    configs = [TrainingConfig.read(path) for path in (repository / "benchmarks" / "accuracy").glob("*.yaml")]
    assert {config.full_name for config in configs} >= {"acac-seed0", "rmd17-ethanol", "rmd17-aspirin", "mlearn-Li"}
    assert all(config.is_reproducible for config in configs)


def test_one_composition_gives_binding_energies_that_add_up() -> None:
    binding = fit_binding(np.array([[6.0, 2.0, 1.0]] * 3), np.full(3, -30.0))
    assert binding @ np.array([6, 2, 1]) == pytest.approx(-30.0)


def test_a_training_told_to_stop_finishes_the_step_and_writes_the_state(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    outcome = train(written(settings, tmp_path), tmp_path / "run", should_stop=lambda: True, quiet=True, plots=False)
    assert (outcome.step, outcome.card) == (1, None)
    found = read_state(tmp_path / "run")
    assert found is not None
    assert found[0].step == 1
    with pytest.raises(InvalidParameterError, match="not finished"):
        _ = outcome.card_path


def test_stress_is_learned_where_virials_weigh_at_any_time(settings: dict[str, Any], tmp_path: Path) -> None:
    def learns(**changes: Any) -> bool:
        return TrainingConfig.read(written(settings, tmp_path, **changes)).learns_stress

    assert learns()
    assert learns(loss__virial=0.0, final_stage__virial=1.0)
    assert not learns(loss__virial=0.0)
    assert not learns(loss__virial=0.0, final_stage__energy=40.0)

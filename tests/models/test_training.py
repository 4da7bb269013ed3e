"""Training learns, can be killed, and writes a potential that says what it is."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import yaml

from equipot.errors import InvalidParameterError
from equipot.models.graph import AtomGraph
from equipot.models.loading import load_potential
from equipot.models.potential import Potential
from equipot.models.training.batches import LabelledGraph, close_pairs, make_batch, shuffled_batches
from equipot.models.training.config import TrainingConfig
from equipot.models.training.evaluation import errors_of
from equipot.models.training.frames import Frame, FrameSet
from equipot.models.training.loop import fit_binding, train
from tests.models.conftest import ethanol, graph_of

N_STEPS = 60


@pytest.fixture(scope="module")
def frames(tiny: Potential) -> FrameSet:
    """Rattled ethanol, labelled by the tiny potential."""
    labelled = []
    for seed in range(40):
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
                config_type="rattled",
                group="ethanol" if seed else "other",
            )
        )
    return FrameSet.from_frames(labelled, "tiny-1")


@pytest.fixture
def config(frames: FrameSet, tmp_path: Path, tiny: Potential) -> Path:
    """A training of a second or two."""
    frames.save(tmp_path / "train.npz")
    frames.select(np.arange(0, 40, 8)).save(tmp_path / "valid.npz")
    energies = {symbol: tiny.card.isolated_atom_energies_ev[symbol] for symbol in "HCO"}
    text = {
        "name": "student-1",
        "description": "learns from tiny",
        "level_of_theory": "tiny-1",
        "energy_reference": "free atoms",
        "isolated_atom_energies_ev": energies,
        "limits": ["For tests only."],
        "data": {
            "train": [str(tmp_path / "train.npz")],
            "valid": str(tmp_path / "valid.npz"),
            "tests": {"held out": str(tmp_path / "valid.npz")},
            "description": "rattled ethanol",
            "source": "generated",
            "licence": "MIT",
        },
        "network": {
            "cutoff_ang": 4.0, "n_channels": 8, "n_pair_channels": 4, "n_message_channels": 4, "l_max": 2,
            "l_hidden": 1, "n_basis": 5, "readout_width": 4,
        },
        "optimiser": {"n_steps": N_STEPS, "atoms_per_batch": 90, "warmup_steps": 5, "validate_every": N_STEPS // 2},
    }  # fmt: skip
    path = tmp_path / "student.yaml"
    path.write_text(yaml.safe_dump(text))
    return path


def test_a_trained_potential_is_better_than_it_was_and_loads(config: Path, tmp_path: Path) -> None:
    folder = train(config, tmp_path / "run")
    rows = (folder / "log.csv").read_text().splitlines()
    maes = [float(row.split(",")[-2]) for row in rows[1:]]
    assert len(maes) == 2
    assert maes[1] < maes[0]
    potential = load_potential(folder / "student-1.json", device="cpu")
    assert potential.card.level_of_theory == "tiny-1"
    assert potential.card.test_errors[0].force_mae_mev_per_ang == pytest.approx(maes[1], rel=1e-4)
    assert potential.card.training["n_steps"] == N_STEPS
    inside = potential.evaluate(graph_of(ethanol(3), potential.cutoff_ang)).domain_distance
    assert inside is not None
    assert inside < 1.5


def test_a_run_goes_on_from_where_it_was(config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    short = yaml.safe_load(config.read_text())
    short["optimiser"]["n_steps"] = N_STEPS // 2
    half = tmp_path / "half.yaml"
    half.write_text(yaml.safe_dump(short))
    train(half, tmp_path / "run")
    train(config, tmp_path / "run")
    assert f"Going on from step {N_STEPS // 2}" in capsys.readouterr().out
    assert load_potential(tmp_path / "run" / "student-1.json").card.training["n_steps"] == N_STEPS


def test_an_unknown_key_in_a_configuration_is_named(config: Path) -> None:
    config.write_text(config.read_text() + "learning_rate: 3\n")
    with pytest.raises(InvalidParameterError, match="learning_rate"):
        TrainingConfig.read(config)


def test_errors_are_the_differences_to_the_labels(tiny: Potential, frames: FrameSet) -> None:
    """The network that made the labels has no error beyond float32; one eV added to each label shows as one eV."""
    network = tiny.network
    graphs = []
    for index, frame in enumerate(frames):
        graph = graph_of(ethanol(index), tiny.cutoff_ang)
        energy = frame.energy_ev - tiny.reference_ev[frame.numbers].sum()
        graphs.append(LabelledGraph(graph, energy + 1.0, frame.forces_ev_per_ang, np.full((3, 3), np.nan)))
    summary = errors_of(deepcopy(network).float(), graphs).summary()
    assert summary["energy_mae_mev_per_atom"] == pytest.approx(1000.0 / 9, rel=1e-3)
    assert summary["force_mae_mev_per_ang"] < 0.1


def test_one_composition_gives_binding_energies_that_add_up() -> None:
    graphs = [LabelledGraph(graph_of(ethanol(), 4.0), -30.0, np.zeros((9, 3)), np.full((3, 3), np.nan))] * 3
    binding = fit_binding(graphs, [1, 6, 8])
    assert binding @ np.array([6, 2, 1]) == pytest.approx(-30.0)


def test_every_frame_is_used_once_in_a_pass() -> None:
    graphs = [
        LabelledGraph(graph_of(ethanol(seed), 4.0), float(seed), np.zeros((9, 3)), np.full((3, 3), np.nan))
        for seed in range(23)
    ]
    batches = shuffled_batches(graphs, 40, np.random.default_rng(0))
    seen: list[float] = []
    while len(seen) < 23:
        seen += [item.energy_ev for item in next(batches)]
    assert sorted(seen) == [float(seed) for seed in range(23)]


def test_close_pairs_ride_behind_the_labelled_frames() -> None:
    pairs = close_pairs([1, 6], 5, np.random.default_rng(0))
    labelled = LabelledGraph(graph_of(ethanol(), 4.0), 0.0, np.zeros((9, 3)), np.full((3, 3), np.nan))
    batch = make_batch([labelled, labelled], pairs)
    assert batch.n_labelled == 2
    assert batch.n_systems == 7
    assert len(batch.forces_ev_per_ang) == 18
    assert all(isinstance(pair, AtomGraph) and pair.n_edges == 2 for pair in pairs)

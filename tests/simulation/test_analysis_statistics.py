"""Means of correlated series come with errors that are right, and start where the series has settled."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.signal import lfilter

from equipot.errors import InvalidParameterError
from equipot.params import MDParams, RelaxParams
from equipot.simulation.analysis import (
    Analysis,
    Track,
    displacement_parameters,
    mean_square_displacement,
    radial_distribution,
    settled_mean,
    time_series,
    velocity_autocorrelation,
    vibrational_density_of_states,
)
from equipot.simulation.analysis.statistics import (
    autocorrelation,
    block_error,
    equilibration,
    slope,
    statistical_inefficiency,
)
from equipot.simulation.results import SavedTrajectory
from equipot.simulation.run import Run
from equipot.simulation.trajectory import read_frames, read_thermo

MEMORY = 0.9  # x(t + 1) = MEMORY x(t) + noise has g = (1 + MEMORY) / (1 - MEMORY)
INEFFICIENCY = (1 + MEMORY) / (1 - MEMORY)


def correlated(random: np.random.Generator, *shape: int) -> np.ndarray:
    """Series along the last axis, of variance 1."""
    noise = random.normal(0, np.sqrt(1 - MEMORY**2), shape)
    noise[..., 0] /= np.sqrt(1 - MEMORY**2)
    series: np.ndarray = lfilter([1.0], [1.0, -MEMORY], noise, axis=-1)
    return series


def test_the_autocorrelation_is_the_sum_over_all_origins() -> None:
    values = np.random.default_rng(1).normal(size=(23, 2))
    direct = [(values[lag:] * values[: 23 - lag]).mean(axis=0) for lag in range(23)]
    assert autocorrelation(values) == pytest.approx(np.array(direct))


def test_the_statistical_inefficiency_of_a_known_process_is_found() -> None:
    series = correlated(np.random.default_rng(2), 60, 4000)
    found = [statistical_inefficiency(each) for each in series]
    assert np.mean(found) == pytest.approx(INEFFICIENCY, rel=0.1)
    independent = np.random.default_rng(3).normal(size=(40, 2000))
    assert np.mean([statistical_inefficiency(each) for each in independent]) == pytest.approx(1, abs=0.15)
    assert statistical_inefficiency(np.full(100, 3.0)) == 1.0


def test_the_blocked_error_of_the_mean_is_that_of_the_ensemble() -> None:
    """Over many series, the means deviate from 0 as much as the errors say."""
    series = correlated(np.random.default_rng(4), 300, 4096)
    means, errors = series.mean(axis=1), np.array([block_error(each) for each in series])
    assert np.sqrt((errors**2).mean()) == pytest.approx(means.std(), rel=0.12)
    assert 0.85 < np.std(means / errors) < 1.25
    naive = series.std(axis=1) / np.sqrt(4096)
    assert np.std(means / naive) > 3, "the series are correlated indeed"


def test_the_start_of_a_series_that_settles_is_found_and_left_out() -> None:
    random = np.random.default_rng(5)
    series = correlated(random, 20, 3000) + 8 * np.exp(-np.arange(3000) / 100)
    starts = np.array([equilibration(each) for each in series])
    assert 150 < np.median(starts) < 700
    settled = [settled_mean(each) for each in series]
    deviations = np.array([each.mean / each.standard_error for each in settled])
    assert np.abs(deviations).max() < 5
    assert np.mean([settled_mean(each, 0).mean for each in series]) > 0.2, "the start matters"
    assert equilibration(correlated(random, 3000)) < 1500
    long = correlated(random, 60_000) + 8 * np.exp(-np.arange(60_000) / 2000)
    assert 4000 < equilibration(long) < 16_000


def test_a_slope_has_the_error_that_correlated_residuals_leave() -> None:
    series = correlated(np.random.default_rng(6), 200, 1500) + 0.002 * np.arange(1500)
    found = np.array([slope(np.arange(1500.0), each) for each in series])
    deviations = (found[:, 0] - 0.002) / found[:, 1]
    assert abs(deviations.mean()) < 0.3
    assert 0.8 < deviations.std() < 1.4


@pytest.fixture(scope="module")
def runs(forces: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two argon clusters at constant energy in one run."""
    directory = tmp_path_factory.mktemp("runs") / "argon"
    structures = [forces.argon_cluster(6, 1), forces.argon_cluster(4, 2)]
    params = MDParams(
        ensemble="nve", n_steps=1200, timestep_fs=4.0, temperature_k=15, seed=1, save_every=6, thermo_every=6
    )
    with Run.start(directory, kind="md", structures=structures, params=params, provider=forces.LennardJones()) as run:
        while run.advance():
            pass
    return directory


def test_the_drift_of_a_dynamics_is_the_slope_per_atom_over_50_ps(runs: Path) -> None:
    found = time_series(runs, 0)
    rows = list(read_thermo(runs, 0))
    times_ps = np.array([row["time_fs"] for row in rows]) / 1000
    wanted = np.polyfit(times_ps, [row["conserved_ev"] for row in rows], 1)[0] * 50 / 6
    assert found.drift_ev_per_atom_per_50ps == pytest.approx(wanted, rel=1e-6, abs=1e-12)
    assert abs(wanted) < 1e-4
    assert found.series["temperature_k"].tolist() == [row["temperature_k"] for row in rows]
    assert found.summary()["temperature_k"] == pytest.approx(found.series["temperature_k"].mean(), rel=0.2)


def test_frames_give_the_numbers_of_the_time_series(runs: Path) -> None:
    frames, rows = time_series(list(read_frames(runs, 0))), time_series(runs, 0)
    for name in ("energy_ev", "kinetic_ev", "temperature_k"):
        assert frames.series[name] == pytest.approx(rows.series[name], rel=1e-9), name
    assert frames.series["total_ev"] == pytest.approx(rows.series["conserved_ev"], rel=1e-12)
    assert frames.time_ps == pytest.approx(rows.time_ps)


def test_a_relaxation_has_a_series_over_its_steps_without_means(forces: Any, tmp_path: Path) -> None:
    structure = forces.argon_cluster(4)
    with Run.start(
        tmp_path / "r", kind="relax", structures=[structure], params=RelaxParams(), provider=forces.LennardJones()
    ) as run:
        while run.advance():
            pass
    found = time_series(tmp_path / "r")
    assert found.time_ps is None
    assert not found.means
    assert set(found.series) >= {"energy_ev", "fmax_ev_per_ang"}
    found.plot(tmp_path / "r.png")


def test_a_run_of_several_systems_asks_which(runs: Path) -> None:
    for analysis in (time_series, mean_square_displacement, velocity_autocorrelation):
        with pytest.raises(InvalidParameterError, match="systems") as caught:
            analysis(runs)
        assert caught.value.culprits[0].pointer == "/system"
    with pytest.raises(InvalidParameterError, match="no frames of system 7"):
        mean_square_displacement(runs, 7)


def test_a_track_of_a_run_is_that_of_its_frames_and_of_its_atoms(runs: Path) -> None:
    direct = Track.of(runs, 1, start=3, stop=60, stride=2)
    frames = list(read_frames(runs, 1))
    for other in (Track.of(frames, start=3, stop=60, stride=2), Track.of([f.to_atoms() for f in frames][3:60:2])):
        assert np.array_equal(direct.positions_ang, other.positions_ang)
        assert direct.needed_velocities() == pytest.approx(other.needed_velocities(), rel=1e-14)
        assert direct.spacing_fs == other.spacing_fs == 48.0
        assert np.array_equal(direct.numbers, other.numbers)
    saved = Track.of(SavedTrajectory(runs, 1), start=3, stop=60, stride=2)
    assert np.array_equal(direct.positions_ang, saved.positions_ang)
    assert direct.n_degrees == saved.n_degrees == 9
    assert direct.provenance["seed"] == 1
    assert Track.of(runs, 1, velocities=False).velocities_ang_per_fs is None
    with pytest.raises(InvalidParameterError, match="No frames are left"):
        Track.of(runs, 1, start=10_000)


@pytest.fixture(scope="module")
def every_analysis() -> list[Analysis]:
    """One of each, of a crystal of two elements that vibrates."""
    random = np.random.default_rng(7)
    cell = np.array([[7.0, 0.0, 0.0], [1.0, 7.0, 0.0], [0.0, -1.0, 7.0]])
    sites = random.uniform(0, 1, (6, 3)) @ cell
    away = correlated(random, 6, 3, 400).transpose(2, 0, 1) * 0.1
    track = Track(
        numbers=np.array([14, 14, 8, 8, 8, 8]),
        masses_u=np.array([28.085] * 2 + [15.999] * 4),
        pbc=(True,) * 3,
        fixed_atoms=(),
        step=np.arange(400),
        time_fs=5.0 * np.arange(400),
        positions_ang=sites + away,
        cells_ang=np.broadcast_to(cell, (400, 3, 3)),
        velocities_ang_per_fs=np.gradient(away, 5.0, axis=0),
        is_unwrapped=True,
        provenance={"model": "none", "seed": 3},
    )
    return [
        radial_distribution(track),
        mean_square_displacement(track),
        velocity_autocorrelation(track),
        vibrational_density_of_states(track),
        displacement_parameters(track),
    ]


def test_every_analysis_writes_a_table_a_document_and_a_figure(
    every_analysis: list[Analysis], runs: Path, tmp_path: Path
) -> None:
    """The table has all digits, the document everything, and the figure is a picture with something in it."""
    from matplotlib.image import imread

    for found in [*every_analysis, time_series(runs, 1)]:
        columns = found.columns()
        with found.to_csv(tmp_path / f"{found.name}.csv").open() as file:
            rows = list(csv.DictReader(file))
        assert list(rows[0]) == list(columns)
        for name, values in columns.items():
            if values.dtype.kind == "f":
                assert np.array_equal([float(row[name]) for row in rows], values, equal_nan=True), name
        document = json.loads(found.to_json(tmp_path / f"{found.name}.json").read_text())
        assert document["analysis"] == found.name
        assert set(document["columns"]) == set(columns)
        assert document["provenance"]["seed"] in (1, 3)
        assert set(document["summary"]) == set(found.summary())
        image = imread(found.plot(tmp_path / f"{found.name}.png"))
        assert image.shape[1] == 1020, "3.4 inches of 300 dots"
        assert (image[..., :3].min(axis=2) < 0.9).mean() > 0.005, "there is ink"


def test_figures_leave_the_state_of_matplotlib_alone(every_analysis: list[Analysis], tmp_path: Path) -> None:
    import matplotlib

    before = dict(matplotlib.rcParams)
    every_analysis[0].plot(tmp_path / "x.svg")
    assert dict(matplotlib.rcParams) == before

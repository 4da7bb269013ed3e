"""`equipot analyze`: figures, tables and numbers of a run."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase.build import bulk, molecule
from ase.calculators.emt import EMT

from equipot import run_md
from equipot.simulation.analysis import radial_distribution, time_series
from tests.service.conftest import Said


@pytest.fixture(scope="module")
def copper(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A warm crystal at constant energy."""
    folder = tmp_path_factory.mktemp("analyze") / "copper"
    atoms = bulk("Cu", cubic=True).repeat(2)
    run_md(
        atoms, EMT(), output=folder, ensemble="nve", n_steps=200, timestep_fs=5, temperature_k=300, save_every=2, seed=1
    )
    return folder


@pytest.fixture(scope="module")
def molecules(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("analyze") / "molecules"
    pair = [molecule("H2O"), molecule("CH4")]
    run_md(pair, EMT(), output=folder, n_steps=80, timestep_fs=0.2, temperature_k=50, save_every=2, seed=[1, 2])
    return folder


def test_all_that_can_be_computed_of_a_crystal_is_written(
    in_process: Callable[..., Said], copper: Path, tmp_path: Path
) -> None:
    status, out, _ = in_process("analyze", copper)
    assert status == 0
    names = ("timeseries", "rdf", "msd", "vacf", "vdos", "adp")
    wanted = {f"{name}.{ending}" for name in names for ending in ("png", "csv", "json")} | {"adp.cif"}
    assert {path.name for path in (tmp_path / "copper-analysis").iterdir()} == wanted
    for words in (
        "temperature_k",
        "drift_ev_per_atom_per_50ps",
        "Cu-Cu_highest_r_ang",
        "Cu_peak_per_cm",
        "Cu_u_iso_ang2",
    ):
        assert words in out


def test_what_is_named_is_what_is_written_with_the_numbers_of_python(
    in_process: Callable[..., Said], copper: Path, tmp_path: Path
) -> None:
    words = ["--rdf", "--thermo", "--start", "20", "--bin-ang", "0.1", "--r-max-ang", "3.4", "-o", "some"]
    status, out, _ = in_process("analyze", copper, *words, "--json")
    assert status == 0
    document = json.loads(out)
    assert set(document["results"]) == {"timeseries", "rdf"}
    assert {Path(file).name for file in document["files"]} == {path.name for path in (tmp_path / "some").iterdir()}
    found = radial_distribution(copper, start=20, bin_ang=0.1, r_max_ang=3.4)
    with (tmp_path / "some" / "rdf.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert np.array_equal([float(row["g_Cu-Cu"]) for row in rows], found.g["Cu-Cu"])
    drift = time_series(copper).drift_ev_per_atom_per_50ps
    assert document["results"]["timeseries"]["drift_ev_per_atom_per_50ps"] == drift
    provenance = json.loads((tmp_path / "some" / "rdf.json").read_text())["provenance"]
    assert (provenance["model"], provenance["seed"]) == ("emt", 1)


def test_of_a_molecule_what_needs_a_crystal_is_left_out_with_the_reason(
    in_process: Callable[..., Said], molecules: Path, tmp_path: Path
) -> None:
    status, out, err = in_process("analyze", molecules, "--system", "1", "-o", "methane")
    assert status == 0
    assert not (tmp_path / "methane" / "rdf.csv").exists()
    assert "rdf: A radial distribution needs" in err
    assert "H_peak_per_cm" in out
    with (tmp_path / "methane" / "vdos.csv").open() as file:
        assert next(csv.reader(file)) == [
            "wavenumber_per_cm",
            "density_H_per_cm",
            "density_C_per_cm",
            "density_all_per_cm",
        ]


def test_what_is_named_and_cannot_be_computed_is_an_error(
    in_process: Callable[..., Said], molecules: Path, tmp_path: Path
) -> None:
    status, _, err = in_process("analyze", molecules, "--system", "0", "--rdf", "-o", "none")
    assert status == 2
    assert "periodic in all three directions" in err
    assert not (tmp_path / "none").exists()


def test_several_systems_ask_which(in_process: Callable[..., Said], molecules: Path) -> None:
    status, _, err = in_process("analyze", molecules)
    assert status == 2
    assert "There are 2 systems" in err


def test_a_trajectory_file_is_analysed_like_its_run(
    in_process: Callable[..., Said], copper: Path, tmp_path: Path
) -> None:
    in_process("export", copper, "-o", "copper.traj")
    documents = []
    for source in (copper, "copper.traj"):
        _, out, _ = in_process("analyze", source, "--msd", "-o", "x", "--json")
        documents.append(json.loads(out)["results"])
    for analysis, numbers in documents[0].items():
        for name, value in numbers.items():
            again: Any = documents[1][analysis][name]
            assert again == (pytest.approx(value, rel=1e-6) if isinstance(value, float) else value), name


def test_a_relaxation_has_its_energies_over_the_steps(in_process: Callable[..., Said], tmp_path: Path) -> None:
    atoms = bulk("Cu", cubic=True)
    atoms.rattle(0.1, seed=1)
    atoms.write(tmp_path / "copper.xyz")
    assert in_process("relax", "copper.xyz", "--model", "emt", "-o", "relaxed")[0] == 0
    status, out, _ = in_process("analyze", "relaxed", "--json")
    assert status == 0
    document = json.loads(out)
    assert "timeseries" in document["results"]
    assert "no velocities" in document["not_computed"]["vacf"]

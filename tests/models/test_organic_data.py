"""The organic training data: labels are derivatives, splits share no molecule, and a run can be repeated exactly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rdkit")
pytest.importorskip("tblite")

from equipot.models.training import molecules, organic_data, organic_frames
from equipot.models.training.frames import FrameSet
from equipot.models.training.geometries import Molecule, build_molecule, place_at_contact, stretched, thermal, twisted
from equipot.models.training.labels import LEVEL, Gfn2, isolated_atom_energies_ev
from equipot.models.training.organic_data import generate
from equipot.models.training.organic_frames import MAX_FORCE_EV_PER_ANG, Settings, molecule_frames
from equipot.models.training.sampling import relaxation

# A finite difference of an energy converged to 1e-7 Hartree, over 2e-3 Å, is good to about this.
FINITE_DIFFERENCE_EV_PER_ANG = 1e-3

TINY = Settings(frames=0.5, seed=3, molecules=("C#N", "C=O", "O=CC=CO", "CC1OC1P(=O)(O)O"))  # two train, two test
CONFIG_TYPES = {"conformer", "relaxation", "md", "displaced", "stretched", "torsion", "dimer", "cluster"}


@pytest.fixture(scope="module")
def all_molecules() -> list[str]:
    return molecules.molecule_list()


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A finished run over four small molecules, in one process."""
    folder = tmp_path_factory.mktemp("organic")
    return folder, generate(TINY, folder, processes=1)


def test_forces_are_the_derivative_of_the_energy() -> None:
    molecule = build_molecule("CO", seed=0)
    surface = Gfn2(molecule.numbers)
    positions = molecule.conformers_ang[0] + 0.05 * np.random.default_rng(1).standard_normal((molecule.n_atoms, 3))
    forces = surface(positions)[1]
    h = 1e-3
    for atom, axis in [(0, 0), (1, 1), (2, 2), (5, 0)]:
        shift = np.zeros_like(positions)
        shift[atom, axis] = h
        slope = (surface(positions + shift)[0] - surface(positions - shift)[0]) / (2 * h)
        assert forces[atom, axis] == pytest.approx(-slope, abs=FINITE_DIFFERENCE_EV_PER_ANG)


def test_free_atoms_lie_above_their_molecule() -> None:
    atoms = isolated_atom_energies_ev()
    water = build_molecule("O", seed=0)
    energy = Gfn2(water.numbers)(water.conformers_ang[0])[0]
    assert 5 < atoms["O"] + 2 * atoms["H"] - energy < 25
    assert set(atoms) == set(molecules.ELEMENTS)


def test_no_molecule_is_in_two_splits_and_the_named_ones_are_only_in_test(all_molecules: list[str]) -> None:
    assert len(all_molecules) == len(set(all_molecules)) >= 10_000
    for name, smiles in molecules.EXTERNAL_TEST.items():
        assert molecules.split_of(molecules.canonical(smiles)) == "test", name
        assert molecules.canonical(smiles) in all_molecules, name
    splits = [molecules.split_of(s) for s in all_molecules]
    share = {s: splits.count(s) / len(splits) for s in ("train", "valid", "test")}
    assert 0.01 < share["valid"] < 0.03
    assert 0.04 < share["test"] < 0.07


def test_an_ion_is_in_the_split_of_its_neutral_molecule(all_molecules: list[str]) -> None:
    ions = [s for s in all_molecules if molecules.charge_of(s)]
    assert len(ions) > 1000
    everyday = set(molecules.everyday_molecules())
    for ion in ions[::20]:
        parent = molecules.parent_of(ion)
        assert molecules.charge_of(parent) == 0 or parent == ion
        assert ion in everyday or molecules.split_of(ion) == molecules.split_of(parent)
    assert molecules.split_of(molecules.canonical("CC(=O)Oc1ccccc1C(=O)[O-]")) == "test"  # of aspirin


def test_the_force_field_hessian_is_that_of_its_energy() -> None:
    molecule = build_molecule("CO", seed=0)
    start = molecule.conformers_ang[0]
    hessian = molecule.hessian_ev_per_ang2(start)
    assert hessian is not None
    assert (np.abs(np.linalg.eigvalsh(hessian)) < 0.05).sum() == 6  # shifts and turns cost nothing at a minimum
    shaken = thermal(start, hessian, 300.0, np.random.default_rng(0))
    assert 0.01 < np.abs(shaken - start).max() < 0.5


def test_writing_a_molecule_otherwise_does_not_move_it_to_another_split() -> None:
    for written in ("C(C)(=O)Oc1c(C(O)=O)cccc1", "O=C(C)Oc1ccccc1C(=O)O"):
        assert molecules.split_of(molecules.canonical(written)) == "test"
    left, right = molecules.canonical("N[C@@H](C)C(=O)O"), molecules.canonical("N[C@H](C)C(=O)O")
    assert left == right


def test_frames_are_valid_and_of_the_announced_kinds(tiny: tuple[Path, dict[str, Any]]) -> None:
    folder, manifest = tiny
    for split, part in manifest["splits"].items():
        frames = FrameSet.load(folder / f"{split}.npz").validate()
        assert frames.level_of_theory == LEVEL
        assert frames.sha256() == part["sha256"]
        assert frames.n_frames == part["n_frames"]
        assert set(frames.config_type.tolist()) <= CONFIG_TYPES
        assert np.isnan(frames.stress_ev_per_ang3).all()
        assert np.linalg.norm(frames.forces_ev_per_ang, axis=1).max(initial=0) <= MAX_FORCE_EV_PER_ANG
    assert manifest["complete"]
    assert manifest["splits"]["train"]["n_frames"] >= 8


def test_partners_in_dimers_come_from_the_same_split(tiny: tuple[Path, dict[str, Any]]) -> None:
    folder, _ = tiny
    seen = {
        split: {s for group in FrameSet.load(folder / f"{split}.npz").group.tolist() for s in group.split(".")}
        for split in ("train", "valid", "test")
    }
    for split, names in seen.items():
        assert {molecules.split_of(name) for name in names} <= {split}


def test_the_number_of_processes_and_the_shards_change_no_bit(
    tiny: tuple[Path, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, manifest = tiny
    monkeypatch.setattr(organic_data, "MOLECULES_PER_SHARD", 1)
    again = generate(TINY, tmp_path, processes=2)
    for split, part in manifest["splits"].items():
        assert again["splits"][split]["sha256"] == part["sha256"]
        assert (tmp_path / f"{split}.npz").exists()
    assert len(list((tmp_path / "shards").iterdir())) > len(list((folder / "shards").iterdir()))


def test_a_second_run_computes_nothing(tiny: tuple[Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    folder, manifest = tiny
    before = {p: p.stat().st_mtime_ns for p in (folder / "shards").iterdir()}
    assert generate(TINY, folder, processes=1)["splits"] == manifest["splits"]
    assert {p: p.stat().st_mtime_ns for p in (folder / "shards").iterdir()} == before


@pytest.mark.parametrize("contact_ang", [1.5, 3.0])
def test_two_molecules_meet_at_the_distance_asked_for(contact_ang: float) -> None:
    random = np.random.default_rng(0)
    first, second = random.standard_normal((5, 3)), random.standard_normal((7, 3))
    placed = place_at_contact(first, second, contact_ang, random)
    distances = np.linalg.norm(placed[:, None] - first[None], axis=-1)
    assert distances.min() == pytest.approx(contact_ang)
    inner = np.linalg.norm(placed[:, None] - placed[None], axis=-1)
    np.testing.assert_allclose(inner, np.linalg.norm(second[:, None] - second[None], axis=-1), atol=1e-12)


def test_twisting_turns_one_side_and_keeps_every_bond_length() -> None:
    molecule = build_molecule("CCO", seed=0)
    positions = molecule.conformers_ang[0]
    turned = twisted(molecule, positions, np.random.default_rng(0))
    assert turned is not None
    for i, j, _ in molecule.bonds:
        assert np.linalg.norm(turned[i] - turned[j]) == pytest.approx(np.linalg.norm(positions[i] - positions[j]))
    assert np.abs(turned - positions).max() > 0.1
    ring = build_molecule("C1CC1", seed=0)
    assert twisted(ring, ring.conformers_ang[0], np.random.default_rng(0)) is None


def test_stretching_changes_one_bond_only() -> None:
    molecule = build_molecule("CCO", seed=0)
    positions = molecule.conformers_ang[0]
    moved = stretched(molecule, positions, np.random.default_rng(0))
    assert moved is not None
    i, j = np.array([bond[:2] for bond in molecule.bonds]).T
    ratio = np.linalg.norm(moved[i] - moved[j], axis=1) / np.linalg.norm(positions[i] - positions[j], axis=1)
    changed = ratio[np.abs(ratio - 1) > 1e-9]
    assert changed.shape == (1,)
    assert 0.85 <= changed[0] <= 1.35


def test_a_relaxation_goes_downhill_to_small_forces() -> None:
    molecule = build_molecule("C=O", seed=0)
    path = relaxation(Gfn2(molecule.numbers), molecule.conformers_ang[0], max_steps=40, fmax=0.02)
    assert path[-1].energy_ev < path[0].energy_ev
    assert np.linalg.norm(path[-1].forces_ev_per_ang, axis=1).max() < 0.02


def test_a_molecule_without_a_geometry_gives_no_frames_and_the_run_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(smiles: str, seed: int) -> Molecule:
        raise ValueError(f"no three-dimensional structure could be made for {smiles}")

    monkeypatch.setattr(organic_frames, "build_molecule", fail)
    assert molecule_frames("C=O", ("C=O",), TINY) == []

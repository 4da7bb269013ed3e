"""Training data from files: read as they are meant, and refused by file and frame when they cannot be trusted."""

from __future__ import annotations

import gzip
import lzma
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import yaml
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write
from ase.units import GPa, Hartree, kcal, mol

from equipot.errors import InvalidParameterError
from equipot.models.training.config import TrainingConfig
from equipot.models.training.datasets import TrainingData, load_training_data
from equipot.models.training.extxyz import parse_info
from equipot.models.training.frames import FrameError, FrameSet
from equipot.models.training.reading import FileSpec, read_data_file
from equipot.models.training.reference import fit_isolated_atom_energies
from equipot.models.training.sources import read_extxyz as read_with_ase

LEVEL = "EMT"
N_FRAMES = 30


def labelled(atoms: Atoms) -> Atoms:
    """A copy with energy, forces and stress of EMT."""
    atoms = atoms.copy()
    atoms.calc = EMT()
    results = {"energy": atoms.get_potential_energy(), "forces": atoms.get_forces()}
    if all(atoms.pbc):
        results["stress"] = atoms.get_stress()
    atoms.calc = SinglePointCalculator(atoms, **results)
    return atoms


def alloys() -> list[Atoms]:
    """Cells of copper and gold of several compositions, strained and rattled."""
    frames = []
    for seed in range(N_FRAMES):
        atoms = bulk("Cu", cubic=True)
        atoms.symbols[: seed % 3] = "Au"
        rng = np.random.default_rng(seed)
        atoms.set_cell(atoms.cell @ (np.eye(3) + rng.normal(scale=0.03, size=(3, 3))), scale_atoms=True)
        atoms.rattle(0.1, seed=seed)
        atoms.info["config_type"] = "bulk" if seed % 2 else "strained"
        frames.append(labelled(atoms))
    return frames


@pytest.fixture(scope="module")
def frames() -> list[Atoms]:
    return alloys()


@pytest.fixture
def file(frames: list[Atoms], tmp_path: Path) -> Path:
    write(tmp_path / "alloys.extxyz", frames)
    return tmp_path / "alloys.extxyz"


def read(path: Path, **changes: Any) -> FrameSet:
    return read_data_file(FileSpec(path=path, **changes), LEVEL).frames


def data_of(path: Path, **changes: Any) -> TrainingData:
    """What a configuration with this file makes of it."""
    settings: dict[str, Any] = {
        "name": "x",
        "level_of_theory": LEVEL,
        "isolated_atom_energies_ev": {"Cu": 0.0, "Au": 0.0},
        "data": {"train": [str(path)], "valid": {"n_frames": 5}, "max_force_ev_per_ang": 1000.0},
        "optimiser": {"n_steps": 1},
    }
    for name, value in changes.items():
        section, _, key = name.rpartition("__")
        (settings[section] if section else settings)[key] = value
    return load_training_data(TrainingConfig.from_text(yaml.safe_dump(settings), "test.yaml"))


# ---- reading


def test_a_file_reads_as_ase_reads_it(file: Path) -> None:
    ours, reference = read(file), read_with_ase(file, LEVEL)
    for name in ("numbers", "n_atoms", "positions_ang", "forces_ev_per_ang", "energy_ev", "cell_ang", "pbc"):
        np.testing.assert_array_equal(getattr(ours, name), getattr(reference, name))
    np.testing.assert_allclose(ours.stress_ev_per_ang3, reference.stress_ev_per_ang3, atol=1e-9)
    assert ours.config_type.tolist() == reference.config_type.tolist()


def test_compressed_text_and_hdf5_hold_the_same_frames(file: Path, tmp_path: Path, frames: list[Atoms]) -> None:
    expected = read(file)
    (tmp_path / "a.extxyz.gz").write_bytes(gzip.compress(file.read_bytes()))
    (tmp_path / "a.extxyz.xz").write_bytes(lzma.compress(file.read_bytes()))
    for name in ("a.extxyz.gz", "a.extxyz.xz"):
        assert read(tmp_path / name).sha256() == expected.sha256()

    same = [atoms for atoms in frames if atoms.get_chemical_formula() == "Cu4"]
    with h5py.File(tmp_path / "a.h5", "w") as h5:
        group = h5.create_group("copper/four")
        group["atomic_numbers"] = same[0].numbers
        group["positions"] = [atoms.positions for atoms in same]
        group["cell"] = [atoms.cell.array for atoms in same]
        group["energy"] = [atoms.get_potential_energy() for atoms in same]
        group["forces"] = [atoms.get_forces() for atoms in same]
        group["stress"] = [atoms.get_stress() for atoms in same]
        group["config_type"] = [atoms.info["config_type"] for atoms in same]
    got = read(tmp_path / "a.h5")
    assert len(got) == len(same)
    assert got.group.tolist() == ["copper/four"] * len(same)
    assert got.config_type.tolist() == [atoms.info["config_type"] for atoms in same]
    np.testing.assert_array_equal(got.pbc, True)
    np.testing.assert_allclose(got.stress_ev_per_ang3, [atoms.get_stress() for atoms in same])
    np.testing.assert_allclose(got.forces_ev_per_ang.reshape(-1, 4, 3), [atoms.get_forces() for atoms in same])


def test_an_hdf5_file_may_not_lead_out_of_itself(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "other.h5", "w") as h5:
        group = h5.create_group("secret")
        group["numbers"], group["positions"], group["energy"] = [1], np.zeros((1, 1, 3)), [0.0]
    with h5py.File(tmp_path / "a.h5", "w") as h5:
        h5["link"] = h5py.ExternalLink(str(tmp_path / "other.h5"), "/secret")
    with pytest.raises(FrameError, match=r"no group with numbers"):
        read(tmp_path / "a.h5")


def test_a_comment_line_is_understood_in_all_its_dialects() -> None:
    info = parse_info(
        'energy=-1.5e2 flag name="two words" list=[1, 2, 3] quoted="1.0 2.0" truth=T pbc="T F T" matrix=[[1,2],[3,4]] '
        "old={4 5} number_like=300K count=7"
    )
    assert (info["energy"], info["flag"], info["name"], info["truth"]) == (-150.0, True, "two words", True)
    assert [info[key].tolist() for key in ("list", "quoted", "pbc", "old")] == [
        [1, 2, 3], [1.0, 2.0], [True, False, True], [4, 5],
    ]  # fmt: skip
    assert info["matrix"].tolist() == [1, 2, 3, 4]
    assert (info["number_like"], info["count"]) == ("300K", 7)


def test_the_labels_peers_write_are_found_and_named(file: Path, tmp_path: Path) -> None:
    text = file.read_text().replace(":forces:R:3", ":dft_forces:R:3").replace(" energy=", " energy=1.0 REF_energy=")
    (tmp_path / "peer.extxyz").write_text(text)
    data = read_data_file(FileSpec(path=tmp_path / "peer.extxyz"), LEVEL)
    np.testing.assert_array_equal(data.frames.energy_ev, read(file).energy_ev)
    np.testing.assert_array_equal(data.frames.forces_ev_per_ang, read(file).forces_ev_per_ang)
    assert "energy from REF_energy, forces from dft_forces, stress from stress; energy not used" in data.remarks[0]
    chosen: Any = {"energy": "energy"}
    assert set(read(tmp_path / "peer.extxyz", keys=chosen).energy_ev) == {1.0}


def test_units_signs_and_orders_come_out_in_ev_and_ang(file: Path, tmp_path: Path, frames: list[Atoms]) -> None:
    converted = []
    for atoms in frames:
        other = atoms.copy()
        other.info = {"config_type": atoms.info["config_type"], "U": atoms.get_potential_energy() / (kcal / mol)}
        xx, yy, zz, yz, xz, xy = -atoms.get_stress() / (0.1 * GPa)
        other.info["pressure"] = np.array([xx, yy, zz, xy, yz, xz])
        other.arrays["gradient"] = -atoms.get_forces() / Hartree
        converted.append(other)
    write(tmp_path / "c.extxyz", converted)
    keys: Any = {"energy": "U", "forces": "gradient", "stress": "pressure"}
    units: Any = {
        "energy": "kcal/mol", "force_energy": "Hartree", "force_sign": -1,
        "stress": "kbar", "stress_sign": -1, "stress_order": "xx yy zz xy yz zx",
    }  # fmt: skip
    got, expected = read(tmp_path / "c.extxyz", keys=keys, units=units), read(file)
    np.testing.assert_allclose(got.energy_ev, expected.energy_ev, rtol=1e-6)
    np.testing.assert_allclose(got.forces_ev_per_ang, expected.forces_ev_per_ang, atol=1e-6)
    np.testing.assert_allclose(got.stress_ev_per_ang3, expected.stress_ev_per_ang3, atol=1e-7)


def test_a_virial_is_minus_the_stress_times_the_volume(tmp_path: Path, frames: list[Atoms]) -> None:
    atoms = frames[0].copy()
    stress = frames[0].get_stress(voigt=False)
    atoms.info["virial"] = -stress * atoms.get_volume()
    atoms.info["energy"] = 0.0
    write(tmp_path / "v.extxyz", atoms, columns=["symbols", "positions"])
    np.testing.assert_allclose(read(tmp_path / "v.extxyz").stress_ev_per_ang3[0], frames[0].get_stress(), atol=1e-9)


def test_config_types_are_selected_by_name_and_a_wrong_name_is_answered_with_those_there_are(file: Path) -> None:
    assert set(read(file, select=["bulk"]).config_type) == {"bulk"}
    assert len(read(file, leave_out=["bulk"])) == N_FRAMES // 2
    with pytest.raises(FrameError, match=r"no frame of config_type bulky.*bulk, strained"):
        read(file, select=["bulky"])


# ---- bad frames


def spoilt(file: Path, frame: int, before: str, after: str, line: int = 1) -> None:
    """Change a line (1 is the comment) of one frame of four atoms."""
    lines = file.read_text().splitlines()
    at = frame * 6 + line
    assert before in lines[at]
    lines[at] = lines[at].replace(before, after)
    file.write_text("\n".join(lines) + "\n")


def test_every_kind_of_bad_frame_is_named_with_file_and_index_at_once(file: Path) -> None:
    lines = file.read_text().splitlines()
    spoilt(file, 1, "energy=", "energy=nan was=")
    spoilt(file, 2, "energy=", "entropy=")
    spoilt(file, 3, "Cu", "Pt", line=2)
    spoilt(file, 4, lines[4 * 6 + 3], lines[4 * 6 + 2], line=3)
    spoilt(file, 5, "Lattice=", "lattice=")
    spoilt(file, 6, lines[6 * 6 + 2].split()[4], "inf", line=2)
    spoilt(file, 7, lines[7 * 6 + 2], "Cu 0 0", line=2)
    lines = file.read_text().splitlines()
    file.write_text("\n".join([*lines, *lines[8 * 6 : 9 * 6]]) + "\n")
    with pytest.raises(FrameError) as caught:
        data_of(file)
    text = str(caught.value)
    for index, what in {
        1: "an energy that is not finite",
        2: "has no energy (looked for",
        3: "has Pt, which the potential is not made for",
        4: "has two atoms closer than",
        5: "is periodic but has no cell",
        6: "a force that is not finite",
        7: "atom 0 has 3 columns of the 7",
        N_FRAMES: "is an exact copy of frame 8",
    }.items():
        assert any(f"alloys.extxyz: frame {index} " in line and what in line for line in text.splitlines()), what
    assert text.startswith(f"8 of {N_FRAMES + 1} frames cannot be used")
    assert "--skip-bad-frames" in text

    data = data_of(file, data__skip_bad_frames=True)
    assert len(data.train) + len(data.valid) == N_FRAMES - 7
    assert any("Left out" in remark and "frame 7" in remark for remark in data.remarks)


def test_only_the_first_twenty_problems_are_shown(file: Path) -> None:
    file.write_text(file.read_text().replace("energy=", "energy=nan was="))
    with pytest.raises(FrameError, match=r"and 10 more"):
        data_of(file)


def test_missing_forces_are_a_problem_of_training_and_stress_missing_in_some_is_a_remark(file: Path) -> None:
    spoilt(file, 2, "stress=", "was_stress=")
    assert any("1 of 30 periodic frames have no stress (frames 2)" in remark for remark in data_of(file).remarks)
    file.write_text(file.read_text().replace(":forces:", ":fforces:"))
    with pytest.raises(FrameError, match=r"frame 0 has no forces"):
        data_of(file)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"3\nenergy=1\nH 0 0 0\n", "ends before its 3 atoms do"),
        (b"one\n\n", "should be a number of atoms"),
        (b"99999999999\n\n", "are read"),
        (b"1\n" + b"x" * 1_100_000, "longer than"),
        (b"\x80\x04cos\nsystem\n", "should be a number|is not text"),
        (b"1\nenergy=1\nXx 0 0 0\n", "there is no element 'Xx'"),
    ],
)
def test_what_is_not_extended_xyz_is_refused_with_its_line(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "a.xyz").write_bytes(content)
    with pytest.raises(FrameError, match=message):
        data_of(tmp_path / "a.xyz")


def test_a_compressed_bomb_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("equipot.models.training.extxyz.MAX_UNPACKED_BYTES", 5000)
    (tmp_path / "bomb.xyz.xz").write_bytes(lzma.compress(b"0\n\n" * 1_000_000))
    with pytest.raises(FrameError, match="unpacks to more than"):
        read(tmp_path / "bomb.xyz.xz")
    (tmp_path / "cut.xyz.gz").write_bytes(gzip.compress(b"0\n\n" * 1000)[:-20])
    with pytest.raises(FrameError, match="Is it complete"):
        read(tmp_path / "cut.xyz.gz")


# ---- wrong units


@pytest.mark.parametrize(
    ("quantity", "factor", "message"),
    [
        ("energy_ev", 1 / Hartree, "energies in Hartree beside forces in eV/Å"),
        ("energy_ev", mol / kcal, "energies in kcal/mol beside forces in eV/Å"),
        ("forces_ev_per_ang", 1 / Hartree, "forces in Hartree/Å beside energies in eV"),
        ("forces_ev_per_ang", -1.0, "are they gradients"),
        ("stress_ev_per_ang3", 1 / GPa, "a stress in GPa"),
        ("stress_ev_per_ang3", -10 / GPa, "opposite sign.*a stress in kbar"),
        ("positions_ang", 1.8897, "nearest neighbours are too long.*in Bohr"),
    ],
)
def test_wrong_units_are_refused_with_the_factor_that_fits(
    tmp_path: Path, quantity: str, factor: float, message: str
) -> None:
    copper = []
    for seed in range(24):
        atoms = bulk("Cu", cubic=True) * (2, 1, 1)
        strain = np.random.default_rng(seed // 8).normal(scale=0.03, size=(3, 3))  # three cells, eight frames of each
        atoms.set_cell(atoms.cell @ (np.eye(3) + strain), scale_atoms=True)
        atoms.rattle(0.1, seed=seed)
        copper.append(labelled(atoms))
    write(tmp_path / "cu.extxyz", copper)
    frames = read(tmp_path / "cu.extxyz")
    frames.save(tmp_path / "right.npz")
    data_of(tmp_path / "right.npz")
    wrong = {name: getattr(frames, name) for name in frames.__dataclass_fields__}
    wrong[quantity] = wrong[quantity] * factor
    if quantity == "positions_ang":
        wrong["cell_ang"] = wrong["cell_ang"] * factor
    FrameSet(**wrong).save(tmp_path / "wrong.npz")
    with pytest.raises(FrameError, match=rf"(?s)wrong\.npz.*{message}"):
        data_of(tmp_path / "wrong.npz")
    if quantity != "stress_ev_per_ang3":  # such stresses cannot be meant
        assert len(data_of(tmp_path / "wrong.npz", data__trust_units=True).train)


def test_energies_far_from_their_free_atoms_are_refused(file: Path) -> None:
    with pytest.raises(FrameError, match="have those been subtracted already"):
        data_of(file, isolated_atom_energies_ev={"Cu": -45000.0, "Au": -500000.0})


# ---- free atoms, splits


def test_frames_of_single_atoms_give_the_zero_and_are_not_trained_on(file: Path, tmp_path: Path) -> None:
    (tmp_path / "atoms.extxyz").write_text(
        '1\nProperties=species:S:1:pos:R:3 energy=-0.5 config_type=IsolatedAtom pbc="F F F"\nCu 0 0 0\n'
        '1\nProperties=species:S:1:pos:R:3 energy=-0.25 pbc="F F F"\nAu 0 0 0\n'
    )
    both = [str(file), str(tmp_path / "atoms.extxyz")]
    data = data_of(file, isolated_atom_energies_ev="frames", data__train=both)
    assert data.isolated_atom_energies_ev == {"Cu": -0.5, "Au": -0.25}
    assert len(data.train) == N_FRAMES - 5
    with pytest.raises(InvalidParameterError, match="no frame of a single atom of Cu, Au"):
        data_of(file, isolated_atom_energies_ev="frames")
    again = (tmp_path / "atoms.extxyz").read_text().replace("-0.25", "-0.26").replace("pbc", "note=other pbc")
    (tmp_path / "more.extxyz").write_text(again.replace("0 0 0", "0 0 1"))
    with pytest.raises(InvalidParameterError, match=r"single Au the energies -0\.2500 and -0\.2600"):
        data_of(file, isolated_atom_energies_ev="frames", data__train=[*both, str(tmp_path / "more.extxyz")])


def test_a_fit_of_free_atoms_recovers_what_made_the_energies_and_refuses_what_it_cannot_tell_apart(
    file: Path, data_dir: Path
) -> None:
    frames = read(file)
    truth = np.where(frames.numbers == 79, -3.0, -2.0)
    energies = np.zeros(len(frames))
    np.add.at(energies, frames.frame_idx, truth)
    exact = {name: getattr(frames, name) for name in frames.__dataclass_fields__} | {"energy_ev": energies}
    fitted = fit_isolated_atom_energies(FrameSet(**exact), [29, 79])
    assert fitted == pytest.approx({29: -2.0, 79: -3.0}, abs=1e-9)
    data = data_of(file, isolated_atom_energies_ev="fit")
    assert set(data.isolated_atom_energies_ev) == {"Cu", "Au"}
    one = frames.select([i for i in range(N_FRAMES) if frames.group[i] == frames.group[1]])
    with pytest.raises(InvalidParameterError, match=r"1 different compositions do not tell Cu and Au apart"):
        fit_isolated_atom_energies(one, [29, 79])


def test_a_split_depends_on_its_own_seed_and_takes_every_frame_once(file: Path) -> None:
    first, again = data_of(file), data_of(file, seed=7)
    other = data_of(file, data__split_seed=1)
    assert first.valid.sha256() == again.valid.sha256() != other.valid.sha256()
    assert len(first.train) == N_FRAMES - 5
    energies = np.concatenate([first.train.energy_ev, first.valid.energy_ev])
    assert sorted(energies) == sorted(read(file).energy_ev)
    assert len(data_of(file, data__valid={"fraction": 0.2}).valid) == 6
    with pytest.raises(InvalidParameterError, match="cannot be taken out of 30"):
        data_of(file, data__valid={"n_frames": 30})


def test_validation_on_training_frames_is_refused_and_tests_on_them_are_remarked_on(file: Path, tmp_path: Path) -> None:
    write(tmp_path / "some.extxyz", alloys()[3:5])
    with pytest.raises(FrameError, match=r"some.extxyz: frame 0 is an exact copy of frame 3 of .*alloys.extxyz"):
        data_of(file, data__valid=str(tmp_path / "some.extxyz"))
    data = data_of(file, data__tests={"some": str(tmp_path / "some.extxyz")})
    assert any("Test set 'some': 2 of 2 frames are trained on (0, 1)" in remark for remark in data.remarks)


def test_frames_of_another_level_of_theory_are_refused(file: Path, tmp_path: Path) -> None:
    read(file).save(tmp_path / "a.npz")
    with pytest.raises(FrameError, match="holds EMT, the configuration says PBE"):
        data_of(tmp_path / "a.npz", level_of_theory="PBE")


def test_a_path_that_leads_nowhere_or_to_a_foreign_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FrameError, match="does not exist"):
        data_of(tmp_path / "nothing.xyz")
    (tmp_path / "a.traj").write_bytes(b"- of Ulm")
    with pytest.raises(FrameError, match=r"unknown kind.*\.extxyz"):
        data_of(tmp_path / "a.traj")

"""Structure files: what must come out of every file in tests/data/structures, and of files that lie."""

from __future__ import annotations

import gzip
import time
import tracemalloc
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from equipot.calculator.reading import MAX_FILE_BYTES, format_of, parse_structures, read_structures
from equipot.elements import formula
from equipot.errors import (
    AtomsTooCloseError,
    EquipotError,
    InvalidParameterError,
    InvalidStructureError,
    PayloadTooLargeError,
    SystemTooLargeError,
    UnsupportedElementError,
    UnsupportedFormatError,
)
from equipot.structure import check_against_model

MOLECULE = (False, False, False)
CRYSTAL = (True, True, True)
ORGANIC = ["H", "C", "N", "O"]
SECONDS_A_LIE_MAY_COST = 3.0


@dataclass(frozen=True)
class Comes:
    """What must come out of a file."""

    formula: str
    pbc: tuple[bool, bool, bool]
    n_fixed: int = 0
    charge_e: float = 0.0
    spin_multiplicity: int | None = None
    warning: str = ""  # a part of the one warning
    volume_ang3: float | None = None


@dataclass(frozen=True)
class Refused:
    """How a file must be refused."""

    error: type[EquipotError]
    says: str


FILES: dict[str, Comes | Refused] = {
    "acetate_anion.extxyz": Comes("C2H3O2", MOLECULE, charge_e=-1.0, spin_multiplicity=1),
    "acetic_acid.sdf": Refused(InvalidStructureError, "no coordinates"),
    "al111_500A_vacuum.vasp": Comes("Al12", CRYSTAL, volume_ang3=14335.1),
    "au147_icosahedron.xyz": Comes("Au147", MOLECULE),
    "batio3_mp2998.cif": Comes("Ba2O6Ti2", CRYSTAL, volume_ang3=128.8),
    "benzene.pdb": Comes("C6H6", MOLECULE),
    "bromobenzene.mol": Refused(InvalidStructureError, "no coordinates"),
    "c60.xyz": Comes("C60", MOLECULE),
    "caffeine.xyz": Comes("C8H10N4O2", MOLECULE, warning="charges, energy, forces in the file are ignored"),
    "cnt_6_6.extxyz": Comes("C96", (False, False, True)),
    "cu100_water.extxyz": Comes("Cu36H2O", (True, True, False), n_fixed=18),
    "cu_2048.extxyz.gz": Comes("Cu2048", CRYSTAL, volume_ang3=24087.5),
    "cu_fcc.vasp": Comes("Cu", CRYSTAL, volume_ang3=11.761),
    "ethanol.extxyz": Comes("C2H6O", MOLECULE),
    "graphene_nanoribbon_H.extxyz": Comes("C24H8", (False, False, True)),
    "heavy_water_isotopes.xyz": Comes("H4O2", MOLECULE),
    "mgo_F_centre.extxyz": Comes("Mg32O31", CRYSTAL, volume_ang3=596.9),
    "mof_Fe4C52N32_frame.cif": Comes("C52Fe4N32", CRYSTAL, warning="There is no hydrogen"),
    "molecular_crystal_cod2000054.cif": Comes("C18H24N4O10", CRYSTAL, volume_ang3=467.07),
    "na_k_cl_partial_occupancy.cif": Refused(InvalidStructureError, "Na1 has an occupancy of 0.5"),
    "nacl.cif": Comes("Cl4Na4", CRYSTAL, volume_ang3=179.4),
    "nbmotaw_hea54.vasp": Comes("Mo13Nb14Ta13W14", CRYSTAL, volume_ang3=918.3),
    "o2_triplet.extxyz": Comes("O2", MOLECULE, spin_multiplicity=3),
    "pbc_without_cell.extxyz": Refused(InvalidStructureError, "periodic but has no cell"),
    "phenylglycinium_nitrate_cod1100172.cif": Comes("C32H40N8O20", CRYSTAL, volume_ang3=984.65),
    "pt111_co.vasp": Comes("COPt16", CRYSTAL, n_fixed=8, warning="12 (Pt) and 17 (C) are only 0.70 Å apart"),
    "quartz.cif": Comes("O6Si3", CRYSTAL, volume_ang3=113.12),
    "s22_uracil_dimer.xyz": Comes("C8H8N4O4", MOLECULE),
    "scrambled_blank.xyz": Refused(InvalidStructureError, "truncated: line 1 says 4 atoms, 3 follow"),
    "si_diamond_rattled.extxyz": Comes("Si64", CRYSTAL, volume_ang3=1280.8),
    "si_duplicate_atom.extxyz": Refused(AtomsTooCloseError, "3 and 8 are 0.020 Å apart"),
    "tio2_rutile.cif": Comes("O4Ti2", CRYSTAL, volume_ang3=62.4),
    "uranium_dioxide.cif": Comes("O8U4", CRYSTAL, volume_ang3=163.7),
    "water.xyz": Comes("H2O", MOLECULE),
    "water64_box.extxyz": Comes(
        "H128O64", CRYSTAL, warning="energy, forces in the file are ignored", volume_ang3=2573.9
    ),
    "zeolite_GIS_with_amine.cif": Comes("C4H10N2O32Si16", CRYSTAL, volume_ang3=994.9),
}


def test_every_file_of_the_collection_has_a_row_here(data_dir: Path) -> None:
    assert {path.name for path in (data_dir / "structures").iterdir()} == set(FILES)


@pytest.mark.parametrize("name", [name for name, expected in FILES.items() if isinstance(expected, Comes)])
def test_a_file_gives_exactly_this(data_dir: Path, name: str) -> None:
    expected = FILES[name]
    assert isinstance(expected, Comes)
    parsed = read_structures(data_dir / "structures" / name)
    assert len(parsed) == 1
    structure = parsed.structures[0]
    assert formula(structure.numbers) == expected.formula
    assert structure.pbc == expected.pbc
    assert len(structure.fixed_atoms) == expected.n_fixed
    assert structure.charge_e == expected.charge_e
    assert structure.spin_multiplicity == expected.spin_multiplicity
    assert structure.velocities_ang_per_fs is None
    assert len(parsed.warnings) == bool(expected.warning), parsed.warnings
    assert all(expected.warning in warning and name in warning for warning in parsed.warnings)
    if expected.volume_ang3 is not None:
        assert structure.volume_ang3 == pytest.approx(expected.volume_ang3, rel=1e-3)


@pytest.mark.parametrize("name", [name for name, expected in FILES.items() if isinstance(expected, Refused)])
def test_a_file_is_refused_saying_its_name_what_is_wrong_and_what_to_do(data_dir: Path, name: str) -> None:
    expected = FILES[name]
    assert isinstance(expected, Refused)
    with pytest.raises(expected.error) as caught:
        read_structures(data_dir / "structures" / name)
    assert type(caught.value) is expected.error
    assert caught.value.detail.startswith(name)
    assert expected.says in caught.value.detail
    assert caught.value.hint


@pytest.mark.parametrize(
    ("name", "error", "says"),
    [
        ("uranium_dioxide.cif", UnsupportedElementError, "does not know O|does not know U"),
        ("acetate_anion.extxyz", InvalidParameterError, "charge of -1 e"),
        ("o2_triplet.extxyz", InvalidParameterError, "multiplicity 3"),
    ],
)
def test_what_a_file_says_of_elements_charge_and_spin_reaches_the_check_against_the_model(
    data_dir: Path, name: str, error: type[EquipotError], says: str
) -> None:
    structure = read_structures(data_dir / "structures" / name).structures[0]
    with pytest.raises(error, match=says):
        check_against_model(structure, ORGANIC, "organic-1")


def test_frozen_atoms_of_a_slab_are_the_ones_its_file_marks(data_dir: Path) -> None:
    water = read_structures(data_dir / "structures" / "cu100_water.extxyz").structures[0]
    assert water.fixed_atoms == tuple(range(18))
    platinum = read_structures(data_dir / "structures" / "pt111_co.vasp").structures[0]
    assert platinum.fixed_atoms == tuple(range(8))


ISOTOPES = {
    "xyz": "3\n\nO 0 0 0\nD 0 0.76 0.6\nT 0 -0.76 0.6\n",
    "extxyz": "3\nProperties=pos:R:3:species:S:1\n0 0 0 O\n0 0.76 0.6 D\n0 -0.76 0.6 T\n",
    "vasp": "water\n1\n9 0 0\n0 9 0\n0 0 9\nO D T\n1 1 1\nCartesian\n0 0 0\n0 0.76 0.6\n0 -0.76 0.6\n",
    "pdb": "".join(
        f"HETATM{i:5d}  {e}   HOH A   1    {0:8.3f}{y:8.3f}{z:8.3f}  1.00  0.00          {e:>2}\n"
        for i, (e, y, z) in enumerate([("O", 0, 0), ("D", 0.76, 0.6), ("T", -0.76, 0.6)], 1)
    ),
    "cif": "data_w\n"
    + "".join(f"_cell_length_{x} 9\n" for x in "abc")
    + "".join(f"_cell_angle_{x} 90\n" for x in ("alpha", "beta", "gamma"))
    + "loop_\n_atom_site_label\n_atom_site_fract_x\n_atom_site_fract_y\n_atom_site_fract_z\n"
    + "O1 0 0 0\nD1 0 0.084 0.066\nT1 0 0.916 0.066\n",
    "mol": "water\n\n\n  3  2  0  0  0  0            999 V2000\n"
    + "".join(
        f"{0:10.4f}{y:10.4f}{z:10.4f} {e:3} 0  0  0  0  0  0\n"
        for e, y, z in [("O", 0, 0), ("D", 0.76, 0.6), ("H", -0.76, 0.6)]
    )
    + "  1  2  1  0\n  1  3  1  0\nM  ISO  1   3   3\nM  END\n",
}


@pytest.mark.parametrize("format", ISOTOPES)
def test_deuterium_and_tritium_are_hydrogen_of_their_own_mass_in_every_format(format: str) -> None:
    structure = parse_structures(ISOTOPES[format], format).structures[0]
    assert structure.numbers.tolist() == [8, 1, 1]
    assert structure.masses_u is not None
    np.testing.assert_allclose(structure.masses_u, [15.999, 2.014, 3.016])


def test_symmetry_copies_of_deuterium_are_heavy_too() -> None:
    text = ISOTOPES["cif"].replace("loop_", "loop_\n_symmetry_equiv_pos_as_xyz\n'x,y,z'\n'x+1/2,y,z'\nloop_", 1)
    structure = parse_structures(text, "cif").structures[0]
    assert structure.masses_u is not None
    assert sorted(structure.masses_u.round(3).tolist()) == [2.014, 2.014, 3.016, 3.016, 15.999, 15.999]


@pytest.mark.parametrize(
    ("tail", "charge_e", "multiplicity"),
    [("M  CHG  1   1  -1\n", -1.0, None), ("M  CHG  2   1  -1   2   1\n", 0.0, None), ("M  RAD  1   1   2\n", 0.0, 2)],
)
def test_formal_charges_and_radicals_of_a_molfile_add_up(tail: str, charge_e: float, multiplicity: int | None) -> None:
    structure = parse_structures(ISOTOPES["mol"].replace("M  END", tail + "M  END"), "mol").structures[0]
    assert structure.charge_e == charge_e
    assert structure.spin_multiplicity == multiplicity


def test_frames_are_all_read_in_order_and_an_index_selects() -> None:
    text = "".join(f"1\nframe {i}\nHe 0 0 {i}\n" for i in range(5))
    heights = [structure.positions_ang[0, 2] for structure in parse_structures(text, "xyz")]
    assert heights == [0, 1, 2, 3, 4]
    assert parse_structures(text, "xyz", index=-1).structures[0].positions_ang[0, 2] == 4
    assert len(parse_structures(text, "xyz", index=slice(1, None, 2))) == 2
    with pytest.raises(InvalidStructureError, match="no number 5"):
        parse_structures(text, "xyz", index=5)
    with pytest.raises(PayloadTooLargeError, match="at most 3"):
        parse_structures(text, "xyz", max_frames=3)


def test_several_molecules_of_an_sdf_are_several_structures() -> None:
    block = ISOTOPES["mol"]
    assert len(parse_structures(block + "$$$$\n" + block + "$$$$\n", "sdf")) == 2


def test_an_error_in_a_later_frame_says_which_and_where_it_starts() -> None:
    text = "1\n\nHe 0 0 0\n1\n\nHe 0 0 nan\n"
    with pytest.raises(InvalidStructureError, match=r"structure 1 \(line 4\): positions\[0\] is not finite"):
        parse_structures(text, "xyz", name="two.xyz")


def test_the_pointer_of_a_request_leads_to_the_culprit() -> None:
    with pytest.raises(InvalidStructureError) as caught:
        parse_structures("1\n\nHe 0 0 nan\n", "xyz", pointer="/structures/3")
    assert caught.value.culprits[0].pointer == "/structures/3/positions/0"


def test_a_plain_comment_means_nothing_and_a_charge_in_it_means_a_charge() -> None:
    plain = parse_structures('1\nit\'s "He" energy: -3 pbc\nHe 0 0 0\n', "xyz")
    assert plain.structures[0].pbc == MOLECULE
    assert not plain.warnings
    assert parse_structures("1\ntotal_charge=1\nHe 0 0 0\n", "xyz").structures[0].charge_e == 1.0


def test_momenta_of_an_extxyz_are_velocities_and_columns_without_a_known_unit_are_not() -> None:
    rows = "1\nProperties=species:S:1:pos:R:3:{}:R:3\nHe 0 0 0 0.4 0 0\n"
    moving = parse_structures(rows.format("momenta"), "extxyz").structures[0]
    assert moving.velocities_ang_per_fs is not None
    np.testing.assert_allclose(moving.velocities_ang_per_fs[0, 0], 0.4 / 4.002602 / 10.1805, rtol=1e-4)
    still = parse_structures(rows.format("vel"), "extxyz")
    assert still.structures[0].velocities_ang_per_fs is None
    assert "unit" in still.warnings[0]


def test_names_decide_the_format_and_content_never_does(tmp_path: Path) -> None:
    assert format_of("POSCAR") == format_of("CONTCAR.gz") == "vasp"
    assert format_of("a.b.CIF") == "cif"
    for name in ("job.traj", "structure", "water.json", ".xyz"):
        with pytest.raises(UnsupportedFormatError, match="extxyz"):
            format_of(name)
    path = tmp_path / "water.xyz"
    path.write_text(ISOTOPES["vasp"])
    with pytest.raises(InvalidStructureError, match=r"water\.xyz: Line 1 must be a number of atoms"):
        read_structures(path)
    assert len(read_structures(path, format="poscar")) == 1


CELL = "_cell_length_a 9\n_cell_length_b 9\n_cell_length_c 9\n_cell_angle_alpha 90\n_cell_angle_beta 90\n"
SITES = "loop_\n_atom_site_label\n_atom_site_fract_x\n_atom_site_fract_y\n_atom_site_fract_z\n"
CIF = f"data_x\n{CELL}_cell_angle_gamma 90\n"
LIES: dict[str, tuple[str, str, type[EquipotError], str]] = {
    "empty": ("xyz", " \n\n", InvalidStructureError, "is empty"),
    "eleven digits of atoms": ("extxyz", "99999999999\n\nH 0 0 0\n", InvalidStructureError, "number of atoms"),
    "a million atoms": ("extxyz", "999999\n\nH 0 0 0\n", SystemTooLargeError, "at most 10000"),
    "a negative count": ("xyz", "-1\n\nH 0 0 0\n", InvalidStructureError, "number of atoms"),
    "zero atoms": ("xyz", "0\n\n", InvalidStructureError, "no atoms"),
    "a hundred million columns": (
        "extxyz",
        "1\nProperties=species:S:1:pos:R:3:x:R:100000000\nH 0 0 0\n",
        InvalidStructureError,
        "columns",
    ),
    "sixty-five columns": (
        "extxyz",
        "1\nProperties=species:S:1:pos:R:3:x:R:61\nH 0 0 0\n",
        InvalidStructureError,
        "columns",
    ),
    "a huge comment": ("extxyz", "1\n" + "k=1 " * 100_000 + "\nH 0 0 0\n", InvalidStructureError, "comment"),
    "words for numbers": ("xyz", "1\n\nH zero 0 0\n", InvalidStructureError, "cannot be read as xyz"),
    "a short row": ("extxyz", "1\nProperties=species:S:1:pos:R:3\nH 0 0\n", InvalidStructureError, "cannot be read"),
    "an unknown element": ("xyz", "1\n\nQq 0 0 0\n", InvalidStructureError, "Qq"),
    "a placeholder": ("xyz", "1\n\nX 0 0 0\n", InvalidStructureError, "Atom 0 is not an element"),
    "infinity": ("xyz", "1\n\nH inf 0 0\n", InvalidStructureError, "not finite"),
    "a singular cell": (
        "extxyz",
        '1\nLattice="1 0 0 2 0 0 0 0 3" Properties=species:S:1:pos:R:3\nH 0 0 0\n',
        InvalidStructureError,
        "singular",
    ),
    "a partly frozen atom": (
        "vasp",
        "x\n1\n9 0 0\n0 9 0\n0 0 9\nH\n1\nSelective dynamics\nDirect\n0 0 0 T F F\n",
        InvalidStructureError,
        "FixScaled",
    ),
    "two hundred million in a POSCAR": (
        "vasp",
        "x\n1\n9 0 0\n0 9 0\n0 0 9\nH\n200000000\nDirect\n0 0 0\n",
        InvalidStructureError,
        "number of atoms",
    ),
    "many times many in a POSCAR": (
        "vasp",
        "x\n1\n9 0 0\n0 9 0\n0 0 9\nH He\n9000 9000\nDirect\n0 0 0\n",
        SystemTooLargeError,
        "18000",
    ),
    "a truncated POSCAR": (
        "vasp",
        "x\n1\n9 0 0\n0 9 0\n0 0 9\nH\n2\nDirect\n0 0 0\n",
        InvalidStructureError,
        "truncated",
    ),
    "a POSCAR of nothing": (
        "vasp",
        "comment\n1\n9 0 0\n0 9 0\n0 0 9\n1\nDirect\n0 0 0\n",
        InvalidStructureError,
        "does not name its elements",
    ),
    "a CIF without atoms": ("cif", CIF, InvalidStructureError, "lists no atoms"),
    "prose as a CIF": ("cif", "dear sir\n", InvalidStructureError, "no data_ block"),
    "an unknown coordinate": ("cif", CIF + SITES + "H1 ? 0 0\n", InvalidStructureError, "cannot be read as cif"),
    "many sites in a group of 192": (
        "cif",
        CIF + "_symmetry_Int_Tables_number 225\n" + SITES + "".join(f"H{i} 0.{i:04} 0.1 0.2\n" for i in range(1000)),
        SystemTooLargeError,
        "192 symmetry operations",
    ),
    "twenty thousand operations": (
        "cif",
        CIF + "loop_\n_symmetry_equiv_pos_as_xyz\n" + "'x,y,z'\n" * 20_000 + SITES + "H1 0 0 0\n",
        InvalidStructureError,
        "20000 symmetry operations",
    ),
    "two disorder groups": (
        "cif",
        CIF + SITES.rstrip() + "\n_atom_site_disorder_group\nH1 0 0 0 1\nH2 0.3 0 0 2\n",
        InvalidStructureError,
        "disordered",
    ),
    "a drawing": ("mol", ISOTOPES["mol"].replace("\n\n", "\n  RDKit             2D\n", 1), InvalidStructureError, "2D"),
    "a V3000 file": ("mol", ISOTOPES["mol"].replace("V2000", "V3000"), UnsupportedFormatError, "V3000"),
    "a truncated molfile": ("mol", ISOTOPES["mol"].split("  1  2")[0][:-60], InvalidStructureError, "truncated"),
    "half an occupancy": ("pdb", ISOTOPES["pdb"].replace("1.00  0.00", "0.50  0.00", 1), InvalidStructureError, "0.50"),
    "symmetry in a PDB file": (
        "pdb",
        "CRYST1   20.000   20.000   20.000  90.00  90.00  90.00 P 21 21 21    4\n" + ISOTOPES["pdb"],
        InvalidStructureError,
        "P 21 21 21",
    ),
    "a PDB file without atoms": ("pdb", "HEADER nothing\n", InvalidStructureError, "holds no structure"),
    "an unknown format": ("gpw", "1\n\nH 0 0 0\n", UnsupportedFormatError, "Known"),
    "a trajectory of ASE": ("traj", "- of Ulm", UnsupportedFormatError, "Known"),
}


@pytest.mark.parametrize("case", LIES)
def test_a_file_that_lies_is_refused_quickly_with_a_hint(case: str) -> None:
    format, text, error, says = LIES[case]
    start = time.monotonic()
    with pytest.raises(error) as caught:
        parse_structures(text, format, name="file")
    assert time.monotonic() - start < SECONDS_A_LIE_MAY_COST
    assert type(caught.value) is error
    assert says in str(caught.value)


def test_a_gzip_bomb_is_stopped_at_the_limit(tmp_path: Path) -> None:
    path = tmp_path / "bomb.xyz.gz"
    path.write_bytes(gzip.compress(b"0" * 200_000_000, compresslevel=1))
    tracemalloc.start()
    with pytest.raises(PayloadTooLargeError, match=r"bomb\.xyz\.gz holds more than"):
        read_structures(path)
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak_bytes < 5 * MAX_FILE_BYTES


def test_damaged_and_binary_files_are_refused(tmp_path: Path) -> None:
    cut = tmp_path / "cut.xyz.gz"
    cut.write_bytes(gzip.compress(b"1\n\nHe 0 0 0\n" * 99)[:-20])
    with pytest.raises(InvalidStructureError, match="not a complete gzip"):
        read_structures(cut)
    binary = tmp_path / "binary.cif"
    binary.write_bytes(b"data_\0\1\2")
    with pytest.raises(InvalidStructureError, match="not a text file"):
        read_structures(binary)


def test_windows_line_ends_a_byte_order_mark_and_latin1_are_read(tmp_path: Path) -> None:
    path = tmp_path / "windows.xyz"
    path.write_bytes(b"\xef\xbb\xbf1\r\nhelium\r\nHe 0 0 0\r\n")
    assert len(read_structures(path)) == 1
    path = tmp_path / "latin.xyz"
    path.write_bytes("1\n1 Å\nHe 0 0 0\n".encode("latin-1"))
    assert len(read_structures(path)) == 1


def test_a_pdb_without_element_columns_does_not_take_carbon_alpha_for_calcium() -> None:
    rows = "ATOM      1  CA  GLY A   1       0.000   0.000   0.000  1.00  0.00\n"
    rows += "ATOM      2 HG11 VAL A   1       1.000   0.000   0.000  1.00  0.00\n"
    parsed = parse_structures(rows, "pdb")
    assert formula(parsed.structures[0].numbers) == "CH"
    assert "atom names" in parsed.warnings[0]


def test_every_model_of_a_pdb_keeps_the_cell_that_is_given_once() -> None:
    model = "MODEL        1\n" + ISOTOPES["pdb"] + "ENDMDL\n"
    text = "CRYST1   20.000   20.000   20.000  90.00  90.00  90.00 P 1           1\n" + model + model
    assert [structure.pbc for structure in parse_structures(text, "pdb")] == [CRYSTAL, CRYSTAL]


def test_the_dummy_cell_of_a_molecule_in_a_pdb_is_dropped_with_a_remark() -> None:
    text = "CRYST1    1.000    1.000    1.000  90.00  90.00  90.00 P 1           1\n" + ISOTOPES["pdb"]
    parsed = parse_structures(text, "pdb")
    assert parsed.structures[0].cell_ang is None
    assert "dummy" in parsed.warnings[0]


def test_a_cif_whose_formula_has_more_hydrogen_than_its_atoms_is_remarked_upon(data_dir: Path) -> None:
    lines = (data_dir / "structures" / "molecular_crystal_cod2000054.cif").read_text().splitlines()
    text = "\n".join(line for line in lines if not line.startswith("H12 ")) + "\n"
    (warning,) = parse_structures(text, "cif").warnings
    assert "24 hydrogen atoms in the cell, the file places 22" in warning


def test_a_bare_carbon_skeleton_is_remarked_upon_and_diamond_is_not(data_dir: Path) -> None:
    lines = (data_dir / "structures" / "benzene.pdb").read_text().splitlines()
    skeleton = "\n".join(line for line in lines if line[76:78] != " H") + "\n"
    (warning,) = parse_structures(skeleton, "pdb").warnings
    assert "6 carbon atoms are bonded as if some were missing" in warning
    diamond = "".join(f"C{i} {x} {y} {z}\n" for i, (x, y, z) in enumerate([(0, 0, 0), (0.25, 0.25, 0.25)]))
    header = CIF.replace(" 9\n", " 3.567\n") + "_symmetry_space_group_name_H-M 'F -4 3 m'\n"
    assert not parse_structures(header + SITES + diamond, "cif").warnings

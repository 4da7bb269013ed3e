"""Files and JSON that nobody would write: structures, or a refusal with a reason; never a crash, never a hang."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from equipot.errors import EquipotError, InputError
from equipot.service.api.uploads import FileReader
from equipot.structure import structure_from_json

FAULTS = ("too much memory or time",)  # what a file that hangs or floods its reader is refused with
SAMPLES = {
    "xyz": "3\nwater\nO 0.0 0.0 0.119\nH 0.0 0.763 -0.477\nH 0.0 -0.763 -0.477\n",
    "extxyz": '2\nLattice="5.43 0 0 0 5.43 0 0 0 5.43" Properties=species:S:1:pos:R:3:forces:R:3 '
    'pbc="T T F" energy=-1.5\n'
    "Si 0.0 0.0 0.0 0.1 0.0 0.0\nSi 1.36 1.36 1.36 -0.1 0.0 0.0\n",
    "vasp": "Si2\n1.0\n5.43 0.0 0.0\n0.0 5.43 0.0\n0.0 0.0 5.43\nSi C\n1 1\nSelective dynamics\nDirect\n"
    "0.0 0.0 0.0 T T T\n0.25 0.25 0.25 F F F\n",
    "cif": "data_si\n_cell_length_a 5.43\n_cell_length_b 5.43\n_cell_length_c 5.43(2)\n_cell_angle_alpha 90\n"
    "_cell_angle_beta 90\n_cell_angle_gamma 90\n_symmetry_space_group_name_H-M 'P 1'\nloop_\n"
    "_symmetry_equiv_pos_as_xyz\n"
    "'x, y, z'\nloop_\n_atom_site_label\n_atom_site_type_symbol\n_atom_site_fract_x\n_atom_site_fract_y\n"
    "_atom_site_fract_z\n_atom_site_occupancy\nSi1 Si 0.0 0.0 0.0 1.0\nSi2 Si 0.25 0.25 0.25 1.0\n",
    "pdb": "CRYST1   10.000   10.000   10.000  90.00  90.00  90.00 P 1\n"
    "ATOM      1  O   HOH     1       0.000   0.000   0.119  1.00  0.00           O\n"
    "ATOM      2  H1  HOH     1       0.000   0.763  -0.477  1.00  0.00           H\nEND\n",
    "mol": "water\n  x\n\n  2  1  0  0  0  0  0  0  0  0999 V2000\n    0.0000    0.0000    0.1190 O   0  0\n"
    "    0.0000    0.7630   -0.4770 H   0  0\n  1  2  1  0\nM  END\n",
    "sdf": "water\n  x\n\n  2  1  0  0  0  0  0  0  0  0999 V2000\n    0.0000    0.0000    0.1190 O   0  0\n"
    "    0.0000    0.7630   -0.4770 H   0  0\n  1  2  1  0\nM  END\n$$$$\n",
}
TOKENS = st.sampled_from(
    "-1 0 1 2 999999999999 1e308 -1e309 nan inf NaN . ? * 0x10 1_000 ４ \x00 '' \" [ {} \\ / # Si Xx D 1.0(3) T loop_ "
    'data_ Lattice="" Properties=species:S:1:pos:R:1000000 pbc="X" V3000 CRYST1 END \ufeff é 🧪'.split(" ")
) | st.text(max_size=20)


@st.composite
def spoiled(draw: st.DrawFn, sample: str) -> str:
    """A good file in which a few lines or words were taken out, doubled, replaced or moved."""
    lines = sample.split("\n")
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, len(lines) - 1))
        words = lines[place].split(" ")
        match draw(st.sampled_from(["drop", "double", "swap", "word", "insert", "cut", "many"])):
            case "drop" if len(lines) > 1:
                del lines[place]
            case "double":
                lines.insert(place, lines[place])
            case "swap":
                other = draw(st.integers(0, len(lines) - 1))
                lines[place], lines[other] = lines[other], lines[place]
            case "word":
                words[draw(st.integers(0, len(words) - 1))] = draw(TOKENS)
                lines[place] = " ".join(words)
            case "insert":
                lines.insert(place, draw(st.text(max_size=80)))
            case "cut":
                lines[place] = lines[place][: draw(st.integers(0, max(1, len(lines[place]))))]
            case "many":
                lines[place:place] = [lines[place]] * draw(st.integers(10, 2000))
    return "\n".join(lines)


@pytest.fixture(scope="module")
def reader() -> FileReader:
    """What the API reads files with: a child with limits on memory and time for each file."""
    reader = FileReader(memory_bytes=1024**3, cpu_s=5, wall_s=8.0)
    reader.warm_up()
    return reader


def read_or_refused(reader: FileReader, text: str, format: str) -> None:
    """The file is structures that can be used, or is refused with a reason other than what it cost to read."""
    try:
        read = reader.read(text, format, "/file")
    except InputError as error:
        refused = error
    else:
        assert all(structure.n_atoms >= 1 for structure in read.structures)
        return
    assert refused.culprits[0].pointer == "/file"
    assert refused.detail
    assert not any(fault in refused.detail for fault in FAULTS), refused.detail


def fuzz(reader: FileReader, format: str, n_examples: int) -> None:
    @settings(
        max_examples=n_examples,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(text=spoiled(SAMPLES[format]) | st.text(max_size=200))
    def look(text: str) -> None:
        read_or_refused(reader, text, format)

    look()


@pytest.mark.parametrize("format", SAMPLES)
def test_the_samples_themselves_are_read(format: str, reader: FileReader) -> None:
    assert reader.read(SAMPLES[format], format, "/file").structures[0].n_atoms in (2, 3)


@pytest.mark.parametrize("format", SAMPLES)
def test_a_spoiled_file_is_read_or_refused(format: str, reader: FileReader) -> None:
    fuzz(reader, format, 25)


@pytest.mark.long
@pytest.mark.parametrize("format", SAMPLES)
def test_thousands_of_spoiled_files_are_read_or_refused(format: str, reader: FileReader) -> None:
    fuzz(reader, format, 5000)


NUMBERS = st.integers(-(2**70), 2**70) | st.floats() | st.sampled_from([0, 1, 8, 118, 119, -1, 1e300])
ANYTHING = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
VECTORS = st.lists(st.lists(NUMBERS, min_size=3, max_size=3), max_size=4)
FIELDS = {
    "numbers": st.lists(NUMBERS, max_size=4),
    "symbols": st.lists(st.sampled_from(["H", "O", "Xx", "", "h", "D"]), max_size=4),
    "positions": VECTORS,
    "cell": VECTORS,
    "pbc": st.lists(st.booleans(), max_size=4),
    "velocities": VECTORS,
    "masses": st.lists(NUMBERS, max_size=4),
    "charge": NUMBERS,
    "spin_multiplicity": NUMBERS,
    "fixed_atoms": st.lists(NUMBERS, max_size=4),
    "info": ANYTHING,
}


@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(data=ANYTHING | st.fixed_dictionaries({}, optional={k: v | ANYTHING for k, v in FIELDS.items()}))
def test_any_json_is_a_structure_or_refused(data: Any) -> None:
    try:
        structure = structure_from_json(data)
    except EquipotError as error:
        refused = error
    else:
        assert structure_from_json(structure.to_json()).sha256() == structure.sha256()
        return
    assert isinstance(refused, InputError)
    assert refused.detail

"""Every kind of file that users send, through the whole path: accepted as what it is, or refused with the reason."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from equipot.errors import EquipotError, InvalidStructureError
from equipot.service.api.uploads import FileReader

from .conftest import MAX_BODY_BYTES, LiveApi

NONE, ALL, Z_ONLY, SLAB = [False] * 3, [True] * 3, [False, False, True], [True, True, False]


class Read(NamedTuple):
    """What a file must be read as. `warns` is a word of the only warning, "" for no warning."""

    n_atoms: int
    formula: str
    pbc: list[bool]
    n_fixed: int = 0
    warns: str = ""


class Refused(NamedTuple):
    """How a file must be refused; the message contains `says`."""

    code: str
    status: int
    says: str


FILES: dict[str, Read | Refused] = {
    "acetate_anion.extxyz": Read(7, "C2H3O2", NONE),
    "acetic_acid.sdf": Refused("invalid-structure", 422, "no coordinates"),
    "al111_500A_vacuum.vasp": Read(12, "Al12", ALL),
    "au147_icosahedron.xyz": Read(147, "Au147", NONE),
    "batio3_mp2998.cif": Read(10, "Ba2O6Ti2", ALL),
    "benzene.pdb": Read(12, "C6H6", NONE),
    "bromobenzene.mol": Refused("invalid-structure", 422, "no coordinates"),
    "c60.xyz": Read(60, "C60", NONE),
    "caffeine.xyz": Read(24, "C8H10N4O2", NONE, warns="energy"),
    "cnt_6_6.extxyz": Read(96, "C96", Z_ONLY),
    "cu100_water.extxyz": Read(39, "Cu36H2O", SLAB, n_fixed=18),
    "cu_2048.extxyz.gz": Read(2048, "Cu2048", ALL),
    "cu_fcc.vasp": Read(1, "Cu", ALL),
    "ethanol.extxyz": Read(9, "C2H6O", NONE),
    "graphene_nanoribbon_H.extxyz": Read(32, "C24H8", Z_ONLY),
    "heavy_water_isotopes.xyz": Read(6, "H4O2", NONE),
    "mgo_F_centre.extxyz": Read(63, "Mg32O31", ALL),
    "mof_Fe4C52N32_frame.cif": Read(88, "C52Fe4N32", ALL, warns="hydrogen"),
    "molecular_crystal_cod2000054.cif": Read(56, "", ALL),
    "na_k_cl_partial_occupancy.cif": Refused("invalid-structure", 422, "occupancy"),
    "nacl.cif": Read(8, "Cl4Na4", ALL),
    "nbmotaw_hea54.vasp": Read(54, "", ALL),
    "o2_triplet.extxyz": Read(2, "O2", NONE),
    "pbc_without_cell.extxyz": Refused("invalid-structure", 422, "no cell"),
    "phenylglycinium_nitrate_cod1100172.cif": Read(100, "", ALL),
    "pt111_co.vasp": Read(18, "COPt16", ALL, n_fixed=8, warns="0.70 Å"),
    "quartz.cif": Read(9, "O6Si3", ALL),
    "s22_uracil_dimer.xyz": Read(24, "C8H8N4O4", NONE),
    "scrambled_blank.xyz": Refused("invalid-structure", 422, "truncated"),
    "si_diamond_rattled.extxyz": Read(64, "Si64", ALL),
    "si_duplicate_atom.extxyz": Refused("atoms-too-close", 422, "0.020 Å"),
    "tio2_rutile.cif": Read(6, "O4Ti2", ALL),
    "uranium_dioxide.cif": Read(12, "O8U4", ALL),
    "water.xyz": Read(3, "H2O", NONE),
    "water64_box.extxyz": Read(192, "H128O64", ALL, warns="energy"),
    "zeolite_GIS_with_amine.cif": Read(64, "", ALL),
}

#: what the service must say when the structure of a file is submitted to a potential for H, C, N, O, Si and Cu
NOT_FOR_THE_POTENTIAL = {
    "acetate_anion.extxyz": ("invalid-parameter", "/structures/0/charge", "charge"),
    "o2_triplet.extxyz": ("invalid-parameter", "/structures/0/spin_multiplicity", "multiplicity"),
    "uranium_dioxide.cif": ("unsupported-element", "/structures/0/numbers/0", "U"),
    "nacl.cif": ("unsupported-element", "/structures/0/numbers/0", "Na"),
}


def upload(api: LiveApi, name: str, data: bytes, **form: str) -> Any:
    return api.http.post("/v1/structures", files={"file": (name, data)}, data=form)


def test_the_table_names_every_file_there_is(data_dir: Path) -> None:
    found = {path.name for path in (data_dir / "structures").iterdir() if path.suffix != ".md"}
    assert found == set(FILES)


@pytest.mark.parametrize("name", FILES)
def test_a_users_file_is_read_as_what_it_is_or_refused_with_the_reason(api: LiveApi, data_dir: Path, name: str) -> None:
    answer = upload(api, name, (data_dir / "structures" / name).read_bytes())
    expected = FILES[name]
    body = answer.json()
    if isinstance(expected, Refused):
        assert answer.status_code == expected.status, body
        assert body["type"] == f"/problems/{expected.code}"
        assert body["errors"][0]["pointer"] == "/file"
        assert expected.says in body["detail"]
        assert body["hint"]
        return
    assert answer.status_code == 201, body
    structure = body["structure"]
    assert body["n_atoms"] == len(structure["numbers"]) == expected.n_atoms
    assert structure["pbc"] == expected.pbc
    assert len(structure.get("fixed_atoms", [])) == expected.n_fixed
    assert len(body["warnings"]) == bool(expected.warns), body["warnings"]
    assert all(expected.warns in warning for warning in body["warnings"])
    if expected.formula:
        assert body["formula"] == expected.formula
    assert "energy" not in structure.get("info", {})  # numbers of other models never look like ours
    assert answer.headers["location"] == f"/v1/structures/{body['structure_id']}"
    assert api.http.get(answer.headers["location"]).json()["structure"] == structure


def test_deuterium_keeps_its_mass(api: LiveApi, data_dir: Path) -> None:
    name = "heavy_water_isotopes.xyz"
    structure = upload(api, name, (data_dir / "structures" / name).read_bytes()).json()["structure"]
    assert sum(1 for mass in structure["masses"] if mass == pytest.approx(2.014, abs=1e-3)) == 3


@pytest.mark.parametrize("name", NOT_FOR_THE_POTENTIAL)
def test_what_the_potential_does_not_know_is_refused_at_submission(api: LiveApi, data_dir: Path, name: str) -> None:
    code, pointer, says = NOT_FOR_THE_POTENTIAL[name]
    uploaded = upload(api, name, (data_dir / "structures" / name).read_bytes()).json()
    answer = api.http.post("/v1/jobs", json=api.job(structures=[{"structure_id": uploaded["structure_id"]}]))
    problem = answer.json()
    assert problem["type"] == f"/problems/{code}", problem
    assert problem["errors"][0]["pointer"] == pointer
    assert says in problem["detail"]
    assert api.n_jobs() == 0


def test_an_uploaded_structure_is_submitted_by_its_id(api: LiveApi, data_dir: Path) -> None:
    uploaded = upload(api, "ethanol.extxyz", (data_dir / "structures" / "ethanol.extxyz").read_bytes()).json()
    job = api.submit(structures=[{"structure_id": uploaded["structure_id"]}] * 2)
    assert job["progress"]["n_systems"] == 2
    (first, second) = api.store.structures(job["id"])
    assert first.to_json() == second.to_json() == uploaded["structure"]


def test_every_structure_of_a_file_gets_an_id(api: LiveApi) -> None:
    body = upload(api, "two.xyz", b"1\n\nH 0 0 0\n2\n\nH 0 0 0\nH 0 0 0.8\n").json()
    assert len(set(body["structure_ids"])) == 2
    assert body["structure_id"] == body["structure_ids"][0]
    assert body["n_atoms"] == 1


def test_the_format_can_be_named_when_the_file_name_does_not_say_it(api: LiveApi) -> None:
    text = b"1\n\nH 0 0 0\n"
    assert upload(api, "final", text).status_code == 415
    assert upload(api, "final", text, format="xyz").status_code == 201
    assert upload(api, "POSCAR", b"x\n1\n3 0 0\n0 3 0\n0 0 3\nCu\n1\nDirect\n0 0 0\n").status_code == 201


@pytest.mark.parametrize(
    ("name", "data", "code", "status"),
    [
        ("empty.xyz", b"", "invalid-structure", 422),
        ("run.traj", b"- of Ulm", "unsupported-format", 415),
        ("model.pkl", b"\x80\x04", "unsupported-format", 415),
        ("x.xyz@0", b"1\n\nH 0 0 0\n", "unsupported-format", 415),
        ("bomb.xyz", b"99999999999\n\nH 0 0 0\n", "invalid-structure", 422),
        ("bomb.vasp", b"x\n1\n9 0 0\n0 9 0\n0 0 9\nCu\n200000000\nDirect\n0 0 0\n", None, None),
        ("not.gz.xyz.gz", b"1\n\nH 0 0 0\n", "invalid-structure", 422),
        ("bomb.xyz.gz", gzip.compress(b" " * (MAX_BODY_BYTES + 1)), "payload-too-large", 413),
        ("cut.xyz.gz", gzip.compress(b"1\n\nH 0 0 0\n")[:-12], "invalid-structure", 422),
        ("binary.cif", bytes(range(256)) * 40, "invalid-structure", 422),
        ("nan.xyz", b"1\n\nH nan 0 0\n", "invalid-structure", 422),
        ("inf.extxyz", b'1\nLattice="1e308 0 0 0 1 0 0 0 1" pbc="T T T"\nH 0 0 0\n', "invalid-structure", 422),
    ],
)
def test_a_hostile_or_broken_file_is_refused_and_the_api_lives(
    api: LiveApi, name: str, data: bytes, code: str | None, status: int | None
) -> None:
    answer = upload(api, name, data)
    body = answer.json()
    assert answer.headers["content-type"] == "application/problem+json"
    assert 400 <= answer.status_code < 500, body
    if code is not None:
        assert (body["type"], answer.status_code) == (f"/problems/{code}", status), body
    assert api.http.get("/healthz").status_code == 200


@pytest.mark.parametrize("form", [{}, {"file": "text, not a file"}])
def test_an_upload_without_a_file_names_the_field(api: LiveApi, form: dict[str, str]) -> None:
    answer = api.http.post("/v1/structures", data=form)
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["pointer"] == "/file"


def test_an_upload_that_is_not_multipart_is_refused(api: LiveApi) -> None:
    answer = api.http.post(
        "/v1/structures", content=b"no boundary", headers={"Content-Type": "multipart/form-data; boundary=x"}
    )
    assert 400 <= answer.status_code < 500
    assert answer.headers["content-type"] == "application/problem+json"


def test_a_reader_that_takes_too_long_is_ended_by_the_clock() -> None:
    many = "".join(f"1\n\nH {i} 0 0\n" for i in range(900))
    with pytest.raises(InvalidStructureError, match="too much memory or time") as caught:
        FileReader(wall_s=0.005).read(many, "xyz", "/file")
    assert caught.value.culprits[0].pointer == "/file"


def test_a_reader_that_needs_too_much_memory_is_ended_by_its_limit() -> None:
    rows = "".join(f"H {2 * i % 200} {2 * i // 200} 0\n" for i in range(5000))
    text = f"5000\n\n{rows}"
    assert len(FileReader().read(text, "xyz", "/file").structures[0].numbers) == 5000
    with pytest.raises(EquipotError) as caught:
        FileReader(memory_bytes=200_000).read(text, "xyz", "/file")
    assert caught.value.code == "invalid-structure"
    assert len(json.dumps(caught.value.as_problem())) < 2000


def test_a_program_without_a_main_guard_can_read_files(tmp_path: Path) -> None:
    """Children that ran the program again would read again, and so on."""
    program = tmp_path / "program.py"
    program.write_text(
        "from equipot.service.api.uploads import FileReader\n"
        "print(FileReader().read('1\\n\\nH 0 0 0\\n', 'xyz', '').structures[0].n_atoms)\n"
    )
    out = subprocess.run([sys.executable, str(program)], capture_output=True, text=True, check=False)
    assert out.stdout.split() == ["1"], out.stderr[-2000:]

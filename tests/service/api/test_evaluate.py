"""Evaluation while you wait, and the calculator that stands on it: the numbers of the local one, and its manners."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.calculator import PropertyNotImplementedError
from ase.calculators.fd import calculate_numerical_forces
from ase.io import read
from ase.optimize import FIRE

from equipot import Client, EquipotCalculator, RemoteCalculator
from equipot.calculator.base import OutsideTrainingDomainWarning
from equipot.errors import (
    AtomsTooCloseError,
    InvalidParameterError,
    InvalidStructureError,
    UnavailableError,
    UnknownModelError,
    UnsupportedElementError,
)

from .conftest import WATER, LiveApi
from .test_problems import assert_problem

pytestmark = pytest.mark.filterwarnings("ignore::equipot.calculator.base.OutsideTrainingDomainWarning")

TRICLINIC = Atoms(
    "SiOCu",
    scaled_positions=[[0.02, 0.0, 0.05], [0.45, 0.5, 0.4], [0.1, 0.55, 0.52]],
    cell=[[2.9, 0.1, 0.2], [1.1, 3.1, -0.2], [0.4, 0.9, 3.3]],
    pbc=True,
)


def slab() -> Atoms:
    atoms: Atoms = bulk("Cu", cubic=True) * (2, 1, 1)
    atoms.center(vacuum=4.0, axis=2)
    atoms.pbc = (True, True, False)
    return atoms


SYSTEMS = {"molecule": molecule("CH3CH2OH"), "crystal": TRICLINIC, "slab": slab(), "atom": Atoms("H")}


@pytest.fixture
def remote(working_api: LiveApi) -> RemoteCalculator:
    return RemoteCalculator(working_api.url, "tiny")


@pytest.mark.parametrize("name", SYSTEMS)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_the_numbers_are_those_of_the_local_calculator_to_the_last_bit(
    working_api: LiveApi, name: str, dtype: Any
) -> None:
    here, there = SYSTEMS[name].copy(), SYSTEMS[name].copy()
    here.calc, there.calc = EquipotCalculator("tiny", dtype=dtype), RemoteCalculator(working_api.url, "tiny", dtype)
    assert there.get_potential_energy() == here.get_potential_energy()
    assert np.array_equal(there.get_forces(), here.get_forces())
    assert np.array_equal(there.get_potential_energies(), here.get_potential_energies())
    assert there.calc.results["domain_distance"] == here.calc.results["domain_distance"]
    if all(there.pbc):
        assert np.array_equal(there.get_stress(), here.get_stress())
    else:
        with pytest.raises(PropertyNotImplementedError):
            there.get_stress()


def test_ase_relaxes_with_it_as_with_the_local_one(remote: RemoteCalculator) -> None:
    ends = []
    for calculator in (remote, EquipotCalculator("tiny")):
        atoms = molecule("H2O")
        atoms.calc = calculator
        FIRE(atoms, logfile=None).run(fmax=0.5, steps=10)
        ends.append(atoms.positions)
    assert np.array_equal(*ends)


def test_forces_are_the_derivative_of_the_energy_there_too(remote: RemoteCalculator) -> None:
    atoms = molecule("H2O")
    atoms.rattle(0.1, seed=1)
    atoms.calc = remote
    np.testing.assert_allclose(atoms.get_forces(), calculate_numerical_forces(atoms, eps=1e-4), atol=1e-5)


def test_nothing_is_asked_twice_and_the_users_atoms_stay_as_they_are(remote: RemoteCalculator) -> None:
    atoms = TRICLINIC.copy()
    atoms.info["name"] = "mine"
    before = copy.deepcopy(atoms)
    atoms.calc = remote
    energy = atoms.get_potential_energy()
    remote._client.close()  # whoever asks again would fail
    assert atoms.get_potential_energy() == energy
    assert atoms.get_forces().shape == (3, 3)
    assert atoms == before
    assert atoms.info == before.info


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"symbols": "OU"}, UnsupportedElementError, "does not know U"),
        ({"positions": [[0, 0, 0], [0, 0, 0.01]]}, AtomsTooCloseError, "0.01"),
        ({"positions": [[0, 0, 0], [0, 0, np.nan]]}, InvalidStructureError, "not finite"),
        ({"pbc": True}, InvalidStructureError, "lattice vector"),
        ({"info": {"charge": -1}}, InvalidParameterError, "charge of -1"),
    ],
    ids=["element", "close", "nan", "no cell", "charge"],
)
def test_what_cannot_be_computed_is_refused_in_the_same_words(
    remote: RemoteCalculator, change: dict[str, Any], error: type[Exception], says: str
) -> None:
    atoms = Atoms(**{"symbols": "OH", "positions": [[0, 0, 0], [0, 0, 0.97]], **change})
    atoms.calc = remote
    with pytest.raises(error, match=says):
        atoms.get_potential_energy()


ACETATE = "acetate_anion.extxyz"  # its comment says charge=-1
PBE = "PBE/def2-SVP"


def test_level_of_theory_and_charge_are_those_of_the_local_calculator(working_api: LiveApi, data_dir: Path) -> None:
    """`organic-3` speaks several levels; a charge stands in the atoms, or in the calculator for those that say none."""
    acetate = read(data_dir / "structures" / ACETATE)
    assert isinstance(acetate, Atoms)
    for atoms, options in (
        (acetate, {}),
        (Atoms(acetate.numbers, acetate.positions), {"charge": -1}),
        (molecule("CH3COOH"), {"level_of_theory": PBE}),
    ):
        here, there = atoms.copy(), atoms.copy()
        here.calc = EquipotCalculator("organic-3", **options)
        there.calc = RemoteCalculator(working_api.url, "organic-3", **options)
        assert there.get_potential_energy() == here.get_potential_energy()
        assert np.array_equal(there.get_forces(), here.get_forces())
        level = options.get("level_of_theory", "GFN2-xTB")
        assert there.calc.results["level_of_theory"] == there.calc.todict()["level_of_theory"] == level
        assert there.calc.results["uncertainty"] == here.calc.results["uncertainty"]
        twin = pickle.loads(pickle.dumps(there.calc))
        assert (twin.level_of_theory, twin.charge) == (options.get("level_of_theory"), options.get("charge"))


def test_a_level_or_a_charge_that_was_not_trained_on_is_a_typed_error_of_client_and_calculator(
    working_api: LiveApi, data_dir: Path
) -> None:
    acetate = read(data_dir / "structures" / ACETATE)
    assert isinstance(acetate, Atoms)
    with Client(working_api.url) as client:
        answer = client.evaluate(acetate, "organic-3")
        assert answer["level_of_theory"] == "GFN2-xTB"
        with pytest.raises(InvalidParameterError, match="does not know the level of theory 'PBE'") as level:
            client.evaluate(molecule("H2O"), "organic-3", level_of_theory="PBE")
        assert (level.value.culprits[0].pointer, PBE in level.value.hint) == ("/level_of_theory", True)
        with pytest.raises(InvalidParameterError, match=r"organic-3 at PBE/def2-SVP.*charge of -1 e") as charge:
            client.evaluate(acetate, "organic-3", level_of_theory=PBE)
        assert charge.value.culprits[0].pointer == "/structures/0/charge"
        with pytest.raises(UnsupportedElementError, match="'organic-3 at PBE/def2-SVP' does not know F"):
            client.relax(molecule("HF"), "organic-3", level_of_theory=PBE)
    acetate.calc = RemoteCalculator(working_api.url, "organic-3", level_of_theory=PBE)
    with pytest.raises(InvalidParameterError, match="charge of -1 e"):
        acetate.get_potential_energy()


def test_a_charge_may_stand_beside_a_stored_or_a_written_structure(working_api: LiveApi) -> None:
    """Few files can say one: the energy is that of the structure which has it itself."""
    text = "2\n\nO 0 0 0\nH 0 0 0.97\n"
    stored = working_api.http.post("/v1/structures", files={"file": ("oh.xyz", text)}).json()["structure_id"]
    hydroxide = {"symbols": ["O", "H"], "positions": [[0, 0, 0], [0, 0, 0.97]], "charge": -1}
    structures = [
        hydroxide,
        {"structure_id": stored, "charge": -1},
        {"format": "xyz", "text": text, "charge": -1, "spin_multiplicity": 1},
        {"structure_id": stored},
    ]
    answer = working_api.http.post("/v1/evaluate", json={"model": "organic-3", "structures": structures}).json()
    energies = [item["energy_ev"] for item in answer["items"]]
    assert energies[0] == energies[1] == energies[2] != energies[3]
    for beside, pointer in (({"charge": "none"}, "charge"), ({"charge": -4}, "charge"), ({"masses": [1]}, "masses")):
        body = {"model": "organic-3", "structures": [{"structure_id": stored, **beside}]}
        refused = working_api.http.post("/v1/evaluate", json=body)
        assert (refused.status_code, refused.json()["errors"][0]["pointer"]) == (422, f"/structures/0/{pointer}")


def test_a_model_the_service_does_not_have_is_named(working_api: LiveApi) -> None:
    atoms = molecule("H2O")
    atoms.calc = RemoteCalculator(working_api.url, "gpt")
    with pytest.raises(UnknownModelError, match="gpt"):
        atoms.get_potential_energy()


def test_it_is_copied_and_pickled_by_its_settings_and_says_where_its_numbers_come_from(
    remote: RemoteCalculator, tmp_path: Path
) -> None:
    atoms = molecule("H2O")
    atoms.calc = remote
    energy = atoms.get_potential_energy()
    for twin in (copy.deepcopy(remote), pickle.loads(pickle.dumps(remote))):
        other = molecule("H2O")
        other.calc = twin
        assert other.get_potential_energy() == energy
    with pytest.raises(InvalidParameterError, match="Make another RemoteCalculator"):
        remote.set(dtype="float32")
    assert remote.todict()["model"] == "tiny-1"
    assert remote.todict()["sha256"] == EquipotCalculator("tiny").potential.sha256
    atoms.write(tmp_path / "a.traj")
    back = read(tmp_path / "a.traj")
    assert isinstance(back, Atoms)
    assert back.get_potential_energy() == energy


def test_a_structure_far_from_the_training_data_gives_the_warning(remote: RemoteCalculator) -> None:
    atoms = TRICLINIC.copy()
    atoms.calc = remote
    atoms.get_potential_energy()
    assert remote.results["domain_distance"] is not None
    atoms.set_cell(atoms.cell.array * 0.8, scale_atoms=True)
    atoms.calc = copy.copy(remote)
    with pytest.warns(OutsideTrainingDomainWarning, match="tiny"):
        atoms.get_potential_energy()


def test_it_does_not_load_torch(working_api: LiveApi) -> None:
    code = (
        "import sys; from ase.build import molecule; from equipot import RemoteCalculator\n"
        "atoms = molecule('H2O'); atoms.calc = RemoteCalculator(sys.argv[1], 'tiny'); atoms.get_forces()\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", code, working_api.url], check=True, timeout=120)


def test_many_callers_at_once_each_get_their_own_numbers(working_api: LiveApi) -> None:
    def ask(i: int) -> float:
        structure = {"symbols": ["H", "H"], "positions": [[0.0, 0.0, 0.0], [0.0, 0.0, 0.6 + 0.02 * i]]}
        answer = working_api.http.post("/v1/evaluate", json={"model": "tiny", "structures": [structure]})
        assert answer.status_code == 200, answer.text
        [item] = answer.json()["items"]
        energy: float = item["energy_ev"]
        return energy

    with ThreadPoolExecutor(16) as pool:
        together = list(pool.map(ask, range(32)))
    assert len(set(together)) == 32
    assert together == [ask(i) for i in range(32)]


def test_one_structure_among_several_is_one_item_in_order(working_api: LiveApi) -> None:
    structures = [
        WATER,
        {"symbols": ["H"], "positions": [[0.0, 0.0, 0.0]]},
        {"format": "xyz", "text": "1\n\nO 0 0 0\n"},
    ]
    answer = working_api.http.post("/v1/evaluate", json={"model": "tiny", "structures": structures}).json()
    assert [len(item["forces_ev_per_ang"]) for item in answer["items"]] == [3, 1, 1]
    assert answer["model"] == "tiny-1"
    assert answer["level_of_theory"]
    assert (answer["dtype"], answer["device"]) == ("float64", "cpu")


def test_it_is_answered_while_a_long_job_runs(working_api: LiveApi) -> None:
    body = working_api.job(kind="md", params={"n_steps": 1_000_000, "seed": 1})
    job = working_api.http.post("/v1/jobs", json=body).json()
    try:
        answer = working_api.http.post("/v1/evaluate", json={"model": "tiny", "structures": [WATER]})
        assert answer.status_code == 200
        assert working_api.http.get(f"/v1/jobs/{job['id']}").json()["state"] in ("queued", "starting", "running")
    finally:
        working_api.http.post(f"/v1/jobs/{job['id']}/cancel")


@pytest.mark.parametrize(
    ("body", "code", "status", "pointer"),
    [
        ({"structures": []}, "invalid-parameter", 422, "/structures"),
        ({"structures": [WATER], "dtype": "float16"}, "invalid-parameter", 422, "/dtype"),
        ({"structures": [WATER], "params": {}}, "invalid-parameter", 422, "/params"),
        ({"structures": [WATER], "model": "gpt"}, "unknown-model", 404, None),
        ({"structures": [WATER, {"symbols": ["U"], "positions": [[0, 0, 0]]}]}, "unsupported-element", 422, None),
        ({"structures": [WATER]}, "unavailable", 503, None),
    ],
    ids=["none", "dtype", "unknown field", "model", "element", "no worker"],
)
def test_a_request_that_cannot_be_answered_says_why(
    api: LiveApi, body: dict[str, Any], code: str, status: int, pointer: str | None
) -> None:
    assert_problem(api.http.post("/v1/evaluate", json={"model": "tiny", **body}), code, status, pointer)


def test_without_a_service_the_error_says_how_to_start_one() -> None:
    atoms = molecule("H2O")
    atoms.calc = RemoteCalculator("http://127.0.0.1:9", patience_s=0)
    with pytest.raises(UnavailableError, match="does not answer"):
        atoms.get_potential_energy()

"""What leaves a run in other formats says the same as the run, to the last bit where the format can."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import ase.io
import h5py
import MDAnalysis
import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.io.trajectory import Trajectory
from MDAnalysis.lib.mdamath import triclinic_box

from equipot import __version__
from equipot.calculator.convert import from_atoms
from equipot.errors import InvalidParameterError
from equipot.params import MDParams, MTKBarostat, RelaxParams
from equipot.simulation.exports import MEDIA_TYPES, export, export_text
from equipot.simulation.providers import AseProvider
from equipot.simulation.run import Run
from equipot.simulation.trajectory import RunFrames, read_frames, read_thermo
from equipot.units import GPA_PER_EV_PER_ANG3

SEEDS = [7, 8, 9]
FLOAT32 = float(np.finfo(np.float32).eps)  # MDAnalysis keeps single precision
KJ_PER_MOL_PER_EV = 96.48533


@pytest.fixture(scope="module", params=["float64", "float32"])
def finished(request: Any, forces: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dynamics of a crystal, a slab with fixed atoms and a molecule in vacuum."""
    directory = tmp_path_factory.mktemp("runs") / "r"
    found = forces.copper_structures()
    skewed = found["crystal"].moved_to(found["crystal"].positions_ang, None, found["crystal"].cell_ang + SKEW_ANG)
    params = MDParams(
        n_steps=12, timestep_fs=1.0, seed=SEEDS, save_every=4, thermo_every=1, trajectory_dtype=request.param
    )
    structures = [skewed, found["slab"], found["water"]]
    with Run.start(directory, kind="md", structures=structures, params=params, provider=AseProvider(EMT())) as run:
        while run.advance():
            pass
    return directory


SKEW_ANG = np.array([[0.0, 0.3, 0.0], [0.0, 0.0, -0.2], [0.4, 0.0, 0.0]])


@pytest.mark.parametrize("system", range(3))
def test_mdanalysis_opens_h5md_and_finds_the_numbers_of_the_run(finished: Path, tmp_path: Path, system: int) -> None:
    path = tmp_path / "one.h5md"
    export(read_frames(finished, system), "h5md", path)
    frames: Any = RunFrames(finished, system)
    universe = MDAnalysis.Universe(str(path), to_guess=())  # without a topology beside it
    assert len(universe.trajectory) == len(frames) == 4
    for ts, frame in zip(universe.trajectory, frames, strict=True):
        assert ts.time == frame.time_fs / 1000
        assert ts.data["step"] == frame.step
        assert np.allclose(ts.positions, frame.structure.positions_ang, rtol=FLOAT32, atol=1e-6)
        velocities = 1000 * frame.structure.velocities_ang_per_fs
        assert np.allclose(ts.velocities, velocities, rtol=2 * FLOAT32, atol=1e-6)
        wanted = KJ_PER_MOL_PER_EV * frame.forces_ev_per_ang
        assert np.allclose(ts.forces, wanted, rtol=1e-6, atol=1e-5)
        if frame.structure.cell_ang is None:
            assert ts.dimensions is None
        else:
            assert np.allclose(ts.dimensions, triclinic_box(*frame.structure.cell_ang), rtol=FLOAT32)
        assert ts.data["potential_energy"] == frame.energy_ev
    universe.trajectory.close()


def test_h5md_has_every_element_of_the_specification_with_its_unit(finished: Path, tmp_path: Path) -> None:
    export(read_frames(finished, 0), "h5md", tmp_path / "one.h5md")
    with h5py.File(tmp_path / "one.h5md") as file:
        assert file["h5md"].attrs["version"].tolist() == [1, 1]
        assert file["h5md/author"].attrs["name"]
        assert file["h5md/creator"].attrs["name"] == "equipot"
        assert file["h5md/creator"].attrs["version"] == __version__
        assert file["h5md/modules/units"].attrs["version"].tolist() == [1, 1]
        (group,) = file["particles"].values()
        assert group["box"].attrs["boundary"].tolist() == ["periodic"] * 3
        assert group["box"].attrs["dimension"] == 3
        assert group["species"][:].tolist() == [29] * 8
        assert group["mass"][0] == pytest.approx(63.546)
        units = {name: group[f"{name}/value"].attrs["unit"] for name in ("position", "velocity", "force", "box/edges")}
        assert units == {
            "position": "Angstrom",
            "velocity": "Angstrom ps-1",
            "force": "kJ mol-1 Angstrom-1",
            "box/edges": "Angstrom",
        }
        for element in [*file["observables"].values(), group["velocity"], group["box/edges"]]:
            assert element["step"] == group["position/step"], "one axis of time for all"
            assert element["time"].attrs["unit"] == "ps"
            assert len(element["value"]) == 4
            assert element["value"].attrs["unit"]
        dtype = RunFrames(finished).provenance.trajectory_dtype
        assert {group[f"{name}/value"].dtype for name in ("position", "velocity", "force")} == {np.dtype(dtype)}


def test_observables_of_a_file_are_those_of_the_time_series(finished: Path, tmp_path: Path) -> None:
    """The temperature counts the degrees of freedom that the run counted: a fixed atom has none."""
    for system in range(3):
        export(read_frames(finished, system), "h5md", tmp_path / f"{system}.h5md")
        rows = {row["step"]: row for row in read_thermo(finished, system)}
        with h5py.File(tmp_path / f"{system}.h5md") as file:
            observables, steps = file["observables"], file["particles/trajectory/position/step"][:].tolist()
            names = {"potential_energy": "energy_ev", "kinetic_energy": "kinetic_ev", "temperature": "temperature_k"}
            for ours, theirs in names.items():
                wanted = [rows[step][theirs] for step in steps]
                assert observables[f"{ours}/value"][:] == pytest.approx(wanted, rel=1e-6)
            assert ("pressure" in observables) == (system == 0)  # where all directions are periodic
    frame: Any = RunFrames(finished, 0)[1]
    ideal = 2 / 3 * frame.kinetic_ev / frame.structure.volume_ang3 - frame.stress_ev_per_ang3[:3].mean()
    with h5py.File(tmp_path / "0.h5md") as file:
        assert file["observables/pressure/value"][1] == pytest.approx(ideal * GPA_PER_EV_PER_ANG3, rel=1e-12)
        voigt = file["observables/stress/value"][1][[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]]
        assert voigt == pytest.approx(frame.stress_ev_per_ang3 * GPA_PER_EV_PER_ANG3, rel=1e-12)


def test_every_format_says_what_the_numbers_were_computed_with(finished: Path, tmp_path: Path) -> None:
    provenance = RunFrames(finished).provenance
    wanted = {**provenance.tags(1), "seed": SEEDS[1]}
    assert {"seed", "model", "trajectory_dtype", "equipot"} <= set(wanted)
    whole = json.loads(json.dumps(provenance.to_json()))
    for format in MEDIA_TYPES:
        export(read_frames(finished, 1), format, tmp_path / f"one.{format}")
    atoms: Any = ase.io.read(tmp_path / "one.extxyz", 2)
    assert {name: atoms.info[name] for name in wanted} == wanted
    info = json.loads((tmp_path / "one.jsonl").read_text().splitlines()[2])["info"]
    assert {name: info[name] for name in wanted} == wanted
    with Trajectory(tmp_path / "one.traj") as trajectory:
        assert trajectory.description == whole
        assert trajectory[2].info["seed"] == SEEDS[1]
    with np.load(tmp_path / "one.npz", allow_pickle=False) as arrays:
        assert json.loads(str(arrays["provenance"])) == whole
        assert arrays["seed"] == SEEDS[1]
    with h5py.File(tmp_path / "one.h5md") as file:
        attributes = file["parameters/equipot"].attrs
        assert {name: attributes[name] for name in wanted} == wanted
        assert json.loads(attributes["provenance"]) == whole
    with Trajectory(finished / "segments" / "0001.traj") as segment:
        assert segment.description == {**whole, "attempt": 1}


def test_single_precision_is_the_double_one_rounded_once(forces: Any, tmp_path: Path) -> None:
    structure = forces.argon_cluster(5)
    frames, ends = {}, []
    for dtype in ("float64", "float32"):
        params = MDParams(n_steps=20, timestep_fs=2.0, seed=3, save_every=5, trajectory_dtype=dtype)
        with Run.start(
            tmp_path / dtype, kind="md", structures=[structure], params=params, provider=forces.LennardJones()
        ) as run:
            run.advance()
        frames[dtype] = list(read_frames(tmp_path / dtype))
        ends.append(run.results[0]["structure"])
    assert ends[0] == ends[1], "nothing was computed from what was rounded"
    for double, single in zip(frames["float64"], frames["float32"], strict=True):
        for name in ("momenta", "forces_ev_per_ang"):
            wanted = np.float32(getattr(double, name)).astype(float)
            assert np.array_equal(getattr(single, name), wanted), name
        assert np.array_equal(single.structure.positions_ang, np.float32(double.structure.positions_ang).astype(float))
        assert single.energy_ev == double.energy_ev
    sizes = [(tmp_path / dtype / "segments" / "0001.traj").stat().st_size for dtype in ("float32", "float64")]
    assert sizes[0] < sizes[1]


def test_h5md_refuses_two_systems_and_says_what_to_do(finished: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidParameterError, match="Choose one system"):
        export(read_frames(finished), "h5md", tmp_path / "all.h5md")


def test_a_relaxation_leaves_as_h5md_too_without_a_time(forces: Any, tmp_path: Path) -> None:
    structure = forces.argon_cluster(3)
    with Run.start(
        tmp_path / "r", kind="relax", structures=[structure], params=RelaxParams(), provider=forces.LennardJones()
    ) as run:
        run.advance()
    export(read_frames(tmp_path / "r"), "h5md", tmp_path / "r.h5md")
    universe = MDAnalysis.Universe(str(tmp_path / "r.h5md"), to_guess=())
    steps = [ts.data["step"] for ts in universe.trajectory]
    assert steps == [frame.step for frame in read_frames(tmp_path / "r")]
    assert all(np.isnan(ts.time) for ts in universe.trajectory)
    assert not universe.trajectory.has_velocities
    universe.trajectory.close()


@pytest.mark.parametrize("format", MEDIA_TYPES)
def test_no_frames_give_a_file_that_opens(format: str, tmp_path: Path) -> None:
    export([], format, tmp_path / "none")
    if format == "h5md":
        with h5py.File(tmp_path / "none") as file:
            assert "particles" not in file
    elif format == "npz":
        with np.load(tmp_path / "none") as arrays:
            assert arrays.files == ["provenance"]
    elif format != "traj":
        assert (tmp_path / "none").read_bytes() == b""
    assert list(export_text([], "extxyz")) == []


MEASURE = """
import sys
import numpy as np
from pathlib import Path
from equipot.simulation.exports import export
from equipot.simulation.trajectory import Frame
from equipot.structure import Structure
import ase.io.trajectory, ase.constraints, h5py

def peak_kib():  # of this program: ru_maxrss would begin with that of the process that started it
    status = open("/proc/self/status")
    with status: return next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))

def frames(n):
    rng = np.random.default_rng(0)
    numbers, cell = np.full(2000, 14), 30 * np.eye(3)
    for k in range(n):
        a, b, c = rng.normal(size=(3, 2000, 3))
        yield Frame(0, k, float(k), Structure(numbers, a, cell, (True,) * 3, b), c, 0.0, c, np.zeros(6))

export(frames(200), sys.argv[1], Path(sys.argv[2]))
before = peak_kib()
export(frames(500), sys.argv[1], Path(sys.argv[2]))
print(peak_kib() - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the peak is read from /proc")
@pytest.mark.parametrize("format", ["npz", "h5md"])
def test_memory_does_not_grow_with_the_number_of_frames(format: str, tmp_path: Path) -> None:
    """300 frames of 2000 atoms more are 43 MB of arrays more."""
    command = [sys.executable, "-c", MEASURE, format, str(tmp_path / "long")]
    grown_kib = int(subprocess.run(command, capture_output=True, check=True, timeout=240).stdout)
    assert grown_kib < 12 * 1024


def test_a_cell_that_moves_is_in_every_frame_and_every_export(tmp_path: Path) -> None:
    """Its volume is the one of the time series, and its shape changes."""
    params = MDParams(
        ensemble="npt",
        barostat=MTKBarostat(pressure_gpa=5.0, pdamp_fs=200.0, isotropic=False),
        n_steps=20,
        timestep_fs=4.0,
        seed=1,
        save_every=5,
        thermo_every=5,
    )
    crystal = from_atoms(bulk("Cu", cubic=True))
    run = Run.start(tmp_path / "r", kind="md", structures=[crystal], params=params, provider=AseProvider(EMT()))
    with run:
        while run.advance():
            pass
    volumes = [row["volume_ang3"] for row in read_thermo(tmp_path / "r")]
    pressures = [row["pressure_gpa"] for row in read_thermo(tmp_path / "r")]
    assert np.ptp(volumes) > 0.1
    for format in ("extxyz", "traj", "npz", "h5md"):
        export(read_frames(tmp_path / "r"), format, tmp_path / f"r.{format}")
    with np.load(tmp_path / "r.npz") as arrays, h5py.File(tmp_path / "r.h5md") as file:
        cells = file["particles/trajectory/box/edges/value"][:]
        assert np.array_equal(cells, arrays["cell_ang"])
        assert file["observables/volume/value"][:] == pytest.approx(volumes, rel=1e-12)
        assert file["observables/pressure/value"][:] == pytest.approx(pressures, rel=1e-9)
    for format in ("extxyz", "traj"):
        images: Any = ase.io.read(tmp_path / f"r.{format}", ":")
        assert np.array_equal([atoms.cell.array for atoms in images], cells)
    assert np.linalg.det(cells) == pytest.approx(volumes, rel=1e-12)
    shapes = cells / np.linalg.det(cells)[:, None, None] ** (1 / 3)
    assert np.ptp(shapes, axis=0).max() > 1e-4

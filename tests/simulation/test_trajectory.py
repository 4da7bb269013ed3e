"""Trajectories can be read while they are written, across attempts, and leave in other formats to the last bit."""

from __future__ import annotations

import io
import json
import threading
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import pytest
from ase.calculators.emt import EMT
from ase.io.trajectory import Trajectory

from equipot.errors import ConflictError, InvalidParameterError
from equipot.params import MDParams, RelaxParams
from equipot.simulation.exports import export, export_text
from equipot.simulation.providers import AseProvider
from equipot.simulation.run import Run
from equipot.simulation.segments import SegmentWriter
from equipot.simulation.trajectory import frame_index, read_frames, read_thermo
from equipot.structure import Structure, structure_from_json

same: Any = np.array_equal  # of values that may be None too


@pytest.fixture(scope="module")
def finished(forces: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a crystal, a slab with fixed atoms and a molecule with a heavy isotope, in two attempts."""
    directory = tmp_path_factory.mktemp("runs") / "r"
    found = forces.copper_structures()
    water = found["water"]
    heavy = Structure(water.numbers, water.positions_ang, masses_u=np.array([16.0, 2.014, 2.014]))
    structures = [found["crystal"], found["slab"], heavy]
    params = MDParams(n_steps=12, timestep_fs=1.0, seed=1, save_every=5)
    run = Run.start(directory, kind="md", structures=structures, params=params, provider=AseProvider(EMT()))
    run.advance(steps=7)
    run.checkpoint()
    run.advance(steps=4)
    run.close()
    with Run.resume(directory, AseProvider(EMT())) as again:
        while again.advance():
            pass
    return directory


def test_frames_come_in_order_across_attempts_and_can_be_chosen_like_a_slice(finished: Path) -> None:
    assert [ref.segment for ref in frame_index(finished, 0)] == ["0001", "0001", "0002", "0002"]
    assert [f.step for f in read_frames(finished, 0)] == [0, 5, 10, 12]
    assert [(f.system, f.step) for f in read_frames(finished)][:4] == [(0, 0), (1, 0), (2, 0), (0, 5)]
    assert [f.step for f in read_frames(finished, 2, start=1, stop=4, stride=2)] == [5, 12]
    assert [f.step for f in read_frames(finished, 2, start=-1)] == [12]
    assert not list(read_frames(finished, 99))


def test_the_segments_are_plain_ase_trajectories(finished: Path) -> None:
    with Trajectory(finished / "segments" / "0001.traj") as trajectory:
        atoms = trajectory[1]
    assert atoms.info == {"system": 1, "step": 0, "time_fs": 0.0}
    atoms.calc, own = EMT(), atoms.calc
    assert atoms.get_potential_energy() == own.results["energy"]
    assert same(atoms.get_forces(apply_constraint=False), own.results["forces"])
    assert same(atoms.get_stress(apply_constraint=False), own.results["stress"]) if "stress" in own.results else 1
    assert len(atoms.constraints) == 1


@pytest.mark.parametrize("format", ["extxyz", "traj"])
def test_ase_reads_an_export_back_to_the_last_bit(finished: Path, tmp_path: Path, format: str) -> None:
    path = tmp_path / f"all.{format}"
    export(read_frames(finished), format, path)
    frames = list(read_frames(finished))
    for frame, atoms in zip(frames, ase.io.read(path, ":"), strict=True):
        assert same(atoms.numbers, frame.structure.numbers)
        assert same(atoms.positions, frame.structure.positions_ang)
        assert atoms.pbc.tolist() == list(frame.structure.pbc)
        cell = frame.structure.cell_ang
        assert same(atoms.cell.array, np.zeros((3, 3)) if cell is None else cell)
        assert same(atoms.arrays["momenta"], frame.momenta)
        assert atoms.calc.results["energy"] == frame.energy_ev
        assert same(atoms.calc.results["forces"], frame.forces_ev_per_ang)
        if frame.stress_ev_per_ang3 is not None:
            assert same(atoms.calc.results["stress"], frame.stress_ev_per_ang3)
        assert {name: atoms.info[name] for name in frame.tags} == frame.tags
        assert [i for c in atoms.constraints for i in c.index] == list(frame.structure.fixed_atoms)
        masses = frame.structure.masses_u
        assert masses is None or same(atoms.get_masses(), masses)
    assert any(f.stress_ev_per_ang3 is not None for f in frames)
    assert any(f.structure.masses_u is not None for f in frames)


def test_a_line_of_jsonl_is_a_structure_that_can_be_submitted_again(finished: Path) -> None:
    for frame, line in zip(read_frames(finished), export_text(read_frames(finished), "jsonl"), strict=True):
        again = structure_from_json(json.loads(line))
        assert same(again.positions_ang, frame.structure.positions_ang)
        assert again.velocities_ang_per_fs is not None
        assert same(again.velocities_ang_per_fs, frame.structure.velocities_ang_per_fs)
        assert again.info["energy_ev"] == frame.energy_ev
        assert again.info["step"] == frame.step


def test_npz_holds_arrays_over_frames_of_each_system(finished: Path, tmp_path: Path) -> None:
    export(read_frames(finished, 1), "npz", tmp_path / "one.npz")
    with np.load(tmp_path / "one.npz", allow_pickle=False) as one:
        assert one["step"].tolist() == [0, 5, 10, 12]
        assert one["positions_ang"].shape == (4, 12, 3)
        assert one["velocities_ang_per_fs"].shape == (4, 12, 3)
        positions = one["positions_ang"]
    export(read_frames(finished), "npz", tmp_path / "all.npz")
    with np.load(tmp_path / "all.npz", allow_pickle=False) as every:
        assert same(every["system0001_positions_ang"], positions)
        assert every["system0002_numbers"].tolist() == [8, 1, 1]
        assert every["system0000_stress_ev_per_ang3"].shape == (4, 6)


def test_an_unknown_format_is_refused_with_those_that_exist(finished: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidParameterError, match="extxyz, jsonl, traj, npz"):
        export(read_frames(finished), "xtc", tmp_path / "x")


def test_velocities_read_back_are_those_of_the_dynamics(finished: Path) -> None:
    """They pass through ASE's momenta, so the last digit may differ; the momenta themselves are kept exactly."""
    request = json.loads((finished / "request.json").read_text())
    results = [json.loads(line) for line in (finished / "results.jsonl").read_text().splitlines()]
    for result in results:
        last = list(read_frames(finished, result["system_idx"]))[-1]
        assert last.structure.velocities_ang_per_fs is not None
        wanted = np.array(result["structure"]["velocities"])
        assert np.abs(last.structure.velocities_ang_per_fs - wanted).max() < 1e-15
    assert request["params"]["n_steps"] == 12


def test_a_reader_sees_a_growing_run_that_never_takes_anything_back(forces: Any, tmp_path: Path) -> None:
    """Another thread reads all the time; what it saw is the beginning of what there is in the end."""
    params = MDParams(n_steps=400, timestep_fs=2.0, temperature_k=20, seed=1, save_every=3, checkpoint_every_s=0.01)
    structures = [forces.argon_cluster(4, i) for i in range(3)]
    run = Run.start(tmp_path / "r", kind="md", structures=structures, params=params, provider=forces.LennardJones())
    seen: list[list[Any]] = []
    stop = threading.Event()
    failures: list[BaseException] = []

    def read() -> None:
        try:
            while not stop.is_set():
                frames = [(f.system, f.step, f.structure.positions_ang.tobytes()) for f in read_frames(tmp_path / "r")]
                seen.append([frames, list(read_thermo(tmp_path / "r"))])
        except BaseException as error:
            failures.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    while run.advance(seconds=0.05):
        pass
    stop.set()
    reader.join()
    assert not failures
    frames = [(f.system, f.step, f.structure.positions_ang.tobytes()) for f in read_frames(tmp_path / "r")]
    thermo = list(read_thermo(tmp_path / "r"))
    assert len(frames) == 3 * 135
    lengths = {len(early) for early, _ in seen}
    assert len(lengths - {0, len(frames)}) > 1, "nothing was read while it grew"
    for early, rows in seen:
        assert early == frames[: len(early)]
        assert rows == thermo[: len(rows)]


def test_a_relaxation_has_no_time_and_no_momenta(forces: Any, tmp_path: Path) -> None:
    structures = [forces.argon_cluster(3)]
    with Run.start(
        tmp_path / "r", kind="relax", structures=structures, params=RelaxParams(), provider=forces.LennardJones()
    ) as run:
        run.advance()
    (text, *_) = export_text(read_frames(tmp_path / "r"), "extxyz")
    assert "time_fs" not in text
    assert "momenta" not in text
    (atoms,) = ase.io.read(io.StringIO(text), ":", format="extxyz")
    assert atoms.info["step"] == 0


def test_two_writers_of_one_segment_are_refused(tmp_path: Path) -> None:
    SegmentWriter(tmp_path, 1).close()
    with pytest.raises(ConflictError):
        SegmentWriter(tmp_path, 1)

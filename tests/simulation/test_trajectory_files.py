"""The files of a trajectory: cut anywhere, growing, long, rounded, of an older version."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from equipot.errors import DamagedDataError
from equipot.params import MDParams
from equipot.simulation.checkpoint import read_header, save_checkpoint
from equipot.simulation.run import Run
from equipot.simulation.segments import INDEX, SegmentWriter
from equipot.simulation.trajectory import REQUEST, Frame, RunFrames, read_frames
from equipot.structure import Structure

SCRIPT = Path(__file__).with_name("killable.py")
LONGEST_S = 60.0
N_STEPS = 24


def params(dtype: str = "float64") -> MDParams:
    return MDParams(n_steps=N_STEPS, timestep_fs=2.0, temperature_k=20, seed=1, save_every=2, trajectory_dtype=dtype)


def everything(directory: Path) -> list[tuple[Any, ...]]:
    return [key(frame) for frame in read_frames(directory)]


def key(frame: Frame) -> tuple[Any, ...]:
    arrays = (frame.structure.positions_ang, frame.momenta, frame.forces_ev_per_ang)
    return (frame.system, frame.step, frame.time_fs, frame.energy_ev, *[np.asarray(a).tobytes() for a in arrays])


@pytest.fixture(scope="module", params=["float64", "float32"])
def uninterrupted(request: Any, forces: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory: Path = tmp_path_factory.mktemp("runs") / request.param
    structures = [forces.argon_cluster(3, i) for i in range(2)]
    provider = forces.LennardJones()
    with Run.start(directory, kind="md", structures=structures, params=params(request.param), provider=provider) as run:
        while run.advance():
            pass
    return directory


@pytest.fixture(scope="module")
def interrupted(uninterrupted: Path, forces: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run, whose process wrote more frames after its last checkpoint and then was no more."""
    directory = tmp_path_factory.mktemp("runs") / "interrupted"
    structures = [forces.argon_cluster(3, i) for i in range(2)]
    chosen = params(uninterrupted.name)
    run = Run.start(directory, kind="md", structures=structures, params=chosen, provider=forces.LennardJones())
    run.advance(steps=9)
    run.checkpoint()
    run.advance(steps=10)
    run.close()
    return directory


def cuts(size: int, boundaries: list[int]) -> list[int]:
    """Every byte about the ends of records, and some of all the others."""
    near = {b + d for b in boundaries for d in range(-10, 11, 3)}
    return sorted({c for c in near | set(range(0, size, 307)) if 0 <= c <= size})


def test_a_segment_cut_at_any_byte_gives_whole_frames_and_says_which_are_lost(
    interrupted: Path, tmp_path: Path
) -> None:
    """What the checkpoint vouches for is either read exactly or refused; what comes after it does not matter."""
    wanted = everything(interrupted)
    offsets = [ref.offset for ref in RunFrames(interrupted).refs]
    segment = tmp_path / "r" / "segments" / "0001.traj"
    shutil.copytree(interrupted, tmp_path / "r")
    whole = segment.read_bytes()
    lost = set()
    for cut in cuts(len(whole), offsets):
        segment.write_bytes(whole[:cut])
        frames = RunFrames(tmp_path / "r")
        n_read = 0
        for i in range(len(frames)):
            try:
                assert key(frames[i]) == wanted[i]
                n_read += 1
            except DamagedDataError:
                break
        lost.add(len(wanted) - n_read)
        assert n_read <= sum(offset < cut for offset in offsets)
        assert n_read >= sum(offset < cut for offset in offsets) - 1, "a whole frame was not read"
    assert lost == set(range(len(wanted) + 1))


def test_an_index_cut_in_what_the_checkpoint_vouches_for_is_refused(interrupted: Path, tmp_path: Path) -> None:
    shutil.copytree(interrupted, tmp_path / "r")
    index = tmp_path / "r" / "segments" / "0001.index"
    whole = index.read_bytes()
    header = read_header(interrupted)
    assert header is not None
    needed = header["segments"][0]["n_frames"] * INDEX.itemsize
    for cut in cuts(len(whole), [needed]):
        index.write_bytes(whole[:cut])
        if cut < needed:
            with pytest.raises(DamagedDataError, match="damaged"):
                RunFrames(tmp_path / "r")
        else:
            assert len(RunFrames(tmp_path / "r")) == header["segments"][0]["n_frames"]


@pytest.mark.parametrize("lost", [0.0, 0.3, 0.7, 1.0])
def test_a_run_whose_tail_was_lost_goes_on_to_the_very_frames_of_the_uninterrupted_one(
    uninterrupted: Path, interrupted: Path, forces: Any, tmp_path: Path, lost: float
) -> None:
    """In single precision too: frames are rounded as they are written, and nothing is computed from them."""
    shutil.copytree(interrupted, tmp_path / "r")
    last = RunFrames(interrupted).refs[-1].offset
    segment = tmp_path / "r" / "segments" / "0001.traj"
    whole = segment.read_bytes()
    end = last + 8 + int(np.frombuffer(whole[last : last + 8], "<i8")[0])
    segment.write_bytes(whole[: end + round((1 - lost) * (len(whole) - end))])
    with Run.resume(tmp_path / "r", forces.LennardJones()) as run:
        while run.advance():
            pass
        assert run.bitwise
    assert everything(tmp_path / "r") == everything(uninterrupted)


def test_a_run_begun_before_there_were_index_files_is_read_as_well(interrupted: Path, tmp_path: Path) -> None:
    shutil.copytree(interrupted, tmp_path / "r")
    index = tmp_path / "r" / "segments" / "0001.index"
    entries = np.fromfile(index, INDEX)
    lines = [
        json.dumps({"frame": i, "system": int(e["system"]), "step": int(e["step"]), "time_fs": float(e["time_fs"])})
        for i, e in enumerate(entries)
    ]
    index.with_suffix(".jsonl").write_text("\n".join(lines) + "\n")
    index.unlink()
    assert everything(tmp_path / "r") == everything(interrupted)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Runs of any number of frames, written as the engine writes them."""

    def make(n_frames: int) -> Path:
        directory = tmp_path_factory.mktemp("made")
        provider = dict.fromkeys(("sha256", "level_of_theory", "dtype", "device"))
        request = {"kind": "md", "provider": {**provider, "model": "none", "equipot": "0"}, "params": {"seed": 1}}
        (directory / REQUEST).write_text(json.dumps({**request, "system_offset": 0, "structures": [{}]}))
        writer, random = SegmentWriter(directory, 1), np.random.default_rng(1)
        for step in range(n_frames):
            structure = Structure(np.full(64, 14), random.normal(size=(64, 3)), 9 * np.eye(3), (True,) * 3)
            a, b = random.normal(size=(2, 64, 3))
            writer.write(Frame(0, step, float(step), structure, a, 0.5, b, np.arange(6.0)))
        writer.flush()
        writer.close()
        save_checkpoint(directory, {"segments": [{"name": "0001", "n_frames": n_frames}], "thermo_bytes": 0}, {})
        return directory

    return make


@pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="counts the bytes this process has read, as Linux does")
def test_reading_one_frame_reads_no_other(made: Any) -> None:
    """However long the trajectory and wherever the frame: bytes read from files, as the system counts them."""

    def bytes_read() -> int:
        (line,) = [x for x in Path("/proc/self/io").read_text().splitlines() if x.startswith("rchar")]
        return int(line.split()[1])

    costs = {}
    for n_frames in (10, 1000):
        frames = RunFrames(made(n_frames))
        frames[0]
        for k in (1, n_frames // 2, n_frames - 1):
            before = bytes_read()
            frames[k]
            costs[n_frames, k] = bytes_read() - before
    one_frame = 3 * 64 * 3 * 8
    assert max(costs.values()) < 2 * one_frame, costs
    assert max(costs.values()) - min(costs.values()) < 200, costs  # more digits in a record, more in /proc/self/io


def test_another_process_reads_a_run_while_it_grows_and_after_it_was_killed(tmp_path: Path) -> None:
    """Whatever was read at any moment is the beginning of what is read later."""
    directory = tmp_path / "run"
    child = subprocess.Popen([sys.executable, str(SCRIPT), "nvt", str(directory), "100000"], stderr=subprocess.DEVNULL)
    seen: list[list[Any]] = []
    deadline = time.monotonic() + LONGEST_S
    try:
        while len({len(frames) for frames in seen}) < 6 and time.monotonic() < deadline:
            assert child.poll() is None
            if directory.exists():
                seen.append(everything(directory))
            time.sleep(0.05)
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
    seen.append(everything(directory))
    assert len({len(frames) for frames in seen}) >= 6, "it did not grow"
    for early, late in pairwise(seen):
        assert late[: len(early)] == early

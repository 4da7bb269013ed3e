"""GFN2-xTB energies and forces for the `organic` potential: generated here, with RDKit and tblite.

    python -m equipot.models.training.organic_data --out data/organic --processes 2 --seed 0

Every molecule gives a few frames: snapshots of a relaxation, structures displaced as at 100 to 1500 K, stretched and
twisted ones, small molecules also short Langevin dynamics, dimers and clusters.
A molecule's frames depend on the seed and the molecule alone, so neither the
number of processes nor an interruption changes them: work is cut into shards, and a second run does only the
missing ones. Molecules are split into training, validation and test by identity, partners in dimers included.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from equipot.models.training.frames import FrameSet, concatenate, minimum_distances_ang
from equipot.models.training.geometries import n_atoms
from equipot.models.training.labels import LEVEL, SYMBOLS, UNPAIRED, isolated_atom_energies_ev
from equipot.models.training.molecules import everyday_molecules, molecule_list, split_of
from equipot.models.training.organic_frames import MAX_PARTNER_ATOMS, Settings, molecule_frames

MOLECULES_PER_SHARD = 24
MAX_SECONDS_PER_MOLECULE = 120.0  # a molecule that takes longer is given up, so that no run hangs


@dataclass(frozen=True)
class Shard:
    """Some molecules of one split and the file their frames go to."""

    path: Path
    molecules: tuple[str, ...]
    partners: tuple[str, ...]
    settings: Settings


def plan_shards(settings: Settings, out_dir: Path) -> dict[str, list[Shard]]:
    """The shards of each split. Molecules stand in the order of their hash, so that any part is a fair sample."""
    shards: dict[str, list[Shard]] = {"train": [], "valid": [], "test": []}
    light = replace(settings, molecules=())  # what the work on a molecule needs
    ordered = sorted(settings.molecules, key=lambda s: hashlib.sha256(f"order {s}".encode()).digest())
    for split, planned in shards.items():
        members = [s for s in ordered if split_of(s) == split]
        partners = tuple(sorted(s for s in members if n_atoms(s) <= MAX_PARTNER_ATOMS))
        for start in range(0, len(members), MOLECULES_PER_SHARD):
            path = out_dir / "shards" / f"{settings.key}-{split}-{start // MOLECULES_PER_SHARD:04d}.npz"
            planned.append(Shard(path, tuple(members[start : start + MOLECULES_PER_SHARD]), partners, light))
    return shards


def write_shard(shard: Shard) -> Shard:
    """Compute a shard's frames and write its file; a worker process runs this."""
    frames = []
    for smiles in shard.molecules:
        with suppress(TimeoutError), _time_limit(MAX_SECONDS_PER_MOLECULE):
            frames += molecule_frames(smiles, shard.partners, shard.settings)
    FrameSet.from_frames(frames, LEVEL).save(shard.path)
    return shard


def generate(settings: Settings, out_dir: Path, processes: int = 1, show_progress: bool = False) -> dict[str, Any]:
    """Compute the missing shards in `processes` processes, merge, and return the manifest."""
    start = time.perf_counter()
    shards = plan_shards(settings, out_dir)
    total = [s for planned in shards.values() for s in planned]
    # Validation and test are small: compute them early, so that a part of the run is already usable.
    rank = {s.path: (k / len(planned), s.path.name) for planned in shards.values() for k, s in enumerate(planned)}
    todo = sorted((s for s in total if not s.path.exists()), key=lambda s: rank[s.path])
    os.environ["OMP_NUM_THREADS"] = "1"  # read by the children: one thread each, whatever this process has
    with multiprocessing.get_context("spawn").Pool(processes) as workers, _progress(show_progress) as advance:
        advance(len(total) - len(todo), len(total))
        for done, _ in enumerate(workers.imap_unordered(write_shard, todo), start=len(total) - len(todo) + 1):
            advance(done, len(total))
    return merge(settings, out_dir, wall_s=time.perf_counter() - start)


@contextmanager
def _time_limit(seconds: float) -> Iterator[None]:
    """Raises TimeoutError in the body after so long, where the system has alarms (in a main thread, not on Windows)."""

    def stop(*_: object) -> None:
        raise TimeoutError(f"longer than {seconds:g} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextmanager
def _progress(shown: bool) -> Iterator[Callable[[int, int], None]]:
    """A progress bar, if `shown`; gives `advance(done, total)`."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeElapsedColumn, TimeRemainingColumn

    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress("shards", *columns, disable=not shown) as bar:
        task = bar.add_task("shards")
        yield lambda done, total: bar.update(task, completed=done, total=total)


def merge(settings: Settings, out_dir: Path, wall_s: float = 0.0) -> dict[str, Any]:
    """Join the finished shards into train, valid and test ``.npz`` and write `manifest.json`; return the manifest."""
    files: dict[str, Any] = {}
    shards = plan_shards(settings, out_dir)
    complete = True
    for split, planned in shards.items():
        done = [s.path for s in planned if s.path.exists()]
        complete = complete and len(done) == len(planned)
        parts = [FrameSet.load(path) for path in done]
        frames = concatenate([FrameSet.from_frames([], LEVEL), *parts])
        copies = {i for i, what in frames.problems() if "exact copy" in what}  # two atoms move along a line only
        frames = frames.select([i for i in range(len(frames)) if i not in copies]).validate()
        frames.save(out_dir / f"{split}.npz")
        names = {s for group in frames.group.tolist() for s in group.split(".")}
        files[split] = {
            "file": f"{split}.npz",
            "sha256": frames.sha256(),
            "n_frames": frames.n_frames,
            "n_atoms": int(frames.n_atoms.sum()),
            "n_molecules": len(names),
            "charges": {str(q): n for q, n in sorted(Counter(frames.charge.tolist()).items())},
            "config_types": dict(sorted(Counter(frames.config_type.tolist()).items())),
            "minimum_distance_ang": {
                f"{SYMBOLS[a]}-{SYMBOLS[b]}": round(d, 4) for (a, b), d in minimum_distances_ang(frames).items()
            },
        }
    manifest = {
        "format_version": 1,
        "level_of_theory": LEVEL,
        "complete": complete,
        "seed": settings.seed,
        "frames_per_molecule": settings.frames,
        "splits": files,
        "isolated_atom_energies_ev": isolated_atom_energies_ev(),
        "isolated_atom_unpaired_electrons": {SYMBOLS[z]: u for z, u in UNPAIRED.items()},
        "versions": {name: version(name) for name in ("rdkit", "tblite", "numpy")},
        "wall_s": round(wall_s, 1),
    }
    temporary = out_dir / ".manifest.json.tmp"
    temporary.write_text(json.dumps(manifest, indent=2) + "\n")
    temporary.replace(out_dir / "manifest.json")
    return manifest


def main(argv: Sequence[str] | None = None) -> None:
    """Command line: generate the GFN2-xTB frames, or go on with an interrupted run."""
    parser = argparse.ArgumentParser(prog="python -m equipot.models.training.organic_data", description=main.__doc__)
    parser.add_argument("--out", type=Path, default=Path("data/organic"))
    parser.add_argument("--frames", type=float, default=1.0, help="of each molecule, in units of the usual number")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--merge-only", action="store_true", help="join the shards there are, compute nothing")
    arguments = parser.parse_args(argv)
    settings = Settings(arguments.frames, arguments.seed, tuple(molecule_list()), everyday_molecules())
    if arguments.merge_only:
        manifest = merge(settings, arguments.out)
    else:
        manifest = generate(settings, arguments.out, arguments.processes, show_progress=True)
    for name, part in manifest["splits"].items():
        print(f"{name}: {part['n_frames']} frames of {part['n_molecules']} molecules, {part['config_types']}")
    print(f"written to {arguments.out}{'' if manifest['complete'] else ' (not complete yet)'}")


if __name__ == "__main__":
    main()

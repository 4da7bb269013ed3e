"""Published reference data as frames, and the training set of the `elements` potential made from it.

The `elements` sets are VASP PBE at 520 eV throughout (the mlearn benchmark for Li, Si, Ni, Cu, Ge, Mo and its
Nb-Mo-Ta-W companion), so that one energy zero holds for all of them. This is the only module of the training
package that reads files through ASE.

    python -m equipot.models.training.sources --source DIR --out data/elements
"""

from __future__ import annotations

import argparse
import io
import json
import lzma
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
from ase.data import chemical_symbols

from equipot.models.training.frames import Bools, Frame, FrameSet, concatenate, minimum_distances_ang

ELEMENTS_LEVEL = "PBE (VASP, 520 eV)"
MLEARN_ELEMENTS = ("Li", "Si", "Ni", "Cu", "Ge", "Mo")
DUPLICATE_SUFFIX = ":sym_dup"
VALIDATION_SHARE = 0.05
VALIDATION_BLOCK = 3  # neighbouring snapshots are held out together
MIN_STRATUM = 12  # smaller kinds of frames (a dozen surfaces) are needed in training


@dataclass(frozen=True)
class Splits:
    """Training, validation and test frames of one data set."""

    train: FrameSet
    valid: FrameSet
    test: FrameSet


def read_extxyz(path: Path, level_of_theory: str, prefix: str = "") -> FrameSet:
    """All frames with energy and forces in an extended-XYZ file (``.xz`` or plain) that ASE reads.

    `config_type` is the file's own, after `prefix`; frames flagged as symmetry-equivalent to a training frame get
    `DUPLICATE_SUFFIX`. `group` is the set of elements ("Mo-Ta"). Raises ValueError when no frame is labelled.
    """
    text = lzma.open(path, "rt").read() if path.suffix == ".xz" else path.read_text()
    frames = []
    for atoms in ase.io.read(io.StringIO(text), ":", format="extxyz"):
        results: dict[str, Any] = atoms.calc.results if atoms.calc is not None else {}
        if "energy" not in results or "forces" not in results:
            continue
        stress = np.asarray(results.get("stress", np.full(6, np.nan)), dtype=np.float64)
        config = prefix + str(atoms.info.get("config_type", "unknown"))
        if atoms.info.get("sym_dup_in_train"):
            config += DUPLICATE_SUFFIX
        frames.append(
            Frame(
                numbers=np.asarray(atoms.numbers, dtype=np.int64),
                positions_ang=np.asarray(atoms.positions, dtype=np.float64),
                forces_ev_per_ang=np.asarray(results["forces"], dtype=np.float64),
                energy_ev=float(results["energy"]),
                cell_ang=np.asarray(atoms.cell.array, dtype=np.float64),
                pbc=np.asarray(atoms.pbc, dtype=np.bool_),
                stress_ev_per_ang3=stress,
                config_type=config,
                group="-".join(sorted(set(atoms.get_chemical_symbols()))),
            )
        )
    if not frames:
        raise ValueError(f"{path} holds no frame with energy and forces")
    return FrameSet.from_frames(frames, level_of_theory)


def elements_frames(data_dir: Path) -> Splits:
    """Training, validation and test frames of the `elements` potential, from a folder of reference sets.

    The published test files are the test set, unchanged. Validation is taken out of the published training files
    by `validation_mask`. Molybdenum at constant pressure up to 6000 K (`extra_AIMD_NPT`) is outside the mlearn
    protocol, which this set follows, and is left out.
    """
    folders = [(f"mlearn_{e}", f"mlearn_{e}:") for e in MLEARN_ELEMENTS] + [("nbmotaw", "nbmotaw:")]
    train = concatenate([_read(data_dir, name, "train", prefix) for name, prefix in folders])
    test = concatenate([_read(data_dir, name, "test", prefix) for name, prefix in folders])
    train = train.select(first_of_each(train) & ~_copied(train, test))
    held_out = validation_mask(train.config_type.tolist())
    return Splits(train.select(~held_out).validate(), train.select(held_out).validate(), test)


def _read(data_dir: Path, name: str, part: str, prefix: str) -> FrameSet:
    path = data_dir / name / f"{part}.extxyz.xz"
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing; --source must be the folder that holds {name}/")
    return read_extxyz(path, ELEMENTS_LEVEL, prefix)


def validation_mask(strata: Sequence[str]) -> Bools:
    """(n_frames,) true for the ~5 % of each stratum that is held out, a function of order and names only.

    Frames of a stratum stand in their source's order, so neighbours are snapshots of one trajectory. Short blocks
    of neighbours, evenly spread, are held out together: less correlated with training than single random frames.
    """
    held_out = np.zeros(len(strata), dtype=np.bool_)
    names = np.asarray(strata, dtype=np.str_)
    for name in sorted(set(strata)):
        members = np.flatnonzero(names == name)
        if len(members) < MIN_STRATUM:
            continue
        n_valid = max(1, round(VALIDATION_SHARE * len(members)))
        n_blocks = -(-n_valid // VALIDATION_BLOCK)
        sizes = [n_valid // n_blocks + (b < n_valid % n_blocks) for b in range(n_blocks)]
        for b, size in enumerate(sizes):
            start = int((b + 0.5) / n_blocks * len(members)) - size // 2
            held_out[members[start : start + size]] = True
    return held_out


def first_of_each(frames: FrameSet) -> Bools:
    """(n_frames,) false for frames that repeat an earlier one exactly (numbers, positions and cell)."""
    seen: set[bytes] = set()
    first = np.zeros(frames.n_frames, dtype=np.bool_)
    for i, frame in enumerate(frames):
        key = _key(frame)
        first[i] = key not in seen
        seen.add(key)
    return first


def _copied(frames: FrameSet, others: FrameSet) -> Bools:
    """(n_frames,) true for frames that also stand in `others` exactly."""
    keys = {_key(frame) for frame in others}
    return np.array([_key(frame) in keys for frame in frames], dtype=np.bool_)


def _key(frame: Frame) -> bytes:
    arrays = (frame.numbers, np.round(frame.positions_ang, 5) + 0.0, np.round(frame.cell_ang, 5) + 0.0)
    return b"".join(a.tobytes() for a in arrays)


def write_elements(data_dir: Path, out_dir: Path) -> dict[str, Any]:
    """Build the `elements` sets, write train, valid and test ``.npz`` and `manifest.json`; return the manifest."""
    start = time.perf_counter()
    splits = elements_frames(data_dir)
    files: dict[str, Any] = {}
    for name in ("train", "valid", "test"):
        frames: FrameSet = getattr(splits, name)
        frames.save(out_dir / f"{name}.npz")
        files[name] = {
            "file": f"{name}.npz",
            "sha256": frames.sha256(),
            "n_frames": frames.n_frames,
            "n_atoms": int(frames.n_atoms.sum()),
            "n_with_stress": int((~np.isnan(frames.stress_ev_per_ang3[:, 0])).sum()),
            "config_types": dict(sorted(Counter(frames.config_type.tolist()).items())),
        }
    distances = minimum_distances_ang(splits.train)
    manifest = {
        "format_version": 1,
        "level_of_theory": ELEMENTS_LEVEL,
        "sources": "mlearn (BSD-3), snap Nb-Mo-Ta-W (BSD-3), JARVIS/ALIGNN copies of Cu and Ni (public domain)",
        "splits": files,
        "minimum_distance_ang": {
            f"{chemical_symbols[a]}-{chemical_symbols[b]}": round(d, 4) for (a, b), d in distances.items()
        },
        "wall_s": round(time.perf_counter() - start, 1),
    }
    text = json.dumps(manifest, indent=2) + "\n"
    temporary = out_dir / ".manifest.json.tmp"
    temporary.write_text(text)
    temporary.replace(out_dir / "manifest.json")
    return manifest


def main(argv: Sequence[str] | None = None) -> None:
    """Command line: build the `elements` sets."""
    parser = argparse.ArgumentParser(prog="python -m equipot.models.training.sources", description=main.__doc__)
    parser.add_argument("--source", type=Path, required=True, help="folder with mlearn_Li/, ..., nbmotaw/")
    parser.add_argument("--out", type=Path, default=Path("data/elements"))
    arguments = parser.parse_args(argv)
    manifest = write_elements(arguments.source, arguments.out)
    for name, part in manifest["splits"].items():
        print(f"{name}: {part['n_frames']} frames, {part['n_atoms']} atoms, {part['n_with_stress']} with stress")
    print(f"written to {arguments.out} in {manifest['wall_s']} s")


if __name__ == "__main__":
    main()

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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
from ase import units
from ase.data import chemical_symbols

from equipot.models.training.frames import Bools, Frame, FrameSet, Ints, concatenate, minimum_distances_ang
from equipot.models.training.pressure import pressure_offset_ev_per_ang3, with_pressure

ELEMENTS_LEVEL = "PBE (VASP, 520 eV)"
MLEARN_ELEMENTS = ("Li", "Si", "Ni", "Cu", "Ge", "Mo")
DUPLICATE_SUFFIX = ":sym_dup"
VALIDATION_SHARE = 0.05
VALIDATION_BLOCK = 3  # neighbouring snapshots are held out together
SMALLEST_OFFSET_GPA = 0.5
MIN_STRATUM = 12  # smaller kinds of frames (a dozen surfaces) are needed in training


@dataclass(frozen=True)
class Splits:
    """Training, validation and test frames of one data set, and by what pressure the stresses of which were shifted."""

    train: FrameSet
    valid: FrameSet
    test: FrameSet
    stress_shifted_by_gpa: dict[str, float]


def read_extxyz(path: Path, level_of_theory: str, prefix: str = "") -> FrameSet:
    """All frames with energy and forces in an extended-XYZ file (``.xz`` or plain) that ASE reads.

    `config_type` is the file's own, after `prefix`; frames flagged as symmetry-equivalent to a training frame get
    `DUPLICATE_SUFFIX`. `group` is the set of elements ("Mo-Ta"). Raises ValueError when no frame is labelled.
    """
    raw = path.read_bytes()
    text = (lzma.decompress(raw) if path.suffix == ".xz" else raw).decode()
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
    by `validation_mask`, together with every symmetry-equivalent copy of what is taken. Molybdenum at constant
    pressure up to 6000 K (`extra_AIMD_NPT`) is outside the mlearn protocol, which this set follows, and is left
    out. Stresses that disagree with the energies by a constant pressure are shifted by it (`pressure_offsets_gpa`).
    """
    folders = [(f"mlearn_{e}", f"mlearn_{e}:") for e in MLEARN_ELEMENTS] + [("nbmotaw", "nbmotaw:")]
    train = concatenate([_read(data_dir, name, "train", prefix) for name, prefix in folders])
    test = concatenate([_read(data_dir, name, "test", prefix) for name, prefix in folders])
    train = train.select(first_of_each(train) & ~_copied(train, test))
    offsets_gpa = pressure_offsets_gpa(train)
    train, test = consistent(train, offsets_gpa), consistent(test, offsets_gpa)
    held_out = validation_mask(train.config_type.tolist())
    twins = twin_classes(train)
    held_out = np.isin(twins, twins[held_out])
    return Splits(train.select(~held_out).validate(), train.select(held_out).validate(), test, offsets_gpa)


def pressure_offsets_gpa(frames: FrameSet) -> dict[str, float]:
    """What the stresses of each source's strained crystals lack to agree with its energies (see pressure.py), if it is
    more than such pairs of crystals can tell.

    The key is the start of the `config_type` of all its frames of that element, "mlearn_Cu:" or "nbmotaw:Mo_".
    """
    found = {}
    for config_type in sorted(set(frames.config_type.tolist())):
        if config_type.endswith("Elastic"):
            offset = pressure_offset_ev_per_ang3(frames.select(frames.config_type == config_type))
            if offset is not None and abs(offset) > SMALLEST_OFFSET_GPA * units.GPa:
                found[config_type.removesuffix("Elastic")] = round(offset / units.GPa, 2)
    return found


def consistent(frames: FrameSet, offsets_gpa: Mapping[str, float]) -> FrameSet:
    """The same frames, each source's stresses of an element shifted by its pressure offset."""
    for source, offset_gpa in offsets_gpa.items():
        frames = with_pressure(frames, np.char.startswith(frames.config_type, source), offset_gpa * units.GPa)
    return frames


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


def twin_classes(frames: FrameSet) -> Ints:
    """(n_frames,) a number shared by frames that are the same structure up to symmetry.

    Strained cells come in symmetry-equivalent copies. They are told by elements, size, energy (within 1 meV), and
    a sum over all pairs of atoms within 5 Å that depends on distances and elements alone.
    """
    classes = np.arange(frames.n_frames, dtype=np.int64)
    distance_sum = cache(lambda i: _distance_sum(frames.frame(i)))
    order = np.lexsort((frames.energy_ev, frames.n_atoms, frames.group)).tolist()
    for k, here in enumerate(order):
        for before in reversed(order[:k]):
            alike = frames.group[before] == frames.group[here] and frames.n_atoms[before] == frames.n_atoms[here]
            if not alike or frames.energy_ev[here] - frames.energy_ev[before] > 1e-3:
                break
            if abs(distance_sum(before) - distance_sum(here)) < 1e-5 * distance_sum(here):
                classes[here] = classes[before]
                break
    return classes


def _distance_sum(frame: Frame, cutoff_ang: float = 5.0) -> float:
    steps = np.array([(a, b, c) for a in range(-2, 3) for b in range(-2, 3) for c in range(-2, 3)])
    images = frame.positions_ang[None] + (steps @ frame.cell_ang)[:, None]
    distance = np.linalg.norm(images[None] - frame.positions_ang[:, None, None], axis=-1)
    weight = np.where((distance < cutoff_ang) & (distance > 0.1), (1 - distance / cutoff_ang) ** 2, 0.0)
    return float(np.einsum("i,isj,j->", frame.numbers, weight, frame.numbers) / len(frame.numbers))


def free_atoms_ev(data_dir: Path, elements: Sequence[str]) -> dict[str, dict[str, float]]:
    """Energy of a free atom (eV), as half the energy of the most distant homonuclear pair in `diatomics_pbe`.

    Per element: `energy_ev`, the distance `at_ang`, and the force left there, `residual_force_ev_per_ang` (zero
    where the curve is flat). The curves are spin-polarised PBE with newer potentials than the `elements` sets:
    good to about 0.1 eV, for a physical zero of energy and not for training on. Elements without a curve are
    left out.
    """
    path = data_dir / "diatomics_pbe" / "curves.extxyz.xz"
    if not path.exists():
        return {}
    curves = read_extxyz(path, "PBE (VASP, diatomics)")
    found: dict[str, dict[str, float]] = {}
    for element in elements:
        members = np.flatnonzero(curves.config_type == f"diatomic_{element}-{element}")
        if len(members) == 0:
            continue
        pairs = [curves.frame(int(i)) for i in members]
        distances = [float(np.linalg.norm(p.positions_ang[1] - p.positions_ang[0])) for p in pairs]
        farthest = pairs[int(np.argmax(distances))]
        found[element] = {
            "energy_ev": round(farthest.energy_ev / 2, 6),
            "at_ang": round(max(distances), 3),
            "residual_force_ev_per_ang": round(float(np.abs(farthest.forces_ev_per_ang).max()), 4),
        }
    return found


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
    elements = sorted({e for group in splits.train.group.tolist() for e in group.split("-")})
    manifest = {
        "format_version": 1,
        "level_of_theory": ELEMENTS_LEVEL,
        "sources": "mlearn (BSD-3), snap Nb-Mo-Ta-W (BSD-3), JARVIS/ALIGNN copies of Cu and Ni (public domain)",
        "splits": files,
        "stress_shifted_by_gpa": splits.stress_shifted_by_gpa,
        "free_atoms_ev": free_atoms_ev(data_dir, elements),
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

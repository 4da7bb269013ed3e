"""DFT data of organic molecules for further levels of theory of `organic`, from public sets with permissive licences.

    python -m equipot.models.training.organic_heads --source DIR --out data/organic/heads

DIR holds a folder for each set with extended XYZ files in eV and Å (docs/models.md names sources and licences). Each
level becomes LEVEL-train.npz, LEVEL-valid.npz and, where there is one, LEVEL-test.npz, spread over the molecules.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from equipot.models.training.frames import FrameSet, concatenate
from equipot.models.training.reading import FileSpec, read_data_file

RMD17 = "aspirin azobenzene benzene ethanol malonaldehyde naphthalene paracetamol salicylic toluene uracil".split()


@dataclass(frozen=True)
class Part:
    """Up to `most` frames of a file, evenly spread; `group` says what they are of."""

    path: str
    group: str
    most: int = 10**6


@dataclass(frozen=True)
class Level:
    """Files of one level of theory."""

    name: str
    level_of_theory: str
    train: tuple[Part, ...]
    test: tuple[Part, ...] = ()
    n_valid: int = 60


LEVELS = (
    Level(
        "pbe",
        "PBE/def2-SVP",
        (
            *(Part(f"rmd17/{name}/train.extxyz.xz", name, 300) for name in RMD17),
            Part("ethanol/isolated_atoms.extxyz.xz", "atoms"),
            Part("ethanol/train.extxyz.xz", "ethanol", 500),
            Part("ethanol/train_methanol.extxyz.xz", "methanol"),
        ),
        tuple(Part(f"rmd17/{name}/test.extxyz.xz", name, 100) for name in RMD17),
    ),
    Level(
        "pbe-d3",
        "PBE-D3/def2-SVP",
        (
            Part("acac/isolated_atoms.extxyz.xz", "atoms"),
            Part("acac/train.extxyz.xz", "acetylacetone"),
            Part("acac/train_600K.extxyz.xz", "acetylacetone"),
        ),
        (Part("acac/test_MD_600K.extxyz.xz", "acetylacetone", 300),),
    ),
    Level(
        "wb97x",
        "wB97X/6-31G(d)",
        (
            Part("3bpa/isolated_atoms.extxyz.xz", "atoms"),
            Part("3bpa/train.extxyz.xz", "3bpa"),
            Part("3bpa/train_mixedT.extxyz.xz", "3bpa"),
        ),
        (Part("s66x8_comp6/test.extxyz.xz", "s66x8"),),
    ),
    Level(
        "wb97m",
        "wB97M-D3(BJ)/def2-TZVPPD",
        (Part("spice_dipeptides/train.extxyz.xz", "dipeptides"),),
        (Part("spice_dipeptides/test.extxyz.xz", "dipeptides"),),
        n_valid=30,
    ),
)


def read_part(part: Part, folder: Path, level_of_theory: str) -> FrameSet:
    """The frames of a part, labelled with its group; copies inside the part are left out."""
    frames = read_data_file(FileSpec(path=folder / part.path), level_of_theory).frames
    chosen = np.unique(np.linspace(0, len(frames) - 1, min(part.most, len(frames))).round().astype(int))
    frames = frames.select(chosen)
    kind = [k if part.group == "atoms" else part.group for k in frames.config_type.tolist()]
    named = {"group": np.full(len(frames), part.group), "config_type": np.array(kind, dtype=np.str_)}
    return replace(frames, **named)


def write_level(level: Level, source: Path, out: Path) -> dict[str, FrameSet]:
    """Write the files of a level; gives what is in them."""
    train = concatenate([read_part(part, source, level.level_of_theory) for part in level.train])
    repeated = {i for i, what in train.problems(need_forces=False) if "exact copy" in what}
    train = train.select([i for i in range(len(train)) if i not in repeated])
    molecules = np.flatnonzero(train.group != "atoms")
    held_out = np.random.default_rng(0).permutation(molecules)[: level.n_valid]
    sets = {"train": train.select(np.setdiff1d(np.arange(len(train)), held_out)), "valid": train.select(held_out)}
    if level.test:
        sets["test"] = concatenate([read_part(part, source, level.level_of_theory) for part in level.test])
    for name, frames in sets.items():
        frames.save(out / f"{level.name}-{name}.npz")
    return sets


def main(argv: Sequence[str] | None = None) -> None:
    """Command line: convert the DFT sets of the further levels of theory."""
    parser = argparse.ArgumentParser(prog="python -m equipot.models.training.organic_heads", description=main.__doc__)
    parser.add_argument("--source", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("data/organic/heads"))
    arguments = parser.parse_args(argv)
    for level in LEVELS:
        sets = write_level(level, arguments.source, arguments.out)
        counts = ", ".join(f"{name} {len(frames)}" for name, frames in sets.items())
        print(f"{level.level_of_theory}: {counts}")


if __name__ == "__main__":
    main()

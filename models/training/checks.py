"""Everything that is wrong with training data, found before anything is written.

Problems of frames name the file and the index of the frame in it; all are collected, and the first twenty shown.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from equipot.elements import SYMBOLS, signed
from equipot.errors import Culprit
from equipot.models.training.frames import ARE_UNITS_RIGHT, FrameError, frame_key
from equipot.models.training.plausibility import doubts_about
from equipot.models.training.reading import DataFile, Problem
from equipot.models.training.reference import is_isolated_atom

SHOWN = 20


def with_forces_of_single_atoms(data: DataFile) -> DataFile:
    """A single atom has no force on it, whether the file says so or not."""
    frames = data.frames
    alone = np.repeat(is_isolated_atom(frames) & frames.has_no_forces, frames.n_atoms)
    forces = np.where(alone[:, None], 0.0, frames.forces_ev_per_ang)
    return replace(data, frames=replace(frames, forces_ev_per_ang=forces))


def problems_of(
    data: DataFile,
    *,
    need_forces: bool = True,
    elements: Sequence[int] | None = None,
    charges: Sequence[int] | None = None,
) -> list[Problem]:
    """What is wrong with single frames of a file; `elements` and `charges` are those a potential is made for."""
    frames = data.frames
    found = [(i, what) for i, what in frames.problems(need_forces=need_forces, copies=False)]
    if elements is not None:
        for i, frame in enumerate(frames):
            foreign = sorted(set(frame.numbers.tolist()) - set(elements))
            if foreign:
                names = ", ".join(SYMBOLS[z] if 0 < z < len(SYMBOLS) else str(z) for z in foreign)
                found.append((i, f"has {names}, which the potential is not made for"))
    if charges is not None:
        found += [
            (i, f"has a charge of {charge:+d} e, which the potential is not made for (it knows {signed(charges)})")
            for i, charge in enumerate(frames.charge.tolist())
            if charge not in charges
        ]
    problems = [Problem(data.path, int(data.index[i]), what) for i, what in found]
    return sorted([*data.problems, *problems], key=lambda problem: problem.index)


def copies_among(files: Sequence[DataFile]) -> list[Problem]:
    """Frames whose structure stands in an earlier frame already, and whether the labels agree."""
    seen: dict[bytes, tuple[Path, int, float]] = {}
    problems = []
    for data in files:
        for index, frame in zip(data.index.tolist(), data.frames, strict=True):
            key = frame_key(frame)
            if key not in seen:
                seen[key] = (data.path, index, frame.energy_ev)
                continue
            path, other, energy_ev = seen[key]
            where = f"frame {other}" if path == data.path else f"frame {other} of {path}"
            labels = "" if energy_ev == frame.energy_ev else f", with another energy ({energy_ev} eV there)"
            problems.append(Problem(data.path, index, f"is an exact copy of {where}{labels}"))
    return problems


def unit_doubts(files: Sequence[DataFile], reference_ev: Mapping[int, float] | None = None) -> list[str]:
    """What speaks against the units of each file (plausibility.py)."""
    doubts = [(data.path, doubt) for data in files for doubt in doubts_about(data.frames, reference_ev)]
    return [f"{path}: {doubt}" + ("" if doubt.endswith("?") else ".") for path, doubt in doubts]


def check_units(files: Sequence[DataFile], reference_ev: Mapping[int, float] | None) -> None:
    """Raise FrameError if units of a file look wrong."""
    doubts = unit_doubts(files, reference_ev)
    if doubts:
        raise FrameError(
            "The units of the data look wrong:\n" + "\n".join(doubts),
            hint="Say the units in the configuration (data: units: {energy: Hartree, ...}); if they are right as they "
            "are, data: trust_units: true goes on.",
        )


def without(files: Sequence[DataFile], problems: Sequence[Problem]) -> list[DataFile]:
    """The files without the frames that have problems."""
    bad = {(problem.path, problem.index) for problem in problems}
    cleaned = []
    for data in files:
        good = np.array([(data.path, index) not in bad for index in data.index.tolist()], dtype=np.bool_)
        cleaned.append(replace(data.select(good), problems=()))
    return cleaned


def refuse(problems: Sequence[Problem], files: Sequence[DataFile]) -> None:
    """Raise FrameError that names the first twenty problems of the files, if there are any.

    Where numbers are absurd, it is said which units would explain them.
    """
    if not problems:
        return
    n_bad = len({(problem.path, problem.index) for problem in problems})
    n_frames = sum(len(data.frames) + len(data.problems) for data in files)
    absurd = {problem.path for problem in problems if problem.what.endswith(ARE_UNITS_RIGHT)}
    others = [problem for problem in problems if not problem.what.endswith(ARE_UNITS_RIGHT)]
    doubts = unit_doubts([data for data in without(files, others) if data.path in absurd])
    raise FrameError(
        "\n".join([f"{n_bad} of {n_frames} frames cannot be used:", listed(problems), *doubts]),
        hint="Correct or remove them; --skip-bad-frames (data: skip_bad_frames: true) goes on without them.",
        culprits=[Culprit(f"/{p.path}/{p.index}", str(p)) for p in problems[:SHOWN]],
    )


def listed(problems: Sequence[Problem]) -> str:
    """The first twenty, one to a line, and how many more there are."""
    lines = [str(problem) for problem in problems[:SHOWN]]
    if len(problems) > SHOWN:
        lines.append(f"and {len(problems) - SHOWN} more")
    return "\n".join(lines)

"""From the files of a configuration to the frames of a training: checked, split, with the energies of free atoms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from equipot.elements import SYMBOLS
from equipot.errors import InvalidParameterError
from equipot.models.training.checks import (
    check_units,
    copies_among,
    listed,
    problems_of,
    refuse,
    with_forces_of_single_atoms,
    without,
)
from equipot.models.training.config import Split, TrainingConfig
from equipot.models.training.frames import FrameSet, concatenate, frame_key
from equipot.models.training.reading import DataFile, FileSpec, read_data_file
from equipot.models.training.reference import (
    by_number,
    fit_isolated_atom_energies,
    is_isolated_atom,
    isolated_atom_energies,
)

REFERENCE_SENTENCES = {
    "given": "Free atoms as given in the configuration.",
    "frames": "Total energies of the data; free atoms from their frames of single atoms.",
    "fit": "Total energies of the data; the energies of atoms are fitted to them by least squares, so an atom alone "
    "has the mean energy of a bound one.",
}


@dataclass(frozen=True, eq=False)
class TrainingData:
    """What a training works with. `reference_ev` (119,) by atomic number; `sha256` by path, as the card has them."""

    train: FrameSet
    valid: FrameSet
    tests: dict[str, FrameSet]
    reference_ev: np.ndarray
    sha256: dict[str, str]
    remarks: list[str]
    level_of_theory: str = ""
    others: tuple[TrainingData, ...] = ()  # further levels of theory
    weight: float = 1.0

    @property
    def levels(self) -> tuple[TrainingData, ...]:
        """The data of every level of theory, this one first."""
        return (self, *self.others)

    @property
    def charges(self) -> tuple[int, ...]:
        """Total charges in the training frames of all levels."""
        return tuple(sorted({int(q) for level in self.levels for q in np.unique(level.train.charge)}))

    @property
    def elements(self) -> list[int]:
        """Atomic numbers the potential is made for."""
        return [int(z) for z in np.flatnonzero(~np.isnan(self.reference_ev))]

    @property
    def isolated_atom_energies_ev(self) -> dict[str, float]:
        """Energy of each free atom by symbol."""
        return {SYMBOLS[z]: float(self.reference_ev[z]) for z in self.elements}


def load_training_data(config: TrainingConfig) -> TrainingData:
    """Read and check every file. Raises FrameError or InvalidParameterError; nothing has been written then."""
    first = _level(config)
    others = []
    for head in config.heads:
        changes = {"level_of_theory": head.level_of_theory, "data": head.data, "heads": []}
        changes["isolated_atom_energies_ev"] = head.isolated_atom_energies_ev
        level = replace(_level(config.model_copy(update=changes)), weight=head.weight)
        strangers = [SYMBOLS[z] for z in level.elements if z not in first.elements]
        if strangers:
            raise InvalidParameterError(
                f"{head.level_of_theory} has {', '.join(strangers)}, which the first level of theory does not know.",
                pointer="/heads",
            )
        others.append(level)
    sha256 = {path: digest for level in (first, *others) for path, digest in level.sha256.items()}
    remarks = [*first.remarks, *(f"{o.level_of_theory}: {remark}" for o in others for remark in o.remarks)]
    return replace(first, others=tuple(others), sha256=sha256, remarks=remarks)


def _level(config: TrainingConfig) -> TrainingData:
    """The data of one level of theory."""
    part = config.data
    train = [_read(spec, config) for spec in part.train]
    valid = [] if isinstance(part.valid, Split) else [_read(part.valid, config)]
    tests = {name: _read(spec, config) for name, spec in part.tests.items()}
    given = config.isolated_atom_energies_ev
    elements = sorted(by_number(given)) if isinstance(given, dict) else None

    everything = [*train, *valid, *tests.values()]
    problems = [problem for data in everything for problem in problems_of(data, elements=elements)]
    problems += copies_among([*train, *valid])
    if not part.skip_bad_frames:
        refuse(problems, everything)
    remarks = [remark for data in everything for remark in data.remarks]
    if problems:
        remarks.append(f"Left out because they cannot be used:\n{listed(problems)}")
    train, valid = without(train, problems), without(valid, problems)
    tests = dict(zip(tests, without(list(tests.values()), problems), strict=True))
    remarks += _leaks(train, tests)

    together = concatenate([data.frames for data in train])
    reference = _reference(config, together)
    _refuse_unknown_elements([*train, *valid, *tests.values()], reference)
    if not part.trust_units:
        check_units([*train, *valid], reference if given != "fit" else None)
    together = together.select(~is_isolated_atom(together))
    parts = {}
    for name, frames in zip(("training", "validation"), _split(config, together, valid), strict=True):
        parts[name] = _within_force_limit(frames, part.max_force_ev_per_ang, name)
        if n_left_out := len(frames) - len(parts[name]):
            limit = f"{part.max_force_ev_per_ang:g} eV/Å (max_force_ev_per_ang)"
            remarks.append(f"{n_left_out} of {len(frames)} {name} frames left out: a force is above {limit}.")
    reference_ev = np.full(119, np.nan)
    reference_ev[list(reference)] = list(reference.values())
    return TrainingData(
        train=parts["training"],
        valid=parts["validation"],
        tests={name: data.frames for name, data in tests.items()},
        reference_ev=reference_ev,
        sha256={data.path.as_posix(): data.sha256 for data in everything},
        remarks=remarks,
        level_of_theory=config.level_of_theory,
    )


def _read(spec: FileSpec, config: TrainingConfig) -> DataFile:
    data = read_data_file(spec, config.level_of_theory, config.data.keys, config.data.units)
    return with_forces_of_single_atoms(data)


def _reference(config: TrainingConfig, train: FrameSet) -> dict[int, float]:
    """Energy of the free atom of each element of the potential."""
    given = config.isolated_atom_energies_ev
    if isinstance(given, dict):
        return by_number(given)
    elements = sorted({int(z) for z in np.unique(train.numbers)})
    if given == "fit":
        return fit_isolated_atom_energies(train.select(~is_isolated_atom(train)), elements)
    found = isolated_atom_energies(train)
    missing = [SYMBOLS[z] for z in elements if z not in found]
    if missing:
        raise InvalidParameterError(
            f"The training data have no frame of a single atom of {', '.join(missing)}.",
            pointer="/isolated_atom_energies_ev",
            hint='Add a file of isolated atoms (config_type IsolatedAtom), give the energies, or say "fit".',
        )
    return found


def _refuse_unknown_elements(files: Sequence[DataFile], reference: dict[int, float]) -> None:
    problems = [
        problem
        for data in files
        if not set(np.unique(data.frames.numbers).tolist()) <= set(reference)
        for problem in problems_of(data, elements=sorted(reference))
    ]
    refuse(problems, files)


def _split(config: TrainingConfig, train: FrameSet, valid: Sequence[DataFile]) -> tuple[FrameSet, FrameSet]:
    """Training and validation frames, in the order of their files."""
    part = config.data
    if isinstance(part.valid, FileSpec):
        frames = valid[0].frames
        frames = frames.select(~is_isolated_atom(frames))
        stride = max(1, len(frames) // part.n_valid)
        return train, frames.select(np.arange(0, len(frames), stride))
    n_valid = part.valid.n_frames or max(1, round(len(train) * (part.valid.fraction or 0.0)))
    if n_valid >= len(train):
        raise InvalidParameterError(
            f"{n_valid} validation frames cannot be taken out of {len(train)}.", pointer="/data/valid/n_frames"
        )
    held_out = np.zeros(len(train), dtype=np.bool_)
    held_out[np.random.default_rng(part.split_seed).permutation(len(train))[:n_valid]] = True
    return train.select(~held_out), train.select(held_out)


def _within_force_limit(frames: FrameSet, limit_ev_per_ang: float, name: str) -> FrameSet:
    largest = np.zeros(len(frames))
    np.maximum.at(largest, frames.frame_idx, np.abs(frames.forces_ev_per_ang).max(axis=1, initial=0.0))
    chosen = frames.select(largest <= limit_ev_per_ang)
    if not len(chosen):
        raise InvalidParameterError(
            f"No {name} frame is left with all forces below {limit_ev_per_ang:g} eV/Å.",
            pointer="/data/max_force_ev_per_ang",
            hint="Raise data: max_force_ev_per_ang if such forces are meant.",
        )
    return chosen


def _leaks(train: Sequence[DataFile], tests: dict[str, DataFile]) -> list[str]:
    """A remark on every test set that holds training frames."""
    known = {frame_key(frame) for data in train for frame in data.frames}
    remarks = []
    for name, data in tests.items():
        copies = [int(i) for i, frame in zip(data.index, data.frames, strict=True) if frame_key(frame) in known]
        if copies:
            shown = ", ".join(map(str, copies[:5])) + ("…" if len(copies) > 5 else "")
            remarks.append(f"Test set {name!r}: {len(copies)} of {len(data.frames)} frames are trained on ({shown}).")
    return remarks

"""What the formats share: a frame of a file, what comes out of reading it, and the bounds."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from io import StringIO

import numpy as np
from ase import Atoms
from ase.io import read as ase_read

from equipot.errors import InvalidStructureError, SystemTooLargeError
from equipot.structure import MAX_ATOMS

MAX_COMMENT_CHARS = 10_000
MAX_COLUMNS = 64
COUNT = re.compile(r"\d{1,6}")
#: symbol of a hydrogen isotope and its mass in u
HYDROGEN_ISOTOPES_U = {"D": 2.014, "T": 3.016}


@dataclass(frozen=True)
class Frame:
    """The text of one structure in a file and the line it starts at (1 is the first)."""

    text: str
    line: int = 1


@dataclass(frozen=True)
class Reading:
    """The Atoms of one frame, with `charge` and `spin_multiplicity` in info where the file has them, and remarks."""

    atoms: Atoms
    warnings: list[str] = field(default_factory=list)


def read_with_ase(text: str, ase_format: str) -> Atoms:
    """One structure read by ASE from text, in a named format: no file is opened, nothing is guessed."""
    atoms = ase_read(StringIO(text), format=ase_format, index=0)
    assert isinstance(atoms, Atoms)
    return atoms


def atom_count(word: str, line: int) -> int:
    """A number of atoms, refused before anything of that size is made."""
    if not COUNT.fullmatch(word):
        raise InvalidStructureError(
            f"Line {line} must be a number of atoms, got {shortened(word)}.",
            hint="Is this the format the file is in?",
        )
    if int(word) == 0:
        raise InvalidStructureError(f"Line {line} says there are no atoms.")
    refuse_too_many(int(word))
    return int(word)


def refuse_too_many(n_atoms: int) -> None:
    """Raise SystemTooLargeError above the number of atoms that is accepted anyway."""
    if n_atoms > MAX_ATOMS:
        raise SystemTooLargeError(
            f"The structure has {n_atoms} atoms; at most {MAX_ATOMS} are accepted.",
            hint="Submit a smaller cell or cluster.",
        )


def refuse_no_coordinates(atoms: Atoms) -> None:
    """Raise InvalidStructureError for files that list atoms and bonds but hold no places."""
    if len(atoms) > 1 and not np.any(atoms.positions):
        raise InvalidStructureError(
            "The file holds no coordinates: every atom is at the origin.",
            hint="Generate 3D coordinates first (RDKit, Open Babel).",
        )


def with_isotopes(atoms: Atoms, masses_u: Iterable[tuple[int, float]]) -> Atoms:
    """Give atoms the masses (index, u) that their symbols said."""
    masses = atoms.get_masses()
    changed = False
    for index, mass in masses_u:
        masses[index] = mass
        changed = True
    if changed:
        atoms.set_masses(masses)
    return atoms


def shortened(text: str) -> str:
    """A piece of a file, fit for a message."""
    text = text.strip()
    return repr(text if len(text) <= 40 else text[:37] + "...")

"""VASP's POSCAR and CONTCAR. Periodic in three directions by definition; selective dynamics becomes fixed atoms."""

from __future__ import annotations

from equipot.calculator.formats.frame import (
    HYDROGEN_ISOTOPES_U,
    MAX_COMMENT_CHARS,
    Frame,
    Reading,
    atom_count,
    read_with_ase,
    refuse_too_many,
    with_isotopes,
)
from equipot.elements import NUMBERS
from equipot.errors import InvalidStructureError

MAX_SPECIES_BLOCKS = 10_000


def frames(text: str) -> list[Frame]:
    """The one structure of the file. Raises InvalidStructureError if it is truncated or names no elements."""
    lines = text.split("\n")
    if len(lines) < 8:
        raise InvalidStructureError("The file is too short for a POSCAR.", hint="Is this the format the file is in?")
    if any(len(line) > MAX_COMMENT_CHARS for line in lines[:8]):
        raise InvalidStructureError(f"A line of the header is longer than {MAX_COMMENT_CHARS} characters.")
    names, counts_line = _species(lines)
    counts = [atom_count(word, counts_line + 1) for word in _before_comment(lines[counts_line])]
    if not counts or (names and len(names) < len(counts)) or len(counts) > MAX_SPECIES_BLOCKS:
        raise InvalidStructureError(
            f"Line {counts_line + 1} must give one number of atoms for each element.",
            hint="Line 6 holds the elements, line 7 their numbers.",
        )
    n_atoms = sum(counts)
    refuse_too_many(n_atoms)
    selective = lines[counts_line + 1].strip()[:1].lower() == "s"
    n_rows = sum(1 for line in lines[counts_line + 2 + selective :] if line.strip())
    if n_rows < n_atoms:
        raise InvalidStructureError(
            f"The file is truncated: {n_atoms} atoms are announced, {n_rows} lines follow.",
            hint="Was the file written to its end?",
        )
    return [Frame(text)]


def read(frame: Frame) -> Reading:
    """The structure, with D and T as hydrogen of their mass."""
    lines = frame.text.split("\n")
    names, counts_line = _species(lines)
    elements = [name.split("/")[0].split("_")[0] for name in names]
    counts = [int(word) for word in _before_comment(lines[counts_line])]
    heavy = []
    start = 0
    for element, count in zip(elements, counts, strict=False):
        if element in HYDROGEN_ISOTOPES_U:
            heavy += [(index, HYDROGEN_ISOTOPES_U[element]) for index in range(start, start + count)]
        start += count
    if heavy:
        lines[counts_line - 1] = " ".join("H" if element in HYDROGEN_ISOTOPES_U else element for element in elements)
    return Reading(with_isotopes(read_with_ase("\n".join(lines), "vasp"), heavy))


def _species(lines: list[str]) -> tuple[list[str], int]:
    """Names of the elements, if the file has a line for them, and the index of the line with the counts."""
    words = lines[5].split()
    if words and not words[0].isdigit():
        return words, 6
    if not any(word.strip("0123456789") in NUMBERS for word in lines[0].split()):
        raise InvalidStructureError(
            "The file does not name its elements.",
            hint="Write them on line 6, before the numbers of atoms (the format of VASP 5).",
        )
    return [], 5


def _before_comment(line: str) -> list[str]:
    return line.split("!")[0].split()

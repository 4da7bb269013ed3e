"""Plain and extended XYZ: a count, a comment, one row for each atom; frames follow each other.

Both are read as extended XYZ when the comment says `key=value` of that format, else as plain XYZ, in which a comment
means nothing. D and T are hydrogen.
"""

from __future__ import annotations

import re

from equipot.calculator.formats.frame import (
    HYDROGEN_ISOTOPES_U,
    MAX_COLUMNS,
    MAX_COMMENT_CHARS,
    Frame,
    Reading,
    atom_count,
    read_with_ase,
    shortened,
    with_isotopes,
)
from equipot.errors import InvalidStructureError

EXTENDED = re.compile(r"\b(Properties|Lattice|pbc|charge|total_charge|spin_multiplicity|multiplicity)\s*=")
PROPERTIES = re.compile(r"\bProperties\s*=\s*[\"']?([^\s\"']+)")
#: other names for the two quantities that decide whether a potential may be used at all
SYNONYMS = {"total_charge": "charge", "multiplicity": "spin_multiplicity"}


def frames(text: str) -> list[Frame]:
    """The frames of the file. Raises InvalidStructureError for a wrong count, a truncated frame or wild columns."""
    lines = text.split("\n")
    while lines and not lines[-1].strip():
        lines.pop()
    found = []
    start = 0
    while start < len(lines):
        n_atoms = atom_count(lines[start].strip(), start + 1)
        rows = lines[start + 2 : start + 2 + n_atoms]
        if len(rows) < n_atoms:
            raise InvalidStructureError(
                f"The file is truncated: line {start + 1} says {n_atoms} atoms, {len(rows)} follow.",
                hint="Was the file written to its end?",
            )
        _check_comment(lines[start + 1] if start + 1 < len(lines) else "", start + 2)
        found.append(Frame("\n".join(lines[start : start + 2 + n_atoms]) + "\n", start + 1))
        start += 2 + n_atoms
    return found


def read(frame: Frame) -> Reading:
    """One frame. A charge or a multiplicity in the comment is kept."""
    lines = frame.text.split("\n")
    extended = EXTENDED.search(lines[1]) is not None
    heavy = _replace_isotopes(lines, _symbol_column(lines[1]) if extended else 0)
    atoms = read_with_ase("\n".join(lines), "extxyz" if extended else "xyz")
    for synonym, key in SYNONYMS.items():
        if synonym in atoms.info:
            atoms.info[key] = atoms.info.pop(synonym)
    warnings = []
    if "spin" in atoms.info:
        warnings.append("'spin' is ignored: it means different things; write spin_multiplicity=2S+1.")
    if vectors := sorted({"vel", "velo", "velocity", "velocities"} & set(atoms.arrays)):
        warnings.append(f"The column {vectors[0]!r} is ignored: its unit is not known. Use momenta, as ASE writes.")
    return Reading(with_isotopes(atoms, heavy), warnings)


def _check_comment(comment: str, line: int) -> None:
    if len(comment) > MAX_COMMENT_CHARS:
        raise InvalidStructureError(f"The comment on line {line} is longer than {MAX_COMMENT_CHARS} characters.")
    widths = [width for _, _, width in _columns(comment)]
    if any(not re.fullmatch(r"\d{1,2}", width) for width in widths) or sum(map(int, widths)) > MAX_COLUMNS:
        raise InvalidStructureError(
            f"Properties on line {line} is malformed or declares more than {MAX_COLUMNS} columns.",
            hint="It reads name:type:columns, as in species:S:1:pos:R:3.",
        )


def _columns(comment: str) -> list[tuple[str, str, str]]:
    """(name, type, width) of each declared property; a broken declaration gives a width that is not a number."""
    match = PROPERTIES.search(comment)
    if match is None:
        return []
    words = match.group(1).split(":")
    if len(words) % 3:
        return [("", "", shortened(match.group(1)))]
    return list(zip(words[::3], words[1::3], words[2::3], strict=True))


def _symbol_column(comment: str) -> int | None:
    column = 0
    columns = _columns(comment)
    for name, _, width in columns:
        if name in ("species", "symbols"):
            return column
        column += int(width)
    return None if columns else 0


def _replace_isotopes(lines: list[str], column: int | None) -> list[tuple[int, float]]:
    """Write H for D and T in place; the answer says which atoms and their masses in u."""
    heavy: list[tuple[int, float]] = []
    if column is None:
        return heavy
    for index, line in enumerate(lines[2:]):
        words = line.split()
        if len(words) > column and words[column] in HYDROGEN_ISOTOPES_U:
            heavy.append((index, HYDROGEN_ISOTOPES_U[words[column]]))
            words[column] = "H"
            lines[2 + index] = " ".join(words)
    return heavy

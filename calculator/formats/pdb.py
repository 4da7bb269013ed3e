"""Protein Data Bank files: the asymmetric unit, so only space group P 1 says what the cell holds."""

from __future__ import annotations

import re

from equipot.calculator.formats.frame import (
    HYDROGEN_ISOTOPES_U,
    Frame,
    Reading,
    read_with_ase,
    refuse_too_many,
    with_isotopes,
)
from equipot.errors import InvalidStructureError

ATOM_RECORDS = ("ATOM  ", "HETATM")


def frames(text: str) -> list[Frame]:
    """The models of the file; CRYST1 counts for all of them."""
    crystal = ""
    found: list[Frame] = []
    atoms: list[str] = []
    first = 1
    for number, line in enumerate([*text.split("\n"), "END"], start=1):
        if line.startswith("CRYST1"):
            crystal = line + "\n"
        elif line.startswith(ATOM_RECORDS):
            first = first if atoms else number
            atoms.append(line)
        elif line.startswith("END") and atoms:
            refuse_too_many(len(atoms))
            found.append(Frame(crystal + "\n".join(atoms) + "\nEND\n", first))
            atoms = []
    return found


def read(frame: Frame) -> Reading:
    """One model. Raises InvalidStructureError for alternate places of atoms, partial occupancy and symmetry."""
    lines = frame.text.split("\n")
    warnings: list[str] = []
    if lines[0].startswith("CRYST1") and not _keep_cell(lines[0], warnings):
        lines.pop(0)
    heavy = []
    index = 0
    guessed = False
    for position, line in enumerate(lines):
        if not line.startswith(ATOM_RECORDS):
            continue
        symbol = line[76:78].strip()
        if not symbol.isalpha():
            symbol, guessed = _element_of_name(line[12:16]), True
        if symbol in HYDROGEN_ISOTOPES_U:
            heavy.append((index, HYDROGEN_ISOTOPES_U[symbol]))
            symbol = "H"
        lines[position] = f"{line[:76]:<76}{symbol.upper():>2}{line[78:]}"
        index += 1
    _refuse_disorder([line for line in lines if line.startswith(ATOM_RECORDS)])
    if guessed:
        warnings.append("Elements were taken from atom names: columns 77-78 are empty.")
    return Reading(with_isotopes(read_with_ase("\n".join(lines), "proteindatabank"), heavy), warnings)


def _keep_cell(record: str, warnings: list[str]) -> bool:
    """Whether CRYST1 says something; molecules are given a cell of 1 Å by convention."""
    lengths = [float(record[start : start + 9]) for start in (6, 15, 24)]
    if all(length <= 1.0 for length in lengths):
        warnings.append("CRYST1 is the dummy of a molecule: read without a cell.")
        return False
    group = record[55:66].strip() or "P 1"
    if group.replace(" ", "") not in ("P1", "1"):
        raise InvalidStructureError(
            f"The space group is {group}, but a PDB file lists the asymmetric unit only.",
            hint="Generate the whole cell and write P 1 in CRYST1, or remove CRYST1 for the molecule alone.",
        )
    return True


def _element_of_name(name: str) -> str:
    """The element an atom name stands for: it is right-justified in the first two columns (" CA " carbon)."""
    letters = re.sub(r"[^A-Za-z]", " ", name[:2]).strip()
    if len(name.strip()) == 4 and name[0] in "HD":
        return name[0]
    return letters or name.strip()[:1]


def _refuse_disorder(records: list[str]) -> None:
    places = {line[16] for line in records} - {" "}
    if len(places) > 1:
        raise InvalidStructureError(
            f"Atoms have alternate places ({', '.join(sorted(places))}): this is not one structure.",
            hint="Keep one of them and set its occupancy to 1.",
        )
    for line in records:
        occupancy = line[54:60].strip()
        if occupancy and 0 < float(occupancy) < 0.999:
            raise InvalidStructureError(
                f"Atom {line[6:11].strip()} has an occupancy of {occupancy}: this is not one structure.",
                hint="Keep whole atoms only and set their occupancy to 1.",
            )

"""MDL mol and SDF files, V2000. Net formal charge, radicals and isotopes count; bonds do not."""

from __future__ import annotations

import re

from equipot.calculator.formats.frame import (
    HYDROGEN_ISOTOPES_U,
    Frame,
    Reading,
    atom_count,
    read_with_ase,
    refuse_no_coordinates,
    with_isotopes,
)
from equipot.elements import SYMBOLS
from equipot.errors import InvalidStructureError, UnsupportedFormatError

#: the charge column of an atom line, older than the M  CHG line (CTfile formats, "atom block", field ccc)
CHARGE_OF_CODE = {0: 0, 1: 3, 2: 2, 3: 1, 4: 0, 5: -1, 6: -2, 7: -3}
#: M  RAD: 1 singlet, 2 doublet, 3 triplet
UNPAIRED_OF_RADICAL = {0: 0, 1: 0, 2: 1, 3: 2}


def frames(text: str) -> list[Frame]:
    """The molecules of the file, one for each `$$$$`. Raises InvalidStructureError for a truncated one."""
    found = []
    line = 1
    for block in re.split(r"^\$\$\$\$.*\n?", text, flags=re.MULTILINE):
        if block.strip():
            _check(block, line)
            found.append(Frame(block, line))
        line += block.count("\n") + 1
    return found


def read(frame: Frame) -> Reading:
    """One molecule, with the charge, the multiplicity and the isotopes it declares."""
    lines = frame.text.split("\n")
    n_atoms = int(lines[3][:3])
    charge = sum(CHARGE_OF_CODE.get(_integer(line[36:39]), 0) for line in lines[4 : 4 + n_atoms])
    unpaired = 0
    heavy = _replace_isotopes(lines, n_atoms)
    declared = {word: _declared(lines, word) for word in ("CHG", "RAD", "ISO")}
    if declared["CHG"] or declared["RAD"]:  # either line overrules the column
        charge = sum(value for _, value in declared["CHG"])
        unpaired = sum(UNPAIRED_OF_RADICAL.get(value, 0) for _, value in declared["RAD"])
    atoms = read_with_ase("\n".join(lines), "sdf")
    refuse_no_coordinates(atoms)
    for index, mass_number in declared["ISO"]:
        is_hydrogen = SYMBOLS[atoms.numbers[index]] == "H"
        mass = {2: HYDROGEN_ISOTOPES_U["D"], 3: HYDROGEN_ISOTOPES_U["T"]}.get(mass_number) if is_hydrogen else None
        heavy.append((index, mass or float(mass_number)))
    if charge:
        atoms.info["charge"] = charge
    if unpaired:
        atoms.info["spin_multiplicity"] = unpaired + 1
    return Reading(with_isotopes(atoms, heavy))


def _check(block: str, first_line: int) -> None:
    lines = block.split("\n")
    counts = lines[3] if len(lines) > 3 else ""
    if "V3000" in counts:
        raise UnsupportedFormatError("V3000 molfiles are not supported.", hint="Write it as V2000, or as xyz.")
    n_atoms = atom_count(counts[:3].strip(), first_line + 3)
    rows = [line for line in lines[4 : 4 + n_atoms] if len(line.split()) >= 4]
    if len(rows) < n_atoms:
        raise InvalidStructureError(
            f"The file is truncated: line {first_line + 3} says {n_atoms} atoms, {len(rows)} follow.",
            hint="Was the file written to its end?",
        )
    if lines[1][20:22] == "2D":
        raise InvalidStructureError(
            "The file is a drawing: its header says the coordinates are 2D.",
            hint="Generate 3D coordinates first (RDKit, Open Babel).",
        )


def _replace_isotopes(lines: list[str], n_atoms: int) -> list[tuple[int, float]]:
    heavy = []
    for index in range(n_atoms):
        symbol = lines[4 + index][31:34].strip()
        if symbol in HYDROGEN_ISOTOPES_U:
            heavy.append((index, HYDROGEN_ISOTOPES_U[symbol]))
            lines[4 + index] = lines[4 + index][:31] + "H  " + lines[4 + index][34:]
    return heavy


def _declared(lines: list[str], word: str) -> list[tuple[int, int]]:
    """(atom index, value) pairs of the property lines `M  WORD`."""
    pairs = []
    for line in lines:
        if line.startswith(f"M  {word}"):
            values = [int(value) for value in line[9:].split()]
            pairs += [(index - 1, value) for index, value in zip(values[::2], values[1::2], strict=False)]
    return pairs


def _integer(field: str) -> int:
    return int(field) if field.strip().isdigit() else 0

"""Crystallographic information files: symmetry is expanded, disorder is refused."""

from __future__ import annotations

import re
import warnings as python_warnings
from io import StringIO
from typing import Any

from ase import Atoms
from ase.io.cif import CIFBlock, parse_cif

from equipot.calculator.formats.frame import HYDROGEN_ISOTOPES_U, Frame, Reading, refuse_too_many, with_isotopes
from equipot.errors import InvalidStructureError, SystemTooLargeError

MAX_LINES = 200_000
MAX_SITES = 2_000
MAX_OPERATIONS = 256
MAX_SITES_TIMES_OPERATIONS = 40_000  # expanding more takes ASE many seconds
OPERATION_TAGS = (
    "_space_group_symop_operation_xyz",
    "_space_group_symop.operation_xyz",
    "_symmetry_equiv_pos_as_xyz",
)
GROUP_TAGS = (
    "_space_group.it_number",
    "_space_group_it_number",
    "_symmetry_int_tables_number",
    "_space_group_name_h-m_alt",
    "_symmetry_space_group_name_h-m",
)
SYMBOL_TAGS = ("_atom_site_type_symbol", "_atom_site_label")
DATA_BLOCK = re.compile(r"^data_", re.MULTILINE | re.IGNORECASE)
ISOTOPE = re.compile(r"(D|T)(?![a-z])")


def frames(text: str) -> list[Frame]:
    """The data blocks that hold atoms."""
    if text.count("\n") > MAX_LINES:
        raise InvalidStructureError(f"The file has more than {MAX_LINES} lines.", hint="Remove the reflection data.")
    starts = [match.start() for match in DATA_BLOCK.finditer(text)]
    if not starts:
        raise InvalidStructureError("The file has no data_ block.", hint="Is this the format the file is in?")
    blocks = [(start, text[start:end]) for start, end in zip(starts, [*starts[1:], len(text)], strict=True)]
    found = [Frame(b, text.count("\n", 0, start) + 1) for start, b in blocks if "_atom_site_" in b.lower()]
    if not found:
        raise InvalidStructureError("The file lists no atoms (no _atom_site_ loop).")
    return found


def read(frame: Frame) -> Reading:
    """One data block, with its symmetry expanded into the whole cell."""
    block = next(parse_cif(StringIO(frame.text)))
    _refuse_disorder(block)
    masses_u = _replace_isotopes(block)
    given_operations = _column(block, *OPERATION_TAGS)
    if given_operations and not _column(block, *GROUP_TAGS):
        block._tags["_space_group_it_number"] = 1  # ASE wants a name for the operations; they stay what they are
    _bound(block, len(given_operations))
    with python_warnings.catch_warnings(record=True) as caught:
        python_warnings.simplefilter("always")
        atoms = block.get_atoms()
    remarks = [] if given_operations else [str(warning.message) for warning in caught]
    kinds = atoms.arrays.get("spacegroup_kinds", range(len(atoms)))
    atoms = with_isotopes(atoms, [(i, masses_u[kind]) for i, kind in enumerate(kinds) if kind in masses_u])
    atoms.info.clear()
    if atoms.cell.rank == 3:
        atoms.pbc = True
    remarks += _missing_hydrogens(block, atoms)
    return Reading(atoms, remarks)


def _column(block: CIFBlock, *names: str) -> list[Any]:
    for name in names:
        if name in block:
            value = block[name]
            return value if isinstance(value, list) else [value]
    return []


def _refuse_disorder(block: CIFBlock) -> None:
    labels = _column(block, "_atom_site_label", "_atom_site_type_symbol")
    hint = "Make an ordered cell first: one structure with whole atoms."
    for index, occupancy in enumerate(_column(block, "_atom_site_occupancy")):
        if isinstance(occupancy, int | float) and abs(occupancy - 1) > 1e-3:
            label = labels[index] if index < len(labels) else index
            raise InvalidStructureError(
                f"The site {label} has an occupancy of {occupancy:g}: the crystal is disordered.",
                pointer=f"/_atom_site_occupancy/{index}",
                hint=hint,
            )
    groups = {str(group) for group in _column(block, "_atom_site_disorder_group")} - {".", "?", "0"}
    if len(groups) > 1:
        raise InvalidStructureError(
            f"The crystal is disordered: its atoms belong to the groups {', '.join(sorted(groups))}.",
            pointer="/_atom_site_disorder_group",
            hint=hint,
        )


def _bound(block: CIFBlock, n_given_operations: int) -> None:
    n_sites = len(_column(block, *SYMBOL_TAGS))
    if n_given_operations > MAX_OPERATIONS:
        raise InvalidStructureError(f"The file lists {n_given_operations} symmetry operations; none has so many.")
    if block.get_cell().rank < 3:
        refuse_too_many(n_sites)
        return
    with python_warnings.catch_warnings():
        python_warnings.simplefilter("ignore")
        n_operations = n_given_operations or len(block.get_spacegroup(True).get_symop())
    if n_sites > MAX_SITES or n_sites * n_operations > MAX_SITES_TIMES_OPERATIONS:
        raise SystemTooLargeError(
            f"The file has {n_sites} sites and {n_operations} symmetry operations; at most {MAX_SITES} sites and "
            f"{MAX_SITES_TIMES_OPERATIONS} sites times operations are accepted.",
            hint="Expand the symmetry first and submit the cell as POSCAR or extxyz.",
        )


def _replace_isotopes(block: CIFBlock) -> dict[int, float]:
    """Write H for D and T among the symbols; the answer is the mass in u of each such site."""
    masses = {}
    tag = next((name for name in SYMBOL_TAGS if name in block), "")
    symbols = _column(block, tag)
    for site, symbol in enumerate(symbols):
        if match := ISOTOPE.match(str(symbol)):
            masses[site] = HYDROGEN_ISOTOPES_U[match.group(1)]
            symbols[site] = "H"
    return masses


def _missing_hydrogens(block: CIFBlock, atoms: Atoms) -> list[str]:
    """A remark when the formula of the file has more hydrogen than its atoms, measured against the heavier ones."""
    counts = {
        element: float(count or 1)
        for element, count in re.findall(r"([A-Z][a-z]?)(\d*\.?\d*)", str(block.get("_chemical_formula_sum", "")))
    }
    hydrogens = counts.pop("H", 0.0) + counts.pop("D", 0.0)
    if not counts:
        return []
    present = int((atoms.numbers == 1).sum())
    expected = round(hydrogens * (len(atoms) - present) / sum(counts.values()))
    if expected <= present:
        return []
    return [f"The formula says {expected} hydrogen atoms in the cell, the file places {present}: some are missing."]

"""Structure to ASE Atoms and back, without losing a bit of positions and cell."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from ase import Atoms
from ase.constraints import FixAtoms, FixCartesian

from equipot.elements import SYMBOLS
from equipot.errors import InvalidStructureError
from equipot.structure import Structure
from equipot.units import ASE_TIME_FS

CHARGE_KEY = "charge"
SPIN_KEY = "spin_multiplicity"


def to_atoms(structure: Structure) -> Atoms:
    """The system as ASE Atoms, without a calculator.

    Positions (n_atoms, 3) and cell (3, 3) in Å are the same to the last bit; velocities become ASE momenta; fixed atoms
    become one FixAtoms; charge and spin multiplicity stand in `atoms.info` where they are not the default.
    """
    atoms = Atoms(
        numbers=structure.numbers,
        positions=structure.positions_ang,
        cell=structure.cell_ang,
        pbc=structure.pbc,
        info=dict(structure.info),
    )
    if structure.masses_u is not None:
        atoms.set_masses(structure.masses_u)
    if structure.velocities_ang_per_fs is not None:
        velocities = structure.velocities_ang_per_fs * ASE_TIME_FS
        atoms.set_momenta(atoms.get_masses()[:, None] * velocities, apply_constraint=False)
    if structure.fixed_atoms:
        atoms.set_constraint(FixAtoms(indices=list(structure.fixed_atoms)))
    if structure.charge_e:
        atoms.info[CHARGE_KEY] = structure.charge_e
    if structure.spin_multiplicity is not None:
        atoms.info[SPIN_KEY] = structure.spin_multiplicity
    return atoms


def from_atoms(atoms: Atoms) -> Structure:
    """The system in ASE Atoms as a Structure; not checked yet (see `check_structure`).

    Momenta become velocities in Å/fs if there are any, masses are kept if they were set. Charge and spin multiplicity
    come from `atoms.info` alone: initial charges and magnetic moments are guesses for other calculators.
    Raises InvalidStructureError for placeholder atoms (X) and for constraints other than fixed atoms.
    """
    numbers = atoms.get_atomic_numbers()
    if bad := [i for i, number in enumerate(numbers) if not 0 < number < len(SYMBOLS)]:
        raise InvalidStructureError(
            f"Atom {bad[0]} is not an element (X).",
            pointer=f"/numbers/{bad[0]}",
            hint="Remove placeholder atoms, or give them an element.",
        )
    info = {str(key): plain for key, value in atoms.info.items() if (plain := _plain(value)) is not None}
    charge_e = _charge(info.pop(CHARGE_KEY, 0.0))
    spin_multiplicity = _spin_multiplicity(info.pop(SPIN_KEY, None))
    velocities = None
    if atoms.has("momenta"):
        velocities = atoms.get_momenta() / atoms.get_masses()[:, None] / ASE_TIME_FS
    cell = np.array(atoms.cell)
    return Structure(
        numbers=numbers,
        positions_ang=atoms.get_positions(),
        cell_ang=cell if np.any(cell) else None,
        pbc=(bool(atoms.pbc[0]), bool(atoms.pbc[1]), bool(atoms.pbc[2])),
        velocities_ang_per_fs=velocities,
        masses_u=atoms.get_masses() if atoms.has("masses") else None,
        charge_e=charge_e,
        spin_multiplicity=spin_multiplicity,
        fixed_atoms=_fixed_atoms(atoms),
        info=info,
    )


def _fixed_atoms(atoms: Atoms) -> tuple[int, ...]:
    fixed: set[int] = set()
    for constraint in atoms.constraints:
        if isinstance(constraint, FixAtoms):
            fixed.update(int(i) for i in constraint.index)
            continue
        if isinstance(constraint, FixCartesian):
            mask = np.asarray(constraint.mask, dtype=bool)
            if not mask.any():
                continue
            if mask.all():
                fixed.update(int(i) for i in np.atleast_1d(constraint.index))
                continue
        raise InvalidStructureError(
            f"The constraint {type(constraint).__name__} is not supported: an atom is fixed in all directions or free.",
            pointer="/fixed_atoms",
            hint="Use FixAtoms (in files: selective dynamics F F F or T T T, a move_mask of one column).",
        )
    return tuple(sorted(fixed))


def _charge(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidStructureError("charge must be a number.", pointer="/charge", hint="The total charge in e.")
    return float(value)


def _spin_multiplicity(value: Any) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or value != int(value) or value < 1:
        raise InvalidStructureError(
            "spin_multiplicity must be a positive integer.", pointer="/spin_multiplicity", hint="It is 2S + 1."
        )
    return int(value)


def _plain(value: Any) -> Any:
    """The value as JSON knows it, or None if it cannot be said in JSON."""
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    try:
        return json.loads(json.dumps(value, allow_nan=False))
    except (TypeError, ValueError):
        return None

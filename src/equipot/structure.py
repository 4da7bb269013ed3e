"""A structure as it is submitted, stored and computed, and the checks it must pass. No torch.

The JSON form is `{"numbers"|"symbols", "positions" [N][3] Å, "cell" [3][3] Å or null, "pbc" [3], optional
"velocities" Å/fs, "masses" u, "charge" e, "spin_multiplicity", "fixed_atoms" [int], "info"}`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from equipot.elements import NUMBERS, SYMBOLS, signed
from equipot.errors import (
    AtomsTooCloseError,
    Culprit,
    InvalidParameterError,
    InvalidStructureError,
    SystemTooLargeError,
    UnsupportedElementError,
)
from equipot.pairs import closest_pair

LARGEST_COORDINATE_ANG = 1.0e4
SMALLEST_DISTANCE_ANG = 0.3
SMALLEST_CELL_ANGLE_SINE = 0.02  # of a lattice vector with the plane of the other two: below, cells are singular
MAX_ATOMS = 10_000
MAX_INFO_BYTES = 10_000
MAX_INFO_DEPTH = 20
KEYS = frozenset(
    "numbers symbols positions cell pbc velocities masses charge spin_multiplicity fixed_atoms info".split()
)


@dataclass(frozen=True, eq=False)
class Structure:
    """One system: elements, places and what else a run needs to know. Arrays are read-only.

    numbers (n_atoms,); positions_ang (n_atoms, 3); cell_ang (3, 3) with lattice vectors as rows, or None;
    pbc (3,); velocities_ang_per_fs (n_atoms, 3) or None; masses_u (n_atoms,) or None for the standard ones.
    """

    numbers: np.ndarray
    positions_ang: np.ndarray
    cell_ang: np.ndarray | None = None
    pbc: tuple[bool, bool, bool] = (False, False, False)
    velocities_ang_per_fs: np.ndarray | None = None
    masses_u: np.ndarray | None = None
    charge_e: float = 0.0
    spin_multiplicity: int | None = None
    fixed_atoms: tuple[int, ...] = ()
    info: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("numbers", "positions_ang", "cell_ang", "velocities_ang_per_fs", "masses_u"):
            value = getattr(self, name)
            if value is None:
                continue
            array = np.array(value, dtype=np.int64 if name == "numbers" else np.float64)
            array.flags.writeable = False
            object.__setattr__(self, name, array)

    @property
    def n_atoms(self) -> int:
        return len(self.numbers)

    @property
    def is_periodic(self) -> bool:
        return any(self.pbc)

    @property
    def volume_ang3(self) -> float | None:
        """Volume of the cell in Å³, or None without a cell."""
        return None if self.cell_ang is None else float(abs(np.linalg.det(self.cell_ang)))

    def to_json(self) -> dict[str, Any]:
        """The canonical JSON form; `structure_from_json` reads it back to the last bit."""
        out: dict[str, Any] = {
            "numbers": self.numbers.tolist(),
            "positions": self.positions_ang.tolist(),
            "cell": None if self.cell_ang is None else self.cell_ang.tolist(),
            "pbc": list(self.pbc),
        }
        if self.velocities_ang_per_fs is not None:
            out["velocities"] = self.velocities_ang_per_fs.tolist()
        if self.masses_u is not None:
            out["masses"] = self.masses_u.tolist()
        if self.charge_e:
            out["charge"] = self.charge_e
        if self.spin_multiplicity is not None:
            out["spin_multiplicity"] = self.spin_multiplicity
        if self.fixed_atoms:
            out["fixed_atoms"] = list(self.fixed_atoms)
        if self.info:
            out["info"] = dict(self.info)
        return out

    def sha256(self) -> str:
        """Digest of the canonical JSON form."""
        text = json.dumps(self.to_json(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    def moved_to(
        self,
        positions_ang: np.ndarray,
        velocities_ang_per_fs: np.ndarray | None = None,
        cell_ang: np.ndarray | None = None,
    ) -> Structure:
        """The same system at other places, and in another cell if one is given."""
        cell = self.cell_ang if cell_ang is None else cell_ang
        return replace(self, positions_ang=positions_ang, velocities_ang_per_fs=velocities_ang_per_fs, cell_ang=cell)


def structure_from_json(data: Mapping[str, Any], pointer: str = "") -> Structure:
    """Read and check the JSON form; `pointer` is where `data` sits in the request.

    Raises InvalidStructureError, AtomsTooCloseError or SystemTooLargeError, pointing at the culprit.
    """
    if not isinstance(data, Mapping):
        raise InvalidStructureError("A structure is a JSON object.", pointer=pointer, hint="See /docs for examples.")
    if unknown := sorted(set(data) - KEYS):
        raise InvalidStructureError(
            f"Unknown key {unknown[0]!r} in a structure.",
            pointer=f"{pointer}/{unknown[0]}",
            hint="Known: " + ", ".join(sorted(KEYS)) + ".",
        )
    numbers = _numbers(data, pointer)
    n = len(numbers)
    positions = _array(data, "positions", (n, 3), pointer, required=True)
    assert positions is not None
    cell = _array(data, "cell", (3, 3), pointer)
    if "pbc" not in data and cell is not None:
        raise InvalidStructureError(
            "pbc is required when a cell is given.",
            pointer=f"{pointer}/pbc",
            hint='Add "pbc": [true, true, true] for a crystal, [false, false, false] for a molecule in a box.',
        )
    pbc = data.get("pbc", [False] * 3)
    if isinstance(pbc, bool):
        pbc = [pbc] * 3
    if not (isinstance(pbc, list | tuple) and len(pbc) == 3 and all(isinstance(p, bool) for p in pbc)):
        raise InvalidStructureError(
            "pbc must be three booleans.", pointer=f"{pointer}/pbc", hint="For example [true, true, false] for a slab."
        )
    masses = _array(data, "masses", (n,), pointer)
    if masses is not None and not np.all(masses > 0):
        raise InvalidStructureError(
            "masses must be positive.", pointer=f"{pointer}/masses", hint="Leave them out for the standard ones, in u."
        )
    structure = Structure(
        numbers=numbers,
        positions_ang=positions,
        cell_ang=cell,
        pbc=(pbc[0], pbc[1], pbc[2]),
        velocities_ang_per_fs=_array(data, "velocities", (n, 3), pointer),
        masses_u=masses,
        charge_e=_number(data, "charge", 0.0, pointer),
        spin_multiplicity=_spin_multiplicity(data, pointer),
        fixed_atoms=_fixed_atoms(data, n, pointer),
        info=_info(data, pointer),
    )
    return check_structure(structure, pointer)


def check_structure(structure: Structure, pointer: str = "", max_atoms: int = MAX_ATOMS) -> Structure:
    """The structure, fit to be computed: finite, of a sensible size, with a proper cell and no two atoms in one place.

    A cell on a system without periodic directions is dropped when it is singular: it means nothing.
    Raises InvalidStructureError, AtomsTooCloseError or SystemTooLargeError.
    """
    n = structure.n_atoms
    if n == 0:
        raise InvalidStructureError(
            "The structure has no atoms.", pointer=f"{pointer}/positions", hint="Give at least one atom."
        )
    if n > max_atoms:
        raise SystemTooLargeError(
            f"The structure has {n} atoms; at most {max_atoms} are accepted.",
            pointer=f"{pointer}/positions",
            hint="Submit a smaller cell or cluster.",
        )
    for name, array in (
        ("positions", structure.positions_ang),
        ("velocities", structure.velocities_ang_per_fs),
        ("cell", structure.cell_ang),
    ):
        if array is None:
            continue
        if not np.all(np.isfinite(array)):
            row = int(np.argwhere(~np.isfinite(array))[0][0])
            raise InvalidStructureError(
                f"{name}[{row}] is not finite.", pointer=f"{pointer}/{name}/{row}", hint="Replace NaN or infinity."
            )
        if name != "velocities" and np.abs(array).max(initial=0.0) > LARGEST_COORDINATE_ANG:
            raise InvalidStructureError(
                f"{name} reach beyond {LARGEST_COORDINATE_ANG:g} Å.",
                pointer=f"{pointer}/{name}",
                hint="Lengths are in Å.",
            )
    if structure.charge_e and not np.isfinite(structure.charge_e):
        raise InvalidStructureError("charge is not finite.", pointer=f"{pointer}/charge")
    structure = _with_proper_cell(structure, pointer)
    _refuse_close_atoms(structure, pointer)
    return structure


def check_against_model(
    structure: Structure, elements: Collection[str], model: str, pointer: str = "", charges: Collection[int] = (0,)
) -> None:
    """Refuse what a potential was not trained for: elements, total charges, open shells.

    Raises UnsupportedElementError or InvalidParameterError, naming the culprit and what the potential knows.
    """
    known = set(elements)
    for index, number in enumerate(structure.numbers):
        symbol = SYMBOLS[number]
        if symbol not in known:
            raise UnsupportedElementError(
                f"The potential {model!r} does not know {symbol} (atom {index}).",
                pointer=f"{pointer}/numbers/{index}",
                hint=f"It knows {', '.join(sorted(known, key=NUMBERS.__getitem__))}.",
            )
    if structure.charge_e not in (charges or (0,)):
        trained = f"systems of charge {signed(sorted(charges))} e" if set(charges) - {0} else "neutral systems"
        raise InvalidParameterError(
            f"The potential {model!r} was trained on {trained}; this one has a charge of {structure.charge_e:+g} e.",
            pointer=f"{pointer}/charge",
            hint="Take a potential or a level of theory that knows it; leave it out only if a neutral system is meant.",
        )
    if structure.spin_multiplicity not in (None, 1):
        raise InvalidParameterError(
            f"The potential {model!r} has no spin; this system has multiplicity {structure.spin_multiplicity}.",
            pointer=f"{pointer}/spin_multiplicity",
            hint="Closed shells only (spin_multiplicity 1).",
        )


def _numbers(data: Mapping[str, Any], pointer: str) -> np.ndarray:
    if ("numbers" in data) == ("symbols" in data):
        raise InvalidStructureError(
            "numbers or symbols are missing, or both are given.",
            pointer=f"{pointer}/numbers",
            hint="Give exactly one of numbers and symbols.",
        )
    key = "numbers" if "numbers" in data else "symbols"
    values = data[key]
    if not isinstance(values, list | tuple | np.ndarray):
        raise InvalidStructureError(f"{key} must be a list.", pointer=f"{pointer}/{key}")
    out = np.empty(len(values), dtype=np.int64)
    for index, value in enumerate(values):
        number = NUMBERS.get(value) if isinstance(value, str) else value
        if isinstance(number, bool) or not isinstance(number, int | np.integer) or not 0 < number < len(SYMBOLS):
            raise InvalidStructureError(
                f"{key}[{index}] is not an element.",
                pointer=f"{pointer}/{key}/{index}",
                hint="Atomic numbers from 1 to 118, or symbols such as C.",
            )
        out[index] = number
    return out


def _array(
    data: Mapping[str, Any], key: str, shape: tuple[int, ...], pointer: str, *, required: bool = False
) -> np.ndarray | None:
    if data.get(key) is None:
        if required:
            raise InvalidStructureError(
                f"{key} is missing.", pointer=f"{pointer}/{key}", hint="In Å, one row per atom."
            )
        return None
    wanted = "x".join(str(length) for length in shape)
    try:
        given = np.array(data[key])
        if given.size and given.dtype.kind not in "iuf":  # text, true and null would become numbers
            raise TypeError(given.dtype)
        array = given.astype(np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise InvalidStructureError(
            f"{key} must be {wanted} numbers.", pointer=f"{pointer}/{key}", hint="Rows of plain numbers."
        ) from error
    if array.shape != shape:
        got = "x".join(str(length) for length in array.shape)
        raise InvalidStructureError(
            f"{key} must be {wanted} numbers, got {got}.",
            pointer=f"{pointer}/{key}",
            hint="Three lattice vectors in Å." if key == "cell" else "One entry for each atom, in their order.",
        )
    return array


def _number(data: Mapping[str, Any], key: str, default: float, pointer: str) -> float:
    value = data.get(key)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidStructureError(f"{key} must be a number.", pointer=f"{pointer}/{key}")
    return float(value)


def _spin_multiplicity(data: Mapping[str, Any], pointer: str) -> int | None:
    value = data.get("spin_multiplicity")
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
        raise InvalidStructureError(
            "spin_multiplicity must be a positive integer (2S + 1).", pointer=f"{pointer}/spin_multiplicity"
        )
    return value


def _fixed_atoms(data: Mapping[str, Any], n_atoms: int, pointer: str) -> tuple[int, ...]:
    values = data.get("fixed_atoms") or ()
    if not isinstance(values, list | tuple):
        raise InvalidStructureError("fixed_atoms must be a list of indices.", pointer=f"{pointer}/fixed_atoms")
    for position, value in enumerate(values):
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < n_atoms:
            raise InvalidStructureError(
                f"fixed_atoms[{position}] is not an atom of this structure.",
                pointer=f"{pointer}/fixed_atoms/{position}",
                hint=f"Indices run from 0 to {n_atoms - 1}.",
            )
    return tuple(sorted(set(values)))


def _info(data: Mapping[str, Any], pointer: str) -> dict[str, Any]:
    info = data.get("info") or {}
    try:
        fit = isinstance(info, Mapping) and _is_shallow(info, MAX_INFO_DEPTH)
        fit = fit and len(json.dumps(info, allow_nan=False)) <= MAX_INFO_BYTES
    except (TypeError, ValueError):
        fit = False
    if not fit:
        raise InvalidStructureError(
            f"info must be a JSON object of at most {MAX_INFO_BYTES} bytes, without NaN and infinity, nested at most "
            f"{MAX_INFO_DEPTH} deep.",
            pointer=f"{pointer}/info",
            hint="Nothing in it is needed for computing: leave it out or shorten it.",
        )
    return dict(info)


def _is_shallow(value: Any, depth: int) -> bool:
    """Whether objects and lists are nested at most this deep: what reads and writes them later goes down them all."""
    if not isinstance(value, Mapping | list | tuple):
        return True
    children = value.values() if isinstance(value, Mapping) else value
    return depth > 0 and all(_is_shallow(child, depth - 1) for child in children)


def _with_proper_cell(structure: Structure, pointer: str) -> Structure:
    """Refuse missing and singular cells; complete the aperiodic directions of slabs and wires."""
    cell = structure.cell_ang
    if not structure.is_periodic:
        if cell is not None and abs(np.linalg.det(cell)) < 1e-6:
            return replace(structure, cell_ang=None)
        return structure
    if cell is None or not np.any(cell):
        raise InvalidStructureError(
            "The structure is periodic but has no cell.",
            pointer=f"{pointer}/cell",
            hint="Give the lattice vectors in Å, or set pbc to [false, false, false] for a molecule.",
        )
    cell = np.array(cell)
    lengths = np.linalg.norm(cell, axis=1)
    for axis in range(3):
        if lengths[axis] < 1e-8 and structure.pbc[axis]:
            raise InvalidStructureError(
                f"Lattice vector {axis} has no length but pbc[{axis}] is true.", pointer=f"{pointer}/cell/{axis}"
            )
    missing = [axis for axis in range(3) if lengths[axis] < 1e-8]
    if missing:
        cell = _completed(cell, missing)
    unit = cell / np.linalg.norm(cell, axis=1, keepdims=True)
    if abs(np.linalg.det(unit)) < SMALLEST_CELL_ANGLE_SINE**2:
        raise InvalidStructureError(
            "The cell is singular: its lattice vectors lie in one plane.",
            pointer=f"{pointer}/cell",
            hint="Give three lattice vectors that span a volume.",
        )
    return replace(structure, cell_ang=cell) if missing else structure


def _completed(cell: np.ndarray, missing: list[int]) -> np.ndarray:
    """Fill missing lattice vectors with unit vectors at right angles to the others."""
    basis = [cell[axis] / np.linalg.norm(cell[axis]) for axis in range(3) if axis not in missing]
    _, _, rows = np.linalg.svd(np.array(basis), full_matrices=True)
    for axis, direction in zip(missing, rows[len(basis) :], strict=True):
        cell[axis] = direction
    return cell


def _refuse_close_atoms(structure: Structure, pointer: str) -> None:
    pair = closest_pair(structure.positions_ang, structure.cell_ang, structure.pbc, SMALLEST_DISTANCE_ANG)
    if pair is not None:
        i, j = sorted((pair.first, pair.second))
        raise AtomsTooCloseError(
            f"Atoms {i} and {j} are {pair.distance_ang:.3f} Å apart (limit {SMALLEST_DISTANCE_ANG} Å).",
            culprits=[
                Culprit(
                    f"{pointer}/positions/{j}",
                    f"{pair.distance_ang:.3f} Å from atom {i}",
                    "Remove the duplicate atom or separate the two. Periodic images count.",
                )
            ],
            hint="Remove the duplicate atom or separate the two.",
        )

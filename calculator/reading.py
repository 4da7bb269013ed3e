"""Files to structures: a known format, strict bounds before ASE sees the text, then ASE's reader.

What a file says beside its atoms is treated as a user would want it to be: frozen atoms stay frozen, deuterium keeps
its mass, a charge is kept so that it can be refused, energies of other models are ignored and that is said.
"""

from __future__ import annotations

import gzip
import re
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from ase import Atoms

from equipot.calculator.convert import from_atoms
from equipot.calculator.formats import cif, molfile, pdb, poscar, xyz
from equipot.calculator.formats.frame import Frame, Reading
from equipot.calculator.plausibility import implausibilities
from equipot.errors import EquipotError, InvalidStructureError, PayloadTooLargeError, UnsupportedFormatError
from equipot.structure import Structure, check_structure

MAX_FILE_BYTES = 10_000_000
MAX_FRAMES = 1_000
RESULT = re.compile(r"energ|force|stress|virial|dipole|magmom|charges", re.IGNORECASE)

T = TypeVar("T")


class _Format(NamedTuple):
    frames: Callable[[str], list[Frame]]
    read: Callable[[Frame], Reading]
    from_experiment: bool  # hydrogens may be missing


_XYZ = _Format(xyz.frames, xyz.read, False)
_POSCAR = _Format(poscar.frames, poscar.read, False)
_MOLFILE = _Format(molfile.frames, molfile.read, False)
FORMATS: dict[str, _Format] = {
    "extxyz": _XYZ,
    "xyz": _XYZ,
    "vasp": _POSCAR,
    "poscar": _POSCAR,
    "contcar": _POSCAR,
    "cif": _Format(cif.frames, cif.read, True),
    "pdb": _Format(pdb.frames, pdb.read, True),
    "sdf": _MOLFILE,
    "mol": _MOLFILE,
}


@dataclass(frozen=True)
class ParsedFile:
    """The structures of a file, checked and ready to be computed, and remarks on what was changed or left out."""

    structures: tuple[Structure, ...]
    warnings: tuple[str, ...] = ()

    def __iter__(self) -> Iterator[Structure]:
        return iter(self.structures)

    def __len__(self) -> int:
        return len(self.structures)


def read_structures(path: str | Path, format: str | None = None, index: int | slice | None = None) -> ParsedFile:
    """The structures in a file: all of its frames, or those `index` selects.

    The format is `format`, or what the file's name says (extension, POSCAR, CONTCAR), never a guess from its content;
    `.gz` is unpacked up to 10 MB. Raises UnsupportedFormatError, PayloadTooLargeError, InvalidStructureError and its
    kind, SystemTooLargeError; FileNotFoundError and other OSErrors are passed on.
    """
    path = Path(path)
    name = format or format_of(path.name)
    _format(name)
    return parse_structures(_text(path), name, name=path.name, index=index)


def parse_structures(
    text: str,
    format: str,
    *,
    name: str = "",
    index: int | slice | None = None,
    pointer: str = "",
    max_frames: int = MAX_FRAMES,
) -> ParsedFile:
    """The structures in the text of a file of a known format.

    `name` is what messages call the file; `pointer` says where the text sits in a request. Raises as
    `read_structures` does.
    """
    chosen = _format(format)
    called = name or f"the {format} text"
    if not text.strip():
        raise InvalidStructureError(f"{_capital(called)} is empty.", pointer=pointer, hint="Send a structure.")
    if len(text) > MAX_FILE_BYTES:
        raise PayloadTooLargeError(f"{_capital(called)} is larger than {MAX_FILE_BYTES} bytes.", pointer=pointer)
    text = text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    frames = _guarded(partial(chosen.frames, text), called, format, pointer)
    if not frames:
        raise InvalidStructureError(f"{_capital(called)} holds no structure.", pointer=pointer)
    wanted = _selected(len(frames), index, max_frames, called, pointer)
    structures, warnings = [], []
    for number in wanted:
        frame = frames[number]
        where = called if len(frames) == 1 else f"{called}, structure {number} (line {frame.line})"
        structure, remarks = _guarded(partial(_structure, frame, chosen), where, format, pointer)
        structures.append(structure)
        warnings += [f"{where}: {remark}" for remark in remarks]
    return ParsedFile(tuple(structures), tuple(warnings))


def format_of(file_name: str) -> str:
    """The format a file's name says. Raises UnsupportedFormatError if it says none that is known."""
    lowered = file_name.lower().removesuffix(".gz")
    stem, _, extension = lowered.rpartition(".")
    if stem and extension in FORMATS:
        return extension
    if lowered.startswith(("poscar", "contcar")):
        return "vasp"
    raise UnsupportedFormatError(
        f"The format of {file_name!r} is not known from its name.",
        hint=f"Known formats: {', '.join(FORMATS)}. Name the format if the file is one of these.",
    )


def _format(name: str) -> _Format:
    chosen = FORMATS.get(name.lower())
    if chosen is None:
        raise UnsupportedFormatError(f"{name!r} is not a supported format.", hint=f"Known: {', '.join(FORMATS)}.")
    return chosen


def _text(path: Path) -> str:
    unpack = gzip.open if path.name.lower().endswith(".gz") else open
    try:
        with unpack(path, "rb") as stream:
            data: bytes = stream.read(MAX_FILE_BYTES + 1)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise InvalidStructureError(f"{path.name} is not a complete gzip file.", hint="Pack it again.") from error
    if len(data) > MAX_FILE_BYTES:
        raise PayloadTooLargeError(
            f"{path.name} holds more than {MAX_FILE_BYTES} bytes.", hint="Split it, or send fewer frames."
        )
    if b"\0" in data:
        raise InvalidStructureError(f"{path.name} is not a text file.", hint="Is it packed or binary?")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data.decode("latin-1")


def _selected(n_frames: int, index: int | slice | None, max_frames: int, called: str, pointer: str) -> list[int]:
    if isinstance(index, int):
        if not -n_frames <= index < n_frames:
            raise InvalidStructureError(
                f"{_capital(called)} has {n_frames} structures; there is no number {index}.",
                pointer=pointer,
                hint=f"Counting starts at 0: choose up to {n_frames - 1}.",
            )
        return [index % n_frames]
    wanted = list(range(n_frames))[index or slice(None)]
    if not wanted:
        raise InvalidStructureError(f"The index selects none of the {n_frames} structures.", pointer=pointer)
    if len(wanted) > max_frames:
        raise PayloadTooLargeError(
            f"{_capital(called)} has {len(wanted)} structures; at most {max_frames} are accepted at once.",
            pointer=pointer,
            hint="Select some of them, or split the file.",
        )
    return wanted


def _guarded(action: Callable[[], T], where: str, format: str, pointer: str) -> T:
    """What `action` gives; its errors say where they come from, and no reader's traceback gets out."""
    try:
        return action()
    except EquipotError as error:
        located = type(error)(f"{where}: {error.detail}", hint=error.hint, culprits=error.culprits)
        raise located.moved_under(pointer) if pointer or error.culprits else located from error
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise InvalidStructureError(
            f"{where}: cannot be read as {format} ({type(error).__name__}: {reason}).",
            pointer=pointer,
            hint="Is this the format the file is in, and is the file complete?",
        ) from error


def _structure(frame: Frame, chosen: _Format) -> tuple[Structure, list[str]]:
    reading = chosen.read(frame)
    warnings = [*reading.warnings, *_remarks_on_results(reading.atoms)]
    structure = from_atoms(reading.atoms)
    structure = replace(structure, info={k: v for k, v in structure.info.items() if not RESULT.search(k)})
    structure = check_structure(structure)
    return structure, warnings + implausibilities(structure, hydrogens_expected=chosen.from_experiment)


def _remarks_on_results(atoms: Atoms) -> list[str]:
    """Say that energies, forces and guesses of other programs in the file are not used."""
    calculated: dict[str, Any] = dict(atoms.calc.results) if atoms.calc is not None else {}
    found = {*calculated, *(key for key in (*atoms.info, *atoms.arrays) if RESULT.search(key))}
    found |= {name for name in ("initial_magmoms", "initial_charges") if atoms.has(name)}
    return [f"{', '.join(sorted(found))} in the file are ignored."] if found else []


def _capital(text: str) -> str:
    return text[0].upper() + text[1:] if text.startswith("the ") else text

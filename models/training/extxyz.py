"""Extended XYZ, read frame by frame as the text says it; what its labels mean is decided elsewhere.

A frame is a line with the number of atoms, a line of `key=value` pairs, and a line for each atom, whose columns the
key `Properties` names (`species:S:1:pos:R:3:forces:R:3`). A frame that cannot be read is a problem of that frame; the
rest of the file is read, as long as it is clear where the next frame begins.
"""

from __future__ import annotations

import gzip
import lzma
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np

from equipot.elements import NUMBERS
from equipot.models.training.frames import Bools, Floats, FrameError, Ints

MAX_LINE_CHARACTERS = 1_000_000
MAX_ATOMS = 1_000_000
#: a compressed file that unpacks to more than this is refused: unpack it by hand if it is meant
MAX_UNPACKED_BYTES = 8 * 1024**3

_PAIR = re.compile(
    r"""(?P<key>[^\s="]+|"(?:[^"\\]|\\.)*")             # a name
        (?:\s*=\s*(?P<value>"(?:[^"\\]|\\.)*"|\{[^}]*\}|\[[^=]*\](?=\s|$)|[^\s"]+))?""",
    re.VERBOSE,
)
_TRUE, _FALSE = {"T", "TRUE", "True", "true"}, {"F", "FALSE", "False", "false"}
_COLUMN_TYPES = {"R": np.float64, "I": np.int64, "S": np.str_, "L": np.str_}


@dataclass(frozen=True, eq=False)
class RawFrame:
    """What a file says of one frame, in its own units and under its own keys.

    `info` holds values of the frame, `arrays` one row for each atom; `cell` (3, 3) is zero where there is none.
    """

    numbers: Ints
    positions: Floats
    cell: Floats
    pbc: Bools
    info: dict[str, Any] = field(default_factory=dict)
    arrays: dict[str, np.ndarray] = field(default_factory=dict)


def read_extxyz(path: Path) -> Iterator[RawFrame | FrameError]:
    """The frames of an extended-XYZ file, plain or compressed (`.gz`, `.xz`); a FrameError for each that is broken.

    The error says what is wrong, in words that follow "frame 3". Raises FrameError when the file cannot be
    understood at all, or unpacks to more than MAX_UNPACKED_BYTES.
    """
    with _opened(path) as file:
        lines = _Lines(path, file, compressed=path.suffix in (".gz", ".xz"))
        while (head := lines.next()) is not None:
            if not head.strip():
                continue
            n_atoms = _count(head, lines)
            comment = lines.next()
            rows = [lines.next() for _ in range(n_atoms)]
            if comment is None or (rows and rows[-1] is None):
                yield FrameError(f"ends before its {n_atoms} atoms do (line {lines.number})")
                return
            try:
                yield _frame(comment, [row for row in rows if row is not None])
            except (ValueError, KeyError, IndexError) as error:
                yield FrameError(f"cannot be read (it ends at line {lines.number}): {error}")


def parse_info(comment: str) -> dict[str, Any]:
    """The `key=value` pairs of a comment line; a key alone is True."""
    info: dict[str, Any] = {}
    for match in _PAIR.finditer(comment):
        value = match["value"]
        info[match["key"].strip('"')] = True if value is None else _value(value)
    return info


class _Lines:
    """Lines of a file, counted and bounded."""

    def __init__(self, path: Path, file: IO[bytes], compressed: bool) -> None:
        self.path, self.file, self.compressed = path, file, compressed
        self.number, self.n_bytes = 0, 0

    def next(self) -> str | None:
        """The next line without its end, None at the end of the file."""
        try:
            line = self.file.readline(MAX_LINE_CHARACTERS + 1)
        except (OSError, EOFError, lzma.LZMAError) as error:
            raise FrameError(f"{self.path} cannot be read: {error}.", hint="Is it complete?") from error
        self.number += 1
        self.n_bytes += len(line)
        if len(line) > MAX_LINE_CHARACTERS:
            raise FrameError(f"{self.path}: line {self.number} is longer than {MAX_LINE_CHARACTERS} characters.")
        if self.compressed and self.n_bytes > MAX_UNPACKED_BYTES:
            raise FrameError(
                f"{self.path} unpacks to more than {MAX_UNPACKED_BYTES / 1024**3:.0f} GiB.",
                hint="If it is meant to, unpack it first.",
            )
        try:
            return line.decode().rstrip("\r\n") if line else None
        except UnicodeDecodeError as error:
            raise FrameError(f"{self.path} is not text (line {self.number}).") from error


def _opened(path: Path) -> IO[bytes]:
    try:
        if path.suffix == ".xz":
            return lzma.open(path, "rb")
        if path.suffix == ".gz":
            return gzip.open(path, "rb")  # type: ignore[return-value]
        return path.open("rb")
    except OSError as error:
        raise FrameError(f"{path} cannot be read: {error.strerror}.", hint="Check the path.") from error


def _count(head: str, lines: _Lines) -> int:
    """The number of atoms of a frame; without it nobody knows where the next frame begins."""
    try:
        n_atoms = int(head)
    except ValueError as error:
        shown = head if len(head) < 40 else head[:40] + "…"
        raise FrameError(
            f"{lines.path}: line {lines.number} should be a number of atoms and is {shown!r}.",
            hint="The frame before it has more or fewer lines than it says, or this is not extended XYZ.",
        ) from error
    if not 0 <= n_atoms <= MAX_ATOMS:
        raise FrameError(f"{lines.path}: line {lines.number} says {n_atoms} atoms (up to {MAX_ATOMS} are read).")
    return n_atoms


def _frame(comment: str, rows: list[str]) -> RawFrame:
    info = parse_info(comment)
    lattice = info.pop("Lattice", None)
    cell = np.zeros((3, 3)) if lattice is None else np.asarray(lattice, dtype=np.float64).reshape(3, 3)
    pbc = info.pop("pbc", None)
    periodic = np.full(3, lattice is not None) if pbc is None else np.broadcast_to(np.asarray(pbc, dtype=bool), 3)
    arrays = _columns(str(info.pop("Properties", "species:S:1:pos:R:3")), rows)
    positions = arrays.pop("pos")
    if "Z" in arrays:
        numbers = arrays.pop("Z").astype(np.int64)
        arrays.pop("species", None)
    else:
        numbers = np.array([_atomic_number(str(symbol)) for symbol in arrays.pop("species")], dtype=np.int64)
    return RawFrame(numbers, positions, cell, periodic.copy(), info, arrays)


def _columns(properties: str, rows: list[str]) -> dict[str, np.ndarray]:
    words = properties.split(":")
    if len(words) % 3:
        raise ValueError(f"Properties={properties} is not a list of name:type:columns")
    widths = [int(width) for width in words[2::3]]
    table = [row.split() for row in rows]
    short = next((i for i, row in enumerate(table) if len(row) < sum(widths)), None)
    if short is not None:
        raise ValueError(f"atom {short} has {len(table[short])} columns of the {sum(widths)} that Properties names")
    arrays, start = {}, 0
    for name, kind, width in zip(words[::3], words[1::3], widths, strict=True):
        cells = [row[start : start + width] for row in table]
        values: np.ndarray = np.array(cells, dtype=_COLUMN_TYPES[kind]).reshape(len(rows), width)
        arrays[name] = values[:, 0] if width == 1 else values
        start += width
    return arrays


def _atomic_number(symbol: str) -> int:
    if symbol.isdigit():
        return int(symbol)
    try:
        return NUMBERS[symbol[:1].upper() + symbol[1:].lower()]
    except KeyError:
        raise ValueError(f"there is no element {symbol!r}") from None


def _value(text: str) -> Any:
    """A bool, a number, an array of either, or the text itself."""
    if text.startswith("["):
        words = text.replace("[", " ").replace("]", " ").replace(",", " ").split()
    elif text[0] in '"{':
        text = text[1:-1]
        words = text.replace(",", " ").split()
    else:
        words = [text]
    for convert in (_numbers, _booleans):
        values = convert(words)
        if values is not None:
            return values[0] if len(values) == 1 else np.array(values)
    return text.replace('\\"', '"')


def _numbers(words: list[str]) -> list[int] | list[float] | None:
    try:
        if all(word.lstrip("+-").isdigit() for word in words):
            return [int(word) for word in words] or None
        return [float(word) for word in words]
    except ValueError:
        return None


def _booleans(words: list[str]) -> list[bool] | None:
    if words and all(word in _TRUE or word in _FALSE for word in words):
        return [word in _TRUE for word in words]
    return None

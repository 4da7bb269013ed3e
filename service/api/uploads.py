"""Reading files that strangers wrote: in a child process with limits on memory, processor time and wall time.

The child is forked from a server that has ASE loaded, so a file costs tens of milliseconds. What comes back is JSON
and is checked again here. This process never loads ASE for it.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import resource
import sys
import threading
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from types import ModuleType
from typing import Any

from equipot.errors import (
    Culprit,
    EquipotError,
    InvalidStructureError,
    PayloadTooLargeError,
    QueueFullError,
    UnsupportedFormatError,
    error_from_problem,
)
from equipot.structure import Structure, structure_from_json

MEMORY_BYTES = 2 * 1024**3  # beyond what the child has mapped when it starts
CPU_S = 5
WALL_S = 8.0
MOST_AT_ONCE = 4

#: how a file may be named, and the format it is read as
FORMAT_OF_SUFFIX = {
    "extxyz": "extxyz",
    "xyz": "xyz",
    "cif": "cif",
    "vasp": "vasp",
    "poscar": "vasp",
    "contcar": "vasp",
    "pdb": "pdb",
    "sdf": "sdf",
    "mol": "mol",
}
KNOWN = "Known: extxyz, xyz, cif, vasp (poscar), pdb, sdf, mol."


@dataclass(frozen=True)
class ReadFile:
    """What a file held: at least one structure, and what its user should know."""

    structures: tuple[Structure, ...]
    warnings: tuple[str, ...]


def format_named(name: str, pointer: str) -> str:
    """The format of this name, as a user would call it. Raises UnsupportedFormatError."""
    found = FORMAT_OF_SUFFIX.get(name.lower())
    if found is None:
        raise UnsupportedFormatError(f"The format {name[:40]!r} is not supported.", pointer=pointer, hint=KNOWN)
    return found


def format_of_file(filename: str, pointer: str) -> tuple[str, bool]:
    """Format and whether it is compressed, from the name of a file. Raises UnsupportedFormatError."""
    base = Path(filename.replace("\\", "/")).name.lower()
    gzipped = base.endswith(".gz")
    base = base.removesuffix(".gz")
    suffix = base.rpartition(".")[2] if "." in base else base.partition("_")[0]
    if suffix not in FORMAT_OF_SUFFIX:
        raise UnsupportedFormatError(
            f"The name {filename[-60:]!r} does not say a supported format.",
            pointer=pointer,
            hint=f"{KNOWN} Rename the file or send the form field `format`.",
        )
    return FORMAT_OF_SUFFIX[suffix], gzipped


def text_of_file(data: bytes, *, gzipped: bool, max_bytes: int, pointer: str) -> str:
    """The text in an uploaded file; a compressed one is unpacked up to `max_bytes`.

    Raises PayloadTooLargeError or InvalidStructureError.
    """
    if gzipped:
        data = _unpacked(data, max_bytes, pointer)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("latin-1")


class FileReader:
    """Reads structure files in limited children. One per process; the children's server starts at first use."""

    def __init__(self, memory_bytes: int = MEMORY_BYTES, cpu_s: int = CPU_S, wall_s: float = WALL_S) -> None:
        self._limits = (memory_bytes, cpu_s)
        self._wall_s = wall_s
        self._slots = threading.BoundedSemaphore(MOST_AT_ONCE)
        self._starting = threading.Lock()

    def read(self, text: str, format: str, pointer: str, name: str = "") -> ReadFile:
        """The structures in `text`, which is of a named format and sits at `pointer` in the request.

        `name` is what messages call the file.

        Raises what the reading raised, typed and pointing at `pointer`; InvalidStructureError if reading it takes
        too much memory or time; QueueFullError if too many files are being read.
        """
        if not self._slots.acquire(timeout=self._wall_s):
            raise QueueFullError("Too many files are being read at once.", hint="Try again in a few seconds.")
        try:
            answer = self._ask_child(text, format, name)
        finally:
            self._slots.release()
        if "problem" in answer:
            raise _pointing_at(error_from_problem(answer["problem"]), pointer)
        try:
            structures = tuple(structure_from_json(data) for data in answer["structures"])
        except EquipotError as error:
            raise _pointing_at(error, pointer) from error
        if not structures:
            raise InvalidStructureError("The file holds no structure.", pointer=pointer)
        return ReadFile(structures, tuple(answer["warnings"]))

    def warm_up(self) -> None:
        """Start the children's server and read one atom, so that the first user need not wait for it."""
        self.read("1\n\nH 0.0 0.0 0.0\n", "xyz", "")

    def _ask_child(self, text: str, format: str, name: str) -> dict[str, Any]:
        context = multiprocessing.get_context("forkserver")
        receiving, sending = context.Pipe(duplex=False)
        with self._starting, _nameless_main():
            context.set_forkserver_preload(["equipot.calculator.reading", __name__])
            child = context.Process(
                target=_read_in_child, args=(sending, text, format, name, *self._limits), daemon=True
            )
            child.start()
        sending.close()
        try:
            if receiving.poll(self._wall_s):
                answer: dict[str, Any] = json.loads(receiving.recv_bytes())
                return answer
        except EOFError:
            pass  # the child was ended by its limits
        finally:
            child.kill()
            child.join()
            child.close()
            receiving.close()
        return {"problem": _too_costly(format).as_problem()}


@contextlib.contextmanager
def _nameless_main() -> Iterator[None]:
    """While a child is started, hide which program this is: the child would run it again, which takes long or worse."""
    program = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = program


def _read_in_child(sending: Connection, text: str, format: str, name: str, memory_bytes: int, cpu_s: int) -> None:
    _limit_this_process(memory_bytes, cpu_s)
    sending.send_bytes(json.dumps(_answer(text, format, name)).encode())
    sending.close()


def _answer(text: str, format: str, name: str) -> dict[str, Any]:
    from equipot.calculator.reading import parse_structures

    try:
        parsed = parse_structures(text, format, name=name)
        return {"structures": [s.to_json() for s in parsed.structures], "warnings": list(parsed.warnings)}
    except EquipotError as error:
        return {"problem": error.as_problem()}
    except MemoryError:
        return {"problem": _too_costly(format).as_problem()}
    except Exception as error:  # whatever a reader raises on a broken file is the file's fault
        detail = f"The file could not be read as {format}: {type(error).__name__}: {str(error)[:200]}"
        return {"problem": InvalidStructureError(detail, hint="Check the format.").as_problem()}


def _limit_this_process(memory_bytes: int, cpu_s: int) -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_s, cpu_s + 1))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(OSError, ValueError):  # where the system does not know its size, or has no such limit
        mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (mapped + memory_bytes, mapped + memory_bytes))


def _unpacked(data: bytes, max_bytes: int, pointer: str) -> bytes:
    unpacker = zlib.decompressobj(wbits=31)
    try:
        out = unpacker.decompress(data, max_bytes + 1)
    except zlib.error as error:
        raise InvalidStructureError("The file is not gzip, as its name says.", pointer=pointer) from error
    if len(out) > max_bytes:
        raise PayloadTooLargeError(f"The file unpacks to more than {max_bytes} bytes.", pointer=pointer)
    if not unpacker.eof:
        raise InvalidStructureError("The gzip file is cut short.", pointer=pointer)
    return out


def _too_costly(format: str) -> InvalidStructureError:
    return InvalidStructureError(
        f"Reading the {format} file takes too much memory or time.",
        hint="Is it damaged? Otherwise convert it to extxyz with one structure.",
    )


def _pointing_at(error: EquipotError, pointer: str) -> EquipotError:
    """The same error pointing at the file: places inside it mean nothing in the request."""
    messages: Sequence[Culprit] = error.culprits or [Culprit("", error.detail, error.hint)]
    return type(error)(
        error.detail, hint=error.hint, culprits=[Culprit(pointer, c.message, c.hint or error.hint) for c in messages]
    )

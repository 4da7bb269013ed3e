"""The folder of code compiled for this machine: private to the user, checked before it is loaded."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import platform
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from equipot.errors import EquipotError

CACHE_VARIABLE = "EQUIPOT_CACHE"


def cached_code(facts: dict[str, Any], suffix: str, make: Callable[[Path], Path]) -> Path:
    """The file of code that `make` gives in a folder of its own, kept for these facts and this machine.

    Several processes that want the same code compile it once. A file that is not byte for byte what was written is
    made anew: a damaged library would crash. Raises what `make` raises, and EquipotError if others can write to the
    folder.
    """
    kept = (_folder() / code_key(facts)).with_suffix(suffix)
    with _locked(kept.with_suffix(".lock")):
        if not _is_whole(kept):
            with tempfile.TemporaryDirectory(dir=kept.parent) as folder:
                made = make(Path(folder))
                note = Path(folder) / "made.sha256"
                note.write_text(hashlib.sha256(made.read_bytes()).hexdigest())
                made.replace(kept)
                note.replace(kept.with_suffix(".sha256"))
    return kept


def code_key(facts: dict[str, Any]) -> str:
    """Everything the compiled code depends on, the processor included, as one digest."""
    machine = {"machine": platform.machine(), "processor": _processor()}
    return hashlib.sha256(json.dumps({**facts, **machine}, sort_keys=True).encode()).hexdigest()[:40]


def _processor() -> list[str]:
    """Model and instruction set: the code is compiled for this very processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return [platform.processor()]
    return sorted({line for line in lines if line.startswith(("model name", "flags", "Features", "CPU part"))})


def _is_whole(code: Path) -> bool:
    try:
        written = code.with_suffix(".sha256").read_text()
        return hashlib.sha256(code.read_bytes()).hexdigest() == written
    except (OSError, UnicodeDecodeError):
        return False


def _folder() -> Path:
    """Private, because what lies in it is executed."""
    root = os.environ.get(CACHE_VARIABLE) or os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(root) / "equipot" / "compiled"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    about = folder.stat()
    if about.st_uid != os.getuid() or about.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise EquipotError(f"{folder} can be written by others; what is compiled is not kept there.")
    return folder


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield

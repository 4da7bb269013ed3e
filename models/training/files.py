"""Files of a training: whole or not there, and only one process writing them."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from equipot.errors import ConflictError, EquipotError

LOCK = ".lock"


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that nobody ever sees a part of it. Raises EquipotError when it cannot be written."""
    temporary = path.with_name(f".{path.name}.part")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise EquipotError(
            f"{path} cannot be written: {error.strerror}.",
            hint="What was written before is whole: make room and go on with --resume.",
        ) from error


@contextmanager
def only_process_in(folder: Path) -> Iterator[None]:
    """Make the folder, and hold it for this process. Raises ConflictError while another one has it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise EquipotError(f"{folder} cannot be written: {error.strerror}.", hint="Choose another --out.") from error
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ConflictError(
                f"Another training is running in {folder}.", hint="Choose another --out for this one."
            ) from error
        yield
    finally:
        os.close(handle)

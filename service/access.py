"""Who may use the service: API keys, kept as digests in a file of the data directory, and signed addresses.

A key is `eqp_ID_SECRET`. The secret has 256 bits of chance, so its plain sha256 can be kept: nobody can try them all.
The file is read again whenever it changes, so a key that is made or revoked counts at once.
"""

from __future__ import annotations

import fcntl
import hashlib
import hmac
import ipaddress
import json
import os
import re
import secrets
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from equipot.errors import ForbiddenError, InvalidParameterError, UnauthorizedError
from equipot.service.records import JobRecord, utc_text
from equipot.service.settings import Settings

Scope = Literal["read", "write", "admin"]
SCOPES: dict[Scope, str] = {
    "read": "see own jobs and their results",
    "write": "submit, change and delete own jobs, upload structures, evaluate",
    "admin": "see and change everybody's jobs",
}
KEY = re.compile(r"eqp_([0-9a-f]{8})_([A-Za-z0-9_-]{43})")
OWNER = re.compile(r"[A-Za-z0-9._@-]{1,64}")


class KeyLimits(BaseModel):
    """What a key may ask for; None is as much as the service allows anybody."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_atoms: int | None = Field(None, gt=0, description="atoms in one structure")
    max_steps: int | None = Field(None, gt=0, description="steps of one job, of each of its systems")
    max_concurrent_jobs: int | None = Field(None, gt=0, description="jobs that have not ended")
    requests_per_minute: int | None = Field(None, gt=0, description="requests in a minute")
    retention_days: Annotated[float, Field(gt=0)] | None = Field(None, description="after its end a job is removed")


class ApiKey(BaseModel):
    """A key as it is kept: everything but the secret."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    owner: str
    sha256: str
    scopes: list[Scope]
    limits: KeyLimits = KeyLimits()
    created_at: str
    expires_at: str | None = None
    revoked_at: str | None = None

    @property
    def is_valid(self) -> bool:
        """Whether it is neither revoked nor expired."""
        expired = self.expires_at is not None and datetime.fromisoformat(self.expires_at) <= datetime.now(UTC)
        return self.revoked_at is None and not expired


KEYS = TypeAdapter(list[ApiKey])


class Caller(BaseModel):
    """Who makes a request, and what that may be."""

    model_config = ConfigDict(frozen=True)

    owner: str = ""
    key_id: str = ""
    scopes: frozenset[Scope] = frozenset()
    limits: KeyLimits = KeyLimits()

    @property
    def sees_all(self) -> bool:
        return "admin" in self.scopes

    def may_see(self, record: JobRecord) -> bool:
        """Whether a job is this caller's to look at."""
        return self.sees_all or (bool(self.owner) and record.owner == self.owner)

    def require(self, scope: Scope) -> None:
        """Raises ForbiddenError without the scope."""
        if scope not in self.scopes and not self.sees_all:
            raise ForbiddenError(
                f"The API key has no scope {scope!r}.", hint=f"A key with it: equipot keys create {self.owner} ..."
            )


ANYBODY = Caller(scopes=frozenset(SCOPES))  #: where no key is needed
NOBODY = Caller()


class KeyFile:
    """The keys of a service."""

    def __init__(self, data_dir: Path) -> None:
        self._folder = data_dir.absolute() / "access"
        self._path = self._folder / "keys.json"
        self._guard = threading.Lock()
        self._seen: tuple[int, int] | None = None
        self._keys: dict[str, ApiKey] = {}

    def all(self) -> list[ApiKey]:
        """Every key, also those that are revoked or expired, the oldest first."""
        with self._guard:
            self._look()
            return list(self._keys.values())

    def create(
        self,
        owner: str,
        scopes: Sequence[Scope] = ("read", "write"),
        *,
        expires_in_days: float | None = None,
        limits: KeyLimits | None = None,
    ) -> tuple[ApiKey, str]:
        """Make a key; the text is known now and never again. Raises InvalidParameterError."""
        if not OWNER.fullmatch(owner):
            raise InvalidParameterError(
                f"{owner[:80]!r} is no name of an owner.", hint="Up to 64 letters, digits and . _ @ -"
            )
        text = f"eqp_{secrets.token_hex(4)}_{secrets.token_urlsafe(32)}"
        now = datetime.now(UTC)
        key = ApiKey(
            id=text[4:12],
            owner=owner,
            sha256=_digest(text),
            scopes=sorted(set(scopes)),
            limits=limits or KeyLimits(),
            created_at=utc_text(now.timestamp()),
            expires_at=None
            if expires_in_days is None
            else utc_text((now + timedelta(days=expires_in_days)).timestamp()),
        )
        self._change(lambda keys: [*keys, key])
        return key, text

    def revoke(self, key_id: str) -> ApiKey:
        """Make a key worthless. Raises InvalidParameterError if there is none with this id."""
        known = {key.id: key for key in self.all()}
        if key_id not in known:
            raise InvalidParameterError(f"There is no key {key_id[:40]!r}.", hint="equipot keys list")
        revoked = known[key_id].model_copy(update={"revoked_at": utc_text(time.time())})
        self._change(lambda keys: [revoked if key.id == key_id else key for key in keys])
        return revoked

    def caller(self, text: str) -> Caller:
        """Who has this key. Raises UnauthorizedError."""
        found = KEY.fullmatch(text)
        key = None
        with self._guard:
            self._look()
            key = self._keys.get(found[1]) if found else None
        if key is None or not hmac.compare_digest(key.sha256, _digest(text)) or not key.is_valid:
            raise UnauthorizedError("The API key is not valid.", hint="It may be revoked or expired: equipot keys list")
        return Caller(owner=key.owner, key_id=key.id, scopes=frozenset(key.scopes), limits=key.limits)

    def _look(self) -> None:
        """Read the file if it has changed."""
        try:
            about = self._path.stat()
        except FileNotFoundError:
            self._keys, self._seen = {}, None
            return
        if (about.st_ino, about.st_mtime_ns) != self._seen:
            self._keys = {key.id: key for key in KEYS.validate_json(self._path.read_bytes())}
            self._seen = (about.st_ino, about.st_mtime_ns)

    def _change(self, change: Callable[[list[ApiKey]], list[ApiKey]]) -> None:
        _private_folder(self._folder)
        with (self._folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            _write_private(self._path, KEYS.dump_json(change(self.all()), indent=1))


class Signer:
    """Signs with a secret of the service, made when it is first needed."""

    def __init__(self, data_dir: Path) -> None:
        self._path = data_dir.absolute() / "access" / "secret"
        self._secret = b""

    @property
    def secret(self) -> bytes:
        if not self._secret:
            with suppress(FileExistsError):
                if not self._path.exists():
                    _private_folder(self._path.parent)
                    _write_private(self._path, secrets.token_bytes(32), exclusive=True)
            self._secret = self._path.read_bytes()
        return self._secret

    def sign(self, what: str) -> str:
        """The signature of a text."""
        return hmac.new(self.secret, what.encode(), hashlib.sha256).hexdigest()

    def signed_query(self, path: str, expires: int) -> str:
        """What to append to an address so that it works without a key until `expires` (POSIX time)."""
        return f"expires={expires}&signature={self.sign(f'GET {path} {expires}')}"

    def check_query(self, path: str, expires: str, signature: str) -> None:
        """Raises ForbiddenError unless the address was signed and has not expired."""
        good = hmac.compare_digest(signature.encode(), self.sign(f"GET {path} {expires}").encode())
        if not good or not expires.isdecimal() or int(expires) < time.time():
            raise ForbiddenError(
                "The signature of the address is not valid or has expired.",
                hint="List the artifacts again for a new one.",
            )

    def webhook_secret(self, owner: str) -> bytes:
        """The secret by which an owner can check webhooks."""
        return hmac.new(self.secret, f"webhooks of {owner}".encode(), hashlib.sha256).digest()


def is_loopback(host: str) -> bool:
    """Whether an address reaches this machine only."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def keys_needed(settings: Settings, keys: KeyFile) -> bool:
    """Whether a request needs a key: always, never, or ('auto') off this machine and as soon as there is a key."""
    if settings.access == "auto":
        return not is_loopback(settings.host) or bool(keys.all())
    return settings.access == "keys"


def refuse_open_door(settings: Settings) -> None:
    """Raises UnauthorizedError if the service would answer the world without keys, or ask for keys that nobody has."""
    keys = KeyFile(settings.data_dir)
    if keys_needed(settings, keys) and not keys.all():
        where = "" if is_loopback(settings.host) else f" on {settings.host}, where other machines reach it"
        raise UnauthorizedError(
            f"There is no API key, so the service does not start{where}.",
            hint=f"Make one: equipot keys create NAME --data-dir {settings.data_dir}. Or let everybody in who reaches "
            "the port: EQUIPOT_ACCESS=open.",
        )


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _private_folder(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)


def _write_private(path: Path, data: bytes, *, exclusive: bool = False) -> None:
    """Make a file that only its owner reads appear whole. Raises FileExistsError if `exclusive` and it is there."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    try:
        if exclusive:
            os.link(temporary, path)
        else:
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def key_as_json(key: ApiKey) -> dict[str, object]:
    """A key as it may be shown: without its digest."""
    return {**json.loads(key.model_dump_json(exclude={"sha256"})), "valid": key.is_valid}

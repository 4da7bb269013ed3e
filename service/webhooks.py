"""Telling a user's server that a job has ended: signed, tried again, and never sent to where it must not go.

Signed as Standard Webhooks say: `Webhook-Signature: v1,` and the base64 of HMAC-SHA256 over `id.timestamp.body`.
The address is resolved once, every answer checked, and the connection made to the very address that was checked; a
redirect is not followed and no proxy of the environment is used.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import ipaddress
import json
import socket
import time
from typing import Any
from urllib.parse import urlsplit

import httpx
import structlog

from equipot.errors import InvalidParameterError, JobNotFoundError
from equipot.service.access import Signer
from equipot.service.records import JobRecord, utc_now
from equipot.service.settings import Settings
from equipot.service.store import JobStore
from equipot.service.webhook_queue import WAITING

log = structlog.get_logger()

LEASE_S = 60.0  #: for one try
ANSWER_S = 10.0
LONGEST_PAUSE_S = 3600.0
POINTER = "/webhook_url"
HIDDEN_NAMES = (".local", ".internal", ".localhost", ".home.arpa")
EMBEDDING = [ipaddress.ip_network(net) for net in ("64:ff9b::/96", "64:ff9b:1::/48", "2002::/16", "2001::/32")]

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def check_url(url: str, settings: Settings) -> None:
    """Refuse at submission what could never be told. Raises InvalidParameterError."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise _refused("is not an address") from error
    if parts.scheme not in ("http", "https") or not host:
        raise _refused("is not an http or https address")
    if parts.username or parts.password or "@" in parts.netloc:
        raise _refused("holds a user name or password")
    if any(character.isspace() or ord(character) < 32 for character in url):
        raise _refused("holds white space")
    if settings.webhook_allow_private:
        return
    name = host.lower().rstrip(".")
    if name == "localhost" or name.endswith(HIDDEN_NAMES):
        raise _refused("leads into a private network")
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return  # a name: looked up when it is used
    if not is_public(address):
        raise _refused("leads into a private network")


def is_public(address: Address) -> bool:
    """Whether an address belongs to the internet at large, also when it stands in another."""
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return is_public(address.ipv4_mapped)
        if any(address in network for network in EMBEDDING):
            return False
    return address.is_global and not address.is_multicast and not address.is_reserved


def resolve(host: str, port: int, *, allow_private: bool) -> Address:
    """The address to connect to. Raises OSError if the name leads nowhere, or anywhere into a private network."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    addresses = [ipaddress.ip_address(str(entry[4][0]).partition("%")[0]) for entry in found]
    if not addresses or not (allow_private or all(map(is_public, addresses))):
        raise OSError(f"{host} leads into a private network")
    return addresses[0]


def signature(secret: bytes, message_id: str, timestamp: int, body: bytes) -> str:
    """The value of `Webhook-Signature`."""
    signed = hmac.new(secret, f"{message_id}.{timestamp}.".encode() + body, hashlib.sha256).digest()
    return "v1," + base64.b64encode(signed).decode()


def body_of(record: JobRecord) -> bytes:
    """What is told: how the job ended and where to look, no numbers."""
    about = ("id", "kind", "model", "state", "name", "tags", "outcomes", "error", "created_at", "finished_at")
    data = {name: value for name, value in record.model_dump(mode="json").items() if name in about}
    message = {"type": "job.ended", "timestamp": utc_now(), "data": {**data, "url": f"/v1/jobs/{record.id}"}}
    return json.dumps(message, separators=(",", ":")).encode()


class Webhooks:
    """Tells what is to be told. Any number of processes may run `look`; a try is made by one of them."""

    def __init__(self, store: JobStore, signer: Signer) -> None:
        self._store, self._signer, self._settings = store, signer, store.settings

    def look(self) -> int:
        """Tell of every job that has ended and is due. Returns how many tries were made."""
        n_tried = 0
        for job_id in self._store.redis.zrangebyscore(WAITING, "-inf", time.time()):
            try:
                record = self._store.get(job_id)
            except JobNotFoundError:
                if self._store.redis.zscore(WAITING, job_id) > 0:  # once waited for, so it is gone; 0: being submitted
                    self._forget(job_id)
                else:
                    self._store.redis.zadd(WAITING, {job_id: time.time() + LEASE_S}, xx=True)
                continue
            if not record.is_over or record.webhook_url is None:
                continue
            if self._take(job_id):
                n_tried += 1
                self._try(record)
        return n_tried

    def status(self, job_id: str) -> dict[str, Any]:
        """What was tried: attempts, the last answer, when it was delivered or given up."""
        found: dict[str, str] = self._store.redis.hgetall(_status_key(job_id))
        return {**found, "attempts": int(found.get("attempts", 0))}

    def _take(self, job_id: str) -> bool:
        """Whether this call makes the try: its neighbours see a time that is not due yet."""
        until = time.time() + LEASE_S
        changed = self._store.redis.zadd(WAITING, {job_id: until}, xx=True, gt=True, ch=True)
        claimed = self._store.redis.set(
            f"equipot:webhook:trying:{job_id}", "1", nx=True, px=int(1000 * ANSWER_S) + 5000
        )
        return bool(changed and claimed)

    def _try(self, record: JobRecord) -> None:
        assert record.webhook_url is not None
        redis, key = self._store.redis, _status_key(record.id)
        attempt = int(redis.hincrby(key, "attempts", 1))
        redis.expire(key, 30 * 86400)
        try:
            answer = self._send(record, record.webhook_url)
        except (InvalidParameterError, OSError, ValueError, httpx.HTTPError, httpx.InvalidURL) as error:
            answer = f"{type(error).__name__}: {str(error)[:200]}"
        said = {"answer": answer, "at": utc_now()}
        redis.delete(f"equipot:webhook:trying:{record.id}")
        delivered = answer.isdecimal() and 200 <= int(answer) < 300
        gone = answer == "410" or attempt >= self._settings.webhook_attempts
        if delivered or gone:
            redis.hset(key, mapping={**said, "state": "delivered" if delivered else "given up"})
            self._forget(record.id)
        else:
            pause_s = min(self._settings.webhook_pause_s * 4.0 ** (attempt - 1), LONGEST_PAUSE_S)
            redis.hset(key, mapping={**said, "state": "waiting"})
            redis.zadd(WAITING, {record.id: time.time() + pause_s}, xx=True)
        log.info("webhook", job_id=record.id, answer=answer, attempt=attempt, delivered=delivered)

    def _send(self, record: JobRecord, url: str) -> str:
        """One try; the status of the answer."""
        check_url(url, self._settings)
        parts = urlsplit(url)
        host, default = parts.hostname or "", 443 if parts.scheme == "https" else 80
        address = resolve(host, parts.port or default, allow_private=self._settings.webhook_allow_private)
        body, timestamp = body_of(record), int(time.time())
        message_id = f"{record.id}.{record.attempt}"
        secret = self._signer.webhook_secret(record.owner)
        headers = {
            "Host": parts.netloc,
            "Content-Type": "application/json",
            "User-Agent": "equipot",
            "Webhook-Id": message_id,
            "Webhook-Timestamp": str(timestamp),
            "Webhook-Signature": signature(secret, message_id, timestamp, body),
        }
        literal = f"[{address}]" if address.version == 6 else str(address)
        pinned = parts._replace(netloc=f"{literal}:{parts.port or default}", fragment="").geturl()
        with httpx.Client(timeout=ANSWER_S, trust_env=False, follow_redirects=False) as client:
            request = client.build_request(
                "POST", pinned, content=body, headers=headers, extensions={"sni_hostname": host}
            )
            answer = client.send(request, stream=True)  # what the receiver says beside its status is not read
            answer.close()
            return str(answer.status_code)

    def _forget(self, job_id: str) -> None:
        self._store.redis.zrem(WAITING, job_id)


def _status_key(job_id: str) -> str:
    return f"equipot:webhook:{job_id}"


def _refused(why: str) -> InvalidParameterError:
    return InvalidParameterError(
        f"webhook_url {why}.", pointer=POINTER, hint="Give a public address, as https://example.org/equipot."
    )

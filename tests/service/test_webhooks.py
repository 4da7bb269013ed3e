"""Webhooks: signed as the receiver can check, tried again, and never sent into a private network."""

from __future__ import annotations

import base64
import hashlib
import hmac
import ipaddress
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from equipot.errors import InvalidParameterError
from equipot.service.access import Signer
from equipot.service.settings import Settings
from equipot.service.store import JobStore
from equipot.service.webhook_queue import WAITING
from equipot.service.webhooks import Webhooks, check_url, is_public, resolve


class Receiver:
    """A server that keeps what it is told and answers with the statuses it was given, the last one for ever."""

    def __init__(self) -> None:
        self.told: list[tuple[dict[str, str], bytes]] = []
        self.answers = [204]
        told, answers = self.told, self.answers

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                told.append(({name.lower(): value for name, value in self.headers.items()}, body))
                status = answers.pop(0) if len(answers) > 1 else answers[0]
                self.send_response(status)
                if status == 302:
                    self.send_header("Location", "/elsewhere")
                self.end_headers()

            def log_message(self, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/hook"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    yield receiver
    receiver.close()


def webhooks(service: Any, tmp_path: Path, **changes: Any) -> tuple[Webhooks, Signer]:
    settings = service.settings.model_copy(
        update={"webhook_allow_private": True, "webhook_pause_s": 1e-4, "webhook_attempts": 3, **changes}
    )
    signer = Signer(tmp_path)
    return Webhooks(JobStore(service.store.redis, tmp_path, settings), signer), signer


def ended(service: Any, url: str) -> str:
    record = service.submit(webhook_url=url)
    service.store.request_cancel(record.id)
    return str(record.id)


def test_the_end_of_a_job_is_told_once_with_a_signature_that_fits(
    service: Any, tmp_path: Path, receiver: Receiver
) -> None:
    hooks, signer = webhooks(service, tmp_path)
    record = service.submit(webhook_url=receiver.url, owner="alice")
    assert hooks.look() == 0, "it has not ended"
    service.store.request_cancel(record.id)
    assert hooks.look() == 1
    assert hooks.look() == 0
    [(headers, body)] = receiver.told
    message = json.loads(body)
    assert message["type"] == "job.ended"
    assert (message["data"]["id"], message["data"]["state"]) == (record.id, "cancelled")
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    expected = base64.b64encode(hmac.digest(signer.webhook_secret("alice"), signed, hashlib.sha256)).decode()
    assert headers["webhook-signature"] == f"v1,{expected}"
    assert signer.webhook_secret("alice") != signer.webhook_secret("bob")
    assert hooks.status(record.id)["state"] == "delivered"
    assert not service.store.redis.zcard(WAITING)


def test_a_receiver_that_fails_is_asked_again_and_given_up_in_the_end(
    service: Any, tmp_path: Path, receiver: Receiver
) -> None:
    hooks, _ = webhooks(service, tmp_path)
    receiver.answers[:] = [500, 302, 200]
    first = ended(service, receiver.url)
    service.wait_for(lambda: hooks.look() >= 0 and hooks.status(first).get("state") == "delivered", 30)
    assert hooks.status(first)["attempts"] == 3
    assert all(headers["host"] in receiver.url for headers, _ in receiver.told), "a redirect is not followed"
    assert len({headers["webhook-id"] for headers, _ in receiver.told}) == 1, "the receiver can tell a repetition"
    receiver.answers[:] = [500]
    second = ended(service, receiver.url)
    service.wait_for(lambda: hooks.look() >= 0 and hooks.status(second).get("state") == "given up", 30)
    assert hooks.status(second) | {"at": ""} == {"attempts": 3, "answer": "500", "state": "given up", "at": ""}


def test_nothing_is_sent_into_a_private_network(service: Any, tmp_path: Path, receiver: Receiver) -> None:
    hooks, _ = webhooks(service, tmp_path, webhook_allow_private=False, webhook_attempts=1)
    job_id = ended(service, receiver.url)
    hooks.look()
    assert receiver.told == []
    assert "private network" in hooks.status(job_id)["answer"]


def test_a_name_that_leads_to_this_machine_is_found_out_when_it_is_looked_up() -> None:
    with pytest.raises(OSError, match="private network"):
        resolve("localhost", 80, allow_private=False)
    assert resolve("localhost", 80, allow_private=True).is_loopback


@pytest.mark.parametrize(
    "text",
    "127.0.0.1 10.1.2.3 172.16.0.1 192.168.1.1 169.254.169.254 100.64.0.1 0.0.0.0 224.0.0.1 255.255.255.255 "
    "::1 :: fe80::1 fc00::1 ::ffff:127.0.0.1 ::ffff:169.254.169.254 64:ff9b::7f00:1 "
    "2002:7f00:1:: ff02::1 198.18.0.1".split(),
)
def test_private_addresses_are_known_in_every_dress(text: str) -> None:
    assert not is_public(ipaddress.ip_address(text))


def test_public_addresses_are_public() -> None:
    for text in ("1.1.1.1", "93.184.216.34", "2606:4700::1111"):
        assert is_public(ipaddress.ip_address(text))


@pytest.mark.parametrize(
    "url",
    [
        "ftp://example.org/x",
        "file:///etc/passwd",
        "https://",
        "https://user:secret@example.org/",
        "http://127.0.0.1/",
        "http://[::1]:8000/",
        "http://localhost:8000/",
        "http://metadata.google.internal/",
        "http://example.org/a b",
        "http://example.org:99999/",
        "http://[::1",
        "javascript:alert(1)",
    ],
)
def test_an_address_that_can_never_be_told_is_refused_at_submission(url: str) -> None:
    with pytest.raises(InvalidParameterError) as refused:
        check_url(url, Settings())
    assert refused.value.culprits[0].pointer == "/webhook_url"
    assert "secret" not in str(refused.value)


def test_a_public_address_is_taken() -> None:
    check_url("https://example.org:8443/hook?job=1", Settings())

"""API keys: who gets in, who sees what, how much a key may use, and what never leaves the service."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from equipot.errors import UnauthorizedError
from equipot.service.access import KeyFile, KeyLimits, Signer, is_loopback
from equipot.service.client import Client
from equipot.service.redis_server import RedisServer

from .conftest import WATER, LiveApi, running_api


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveApi]:
    """An API that asks for keys, on a Redis of its own, without a worker."""
    folder = tmp_path_factory.mktemp("guarded")
    with RedisServer(folder) as server:
        KeyFile(folder / "data").create("root", ["admin"])
        with running_api(server.url, folder) as api:
            yield api


def key(api: LiveApi, owner: str, *scopes: Any, **limits: Any) -> dict[str, str]:
    """The headers of a new key."""
    folder = api.store.settings.data_dir
    _, text = KeyFile(folder).create(owner, scopes or ("read", "write"), limits=KeyLimits(**limits))
    return {"Authorization": f"Bearer {text}"}


def submit(api: LiveApi, headers: dict[str, str], **changes: Any) -> httpx.Response:
    return api.http.post("/v1/jobs", json=api.job(**changes), headers=headers)


def test_without_a_valid_key_only_public_pages_answer(guarded: LiveApi) -> None:
    for path in ("/healthz", "/docs", "/openapi.json", "/", "/problems/unauthorized"):
        assert guarded.http.get(path).status_code == 200
    wrong: tuple[dict[str, str], ...] = (
        {},
        {"Authorization": "Bearer eqp_00000000_" + "A" * 43},
        {"Authorization": "Basic abc"},
        {"X-API-Key": "nonsense"},
    )
    for headers in wrong:
        for path in ("/v1/jobs", "/v1/limits", "/metrics", "/v1/nothing", "/v1/jobs/x/artifacts/y"):
            answer = guarded.http.get(path, headers=headers)
            assert (answer.status_code, answer.json()["type"]) == (401, "/problems/unauthorized")
            assert answer.headers["www-authenticate"] == "Bearer"
    assert submit(guarded, {}).status_code == 401
    assert guarded.http.get("/v1/jobs", headers=key(guarded, "alice")).status_code == 200


def test_a_job_is_seen_by_its_owner_and_by_an_admin_and_by_nobody_else(guarded: LiveApi) -> None:
    alice, bob, root = key(guarded, "alice"), key(guarded, "bob"), key(guarded, "root", "admin")
    job = submit(guarded, alice).json()
    assert job["owner"] == "alice"
    path = f"/v1/jobs/{job['id']}"
    for method, address in (
        ("GET", path),
        ("GET", f"{path}/events"),
        ("GET", f"{path}/systems"),
        ("GET", f"{path}/trajectory"),
        ("GET", f"{path}/manifest"),
        ("GET", f"{path}/artifacts"),
        ("GET", f"{path}/artifacts/request.json"),
        ("POST", f"{path}/cancel"),
        ("POST", f"{path}/resume"),
        ("POST", f"{path}/extend"),
        ("DELETE", path),
    ):
        answer = guarded.http.request(method, address, headers=bob, json={} if method == "POST" else None)
        assert (answer.status_code, answer.json()["type"]) == (404, "/problems/job-not-found"), address

    def listed(headers: dict[str, str]) -> list[str]:
        return [item["id"] for item in guarded.http.get("/v1/jobs", headers=headers).json()["items"]]

    assert job["id"] in listed(alice)
    assert listed(bob) == []
    assert job["id"] in listed(root)
    assert job["id"] in listed(key(guarded, "alice")), "another key of the same owner"
    assert guarded.http.get(path, headers=root).status_code == 200


def test_two_owners_may_use_the_same_idempotency_key(guarded: LiveApi) -> None:
    ids = {submit(guarded, {**key(guarded, owner), "Idempotency-Key": "same"}).json()["id"] for owner in ("ann", "ben")}
    assert len(ids) == 2


def test_a_key_that_may_only_read_changes_nothing(guarded: LiveApi) -> None:
    reader = key(guarded, "carol", "read")
    answer = submit(guarded, reader)
    assert (answer.status_code, answer.json()["type"]) == (403, "/problems/forbidden")
    assert guarded.http.get("/v1/limits", headers=reader).json()["key"]["scopes"] == ["read"]


def test_revoking_and_expiry_count_at_once(guarded: LiveApi) -> None:
    keys = KeyFile(guarded.store.settings.data_dir)
    made, text = keys.create("dave")
    headers = {"X-API-Key": text}
    assert guarded.http.get("/v1/jobs", headers=headers).status_code == 200
    keys.revoke(made.id)
    assert guarded.http.get("/v1/jobs", headers=headers).status_code == 401
    _, brief = keys.create("dave", expires_in_days=1e-9)
    with pytest.raises(UnauthorizedError):
        keys.caller(brief)


def test_a_key_has_limits_on_atoms_steps_jobs_and_requests(guarded: LiveApi) -> None:
    small = key(guarded, "eve", max_atoms=2, max_steps=100)
    assert submit(guarded, small).json()["type"] == "/problems/system-too-large"
    h2 = {"symbols": ["H", "H"], "positions": [[0, 0, 0], [0, 0, 0.8]]}
    answer = submit(guarded, small, structures=[h2])
    assert (answer.status_code, answer.json()["type"]) == (429, "/problems/quota-exceeded")  # 500 steps is the default
    assert submit(guarded, small, structures=[h2], params={"max_steps": 100}).status_code == 202

    one = key(guarded, "fred", max_concurrent_jobs=1)
    first = submit(guarded, {**one, "Idempotency-Key": "first"})
    assert first.status_code == 202
    answer = submit(guarded, one)
    assert (answer.status_code, answer.json()["type"]) == (429, "/problems/quota-exceeded")
    assert int(answer.headers["retry-after"]) > 0
    again = submit(guarded, {**one, "Idempotency-Key": "first"})
    assert (again.status_code, again.json()["id"]) == (202, first.json()["id"]), "a repeated request needs no room"
    guarded.http.post(f"/v1/jobs/{first.json()['id']}/cancel", headers=one)
    assert submit(guarded, one).status_code == 202

    slow = key(guarded, "gina", requests_per_minute=5)
    statuses = [guarded.http.get("/v1/limits", headers=slow).status_code for _ in range(8)]
    assert statuses[:5] == [200] * 5
    assert statuses[-1] == 429
    answer = guarded.http.get("/v1/limits", headers=slow)
    assert answer.json()["type"] == "/problems/rate-limited"
    assert 0 < int(answer.headers["retry-after"]) <= 60


def test_a_signed_address_opens_one_file_for_a_while(guarded: LiveApi) -> None:
    headers = key(guarded, "hans")
    job = submit(guarded, headers).json()
    [item, *_] = guarded.http.get(f"/v1/jobs/{job['id']}/artifacts", headers=headers).json()["items"]
    signed = item["signed_url"]
    assert guarded.http.get(signed).status_code == 200
    assert guarded.http.get(signed, headers={"Range": "bytes=0-3"}).status_code == 206
    assert guarded.http.get(item["url"]).status_code == 401
    for bad in (
        signed.replace("request.json", "inputs.0000.json"),
        signed.replace("expires=", "expires=1"),
        signed[:-1] + ("0" if signed[-1] != "0" else "1"),
        f"{item['url']}?" + Signer(guarded.store.settings.data_dir).signed_query(item["url"], int(time.time()) - 1),
    ):
        assert guarded.http.get(bad).status_code == 403
    assert guarded.http.post(signed.replace("artifacts/request.json", "cancel")).status_code == 401


def test_the_python_client_brings_its_key(guarded: LiveApi) -> None:
    bearer = key(guarded, "ida")["Authorization"].removeprefix("Bearer ")
    with Client(guarded.url, bearer, patience_s=0) as client:
        assert client.submit("relax", WATER, model="tiny").record.owner == "ida"
    with Client(guarded.url, patience_s=0) as client, pytest.raises(UnauthorizedError):
        client.models()


def test_no_secret_is_kept_or_logged(guarded: LiveApi) -> None:
    headers = key(guarded, "judy")
    job = submit(guarded, headers).json()
    [item, *_] = guarded.http.get(f"/v1/jobs/{job['id']}/artifacts", headers=headers).json()["items"]
    guarded.http.get(item["signed_url"])
    secret = headers["Authorization"].rpartition("_")[2]
    signature = item["signed_url"].rpartition("=")[2]
    folder = guarded.store.settings.data_dir / "access"
    for path in folder.iterdir():
        assert secret.encode() not in path.read_bytes()
        if path.name != "lock":
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
    log = guarded.log.read_text()
    assert job["id"] in log
    assert secret not in log
    assert signature not in log


def test_answers_carry_safe_headers_and_open_no_door_to_other_sites(guarded: LiveApi, api: LiveApi) -> None:
    answer = guarded.http.get("/v1/jobs", headers={**key(guarded, "kim"), "Origin": "https://evil.example"})
    assert not [name for name in answer.headers if name.startswith("access-control-")]
    assert answer.headers["cache-control"] == "no-store"
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert answer.headers["x-content-type-options"] == "nosniff"
    foreign = api.http.get("/v1/jobs", headers={"Host": "rebound.evil.example"})
    assert (foreign.status_code, foreign.json()["type"]) == (403, "/problems/forbidden")
    assert api.http.get("/v1/jobs", headers={"Host": "localhost:8000"}).status_code == 200


@pytest.mark.parametrize(
    ("host", "local"),
    [
        ("127.0.0.1", True),
        ("localhost", True),
        ("::1", True),
        ("[::1]", True),
        ("0.0.0.0", False),
        ("::", False),
        ("10.0.0.1", False),
        ("example.org", False),
    ],
)
def test_loopback_is_told_from_the_rest(host: str, local: bool) -> None:
    assert is_loopback(host) is local


def _start(tmp_path: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "equipot.service.cli", *arguments, "--data-dir", str(tmp_path)]
    return subprocess.run(
        command, env={**os.environ, **environment}, capture_output=True, text=True, timeout=60, check=False
    )


def test_a_service_that_others_reach_does_not_start_without_a_key(tmp_path: Path) -> None:
    for command in (["serve"], ["api", "--redis-url", "redis://127.0.0.1:1/0"]):
        said = _start(tmp_path, *command, "--host", "0.0.0.0", "--port", "0", COLUMNS="200")
        assert said.returncode == 4, said.stderr  # there is no service
        assert "no API key" in said.stderr
        assert "equipot keys create" in said.stderr
        assert "EQUIPOT_ACCESS=open" in said.stderr


def test_keys_are_made_listed_and_revoked_in_a_shell(in_process: Callable[..., Any], tmp_path: Path) -> None:
    where = ("--data-dir", tmp_path)
    made = json.loads(in_process("keys", "create", "alice", "--max-atoms", "50", "--json", *where).stdout)
    assert made["key"].startswith("eqp_")
    assert made["webhook_secret"].startswith("whsec_")
    assert KeyFile(tmp_path).caller(made["key"]).limits.max_atoms == 50
    listed = in_process("keys", "list", *where)
    assert made["id"] in listed.stdout
    assert made["key"] not in listed.stdout + json.dumps(in_process("keys", "list", "--json", *where).stdout)
    assert in_process("keys", "webhook-secret", "alice", *where).stdout.strip() == made["webhook_secret"]
    assert in_process("keys", "revoke", made["id"], *where).returncode == 0
    assert "revoked" in in_process("keys", "list", *where).stdout
    assert in_process("keys", "revoke", "ffffffff", *where).returncode == 2
    assert in_process("keys", "create", "a b", *where).returncode == 2

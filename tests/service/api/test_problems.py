"""Every error is a problem with a stable type, one status and a pointer to the culprit, and nothing is queued."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest

from equipot.errors import error_classes, error_from_problem
from equipot.service.api.problems import HTTP_TITLES, LONGEST_TEXT, MEANING, STATUS
from equipot.service.idempotency import Reservation
from equipot.service.redis_server import RedisServer

from .conftest import MAX_ATOMS, MAX_BODY_BYTES, MAX_QUEUED_JOBS, MAX_STRUCTURES, WATER, LiveApi, running_api

CRYSTAL = {"symbols": ["Cu"], "positions": [[0.0, 0.0, 0.0]], "pbc": [True, True, True]}
CELL = [[3.6, 0, 0], [0, 3.6, 0], [0, 0, 3.6]]
BOMB = "1\nProperties=species:S:1:pos:R:3:junk:R:100000000\nH 0 0 0\n"


def water(**changes: Any) -> dict[str, Any]:
    return {**WATER, **changes}


def _nested(depth: int) -> dict[str, Any]:
    return {"a": _nested(depth - 1)} if depth else {}


#: what is changed in a valid request, and the type, the status and the pointer that must come back
BAD_JOBS: dict[str, tuple[dict[str, Any], str, int, str]] = {
    "no such kind": ({"kind": "dock"}, "invalid-parameter", 422, "/kind"),
    "kind is not text": ({"kind": {}}, "invalid-parameter", 422, "/kind"),
    "unknown field": ({"colour": "red"}, "invalid-parameter", 422, "/colour"),
    "unknown parameter": ({"params": {"fmax": 0.1}}, "invalid-parameter", 422, "/params/fmax"),
    "parameter of another kind": ({"params": {"n_steps": 5}}, "invalid-parameter", 422, "/params/n_steps"),
    "parameter out of range": (
        {"params": {"fmax_ev_per_ang": -1}},
        "invalid-parameter",
        422,
        "/params/fmax_ev_per_ang",
    ),
    "negative time step": (
        {"kind": "md", "params": {"n_steps": 1, "timestep_fs": -0.5}},
        "invalid-parameter",
        422,
        "/params/timestep_fs",
    ),
    "neither n_steps nor duration_ps": ({"kind": "md", "params": {}}, "invalid-parameter", 422, "/params"),
    "n_steps and duration_ps": (
        {"kind": "md", "params": {"n_steps": 1, "duration_ps": 1}},
        "invalid-parameter",
        422,
        "/params/duration_ps",
    ),
    "more steps than anyone can wait for": (
        {"kind": "md", "params": {"duration_ps": 1e18}},
        "invalid-parameter",
        422,
        "/params/duration_ps",
    ),
    "steps without end": (
        {"kind": "md", "params": {"duration_ps": 1e12, "timestep_fs": 1e-300}},
        "invalid-parameter",
        422,
        "/params/duration_ps",
    ),
    "time step out of all reason": (
        {"kind": "md", "params": {"n_steps": 1, "timestep_fs": 20}},
        "invalid-parameter",
        422,
        "/params/timestep_fs",
    ),
    "negative seed": (
        {"kind": "md", "params": {"n_steps": 1, "seed": -1}},
        "invalid-parameter",
        422,
        "/params/seed",
    ),
    "a name that a pointer must escape": ({"params": {"a/b~": 1}}, "invalid-parameter", 422, "/params/a~1b~0"),
    "given velocities that are not there": (
        {"kind": "md", "params": {"n_steps": 1, "velocities": "given"}},
        "invalid-structure",
        422,
        "/structures/0/velocities",
    ),
    "info nested without end": (
        {"structures": [water(info=_nested(800))]},
        "invalid-structure",
        422,
        "/structures/0/info",
    ),
    "md without params": ({"kind": "md"}, "invalid-parameter", 422, "/params"),
    "seeds for other structures": (
        {"kind": "md", "params": {"n_steps": 1, "seed": [1, 2]}},
        "invalid-parameter",
        422,
        "/params/seed",
    ),
    "unknown guard": ({"params": {"guards": {"max_fun": 1}}}, "invalid-parameter", 422, "/params/guards/max_fun"),
    "wall time without end": ({"max_wall_time_s": 0}, "invalid-parameter", 422, "/max_wall_time_s"),
    "priority out of range": ({"priority": 11}, "invalid-parameter", 422, "/priority"),
    "no structures": ({"structures": []}, "invalid-parameter", 422, "/structures"),
    "structure is not an object": ({"structures": [7]}, "invalid-parameter", 422, "/structures/0"),
    "charge": ({"structures": [water(charge=-1)]}, "invalid-parameter", 422, "/structures/0/charge"),
    "open shell": (
        {"structures": [water(spin_multiplicity=3)]},
        "invalid-parameter",
        422,
        "/structures/0/spin_multiplicity",
    ),
    "unknown key in a structure": (
        {"structures": [water(colour=1)]},
        "invalid-structure",
        422,
        "/structures/0/colour",
    ),
    "positions as text": (
        {"structures": [{"symbols": ["H"], "positions": [["0", "0", "0"]]}]},
        "invalid-structure",
        422,
        "/structures/0/positions",
    ),
    "missing positions": ({"structures": [{"symbols": ["H"]}]}, "invalid-structure", 422, "/structures/0/positions"),
    "NaN": (
        {"structures": [WATER, water(positions=[[0, 0, 0], [float("nan"), 0, 1], [0, 0, 2]])]},
        "invalid-structure",
        422,
        "/structures/1/positions/1",
    ),
    "pbc without cell": ({"structures": [CRYSTAL]}, "invalid-structure", 422, "/structures/0/cell"),
    "cell without pbc": ({"structures": [water(cell=CELL)]}, "invalid-structure", 422, "/structures/0/pbc"),
    "singular cell": (
        {"structures": [{**CRYSTAL, "cell": [[3, 0, 0], [0, 3, 0], [3, 3, 0]]}]},
        "invalid-structure",
        422,
        "/structures/0/cell",
    ),
    "overlapping atoms": (
        {"structures": [{"symbols": ["H", "H"], "positions": [[0, 0, 0], [0, 0, 0.01]]}]},
        "atoms-too-close",
        422,
        "/structures/0/positions/1",
    ),
    "atom on its own image": (
        {"structures": [{**CRYSTAL, "cell": [[1e-6, 0, 0], [0, 1e-6, 0], [0, 0, 1e-6]]}]},
        "atoms-too-close",
        422,
        "/structures/0/positions/0",
    ),
    "unknown element": (
        {"structures": [{"symbols": ["C", "U"], "positions": [[0, 0, 0], [0, 0, 3]]}]},
        "unsupported-element",
        422,
        "/structures/0/numbers/1",
    ),
    "no element at all": (
        {"structures": [{"symbols": ["Xx"], "positions": [[0, 0, 0]]}]},
        "invalid-structure",
        422,
        "/structures/0/symbols/0",
    ),
    "too many atoms": (
        {"structures": [{"numbers": [6] * (MAX_ATOMS + 1), "positions": [[i, 0, 0] for i in range(MAX_ATOMS + 1)]}]},
        "system-too-large",
        413,
        "/structures/0/positions",
    ),
    "too many structures": ({"structures": [WATER] * (MAX_STRUCTURES + 1)}, "payload-too-large", 413, "/structures"),
    "unknown model": ({"model": "gpt"}, "unknown-model", 404, "/model"),
    "model is a path": ({"model": "../../etc/passwd"}, "unknown-model", 404, "/model"),
    "unknown structure_id": (
        {"structures": [{"structure_id": "0" * 32}]},
        "invalid-structure",
        422,
        "/structures/0/structure_id",
    ),
    "structure_id is a path": (
        {"structures": [{"structure_id": "../../record"}]},
        "invalid-structure",
        422,
        "/structures/0/structure_id",
    ),
    "structure_id beside numbers": (
        {"structures": [{"structure_id": "0" * 32, "numbers": [1]}]},
        "invalid-structure",
        422,
        "/structures/0/numbers",
    ),
    "unknown format": (
        {"structures": [{"format": "octopus-in", "text": "x"}]},
        "unsupported-format",
        415,
        "/structures/0/format",
    ),
    "text without format": ({"structures": [{"text": "x"}]}, "invalid-structure", 422, "/structures/0/format"),
    "broken text": (
        {"structures": [WATER, {"format": "xyz", "text": "3\n\nH 0 0 0\n"}]},
        "invalid-structure",
        422,
        "/structures/1/text",
    ),
    "two structures in one text": (
        {"structures": [{"format": "xyz", "text": "1\n\nH 0 0 0\n" * 2}]},
        "invalid-structure",
        422,
        "/structures/0/text",
    ),
    "file that asks for 8 GB": (
        {"structures": [{"format": "extxyz", "text": BOMB}]},
        "invalid-structure",
        422,
        "/structures/0/text",
    ),
}


def assert_problem(answer: Any, code: str, status: int, pointer: str | None = None) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem: dict[str, Any] = answer.json()
    assert set(problem) == {"type", "title", "status", "detail", "instance", "hint", "errors", "request_id"}
    assert problem["type"] == f"/problems/{code}"
    assert problem["status"] == status
    assert problem["detail"]
    assert problem["request_id"] == answer.headers["x-request-id"]
    if pointer is not None:
        assert problem["errors"][0]["pointer"] == pointer, problem
        assert error_from_problem(problem).code == code
    return problem


@pytest.mark.parametrize("name", BAD_JOBS)
def test_a_bad_job_is_refused_with_a_pointer_and_nothing_is_queued(api: LiveApi, name: str) -> None:
    changes, code, status, pointer = BAD_JOBS[name]
    body = json.dumps(api.job(**changes))
    problem = assert_problem(api.http.post("/v1/jobs", content=body), code, status, pointer)
    assert problem["hint"] or problem["errors"][0]["hint"], problem
    assert_problem(api.http.post("/v1/jobs?validate_only=true", content=body), code, status, pointer)
    assert api.n_jobs() == 0


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"7",
        b"null",
        b"\xff\xfe",
        b'{"kind": "relax", "name": "\\ud800"}',
        b"[" * 100_000,
        b"9" * 9999,
    ],
    ids=["empty", "cut", "list", "number", "null", "binary", "half a surrogate", "deep", "long number"],
)
def test_a_body_that_is_not_a_json_object_is_an_invalid_parameter(api: LiveApi, body: bytes) -> None:
    assert_problem(api.http.post("/v1/jobs", content=body), "invalid-parameter", 422)
    assert api.n_jobs() == 0


@pytest.mark.parametrize(
    ("method", "path", "code", "status", "pointer"),
    [
        ("GET", "/nowhere", "not-found", 404, None),
        ("GET", "/v1/structures/" + "0" * 32, "not-found", 404, None),
        ("GET", "/problems/fire", "not-found", 404, None),
        ("GET", "/static/..%2f..%2fapp.py", "not-found", 404, None),
        ("PUT", "/v1/jobs", "method-not-allowed", 405, None),
        ("GET", "/v1/jobs/unknown", "job-not-found", 404, None),
        ("GET", "/v1/jobs/%2e%2e", "job-not-found", 404, None),
        ("GET", "/v1/jobs/" + "0" * 22, "job-not-found", 404, None),
        ("DELETE", "/v1/jobs/" + "0" * 22, "job-not-found", 404, None),
        ("POST", "/v1/jobs/" + "0" * 22 + "/cancel", "job-not-found", 404, None),
        ("POST", "/v1/jobs/" + "0" * 22 + "/resume", "job-not-found", 404, None),
        ("GET", "/v1/jobs/" + "0" * 22 + "/events", "job-not-found", 404, None),
        ("GET", "/v1/jobs/" + "0" * 22 + "/trajectory", "job-not-found", 404, None),
        ("GET", "/v1/models/gpt", "unknown-model", 404, "path:name"),
        ("GET", "/v1/jobs?page_size=0", "invalid-parameter", 422, "query:page_size"),
        ("GET", "/v1/jobs?pagesize=2", "invalid-parameter", 422, "query:pagesize"),
        ("GET", "/v1/models?x=1", "invalid-parameter", 422, "query:x"),
        ("POST", "/v1/jobs?validate_onyl=true", "invalid-parameter", 422, "query:validate_onyl"),
        ("GET", "/v1/jobs?page_token=none", "invalid-parameter", 422, "query:page_token"),
        ("GET", "/v1/jobs?state=bored", "invalid-parameter", 422, "query:state"),
        ("GET", "/readyz", "unavailable", 503, None),
    ],
)
def test_an_address_that_cannot_be_answered_says_why(
    api: LiveApi, method: str, path: str, code: str, status: int, pointer: str | None
) -> None:
    assert_problem(api.http.request(method, path), code, status, pointer)


def test_a_method_that_is_not_possible_is_answered_with_all_that_are(api: LiveApi) -> None:
    assert api.http.put("/v1/jobs").headers["allow"] == "GET, POST"
    assert api.http.put("/v1/jobs/" + "0" * 22).headers["allow"] == "DELETE, GET"
    assert api.http.get("/v1/jobs/" + "0" * 22 + "/cancel").headers["allow"] == "POST"
    assert api.http.post("/docs").headers["allow"] == "GET"


@pytest.mark.parametrize(
    ("path", "code", "status", "pointer"),
    [
        ("trajectory?format=xtc", "unsupported-format", 415, "query:format"),
        ("trajectory?system=1", "invalid-parameter", 422, "query:system"),
        ("trajectory?stride=0", "invalid-parameter", 422, "query:stride"),
        ("trajectory?start=first", "invalid-parameter", 422, "query:start"),
        ("thermo?format=xls", "unsupported-format", 415, "query:format"),
        ("systems?page_token=none", "invalid-parameter", 422, "query:page_token"),
    ],
)
def test_a_result_that_cannot_be_had_names_the_query_parameter(
    api: LiveApi, path: str, code: str, status: int, pointer: str
) -> None:
    job = api.submit()
    assert_problem(api.http.get(f"/v1/jobs/{job['id']}/{path}"), code, status, pointer)


def test_a_header_that_is_wrong_is_named(api: LiveApi) -> None:
    job = api.submit()
    answer = api.http.get(f"/v1/jobs/{job['id']}/events", headers={"Last-Event-ID": "yesterday"})
    assert_problem(answer, "invalid-parameter", 422, "header:last-event-id")
    answer = api.http.post("/v1/jobs", json=api.job(), headers={"Idempotency-Key": "two words"})
    assert_problem(answer, "invalid-parameter", 422, "header:idempotency-key")


def test_a_body_above_the_limit_is_refused_whether_its_length_is_declared_or_not(api: LiveApi) -> None:
    body = b'{"name": "' + b"x" * MAX_BODY_BYTES + b'"}'
    assert_problem(api.http.post("/v1/jobs", content=body), "payload-too-large", 413)
    pieces = (body[i : i + 10_000] for i in range(0, len(body), 10_000))
    assert_problem(api.http.post("/v1/jobs", content=pieces), "payload-too-large", 413)
    assert_problem(api.http.post("/v1/structures", files={"file": ("a.xyz", body)}), "payload-too-large", 413)


def test_a_problem_never_sends_back_what_was_sent(api: LiveApi) -> None:
    long = "y" * 100_000
    for body in (api.job(params={long: 1}), api.job(kind=long), api.job(model=long), api.job(structures=[{long: 1}])):
        answer = api.http.post("/v1/jobs", json=body)
        assert answer.status_code in (404, 422)
        assert len(answer.content) < 8 * LONGEST_TEXT


def test_a_key_comes_back_with_another_body_and_is_refused(api: LiveApi) -> None:
    headers = {"Idempotency-Key": "once"}
    assert api.http.post("/v1/jobs", json=api.job(), headers=headers).status_code == 202
    answer = api.http.post("/v1/jobs", json=api.job(name="other"), headers=headers)
    assert_problem(answer, "idempotency-key-reused", 422)
    assert api.n_jobs() == 1


def test_a_key_whose_first_request_is_under_way_is_in_use(api: LiveApi) -> None:
    assert Reservation(api.store.redis, "busy", "0" * 22, api.job()).take() is None
    answer = api.http.post("/v1/jobs", json=api.job(), headers={"Idempotency-Key": "busy"})
    assert_problem(answer, "idempotency-key-in-use", 409)


def test_a_full_queue_refuses_and_says_when_to_come_back(api: LiveApi) -> None:
    for _ in range(MAX_QUEUED_JOBS):
        api.submit()
    answer = api.http.post("/v1/jobs", json=api.job())
    assert_problem(answer, "queue-full", 503)
    assert int(answer.headers["retry-after"]) > 0
    assert api.n_jobs() == MAX_QUEUED_JOBS


def test_a_job_that_waits_can_be_neither_deleted_nor_resumed(api: LiveApi) -> None:
    job = api.submit()
    assert_problem(api.http.delete(f"/v1/jobs/{job['id']}"), "conflict", 409)
    assert_problem(api.http.post(f"/v1/jobs/{job['id']}/resume"), "not-resumable", 409)


def test_a_page_of_another_site_cannot_submit(api: LiveApi) -> None:
    answer = api.http.post("/v1/jobs", json=api.job(), headers={"Origin": "http://evil.example"})
    assert_problem(answer, "forbidden", 403)
    assert api.n_jobs() == 0
    own = api.http.post("/v1/jobs", json=api.job(), headers={"Origin": api.url.rstrip("/")})
    assert own.status_code == 202


def test_what_nobody_foresaw_is_an_internal_problem_without_its_details(api: LiveApi) -> None:
    job = api.submit()
    (api.store.files.job(job["id"]) / "request.json").write_text("{ broken")
    problem = assert_problem(api.http.get(f"/v1/jobs/{job['id']}/systems"), "internal", 500)
    assert "broken" not in json.dumps(problem)
    assert "JSON" not in json.dumps(problem)
    assert problem["request_id"] in api.log.read_text()


def test_every_type_has_a_status_or_appears_only_in_records_and_all_are_explained(api: LiveApi) -> None:
    at_run_time = {"invalid-weights", "out-of-memory", "non-finite", "diverged", "worker-lost", "timeout"}
    assert set(error_classes()) | set(HTTP_TITLES) == set(STATUS) | at_run_time
    for code in MEANING:
        page = api.http.get(f"/problems/{code}", headers={"Accept": "text/html"})
        assert page.status_code == 200
        assert code in page.text
        assert api.http.get(f"/problems/{code}").json()["meaning"] == MEANING[code]
    assert set(MEANING) == set(STATUS) | at_run_time


def test_many_at_once_get_the_same_answer_as_one(api: LiveApi) -> None:
    codes: list[int] = []

    def send() -> None:
        answer = api.http.post("/v1/jobs", json=api.job(), headers={"Idempotency-Key": "storm"})
        codes.append(answer.status_code)

    threads = [threading.Thread(target=send) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert codes == [202] * 20
    assert api.n_jobs() == 1


def test_a_store_that_is_away_is_unavailable_and_comes_back(tmp_path: Path) -> None:
    server = RedisServer(tmp_path).start()
    try:
        with running_api(server.url, tmp_path) as api:
            job = api.submit()
            server.stop()
            problem = assert_problem(api.http.post("/v1/jobs", json=api.job()), "unavailable", 503)
            assert "Traceback" not in json.dumps(problem)
            assert_problem(api.http.get("/readyz"), "unavailable", 503)
            assert api.http.get("/healthz").status_code == 200
            server.start()
            assert api.http.get(f"/v1/jobs/{job['id']}").json()["id"] == job["id"]
    finally:
        server.stop()

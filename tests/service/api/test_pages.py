"""Pages load nothing from elsewhere, and the description matches what the API does."""

from __future__ import annotations

import re
from pathlib import Path

from equipot.params import JOB_REQUEST
from equipot.service.api.schemas import JOB_EXAMPLES

from .conftest import LiveApi


def test_every_page_loads_only_from_here_under_a_strict_policy(api: LiveApi) -> None:
    for path in ("/", "/docs", "/problems/conflict"):
        page = api.http.get(path, headers={"Accept": "text/html"})
        assert page.status_code == 200
        assert page.headers["content-type"].startswith("text/html")
        policy = page.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "<script>" not in page.text  # nothing inline: the policy would stop it
        assert "style=" not in page.text
        for address in re.findall(r'(?:src|href)="([^"#][^"]*)"', page.text):
            assert address.startswith("/"), address
            assert api.http.get(address).status_code == 200


def test_a_file_of_the_page_is_sent_packed_once_and_not_again(api: LiveApi) -> None:
    viewer = api.http.get("/static/vendor/3dmol.js")
    assert viewer.headers["content-encoding"] == "gzip"
    assert viewer.content.startswith(b"/*!")  # unpacked by the client
    assert api.http.get("/static/vendor/3dmol.js", headers={"Accept-Encoding": "identity"}).content == viewer.content
    kept = {"If-None-Match": viewer.headers["etag"]}
    assert api.http.get("/static/vendor/3dmol.js", headers=kept).status_code == 304


def test_every_file_of_the_page_names_only_files_that_are_there(api: LiveApi, repository: Path) -> None:
    web = repository / "service" / "web"
    for script in sorted((web / "app").glob("*.js")):
        for name in re.findall(r'from "(\.[^"]+)"', script.read_text()):
            assert (script.parent / name).is_file(), f"{script.name} imports {name}"
    assert {"3dmol.LICENSE.txt", "uplot.LICENSE.txt"} <= {path.name for path in (web / "vendor").iterdir()}
    for path in ("../settings.py", "..%2fsettings.py", "app", "app/../../settings.py", "%2e%2e/%2e%2e/pyproject.toml"):
        assert api.http.get(f"/static/{path}").status_code == 404, path


def test_the_reference_names_every_address_and_parameter(api: LiveApi) -> None:
    document = api.http.get("/openapi.json").json()
    page = api.http.get("/docs").text
    for path in document["paths"]:
        assert f"<code>{path}</code>" in page
    for name in ("fmax_ev_per_ang", "temperature_k", "spin_multiplicity"):
        assert f"<code>{name}</code>" in page


def test_every_example_in_the_description_is_a_valid_request(api: LiveApi) -> None:
    post = api.http.get("/openapi.json").json()["paths"]["/v1/jobs"]["post"]
    examples = post["requestBody"]["content"]["application/json"]["examples"]
    assert {"singlepoint", "relax", "md"} <= set(examples)
    assert set(examples) == set(JOB_EXAMPLES)
    for example in examples.values():
        body = {**example["value"], "model": "tiny"}
        JOB_REQUEST.validate_python(body)
        assert api.http.post("/v1/jobs?validate_only=true", json=body).status_code == 200


def test_every_reference_in_the_description_can_be_followed(api: LiveApi) -> None:
    answer = api.http.get("/openapi.json")
    schemas = answer.json()["components"]["schemas"]
    for name in re.findall(r'"#/components/schemas/([^"]+)"', answer.text):
        assert name in schemas


def test_every_operation_declares_its_errors_as_problems(api: LiveApi) -> None:
    for path, methods in api.http.get("/openapi.json").json()["paths"].items():
        for method, operation in methods.items():
            for status in ("422", "4XX", "5XX"):
                assert list(operation["responses"][status]["content"]) == ["application/problem+json"], (path, method)

"""The live API against its own description: whatever is asked, no answer is a server error or off its schema."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from equipot.service.redis_server import RedisServer

from .conftest import LiveApi, running_api

CHECKS = (
    "not_a_server_error,status_code_conformance,content_type_conformance,response_headers_conformance,"
    "response_schema_conformance,negative_data_rejection"
)
STREAMS = "/events$"  # which does not end while the job waits
EVALUATE = "/v1/evaluate"


def ask_everything(api: LiveApi, *options: str) -> None:
    """Run schemathesis; what it found is in the report of the failed test."""
    command = [
        *(sys.executable, "-m", "schemathesis.cli", "--config-file", str(Path(__file__).parent / "schemathesis.toml")),
        *("run", f"{api.url}/openapi.json", "--seed", "1", "--no-color"),
        *("--checks", CHECKS, "--request-timeout", "30", "--generation-database", "none", *options),
    ]
    said = subprocess.run(command, capture_output=True, text=True, check=False, cwd=api.log.parent)
    assert said.returncode == 0, said.stdout[-6000:] + said.stderr[-2000:]
    assert "Test cases:" in said.stdout
    assert "unexpected" not in api.log.read_text()


@pytest.fixture(scope="module")
def open_api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveApi]:
    """An API whose queue takes whatever it is sent; nobody computes it."""
    folder: Path = tmp_path_factory.mktemp("described")
    with RedisServer(folder) as server, running_api(server.url, folder, max_queued_jobs=100_000) as api:
        yield api


@pytest.mark.timeout(600)
def test_every_answer_is_as_the_description_says(open_api: LiveApi) -> None:
    ask_everything(
        open_api,
        *("--phases", "examples,coverage,fuzzing", "--max-examples", "4"),
        *("--exclude-path-regex", f"{STREAMS}|{EVALUATE}"),
    )


def test_every_evaluation_is_as_the_description_says(working_api: LiveApi) -> None:
    ask_everything(
        working_api,
        *("--phases", "examples,coverage,fuzzing", "--max-examples", "10", "--include-path", EVALUATE),
    )


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_thousands_of_requests_in_sequences_are_answered_as_described(open_api: LiveApi) -> None:
    ask_everything(
        open_api,
        *("--phases", "examples,coverage,fuzzing,stateful", "--max-examples", "300"),
        *("--exclude-path-regex", f"{STREAMS}|{EVALUATE}"),
    )

"""What the service writes down when something goes wrong."""

from __future__ import annotations

import json

import pytest
import structlog

from equipot.service.logs import configure_logs
from equipot.service.settings import Settings


def test_a_logged_error_shows_where_it_was_raised_but_no_values(capsys: pytest.CaptureFixture[str]) -> None:
    def fail(password: str) -> None:
        raise RuntimeError("it broke")

    before = structlog.get_config()
    configure_logs(Settings(log_format="json"))
    try:
        try:
            fail("hunter" + "2")
        except RuntimeError:
            structlog.get_logger("equipot.test").exception("unexpected")
    finally:
        structlog.configure(**before)
    line = capsys.readouterr().err
    [told] = json.loads(line)["exception"]
    assert (told["exc_type"], told["exc_value"]) == ("RuntimeError", "it broke")
    assert told["frames"][-1]["name"] == "fail"
    assert "hunter2" not in line

"""Tests the two log formats."""

from __future__ import annotations

import json
import logging

from mlflow_fargate.webhook.logs import WarningLimit, make_formatter


def record(message: str, **extra: object) -> logging.LogRecord:
    return logging.makeLogRecord({"name": "n", "levelname": "INFO", "msg": message, **extra})


def test_a_record_is_one_json_object_with_the_extra_fields() -> None:
    line = make_formatter(as_json=True).format(record("event for 'a\nb'", delivery_id="d-1"))
    told = json.loads(line)

    assert "\n" not in line
    assert (told["message"], told["level"], told["delivery_id"]) == ("event for 'a\nb'", "INFO", "d-1")
    assert told["timestamp"].endswith("+00:00")


def test_a_name_cannot_forge_a_log_line() -> None:
    line = make_formatter(as_json=False).format(record("event for 'a\n2026-01-01 ERROR b\x1b[2J'"))

    assert line.endswith("INFO    event for 'a\\n2026-01-01 ERROR b\\x1b[2J'")


def test_warnings_are_limited_per_minute_and_the_next_minute_says_how_many_were_left_out() -> None:
    now = 60.0
    limit = WarningLimit(most=2, clock=lambda: now)

    def written(level: int = logging.WARNING) -> str | None:
        made = logging.makeLogRecord({"levelno": level, "msg": "event refused (%d)", "args": (401,)})
        return made.getMessage() if limit.filter(made) else None

    assert [written() for _ in range(5)] == ["event refused (401)"] * 2 + [None] * 3
    assert written(logging.ERROR) and written(logging.INFO)
    now = 120.0
    assert written() == "event refused (401) (and 3 more warnings like this before)"
    assert [written() for _ in range(2)] == ["event refused (401)", None]

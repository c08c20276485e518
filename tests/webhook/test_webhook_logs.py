"""Tests the two log formats."""

from __future__ import annotations

import json
import logging

from mlflow_fargate.webhook.logs import make_formatter


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

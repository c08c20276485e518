"""The service's log on stderr: one JSON object per line for machines, plain lines on a terminal.

Each value in `extra=` (delivery_id, deployment, model) is a field of the JSON object.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable

from pythonjsonlogger.json import JsonFormatter

# What anyone can cause, with or without a secret: refused events, and requests that wait.
_BY_STRANGERS = ("mlflow_fargate.webhook.http.views", "waitress.queue", "waitress")
_FIELDS = {"levelname": "level", "name": "logger", "threadName": "thread"}


def set_up_logs(*, as_json: bool) -> None:
    """Sends all logs of this process, including MLflow's, to stderr in one format."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(make_formatter(as_json=as_json))
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("mlflow_fargate").setLevel(logging.INFO)
    for name in _BY_STRANGERS:
        logging.getLogger(name).addFilter(WarningLimit())
    # MLflow adds its own handler to its logger.
    mlflow_logger = logging.getLogger("mlflow")
    mlflow_logger.handlers.clear()
    mlflow_logger.propagate = True


class WarningLimit(logging.Filter):
    """Lets `most` warnings per minute through; the first one of a later minute says how many were left out."""

    def __init__(self, most: int = 20, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._most, self._clock = most, clock
        self._minute, self._number = -1, 0

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno != logging.WARNING:
            return True
        minute = int(self._clock() // 60)
        if minute != self._minute:
            if (left_out := self._number - self._most) > 0:
                record.msg = f"{record.msg} (and {left_out} more warnings like this before)"
            self._minute, self._number = minute, 0
        self._number += 1
        return self._number <= self._most


def make_formatter(*, as_json: bool) -> logging.Formatter:
    """Returns the formatter for log records."""
    if not as_json:
        return _PlainFormatter("%(asctime)s %(levelname)-7s %(message)s")
    return JsonFormatter([*_FIELDS, "message"], style="{", rename_fields=_FIELDS, timestamp=True)


class _PlainFormatter(logging.Formatter):
    """Escapes control characters, as JSON does, so that a hostile name cannot forge a log line."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        text = super().formatMessage(record)
        return "".join(one if one.isprintable() else repr(one)[1:-1] for one in text)

"""The service's log on stderr: one JSON object per line for machines, plain lines on a terminal.

Each value in `extra=` (delivery_id, deployment, model) is a field of the JSON object.
"""

from __future__ import annotations

import logging
import sys

from pythonjsonlogger.json import JsonFormatter

_FIELDS = {"levelname": "level", "name": "logger", "threadName": "thread"}


def set_up_logs(*, as_json: bool) -> None:
    """Sends all logs of this process, including MLflow's, to stderr in one format."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(make_formatter(as_json=as_json))
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("mlflow_fargate").setLevel(logging.INFO)
    # MLflow adds its own handler to its logger.
    mlflow_logger = logging.getLogger("mlflow")
    mlflow_logger.handlers.clear()
    mlflow_logger.propagate = True


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

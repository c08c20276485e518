"""The service's log on stderr: one JSON object a line for machines, plain lines for people at a terminal.

Whatever is given as `extra=` (delivery_id, deployment, model) is a field of the JSON object.
"""

from __future__ import annotations

import logging
import sys

from pythonjsonlogger.json import JsonFormatter

_FIELDS = {"levelname": "level", "name": "logger", "threadName": "thread"}


def set_up_logs(*, as_json: bool) -> None:
    """From now on everything that this process logs, MLflow's lines too, goes to stderr in one format."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(make_formatter(as_json=as_json))
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("mlflow_fargate").setLevel(logging.INFO)
    # MLflow gives its logger a handler of its own.
    mlflow_logger = logging.getLogger("mlflow")
    mlflow_logger.handlers.clear()
    mlflow_logger.propagate = True


def make_formatter(*, as_json: bool) -> logging.Formatter:
    """What a record becomes."""
    if not as_json:
        return _PlainFormatter("%(asctime)s %(levelname)-7s %(message)s")
    return JsonFormatter([*_FIELDS, "message"], style="{", rename_fields=_FIELDS, timestamp=True)


class _PlainFormatter(logging.Formatter):
    """Control characters are escaped, as JSON does it: a name that others chose cannot begin a line of its own."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        text = super().formatMessage(record)
        return "".join(one if one.isprintable() else repr(one)[1:-1] for one in text)

"""Parses a JSON body once its cost is reserved, and turns whatever Python cannot parse into a bad request."""

from __future__ import annotations

import json
import threading
from typing import Any

from fargate_service.errors import RequestError
from fargate_service.memory.budget import Reservation
from fargate_service.memory.costs import document_cost, json_table_cost

# Python parses a document in one piece, which stops all other threads. One large body at a time leaves the event loop
# its turn in between, so that health checks are answered.
_LARGE_BYTES = 10**6
_one_at_a_time = threading.Lock()


def parse_json(body: bytes, reservation: Reservation) -> Any:
    """Returns the document in `body`, having reserved what MLflow will make of it.

    RequestError 400 if it is nested too deeply or has a number with thousands of digits; ValueError if it is not JSON.
    """
    try:
        if len(body) < _LARGE_BYTES:
            document = json.loads(body)
        else:
            with _one_at_a_time:
                document = json.loads(body)
        cost = document_cost(document)
    except RecursionError as error:
        raise RequestError(400, "The document is nested too deeply.") from error
    except ValueError as error:
        if isinstance(error, json.JSONDecodeError | UnicodeDecodeError):
            raise
        raise RequestError(400, "A number has too many digits.") from error
    # Before, room was reserved for a table with as many cells as there are values.
    reservation.need(cost - json_table_cost(body))
    return document

"""The one shape in which this service says no: MLflow's error JSON, with a sentence and the request's id.

The id stands in the log beside what went wrong, so that the one can be found from the other. It is a context variable
because everybody between the socket and the routes may have to refuse.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextvars import ContextVar

request_id: ContextVar[str] = ContextVar("request_id", default="")

_CODES = {
    400: "BAD_REQUEST",
    401: "UNAUTHENTICATED",
    404: "ENDPOINT_NOT_FOUND",
    405: "METHOD_NOT_ALLOWED",
    406: "NOT_ACCEPTABLE",
    413: "REQUEST_TOO_LARGE",
    415: "UNSUPPORTED_MEDIA_TYPE",
    500: "INTERNAL_ERROR",
    503: "TEMPORARILY_UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}


class RequestError(Exception):
    """The request cannot be answered; `message` is meant for the caller and echoes none of their data."""

    def __init__(
        self, status: int, message: str, *, code: str | None = None, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code  # None: the usual one of the status
        self.headers = headers


def make_error_body(status: int, message: str, code: str | None = None) -> bytes:
    """The JSON body that goes with `status`."""
    error = {"error_code": code or _CODES.get(status, "BAD_REQUEST"), "message": message}
    if identifier := request_id.get():
        error["request_id"] = identifier
    return json.dumps(error).encode()

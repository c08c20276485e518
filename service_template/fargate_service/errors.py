"""The format of every error response: MLflow's error JSON, with a message and the request ID.

The ID is also in the log next to the error, so a response can be matched with its log lines. It is a context variable
because any layer between the socket and the routes can reject a request.
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
    """The request cannot be processed; `message` is for the caller and does not repeat any of the data sent."""

    def __init__(
        self, status: int, message: str, *, code: str | None = None, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code  # None: the default for the status
        self.headers = headers


def make_error_body(status: int, message: str, code: str | None = None) -> bytes:
    """Returns the JSON body for `status`."""
    error = {"error_code": code or _CODES.get(status, "BAD_REQUEST"), "message": message}
    if identifier := request_id.get():
        error["request_id"] = identifier
    return json.dumps(error).encode()

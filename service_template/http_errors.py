"""The one shape in which this service says no: MLflow's error JSON, with a status and a sentence for the caller."""

from __future__ import annotations

import json

_CODES = {
    400: "BAD_REQUEST",
    401: "UNAUTHENTICATED",
    404: "ENDPOINT_NOT_FOUND",
    405: "METHOD_NOT_ALLOWED",
    413: "REQUEST_TOO_LARGE",
    415: "UNSUPPORTED_MEDIA_TYPE",
    500: "INTERNAL_ERROR",
}


class RequestError(Exception):
    """The request cannot be answered; `message` is meant for the caller and echoes none of their data."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


def make_error_body(status: int, message: str) -> bytes:
    """The JSON body that goes with `status`."""
    return json.dumps({"error_code": _CODES.get(status, "BAD_REQUEST"), "message": message}).encode()

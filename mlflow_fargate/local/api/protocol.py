"""The AWS protocols that the gateway needs: requests parsed once, responses and errors in the request's protocol.

There are two: JSON with an X-Amz-Target header (ECS, ECR), and form fields with XML responses (Elastic Load Balancing).
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from io import BytesIO
from typing import Any
from urllib.parse import parse_qsl, urlencode
from xml.sax.saxutils import escape


class Refusal(Exception):
    """A request that AWS refuses: `code` and `message` as in its API reference."""

    def __init__(self, code: str, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.status = status


@dataclass(frozen=True)
class AwsRequest:
    """A signed request to one operation of one service."""

    service: str  # the name it was signed for: ecs, ecr, elasticloadbalancing
    region: str
    operation: str
    parameters: Mapping[str, Any] = field(hash=False)  # the JSON body, or the form's fields
    environ: Mapping[str, Any] = field(hash=False, repr=False)
    body: bytes = field(repr=False)

    @property
    def speaks_json(self) -> bool:
        return "HTTP_X_AMZ_TARGET" in self.environ

    def with_form(self, **fields: str) -> AwsRequest:
        """Returns the same request with form fields added or replaced."""
        merged = {**self.parameters, **fields}
        operation = merged.get("Action", self.operation)
        return replace(self, operation=operation, parameters=merged, body=urlencode(merged).encode())

    def as_environ(self) -> dict[str, Any]:
        """Returns the environ for another WSGI app, with the body readable again."""
        return {**self.environ, "wsgi.input": BytesIO(self.body), "CONTENT_LENGTH": str(len(self.body))}


@dataclass(frozen=True)
class Response:
    """A response, which is also the WSGI application that sends it."""

    status: int
    headers: Mapping[str, str] = field(hash=False)
    body: bytes

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        start_response(f"{self.status} {'Error' if self.is_error else 'OK'}", list(self.headers.items()))
        return [self.body]

    @property
    def is_error(self) -> bool:
        return self.status >= 400

    def with_body(self, body: bytes) -> Response:
        headers = {name: value for name, value in self.headers.items() if name.lower() != "content-length"}
        return Response(self.status, {**headers, "Content-Length": str(len(body))}, body)

    def json(self) -> dict[str, Any]:
        data: dict[str, Any] = json.loads(self.body or b"{}")
        return data


Forward = Callable[[AwsRequest], Response]
"""Returns moto's response to a request."""


def parse_request(environ: Mapping[str, Any], service: str, region: str) -> AwsRequest:
    """Reads the body and returns the request; Refusal if the body does not follow the protocol."""
    body: bytes = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    target = environ.get("HTTP_X_AMZ_TARGET")
    if target is None:
        fields: dict[str, Any] = dict(parse_qsl(body.decode(), keep_blank_values=True))
        return AwsRequest(service, region, fields.get("Action", ""), fields, environ, body)
    try:
        parameters = json.loads(body or b"{}")
    except ValueError as error:
        raise Refusal("SerializationException", f"The body is not JSON: {error}") from error
    return AwsRequest(service, region, target.rsplit(".", 1)[-1], parameters, environ, body)


def json_response(data: Mapping[str, Any], status: int = 200) -> Response:
    body = json.dumps(data).encode()
    return _response(status, "application/x-amz-json-1.1", body)


def xml_response(operation: str, result: str) -> Response:
    """Returns a query-protocol response; `result` is the XML inside OPERATIONResult."""
    text = (
        f'<{operation}Response xmlns="http://elasticloadbalancing.amazonaws.com/doc/2015-12-01/">'
        f"<{operation}Result>{result}</{operation}Result>"
        f"<ResponseMetadata><RequestId>{secrets.token_hex(16)}</RequestId></ResponseMetadata></{operation}Response>"
    )
    return _response(200, "text/xml", text.encode())


def error_response(refusal: Refusal, *, speaks_json: bool) -> Response:
    if speaks_json:
        return json_response({"__type": refusal.code, "message": refusal.message}, refusal.status)
    text = (
        f"<ErrorResponse><Error><Type>Sender</Type><Code>{escape(refusal.code)}</Code>"
        f"<Message>{escape(refusal.message)}</Message></Error><RequestId>{secrets.token_hex(16)}</RequestId></ErrorResponse>"
    )
    response = _response(refusal.status, "text/xml", text.encode())
    # Clients of REST services read the code from here.
    return replace(response, headers={**response.headers, "x-amzn-ErrorType": refusal.code})


def _response(status: int, content_type: str, body: bytes) -> Response:
    headers = {
        "Content-Type": content_type,
        "Content-Length": str(len(body)),
        "x-amzn-RequestId": secrets.token_hex(16),
    }
    return Response(status, headers, body)

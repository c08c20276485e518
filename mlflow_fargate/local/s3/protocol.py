"""S3's protocol: parses a WSGI request once, decodes aws-chunked bodies, writes responses and errors as XML.

Independent of storage. Source: Amazon S3 API reference; "Signature calculations: trailing headers" for
aws-chunked bodies (boto3 >= 1.36 sends them with a checksum in the trailer).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from http import HTTPStatus
from typing import Any, BinaryIO, Protocol
from urllib.parse import parse_qsl, quote
from xml.etree import ElementTree

from mlflow_fargate.errors import LocalStackError

PIECE_BYTES = 256 * 1024
_NAMESPACE = "http://s3.amazonaws.com/doc/2006-03-01/"
_XML_MAX_BYTES = 8 * 1024 * 1024
_KEY_MAX_BYTES = 1024
_SHA256 = re.compile(r"[0-9a-f]{64}")


class S3Refusal(LocalStackError):
    """A request that S3 refuses: `status` and `code` as in the API reference."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.said = message


@dataclass(frozen=True)
class S3Request:
    """A request, path-style: `/BUCKET/KEY`. Header names are in lower case; its signature has been verified."""

    method: str
    bucket: str  # empty: the service itself
    key: bytes  # UTF-8; empty: the bucket itself
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: BinaryIO

    @classmethod
    def from_environ(cls, environ: Mapping[str, Any]) -> S3Request:
        # WSGI passes bytes decoded as Latin-1, with the URL unescaped.
        bucket, _, key = environ.get("PATH_INFO", "/").encode("latin-1").removeprefix(b"/").partition(b"/")
        try:
            key.decode()
            query = dict(parse_qsl(environ.get("QUERY_STRING", ""), keep_blank_values=True, errors="strict"))
            name = bucket.decode()
        except UnicodeDecodeError as error:
            raise S3Refusal(400, "InvalidURI", "Couldn't parse the specified URI: it is not UTF-8.") from error
        if len(key) > _KEY_MAX_BYTES:
            raise S3Refusal(400, "KeyTooLongError", "Your key is too long.")
        headers = {
            name.removeprefix("HTTP_").replace("_", "-").lower(): value
            for name, value in environ.items()
            if name.startswith("HTTP_") or name in ("CONTENT_TYPE", "CONTENT_LENGTH")
        }
        return cls(environ["REQUEST_METHOD"], name, key, query, headers, environ["wsgi.input"])

    @property
    def is_aws_chunked(self) -> bool:
        return self.headers.get("x-amz-content-sha256", "").startswith("STREAMING-") or any(
            coding == "aws-chunked" for coding in content_codings(self.headers)
        )

    def chunks(self) -> Iterator[bytes]:
        """Yields the decoded payload in pieces; S3Refusal at the end if a checksum does not match."""
        trailers: dict[str, str] = {}
        declared = self.headers.get("content-length", "0")
        pieces = (
            _undo_aws_chunked(self.body, trailers) if self.is_aws_chunked else read_pieces(self.body, int(declared))
        )
        checksums = _announced_checksums(self.headers)
        signed = self.headers.get("x-amz-content-sha256", "")
        digest = hashlib.sha256() if _SHA256.fullmatch(signed) else None
        size = 0
        for piece in pieces:
            if digest is not None:
                digest.update(piece)
            for hasher in checksums.values():
                hasher.update(piece)
            size += len(piece)
            yield piece
        if size != int(self.headers.get("x-amz-decoded-content-length", size)):
            raise _incomplete()
        if digest is not None and digest.hexdigest() != signed:
            raise S3Refusal(400, "XAmzContentSHA256Mismatch", "The body does not match its signed digest.")
        for name, hasher in checksums.items():
            sent = self.headers.get(name) or trailers.get(name)
            if sent != base64.b64encode(hasher.digest()).decode():
                raise S3Refusal(400, "BadDigest", f"The {name} you specified did not match what we received.")

    def xml(self) -> ElementTree.Element:
        """Returns the small XML document in the body, without its namespace."""
        content = b"".join(self.chunks())
        if len(content) > _XML_MAX_BYTES:
            raise S3Refusal(400, "MaxMessageLengthExceeded", "Your request was too big.")
        try:
            # Expat itself limits entity expansion, and only this machine can send a document.
            root = ElementTree.fromstring(content)  # noqa: S314
        except ElementTree.ParseError as error:
            raise S3Refusal(400, "MalformedXML", f"The XML you provided was not well-formed: {error}.") from error
        for node in root.iter():
            node.tag = node.tag.rpartition("}")[2]
        return root


@dataclass(frozen=True)
class S3Response:
    """A response; `body` is iterated once, and closed if it has close()."""

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: Iterable[bytes] = ()

    @property
    def status_line(self) -> str:
        return f"{self.status} {HTTPStatus(self.status).phrase}"


def xml_response(root: ElementTree.Element, *, status: int = 200) -> S3Response:
    if status == 200:
        root.set("xmlns", _NAMESPACE)
    content: bytes = ElementTree.tostring(root, encoding="UTF-8", xml_declaration=True)
    return S3Response(status, {"Content-Type": "application/xml", "Content-Length": str(len(content))}, [content])


def error_response(refusal: S3Refusal, resource: str) -> S3Response:
    return xml_response(
        element(
            "Error", element("Code", refusal.code), element("Message", refusal.said), element("Resource", resource)
        ),
        status=refusal.status,
    )


def element(tag: str, *content: ElementTree.Element | str) -> ElementTree.Element:
    """Returns `<tag>` with children or a text."""
    node = ElementTree.Element(tag)
    for part in content:
        if isinstance(part, str):
            node.text = part
        else:
            node.append(part)
    return node


def format_time(timestamp: float) -> str:
    """Returns e.g. '2024-05-01T12:00:00.123Z', as in listings."""
    at = datetime.fromtimestamp(timestamp, timezone.utc)
    return f"{at:%Y-%m-%dT%H:%M:%S}.{at.microsecond // 1000:03d}Z"


def format_key(key: bytes, encoding_type: str | None) -> str:
    """Returns a key for a listing; `url` escapes control characters, which XML cannot contain."""
    return quote(key, safe="/~") if encoding_type == "url" else key.decode()


def content_codings(headers: Mapping[str, str]) -> list[str]:
    return [coding.strip() for coding in headers.get("content-encoding", "").split(",") if coding.strip()]


def parse_range(header: str | None, size: int) -> tuple[int, int] | None:
    """Returns the requested half-open range; None (everything) also for other forms of the header (RFC 9110)."""
    match = re.fullmatch(r"bytes=(\d*)-(\d*)", header or "")
    if match is None or not any(match.groups()):
        return None
    first, last = match.groups()
    start = int(first) if first else max(size - int(last), 0)
    end = min(int(last) + 1, size) if first and last else size
    if start >= size or start >= end:
        raise S3Refusal(416, "InvalidRange", "The requested range is not satisfiable")
    return start, end


def read_pieces(stream: BinaryIO, size: int) -> Iterator[bytes]:
    """Yields exactly `size` bytes in pieces."""
    while size > 0:
        piece = stream.read(min(size, PIECE_BYTES))
        if not piece:
            raise _incomplete()
        size -= len(piece)
        yield piece


class _Hasher(Protocol):
    def update(self, data: bytes, /) -> None: ...

    def digest(self) -> bytes: ...


class _Crc32:
    def __init__(self) -> None:
        self._value = 0

    def update(self, data: bytes, /) -> None:
        self._value = zlib.crc32(data, self._value)

    def digest(self) -> bytes:
        return self._value.to_bytes(4, "big")


def _announced_checksums(headers: Mapping[str, str]) -> dict[str, _Hasher]:
    """Returns a hasher for each checksum sent that the standard library can compute (not CRC-32C, CRC-64)."""
    announced = {*headers, headers.get("x-amz-trailer", "").strip().lower()}
    hashers: dict[str, _Hasher] = {
        "content-md5": hashlib.md5(usedforsecurity=False),
        "x-amz-checksum-crc32": _Crc32(),
        "x-amz-checksum-sha1": hashlib.sha1(usedforsecurity=False),
        "x-amz-checksum-sha256": hashlib.sha256(),
    }
    return {name: hasher for name, hasher in hashers.items() if name in announced}


def _undo_aws_chunked(stream: BinaryIO, trailers: dict[str, str]) -> Iterator[bytes]:
    """Yields the payload of `SIZE[;chunk-signature=…] CRLF BYTES CRLF … 0 CRLF`; adds what follows to `trailers`."""
    try:
        while size := int(stream.readline(4096).split(b";")[0], 16):
            yield from read_pieces(stream, size)
            stream.readline(3)
    except (ValueError, binascii.Error) as error:
        raise _incomplete() from error
    while line := stream.readline(4096).strip():
        name, _, value = line.decode("latin-1").partition(":")
        trailers[name.strip().lower()] = value.strip()


def _incomplete() -> S3Refusal:
    return S3Refusal(400, "IncompleteBody", "The body has fewer bytes than it declared.")

"""S3's operations on objects: each takes the store and a request, and returns the response."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from email.utils import formatdate, parsedate_to_datetime
from typing import BinaryIO
from urllib.parse import unquote_to_bytes

from mlflow_fargate.local.s3.protocol import (
    S3Refusal,
    S3Request,
    S3Response,
    content_codings,
    element,
    format_time,
    parse_range,
    read_pieces,
    xml_response,
)
from mlflow_fargate.local.s3.store import Condition, S3Store, StoredObject

_KEPT_HEADERS = ("cache-control", "content-disposition", "content-language", "content-type", "expires")
_METADATA = "x-amz-meta-"


def put_object(store: S3Store, request: S3Request) -> S3Response:
    store.require_bucket(request.bucket)
    received = store.receive(request.chunks())
    headers = kept_headers(request.headers)
    condition = parse_condition(request.headers)
    stored = store.put_object(request.bucket, request.key, received, headers=headers, condition=condition)
    return S3Response(200, {"ETag": f'"{stored.etag}"', "Content-Length": "0"})


def copy_object(store: S3Store, request: S3Request) -> S3Response:
    bucket, key = parse_copy_source(request)
    replaces_headers = request.headers.get("x-amz-metadata-directive", "COPY") == "REPLACE"
    if (bucket, key) == (request.bucket, request.key) and not replaces_headers:
        said = "This copy request is illegal because it is trying to copy an object to itself without changing it."
        raise S3Refusal(400, "InvalidRequest", said)
    source, file = store.open_object(bucket, key)
    with file:
        received = store.receive(read_pieces(file, source.size_bytes))
    headers = kept_headers(request.headers) if replaces_headers else source.headers
    condition = parse_condition(request.headers)
    # The copy is a single part, however many the source has: its ETag is the plain MD5.
    stored = store.put_object(request.bucket, request.key, received, headers=headers, condition=condition)
    times = element("LastModified", format_time(stored.modified_at))
    return xml_response(element("CopyObjectResult", element("ETag", f'"{stored.etag}"'), times))


def get_object(store: S3Store, request: S3Request) -> S3Response:
    stored, file = store.open_object(request.bucket, request.key)
    try:
        head = _describe(stored, request)
    except S3Refusal:
        file.close()
        raise
    if head.status == 304:
        file.close()
        return head
    start, _ = parse_range(request.headers.get("range"), stored.size_bytes) or (0, 0)
    return S3Response(head.status, head.headers, _FileBytes(file, start, int(head.headers["Content-Length"])))


def head_object(store: S3Store, request: S3Request) -> S3Response:
    return _describe(store.describe_object(request.bucket, request.key), request)


def delete_object(store: S3Store, request: S3Request) -> S3Response:
    store.require_bucket(request.bucket)
    store.delete_object(request.bucket, request.key)
    return S3Response(204)


def kept_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """Returns the headers of an upload that a download returns."""
    kept = {name: value for name, value in headers.items() if name in _KEPT_HEADERS or name.startswith(_METADATA)}
    codings = [coding for coding in content_codings(headers) if coding != "aws-chunked"]
    if codings:
        kept["content-encoding"] = ",".join(codings)
    return {"content-type": "binary/octet-stream", **kept}


def parse_condition(headers: Mapping[str, str]) -> Condition:
    if_match = headers.get("if-match")
    if headers.get("if-none-match") not in (None, "*"):
        raise S3Refusal(501, "NotImplemented", "If-None-Match on a write can only be '*'.")
    return Condition(headers.get("if-none-match"), None if if_match is None else if_match.strip('"'))


def parse_copy_source(request: S3Request) -> tuple[str, bytes]:
    """Returns bucket and key of `x-amz-copy-source: /BUCKET/KEY`, unescaped."""
    source = request.headers["x-amz-copy-source"].partition("?")[0]
    bucket, _, key = unquote_to_bytes(source).removeprefix(b"/").partition(b"/")
    return bucket.decode("utf-8", "replace"), key


def _describe(stored: StoredObject, request: S3Request) -> S3Response:
    """Returns status and headers of a GET: 304 and 412 by its conditions, 206 by its range."""
    headers = {name.title() if not name.startswith("x-") else name: value for name, value in stored.headers.items()}
    headers |= {"ETag": f'"{stored.etag}"', "Last-Modified": formatdate(stored.modified_at, usegmt=True)}
    if _is_unchanged(stored, request.headers):
        return S3Response(304, {name: headers[name] for name in ("ETag", "Last-Modified")})
    interval = parse_range(request.headers.get("range"), stored.size_bytes)
    start, end = interval or (0, stored.size_bytes)
    headers |= {"Accept-Ranges": "bytes", "Content-Length": str(end - start)}
    if interval:
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{stored.size_bytes}"
    for name, value in request.query.items():
        if name.startswith("response-"):  # response-content-disposition and similar, in presigned URLs
            headers[name.removeprefix("response-").title()] = value
    return S3Response(206 if interval else 200, headers)


def _is_unchanged(stored: StoredObject, headers: Mapping[str, str]) -> bool:
    """Returns whether the client already has this object; PreconditionFailed if it requires a different one."""
    modified = int(stored.modified_at)
    unmodified_since = _parse_date(headers.get("if-unmodified-since"))
    is_newer = unmodified_since is not None and modified > unmodified_since
    if is_newer or not _names(headers.get("if-match", "*"), stored):
        raise S3Refusal(412, "PreconditionFailed", "At least one of the pre-conditions you specified did not hold")
    if "if-none-match" in headers:
        return _names(headers["if-none-match"], stored)
    modified_since = _parse_date(headers.get("if-modified-since"))
    return modified_since is not None and modified <= modified_since


def _names(etags: str, stored: StoredObject) -> bool:
    return any(etag.strip().strip('"') in ("*", stored.etag) for etag in etags.split(","))


def _parse_date(text: str | None) -> float | None:
    """Returns seconds since the epoch; None without a valid date (RFC 9110: ignore it)."""
    try:
        return None if text is None else parsedate_to_datetime(text).timestamp()
    except ValueError:
        return None


class _FileBytes:
    """Yields pieces of an open file and closes it: WSGI servers call close() even if the client disconnects."""

    def __init__(self, file: BinaryIO, start: int, size: int) -> None:
        self._file = file
        self._size = size
        file.seek(start)

    def __iter__(self) -> Iterator[bytes]:
        return read_pieces(self._file, self._size)

    def close(self) -> None:
        self._file.close()

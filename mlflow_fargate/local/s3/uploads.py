"""S3's operations on multipart uploads: each takes the store and a request, and returns the response."""

from __future__ import annotations

from mlflow_fargate.local.s3.objects import kept_headers, parse_condition, parse_copy_source
from mlflow_fargate.local.s3.protocol import (
    S3Refusal,
    S3Request,
    S3Response,
    element,
    format_key,
    format_time,
    parse_range,
    read_pieces,
    xml_response,
)
from mlflow_fargate.local.s3.store import S3Store
from mlflow_fargate.local.s3.upload_store import UploadStore

_MAX_PART_NUMBER = 10000


def create_upload(store: S3Store, request: S3Request) -> S3Response:
    upload_id = UploadStore(store).create(request.bucket, request.key, kept_headers(request.headers))
    where = (element("Bucket", request.bucket), element("Key", format_key(request.key, None)))
    return xml_response(element("InitiateMultipartUploadResult", *where, element("UploadId", upload_id)))


def upload_part(store: S3Store, request: S3Request) -> S3Response:
    number = _parse_part_number(request)
    uploads = UploadStore(store)
    # Before the body is read: a client whose upload does not exist should get the error immediately.
    uploads.headers(request.bucket, request.key, request.query["uploadId"])
    received = store.receive(request.chunks())
    uploads.put_part(request.query["uploadId"], number, received)
    return S3Response(200, {"ETag": f'"{received.md5}"', "Content-Length": "0"})


def upload_part_copy(store: S3Store, request: S3Request) -> S3Response:
    """Stores a range of an existing object as a part."""
    number = _parse_part_number(request)
    uploads = UploadStore(store)
    uploads.headers(request.bucket, request.key, request.query["uploadId"])
    source, file = store.open_object(*parse_copy_source(request))
    with file:
        interval = parse_range(request.headers.get("x-amz-copy-source-range"), source.size_bytes)
        start, end = interval or (0, source.size_bytes)
        file.seek(start)
        received = store.receive(read_pieces(file, end - start))
    uploads.put_part(request.query["uploadId"], number, received)
    modified = element("LastModified", format_time(source.modified_at))
    return xml_response(element("CopyPartResult", element("ETag", f'"{received.md5}"'), modified))


def complete_upload(store: S3Store, request: S3Request) -> S3Response:
    upload_id = request.query["uploadId"]
    wanted = _parse_parts(request)
    condition = parse_condition(request.headers)
    stored = UploadStore(store).complete(request.bucket, request.key, upload_id, wanted, condition)
    where = (element("Bucket", request.bucket), element("Key", request.key.decode()))
    location = element("Location", f"/{request.bucket}/{request.key.decode()}")
    return xml_response(element("CompleteMultipartUploadResult", location, *where, element("ETag", f'"{stored.etag}"')))


def abort_upload(store: S3Store, request: S3Request) -> S3Response:
    UploadStore(store).abort(request.bucket, request.key, request.query["uploadId"])
    return S3Response(204)


def list_parts(store: S3Store, request: S3Request) -> S3Response:
    """Lists parts, paginated with AWS's `part-number-marker` and `max-parts`."""
    upload_id, query = request.query["uploadId"], request.query
    limit = min(_parse_number(query.get("max-parts", "1000"), "max-parts"), 1000)
    marker = _parse_number(query.get("part-number-marker", "0"), "part-number-marker")
    parts = UploadStore(store).parts(request.bucket, request.key, upload_id)
    rest = [part for part in parts if part.number > marker]
    result = element("ListPartsResult", element("Bucket", request.bucket), element("Key", request.key.decode()))
    result.append(element("UploadId", upload_id))
    result.append(element("MaxParts", str(limit)))
    result.append(element("IsTruncated", "true" if len(rest) > limit else "false"))
    for part in rest[:limit]:
        facts = {
            "PartNumber": str(part.number),
            "LastModified": format_time(part.modified_at),
            "ETag": f'"{part.etag}"',
            "Size": str(part.size_bytes),
        }
        result.append(element("Part", *(element(tag, text) for tag, text in facts.items())))
    if 0 < limit < len(rest):
        result.append(element("NextPartNumberMarker", str(rest[limit - 1].number)))
    return xml_response(result)


def _parse_parts(request: S3Request) -> list[tuple[int, str]]:
    """Returns number and ETag of each part to join."""
    return [
        (_parse_number(node.findtext("PartNumber") or "", "PartNumber"), (node.findtext("ETag") or "").strip('"'))
        for node in request.xml().iterfind("Part")
    ]


def _parse_part_number(request: S3Request) -> int:
    number = _parse_number(request.query.get("partNumber", ""), "partNumber")
    if not 1 <= number <= _MAX_PART_NUMBER:
        raise S3Refusal(400, "InvalidArgument", "Part number must be an integer between 1 and 10000, inclusive")
    return number


def _parse_number(text: str, name: str) -> int:
    if not text.isdecimal():
        raise S3Refusal(400, "InvalidArgument", f"{name} must be a number: {text!r}")
    return int(text)

"""S3's operations on the service and on buckets: each takes the store and a request, and returns the response."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator
from xml.etree import ElementTree

from mlflow_fargate.local.s3.positions import position_after
from mlflow_fargate.local.s3.protocol import (
    S3Refusal,
    S3Request,
    S3Response,
    element,
    format_key,
    format_time,
    xml_response,
)
from mlflow_fargate.local.s3.store import Page, S3Store
from mlflow_fargate.local.s3.upload_store import UploadStore

REGION = "us-east-1"
_BUCKET_NAME = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_MAX_KEYS = 1000


def list_buckets(store: S3Store, request: S3Request) -> S3Response:
    buckets = element("Buckets")
    for name, created_at in store.buckets():
        buckets.append(element("Bucket", element("Name", name), element("CreationDate", format_time(created_at))))
    owner = element("Owner", element("ID", "local"), element("DisplayName", "local"))
    return xml_response(element("ListAllMyBucketsResult", owner, buckets))


def create_bucket(store: S3Store, request: S3Request) -> S3Response:
    """Creates a bucket; like us-east-1, accepts one that already exists."""
    if not _BUCKET_NAME.fullmatch(request.bucket):
        raise S3Refusal(400, "InvalidBucketName", "The specified bucket is not valid.")
    store.create_bucket(request.bucket)
    return S3Response(200, {"Location": f"/{request.bucket}", "Content-Length": "0"})


def head_bucket(store: S3Store, request: S3Request) -> S3Response:
    store.require_bucket(request.bucket)
    return S3Response(200, {"x-amz-bucket-region": REGION, "Content-Length": "0"})


def delete_bucket(store: S3Store, request: S3Request) -> S3Response:
    store.delete_bucket(request.bucket)
    return S3Response(204)


def get_bucket_location(store: S3Store, request: S3Request) -> S3Response:
    """Returns an empty element, which means us-east-1."""
    store.require_bucket(request.bucket)
    return xml_response(element("LocationConstraint"))


def delete_objects(store: S3Store, request: S3Request) -> S3Response:
    store.require_bucket(request.bucket)
    wanted = request.xml()
    result = element("DeleteResult")
    for node in wanted.iterfind("Object"):
        key = node.findtext("Key") or ""
        store.delete_object(request.bucket, key.encode())
        if wanted.findtext("Quiet") != "true":
            result.append(element("Deleted", element("Key", key)))
    return xml_response(result)


def list_uploads(store: S3Store, request: S3Request) -> S3Response:
    result = element("ListMultipartUploadsResult", element("Bucket", request.bucket), element("IsTruncated", "false"))
    encoding = request.query.get("encoding-type")
    for key, upload_id, begun_at in UploadStore(store).under_way(request.bucket):
        name, begun = element("Key", format_key(key, encoding)), element("Initiated", format_time(begun_at))
        result.append(element("Upload", name, element("UploadId", upload_id), begun))
    if encoding:
        result.append(element("EncodingType", encoding))
    return xml_response(result)


def list_objects(store: S3Store, request: S3Request) -> S3Response:
    """Lists objects: ListObjectsV2 with `list-type=2`, otherwise version 1."""
    query = request.query
    prefix, delimiter = query.get("prefix", "").encode(), query.get("delimiter", "").encode()
    marker = query.get("start-after" if "list-type" in query else "marker", "").encode()
    begin = position_after(marker, prefix=prefix, delimiter=delimiter)
    if "continuation-token" in query:
        begin = _parse_token(query["continuation-token"])
    limit = _parse_max_keys(query.get("max-keys"))
    page = store.list_objects(request.bucket, prefix=prefix, delimiter=delimiter, begin=begin, limit=limit)
    return xml_response(element("ListBucketResult", *_describe_page(request, page, limit)))


def _describe_page(request: S3Request, page: Page, limit: int) -> Iterator[ElementTree.Element]:
    query, encoding = request.query, request.query.get("encoding-type")
    yield element("Name", request.bucket)
    yield element("MaxKeys", str(limit))
    yield element("IsTruncated", "false" if page.resume_at is None else "true")
    yield element("Prefix", format_key(query.get("prefix", "").encode(), encoding))
    if "delimiter" in query:
        yield element("Delimiter", format_key(query["delimiter"].encode(), encoding))
    if encoding:
        yield element("EncodingType", encoding)
    if "list-type" in query:
        yield element("KeyCount", str(len(page.objects) + len(page.common_prefixes)))
        if "continuation-token" in query:
            yield element("ContinuationToken", query["continuation-token"])
        if "start-after" in query:
            yield element("StartAfter", format_key(query["start-after"].encode(), encoding))
        if page.resume_at is not None:
            yield element("NextContinuationToken", _make_token(page.resume_at))
    else:
        yield element("Marker", format_key(query.get("marker", "").encode(), encoding))
        if page.resume_at is not None:
            yield element("NextMarker", format_key(page.last, encoding))
    for stored in page.objects:
        yield element(
            "Contents",
            element("Key", format_key(stored.key, encoding)),
            element("LastModified", format_time(stored.modified_at)),
            element("ETag", f'"{stored.etag}"'),
            element("Size", str(stored.size_bytes)),
            element("StorageClass", "STANDARD"),
        )
    for common in page.common_prefixes:
        yield element("CommonPrefixes", element("Prefix", format_key(common, encoding)))


def _parse_max_keys(text: str | None) -> int:
    if text is None:
        return _MAX_KEYS
    if not text.isdecimal():
        raise S3Refusal(400, "InvalidArgument", f"Provided max-keys not an integer or within integer range: {text}")
    return min(int(text), _MAX_KEYS)


def _make_token(position: bytes) -> str:
    return base64.urlsafe_b64encode(position).decode()


def _parse_token(token: str) -> bytes:
    try:
        return base64.urlsafe_b64decode(token)
    except binascii.Error as error:
        raise S3Refusal(400, "InvalidArgument", "The continuation token provided is incorrect") from error

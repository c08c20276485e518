"""S3 on this machine's disk, as a WSGI application: path-style, streaming in both directions, persistent.

    S3App  → buckets.py, objects.py, uploads.py   the operations, one function each
           → store.py, upload_store.py              storage
           → protocol.py                            protocol

It replaces moto's S3, which keeps every object in memory, reads all of it for each ranged GET and loses it at exit.
Requests, including presigned URLs, must be signed with the stack's keys. Nothing is encrypted: serve it on the loopback
interface only. Versioning, ACLs, tags, policies and similar operations return 501 NotImplemented.

Serve it with WsgiServer (wsgi_server.py), which works around incompatibilities of boto3 and waitress. The server spools
bodies to disk before it calls the app, and drops user metadata with an underscore in the name.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from mlflow_fargate.local.s3 import buckets, objects, uploads
from mlflow_fargate.local.s3.protocol import S3Refusal, S3Request, S3Response, error_response
from mlflow_fargate.local.s3.store import S3Store
from mlflow_fargate.local.signature import Keys, SignatureRefused, verify

logger = logging.getLogger(__name__)

StartResponse = Callable[[str, list[tuple[str, str]]], Any]
_Verb = Callable[[S3Store, S3Request], S3Response]

# (method, subresource): a subresource is the query parameter that selects another operation.
_BUCKET_VERBS: Mapping[tuple[str, str], _Verb] = {
    ("GET", ""): buckets.list_objects,
    ("GET", "location"): buckets.get_bucket_location,
    ("GET", "uploads"): buckets.list_uploads,
    ("PUT", ""): buckets.create_bucket,
    ("HEAD", ""): buckets.head_bucket,
    ("DELETE", ""): buckets.delete_bucket,
    ("POST", "delete"): buckets.delete_objects,
}
_OBJECT_VERBS: Mapping[tuple[str, str], _Verb] = {
    ("GET", ""): objects.get_object,
    ("HEAD", ""): objects.head_object,
    ("PUT", ""): objects.put_object,
    ("PUT", "x-amz-copy-source"): objects.copy_object,
    ("DELETE", ""): objects.delete_object,
    ("POST", "uploads"): uploads.create_upload,
    ("PUT", "uploadId"): uploads.upload_part,
    ("PUT", "uploadId+x-amz-copy-source"): uploads.upload_part_copy,
    ("POST", "uploadId"): uploads.complete_upload,
    ("DELETE", "uploadId"): uploads.abort_upload,
    ("GET", "uploadId"): uploads.list_parts,
}
_SUBRESOURCES = (
    *("location", "uploads", "delete", "uploadId", "acl", "accelerate", "analytics", "attributes", "cors"),
    *("encryption", "intelligent-tiering", "inventory", "legal-hold", "lifecycle", "logging", "metrics"),
    *("notification", "object-lock", "ownershipControls", "policy", "policyStatus", "publicAccessBlock", "replication"),
    *("requestPayment", "restore", "retention", "select", "tagging", "torrent", "versionId", "versioning", "versions"),
    "website",
)


class S3App:
    """A WSGI application over the objects in `root`, for clients that sign with `keys`.

    Call close() after its server has stopped.
    """

    def __init__(self, root: Path, *, keys: Keys) -> None:
        self.store = S3Store(root)
        self._keys = keys

    def __call__(self, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        response = self._answer(environ)
        start_response(response.status_line, list(response.headers.items()))
        return () if environ["REQUEST_METHOD"] == "HEAD" else response.body

    def close(self) -> None:
        self.store.close()

    def _answer(self, environ: dict[str, Any]) -> S3Response:
        try:
            verify(environ, self._keys, is_s3=True)
            request = S3Request.from_environ(environ)
            return _choose_verb(request)(self.store, request)
        except SignatureRefused as refused:
            return error_response(S3Refusal(403, refused.code, refused.message), environ.get("PATH_INFO", "/"))
        except S3Refusal as refusal:
            logger.debug("%s %s: %s", environ["REQUEST_METHOD"], environ.get("PATH_INFO"), refusal.code)
            return error_response(refusal, environ.get("PATH_INFO", "/"))


def _choose_verb(request: S3Request) -> _Verb:
    subresource = "+".join(name for name in _SUBRESOURCES if name in request.query)
    if request.key and "x-amz-copy-source" in request.headers:
        subresource = f"{subresource}+x-amz-copy-source".removeprefix("+")
    if not request.bucket and request.method == "GET":
        return buckets.list_buckets
    verb = (_OBJECT_VERBS if request.key else _BUCKET_VERBS).get((request.method, subresource))
    if verb is None or not request.bucket:
        said = f"{request.method} with '{subresource}' is not supported by the local stack's S3"
        raise S3Refusal(501, "NotImplemented", said)
    return verb

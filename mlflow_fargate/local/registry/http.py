"""The distribution API over HTTP/1.1: requests become calls of RegistryStore, its results and refusals responses.

Blobs are streamed in both directions. Source: OCI distribution-spec v1.1, without deletion of single blobs and the
referrers API.
"""

from __future__ import annotations

import hmac
import json
import logging
import re
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlencode, urlsplit

from mlflow_fargate.local.guard import joined, refusal
from mlflow_fargate.local.registry.grammar import MANIFEST_MAX_BYTES, OciRefusal, parse_range
from mlflow_fargate.local.registry.store import RegistryStore
from mlflow_fargate.local.registry.upload import Upload

logger = logging.getLogger(__name__)

_CHUNK_BYTES = 256 * 1024
# Up to this many unread bytes of a refused request are read, so that the client gets the response and not a reset.
_DRAIN_BYTES = 8 * 1024 * 1024
_STOP_SECONDS = 5.0
_ROUTES = (
    ("ping", re.compile(r"/v2/?")),
    ("catalog", re.compile(r"/v2/_catalog")),
    ("tags", re.compile(r"/v2/(?P<name>.+)/tags/list")),
    ("uploads", re.compile(r"/v2/(?P<name>.+)/blobs/uploads/?")),
    ("upload", re.compile(r"/v2/(?P<name>.+)/blobs/uploads/(?P<upload_id>[^/]+)")),
    ("blob", re.compile(r"/v2/(?P<name>.+)/blobs/(?P<digest>[^/]+)")),
    ("manifest", re.compile(r"/v2/(?P<name>.+)/manifests/(?P<reference>[^/]+)")),
)


class RegistryServer(ThreadingHTTPServer):
    # Threads of servers that were not stopped must not keep the interpreter alive; stop() ends its server's threads.
    daemon_threads = True

    def __init__(self, address: tuple[str, int], store: RegistryStore, login: str | None) -> None:
        self.store = store
        self.login = login  # the required Authorization header; None: not required
        self._connections: dict[threading.Thread, socket.socket] = {}
        super().__init__(address, RegistryHandler)

    def process_request(self, request: Any, client_address: Any) -> None:
        # Like the parent, but records connections: kept-alive ones would otherwise outlive stop().
        thread = threading.Thread(target=self.process_request_thread, args=(request, client_address), daemon=True)
        self._connections[thread] = request
        thread.start()

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._connections.pop(threading.current_thread(), None)

    def handle_error(self, request: Any, client_address: Any) -> None:
        logger.debug("connection from %s ended", client_address, exc_info=True)

    def close_connections(self) -> None:
        """Wakes the threads that wait on kept-alive connections, and joins them."""
        for thread, connection in list(self._connections.items()):
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                logger.debug("connection was already closed")
            thread.join(_STOP_SECONDS)


class RegistryHandler(BaseHTTPRequestHandler):
    """Handles one client connection with `server.store`."""

    server: RegistryServer
    server_version = "mlflow-fargate-registry"
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def _answer_request(self) -> None:
        self._is_body_read = not self._announces_body()
        try:
            self._check_caller()
            parts = urlsplit(self.path)
            self._query = {key: values[-1] for key, values in parse_qs(parts.query, keep_blank_values=True).items()}
            self._dispatch(unquote(parts.path))
        except OciRefusal as refused:
            self._refuse(refused)
        except (ValueError, RecursionError):  # no URL, a number of thousands of digits, thousands of brackets
            self._refuse(OciRefusal(400, "UNSUPPORTED", "the request cannot be parsed"))
        finally:
            self._drain_body()

    def _refuse(self, refused: OciRefusal) -> None:
        self.close_connection = self.close_connection or not self._is_body_read
        error = {"code": refused.code, "message": refused.said, "detail": {}}
        challenge = {"WWW-Authenticate": 'Basic realm="local stack"'} if refused.status == 401 else {}
        self._send_json(refused.status, {"errors": [error]}, challenge)

    do_GET = do_HEAD = do_POST = do_PATCH = do_PUT = do_DELETE = do_OPTIONS = _answer_request

    def _check_caller(self) -> None:
        if said := refusal(self.command, lambda name: joined(self.headers.get_all(name))):
            raise OciRefusal(403, "DENIED", said)
        shown = self.headers.get("Authorization") or ""
        if self.server.login is not None and not hmac.compare_digest(shown.encode(), self.server.login.encode()):
            raise OciRefusal(
                401, "UNAUTHORIZED", "wrong user or password for this local stack; get them from GetAuthorizationToken"
            )

    def _dispatch(self, path: str) -> None:
        for resource, pattern in _ROUTES:
            match = pattern.fullmatch(path)
            if match is None:
                continue
            verb = "get" if self.command == "HEAD" else self.command.lower()
            handler = getattr(self, f"_{verb}_{resource}", None)
            if handler is None:
                raise OciRefusal(405, "UNSUPPORTED", f"{self.command} is not supported on {path}")
            handler(**match.groupdict())
            return
        raise OciRefusal(404, "NAME_UNKNOWN", f"{path} does not exist")

    def log_message(self, format: str, *args: Any) -> None:
        logger.debug(format, *args)

    # Lists

    def _get_ping(self) -> None:
        self._send_json(200, {})

    def _get_catalog(self) -> None:
        page, headers = self._page(self.server.store.repositories(), "/v2/_catalog")
        self._send_json(200, {"repositories": page}, headers)

    def _get_tags(self, name: str) -> None:
        page, headers = self._page(self.server.store.tags(name), f"/v2/{name}/tags/list")
        self._send_json(200, {"name": name, "tags": page}, headers)

    def _page(self, names: list[str], path: str) -> tuple[list[str], dict[str, str]]:
        rest = [name for name in names if name > self._query.get("last", "")]
        if not self._query.get("n", "").isdecimal():
            return rest, {}
        limit = int(self._query["n"])
        if limit == 0 or limit >= len(rest):
            return rest[:limit], {}
        following = urlencode({"n": limit, "last": rest[limit - 1]})
        return rest[:limit], {"Link": f'<{path}?{following}>; rel="next"'}

    # Blobs

    def _get_blob(self, name: str, digest: str) -> None:
        path = self.server.store.blob(name, digest)
        with path.open("rb") as file:
            size = path.stat().st_size
            start, end = parse_range(self.headers.get("Range"), size)
            headers = {"Docker-Content-Digest": digest, "Accept-Ranges": "bytes", "ETag": f'"{digest}"'}
            if (start, end) != (0, size):
                headers["Content-Range"] = f"bytes {start}-{end - 1}/{size}"
            self._send_head(206 if "Content-Range" in headers else 200, end - start, headers)
            if self.command != "HEAD" and end > start:
                self.connection.sendfile(file, start, end - start)

    def _post_uploads(self, name: str) -> None:
        store, query = self.server.store, self._query
        if "mount" in query and store.mount_blob(name, query["mount"], source=query.get("from", name)):
            self._send_created(f"/v2/{name}/blobs/{query['mount']}", query["mount"])
            return
        upload = store.begin_upload(name)
        if "digest" in query:
            self._receive(upload)
            store.finish_upload(upload, query["digest"])
            self._send_created(f"/v2/{name}/blobs/{query['digest']}", query["digest"])
            return
        self._send_upload(202, upload)

    def _get_upload(self, name: str, upload_id: str) -> None:
        self._send_upload(204, self.server.store.upload(name, upload_id))

    def _patch_upload(self, name: str, upload_id: str) -> None:
        upload = self.server.store.upload(name, upload_id)
        start = (self.headers.get("Content-Range") or "").removeprefix("bytes ").split("-")[0]
        if start and start != str(upload.size_bytes):
            self._send_upload(416, upload)
            return
        self._receive(upload)
        self._send_upload(202, upload)

    def _put_upload(self, name: str, upload_id: str) -> None:
        store = self.server.store
        upload = store.upload(name, upload_id)
        self._receive(upload)
        store.finish_upload(upload, self._query.get("digest", ""))
        self._send_created(f"/v2/{name}/blobs/{self._query['digest']}", self._query["digest"])

    def _delete_upload(self, name: str, upload_id: str) -> None:
        store = self.server.store
        store.cancel_upload(store.upload(name, upload_id))
        self._send_head(204, None)

    def _receive(self, upload: Upload) -> None:
        try:
            upload.append(self._body())
        except ValueError as error:
            raise OciRefusal(400, "BLOB_UPLOAD_INVALID", f"the body cannot be read: {error}") from error

    # Manifests

    def _get_manifest(self, name: str, reference: str) -> None:
        manifest = self.server.store.manifest(name, reference)
        self._send(200, manifest.body, manifest.media_type, {"Docker-Content-Digest": manifest.digest})

    def _put_manifest(self, name: str, reference: str) -> None:
        body = bytearray()
        for chunk in self._body():
            body += chunk
            if len(body) > MANIFEST_MAX_BYTES:
                raise OciRefusal(413, "SIZE_INVALID", f"a manifest has at most {MANIFEST_MAX_BYTES} bytes")
        media_type = self.headers.get("Content-Type") or "application/vnd.oci.image.manifest.v1+json"
        digest = self.server.store.put_manifest(name, reference, bytes(body), media_type)
        self._send_created(f"/v2/{name}/manifests/{digest}", digest)

    def _delete_manifest(self, name: str, reference: str) -> None:
        self.server.store.delete_image(name, reference)
        self._send_head(202, 0)

    # The wire

    def _announces_body(self) -> bool:
        return "Transfer-Encoding" in self.headers or self.headers.get("Content-Length", "0") != "0"

    def _body(self) -> Iterator[bytes]:
        """Yields the request's body in pieces; decodes chunked transfer, which http.server does not support."""
        if "chunked" in (self.headers.get("Transfer-Encoding") or "").lower():
            while size := int(self.rfile.readline(1024).split(b";")[0], 16):
                yield from self._read_exactly(size)
                self.rfile.readline(3)
            while self.rfile.readline(65536).strip():
                logger.debug("trailer ignored")
        else:
            yield from self._read_exactly(int(self.headers.get("Content-Length") or 0))
        self._is_body_read = True

    def _read_exactly(self, size: int) -> Iterator[bytes]:
        while size > 0:
            chunk = self.rfile.read(min(size, _CHUNK_BYTES))
            if not chunk:
                raise ConnectionAbortedError("the client disconnected in the middle of a body")
            size -= len(chunk)
            yield chunk

    def _drain_body(self) -> None:
        if self._is_body_read:
            return
        self.close_connection = True
        length = int(self.headers.get("Content-Length") or _DRAIN_BYTES)
        drained = 0
        while drained < min(length, _DRAIN_BYTES) and (chunk := self.rfile.read1(_CHUNK_BYTES)):
            drained += len(chunk)

    def _send_json(self, status: int, content: Any, headers: dict[str, str] | None = None) -> None:
        self._send(status, json.dumps(content).encode(), "application/json", headers or {})

    def _send(self, status: int, body: bytes, media_type: str, headers: dict[str, str]) -> None:
        self._send_head(status, len(body), {"Content-Type": media_type, **headers})
        if self.command != "HEAD":
            self.wfile.write(body)

    def _send_created(self, location: str, digest: str) -> None:
        self._send_head(201, 0, {"Location": location, "Docker-Content-Digest": digest})

    def _send_upload(self, status: int, upload: Upload) -> None:
        location = f"/v2/{upload.repository}/blobs/uploads/{upload.id}"
        received = f"0-{max(upload.size_bytes - 1, 0)}"
        headers = {"Location": location, "Range": received, "Docker-Upload-UUID": upload.id}
        self._send_head(status, None if status == 204 else 0, headers)

    def _send_head(self, status: int, size: int | None, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        self.send_header("Docker-Distribution-API-Version", "registry/2.0")
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        if size is not None:
            self.send_header("Content-Length", str(size))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()

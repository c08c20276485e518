"""The client of an OCI registry: is it there, read, mount, upload. One method a verb of the specification.

Uploads go the way that every registry (ECR among them) takes: POST opens a session, ONE chunked PATCH carries the
bytes, PUT names the digest. A session is never used twice: after a failure a new one begins with the first byte.
Source: opencontainers/distribution-spec, spec.md; for ECR aws/containers-roadmap#2831.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import quote, urljoin

from mlflow_fargate.errors import InvalidOption, RegistryError
from mlflow_fargate.image.oci.image import (
    INDEX_TYPES,
    MANIFEST_TYPES,
    OCI_MANIFEST,
    Descriptor,
    Manifest,
    check_digest,
    sha256_digest,
)
from mlflow_fargate.image.oci.platforms import Platform
from mlflow_fargate.image.registry.authorization import Credentials, is_loopback
from mlflow_fargate.image.registry.image_store import FoundManifest, OnBytes
from mlflow_fargate.image.registry.transport import Refused, Transport

CHUNK_BYTES = 1 << 20


class Registry:
    """The registry at `host`, with the API of the distribution specification; safe to share between threads.

    HTTP is spoken only with this machine, HTTPS with everyone else.
    """

    keeps_locks = True

    def __init__(self, host: str, *, credentials: Credentials | None = None, insecure: bool | None = None) -> None:
        if insecure and not is_loopback(host):
            raise InvalidOption(f"Registry {host} is not on this machine: it is spoken to over HTTPS only.")
        self.host = host
        plain = is_loopback(host) if insecure is None else insecure
        self._transport = Transport(host, credentials=credentials, insecure=plain)

    def __enter__(self) -> Registry:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._transport.close()

    def manifest_digest(self, repository: str, identifier: str) -> str | None:
        """The digest of the manifest behind a tag or digest; None when there is none."""
        url = f"/v2/{repository}/manifests/{identifier}"
        headers = {"Accept": ", ".join((*MANIFEST_TYPES, *INDEX_TYPES))}

        def head() -> str | None:
            with self._transport.send(
                "HEAD", url, scopes=_pull(repository), expected=(200, 404), headers=headers
            ) as response:
                return response.headers.get("Docker-Content-Digest") if response.status_code == 200 else None

        digest = self._transport.retry(head)
        return digest and _digest(digest, f"{self.host}/{repository}:{identifier}")

    def find_manifest(self, repository: str, identifier: str, platform: Platform) -> FoundManifest | None:
        """Like `read_manifest`, but None when the repository or the image in it does not exist."""
        try:
            return self.read_manifest(repository, identifier, platform)
        except Refused as error:
            if error.status == 404:
                return None
            raise

    def read_manifest(self, repository: str, identifier: str, platform: Platform) -> FoundManifest:
        """The manifest behind a tag or digest; where that is an index, the one for `platform`."""
        data, digest = self._read_manifest_document(repository, identifier)
        if data.get("mediaType") in INDEX_TYPES or "manifests" in data:
            chosen = _choose(data, platform, f"{self.host}/{repository}:{identifier}")
            data, digest = self._read_manifest_document(repository, chosen)
        try:
            return FoundManifest(Manifest.of_json(data), digest)
        except (KeyError, TypeError, ValueError) as error:
            raise RegistryError(
                f"Registry {self.host} has no image of a kind we can read at {repository}:{identifier}.",
                hint="images of Docker's schema 1 have to be pushed again by a tool of this decade",
            ) from error

    def write_manifest(self, repository: str, identifier: str, manifest: Manifest) -> str:
        """Store the manifest under a tag or its digest; its digest. All its blobs must be there."""
        body = manifest.as_bytes()
        url = f"/v2/{repository}/manifests/{identifier}"

        def put() -> None:
            headers = {"Content-Type": OCI_MANIFEST}
            self._transport.send(
                "PUT", url, scopes=_push(repository), expected=(200, 201, 202), headers=headers, body=body
            ).close()

        self._transport.retry(put)
        return sha256_digest(body)

    def has_blob(self, repository: str, digest: str) -> bool:
        url = f"/v2/{repository}/blobs/{digest}"

        def head() -> bool:
            # Asked with the scopes of a push: one token then serves the upload that may follow.
            with self._transport.send("HEAD", url, scopes=_push(repository), expected=(200, 404)) as response:
                return response.status_code == 200

        return self._transport.retry(head)

    def read_json(self, repository: str, descriptor: Descriptor) -> dict[str, Any]:
        """A small JSON blob such as a configuration, checked against its descriptor."""
        url = f"/v2/{repository}/blobs/{descriptor.digest}"

        def read() -> bytes:
            response = self._transport.send("GET", url, scopes=_pull(repository), expected=(200,))
            return self._transport.read_document(response)

        data = self._transport.retry(read)
        if sha256_digest(data) != descriptor.digest:
            raise RegistryError(f"Registry {self.host} sent other bytes than {descriptor.digest} of {repository}.")
        return _parse(data, f"{self.host}/{repository}@{descriptor.digest}")

    def stream_blob(self, repository: str, descriptor: Descriptor) -> Iterator[bytes]:
        """The blob's bytes; RegistryError at their end when digest or size are not those of the descriptor.

        Not tried again here: whoever consumes the stream has to begin anew.
        """
        url = f"/v2/{repository}/blobs/{descriptor.digest}"
        response = self._transport.send("GET", url, scopes=_pull(repository), expected=(200,))
        with response, self._transport.reading(response.url):
            # Not iter_content: that would undo a Content-Encoding, and digests are of the bytes as stored.
            chunks = response.raw.stream(CHUNK_BYTES, decode_content=False)
            yield from verified(chunks, descriptor, f"{self.host}/{repository}")

    def upload_blob(
        self,
        repository: str,
        digest: str | Callable[[], str],
        open_chunks: Callable[[], Iterable[bytes]],
        *,
        mount_from: str | None = None,
        on_bytes: OnBytes = lambda _size: None,
    ) -> int:
        """Put a blob into the repository; see `ImageStore`."""

        def upload() -> int:
            sent = 0

            def counted() -> Iterator[bytes]:
                nonlocal sent
                for chunk in open_chunks():
                    # Counted when the next one is asked for: then this one is on the wire.
                    yield chunk
                    sent += len(chunk)
                    on_bytes(len(chunk))

            try:
                self._upload_once(repository, digest, counted, mount_from)
            except BaseException:
                on_bytes(-sent)
                raise
            return sent

        return self._transport.retry(upload)

    def _upload_once(
        self,
        repository: str,
        digest: str | Callable[[], str],
        open_chunks: Callable[[], Iterable[bytes]],
        mount_from: str | None,
    ) -> None:
        send, scopes = self._transport.send, _push(repository)
        mount = (digest, mount_from) if mount_from and isinstance(digest, str) else None
        location = self._open_upload(repository, mount)
        if location is None:
            return
        headers = {"Content-Type": "application/octet-stream"}
        # ECR answers 201 where the specification has 202. No Content-Range: it would make this a chunk of several.
        with send("PATCH", location, scopes=scopes, expected=(201, 202), headers=headers, body=open_chunks) as response:
            location = _location(response.headers, location)
        named = digest if isinstance(digest, str) else digest()
        url = f"{location}{'&' if '?' in location else '?'}digest={quote(named, safe='')}"
        send("PUT", url, scopes=scopes, expected=(201, 202, 204), headers=headers, body=b"").close()

    def _open_upload(self, repository: str, mount: tuple[str, str] | None) -> str | None:
        """Where to upload a blob; None when the registry mounted (digest, repository). A refused mount is an upload."""
        url, scopes = f"/v2/{repository}/blobs/uploads/", _push(repository)
        if mount:
            digest, mount_from = mount
            url += f"?mount={quote(digest, safe='')}&from={quote(mount_from, safe='')}"
            scopes += _pull(mount_from)
        with self._transport.send("POST", url, scopes=scopes, expected=(201, 202)) as response:
            return None if response.status_code == 201 else _location(response.headers, response.url)

    def _read_manifest_document(self, repository: str, identifier: str) -> tuple[dict[str, Any], str]:
        url = f"/v2/{repository}/manifests/{identifier}"
        headers = {"Accept": ", ".join((*MANIFEST_TYPES, *INDEX_TYPES))}

        def read() -> bytes:
            response = self._transport.send("GET", url, scopes=_pull(repository), expected=(200,), headers=headers)
            return self._transport.read_document(response)

        data = self._transport.retry(read)
        digest = sha256_digest(data)
        if identifier.startswith("sha256:") and identifier != digest:
            raise RegistryError(f"Registry {self.host} sent another manifest than {repository}@{identifier}.")
        return _parse(data, f"{self.host}/{repository}:{identifier}"), digest


def verified(chunks: Iterable[bytes], descriptor: Descriptor, where: str) -> Iterator[bytes]:
    """The same chunks; RegistryError at their end, or as soon as they are too many, when they are not the blob."""
    algorithm, _, expected = descriptor.digest.partition(":")
    digest, size_bytes = hashlib.new(algorithm), 0
    for chunk in chunks:
        size_bytes += len(chunk)
        if size_bytes > descriptor.size_bytes:
            break
        digest.update(chunk)
        yield chunk
    if size_bytes != descriptor.size_bytes or digest.hexdigest() != expected:
        raise RegistryError(
            f"What {where} sent as {descriptor.digest} is something else: {size_bytes} bytes "
            f"where {descriptor.size_bytes} are promised, or other bytes."
        )


def _choose(index: Mapping[str, Any], platform: Platform, where: str) -> str:
    """The digest of the image for `platform` in an index."""
    offered: dict[str, str] = {}
    for entry in index.get("manifests") or ():
        its = entry.get("platform") or {}
        # Attestations stand in the index as images for the platform unknown/unknown; those never match.
        offered.setdefault(f"{its.get('os')}/{its.get('architecture')}", str(entry.get("digest")))
    if str(platform) not in offered:
        raise RegistryError(f"{where} has no image for {platform}, only for {', '.join(sorted(offered)) or 'nothing'}.")
    return _digest(offered[str(platform)], where)


def _digest(text: str, where: str) -> str:
    try:
        return check_digest(text)
    except ValueError as error:
        raise RegistryError(f"{where} has a digest that is none: {text[:100]!r}.") from error


def _parse(data: bytes, where: str) -> dict[str, Any]:
    try:
        return dict(json.loads(data))
    except (ValueError, TypeError) as error:
        raise RegistryError(f"{where} is not the JSON document it should be.") from error


def _location(headers: Mapping[str, str], url: str) -> str:
    location = headers.get("Location")
    if not location:
        raise RegistryError(f"{url.partition('?')[0]} opened an upload without saying where it goes (no Location).")
    return urljoin(url, location)


def _pull(repository: str) -> tuple[str, ...]:
    return (f"repository:{repository}:pull",)


def _push(repository: str) -> tuple[str, ...]:
    return (f"repository:{repository}:pull,push",)

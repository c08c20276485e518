"""The client of an OCI registry: check, read, mount, upload. One method per endpoint of the specification.

Uploads use the protocol that every registry (including ECR) supports: POST opens a session, ONE chunked PATCH sends the
bytes, PUT names the digest. A session is never reused: after a failure, a new one starts with the first byte.
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
    MISTYPED,
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
    """The registry at `host`, with the API of the distribution specification; thread-safe.

    Uses HTTP only for this machine, HTTPS for all other hosts.
    """

    keeps_locks = True

    def __init__(self, host: str, *, credentials: Credentials | None = None, insecure: bool | None = None) -> None:
        if insecure and not is_loopback(host):
            raise InvalidOption(f"Registry {host} is not on this machine, so HTTPS is required.")
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
        """Returns the digest of the manifest with that tag or digest, or None."""
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
        """Like `read_manifest`, but returns None if the repository or image does not exist."""
        try:
            return self.read_manifest(repository, identifier, platform)
        except Refused as error:
            if error.status == 404:
                return None
            raise

    def read_manifest(self, repository: str, identifier: str, platform: Platform) -> FoundManifest:
        """Returns the manifest with that tag or digest; from an index, the one for `platform`."""
        try:
            data, digest = self._read_manifest_document(repository, identifier)
            if data.get("mediaType") in INDEX_TYPES or "manifests" in data:
                chosen = _choose(data, platform, f"{self.host}/{repository}:{identifier}")
                data, digest = self._read_manifest_document(repository, chosen)
            return FoundManifest(Manifest.of_json(data), digest)
        except MISTYPED as error:
            raise RegistryError(
                f"Registry {self.host} has no supported image at {repository}:{identifier}.",
                hint="Docker schema 1 is not supported; push the image again with a current Docker, skopeo or crane",
            ) from error

    def write_manifest(self, repository: str, identifier: str, manifest: Manifest) -> str:
        """Uploads the manifest with a tag or its digest; returns its digest. All its blobs must exist.

        It is not an error if it is there already: ECR refuses an immutable tag also for the same manifest, as after a
        lost answer, or if another machine built the same image (aws/containers-roadmap#2179).
        """
        body = manifest.as_bytes()
        digest = sha256_digest(body)
        url = f"/v2/{repository}/manifests/{identifier}"

        def put() -> None:
            headers = {"Content-Type": OCI_MANIFEST}
            try:
                self._transport.send(
                    "PUT", url, scopes=_push(repository), expected=(200, 201, 202), headers=headers, body=body
                ).close()
            except Refused as error:
                present = self.manifest_digest(repository, identifier)
                if present == digest:
                    return
                if present is None or error.status not in (400, 409):
                    raise
                raise Refused(
                    f"Another command pushed a different image as {repository}:{identifier} while this one was built, "
                    "and tags in this repository are immutable.",
                    status=error.status,
                    hint="run the command again: it uses that image, which was built from the same inputs",
                ) from error

        self._transport.retry(put)
        return digest

    def has_blob(self, repository: str, digest: str) -> bool:
        url = f"/v2/{repository}/blobs/{digest}"

        def head() -> bool:
            # Requested with push scopes, so the same token works for an upload that may follow.
            with self._transport.send("HEAD", url, scopes=_push(repository), expected=(200, 404)) as response:
                return response.status_code == 200

        return self._transport.retry(head)

    def read_json(self, repository: str, descriptor: Descriptor) -> dict[str, Any]:
        """Returns a small JSON blob such as a configuration, checked against its descriptor."""
        url = f"/v2/{repository}/blobs/{descriptor.digest}"

        def read() -> bytes:
            response = self._transport.send("GET", url, scopes=_pull(repository), expected=(200,))
            return self._transport.read_document(response)

        data = self._transport.retry(read)
        if sha256_digest(data) != descriptor.digest:
            raise RegistryError(f"Registry {self.host} sent wrong data for {descriptor.digest} of {repository}.")
        return _parse(data, f"{self.host}/{repository}@{descriptor.digest}")

    def stream_blob(self, repository: str, descriptor: Descriptor) -> Iterator[bytes]:
        """Yields the blob's bytes; raises RegistryError at the end if digest or size differ from the descriptor.

        Not retried here: the consumer of the stream has to start over.
        """
        url = f"/v2/{repository}/blobs/{descriptor.digest}"
        response = self._transport.send("GET", url, scopes=_pull(repository), expected=(200,))
        with response, self._transport.reading(response.url):
            # Not iter_content: it would decode a Content-Encoding, and digests are computed from the stored bytes.
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
        """Uploads a blob to the repository; see `ImageStore`."""

        def upload() -> int:
            sent = 0

            def counted() -> Iterator[bytes]:
                nonlocal sent
                for chunk in open_chunks():
                    # Counted when the next chunk is requested: then this one is on the wire.
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
        # ECR returns 201 instead of the specified 202. No Content-Range: it would make this one of several chunks.
        with send("PATCH", location, scopes=scopes, expected=(201, 202), headers=headers, body=open_chunks) as response:
            location = _location(response.headers, location)
        named = digest if isinstance(digest, str) else digest()
        url = f"{location}{'&' if '?' in location else '?'}digest={quote(named, safe='')}"
        send("PUT", url, scopes=scopes, expected=(201, 202, 204), headers=headers, body=b"").close()

    def _open_upload(self, repository: str, mount: tuple[str, str] | None) -> str | None:
        """Returns the upload URL; None if the registry mounted (digest, repository), else it opens an upload."""
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
            raise RegistryError(f"Registry {self.host} sent the wrong manifest for {repository}@{identifier}.")
        return _parse(data, f"{self.host}/{repository}:{identifier}"), digest


def verified(chunks: Iterable[bytes], descriptor: Descriptor, where: str) -> Iterator[bytes]:
    """Yields the chunks; raises RegistryError at the end, or as soon as they are too long, if they are not the blob."""
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
            f"{where} sent wrong data for {descriptor.digest}: {size_bytes} bytes instead of "
            f"{descriptor.size_bytes}, or a different hash."
        )


def _choose(index: Mapping[str, Any], platform: Platform, where: str) -> str:
    """Returns the digest of the image for `platform` in an index."""
    offered: dict[str, str] = {}
    for entry in index.get("manifests") or ():
        its = entry.get("platform") or {}
        # Attestations are listed in the index with the platform unknown/unknown, which never matches.
        offered.setdefault(f"{its.get('os')}/{its.get('architecture')}", str(entry.get("digest")))
    if str(platform) not in offered:
        raise RegistryError(f"{where} has no image for {platform}, only for {', '.join(sorted(offered)) or 'nothing'}.")
    return _digest(offered[str(platform)], where)


def _digest(text: str, where: str) -> str:
    try:
        return check_digest(text)
    except ValueError as error:
        raise RegistryError(f"{where} has an invalid digest: {text[:100]!r}.") from error


def _parse(data: bytes, where: str) -> dict[str, Any]:
    try:
        return dict(json.loads(data))
    except (ValueError, TypeError, RecursionError) as error:
        raise RegistryError(f"{where} is not a valid JSON object.") from error


def _location(headers: Mapping[str, str], url: str) -> str:
    location = headers.get("Location")
    if not location:
        raise RegistryError(f"{url.partition('?')[0]} opened an upload without a Location header.")
    try:
        return urljoin(url, location)
    except ValueError as error:
        raise RegistryError(f"{url.partition('?')[0]} opened an upload at an invalid URL.") from error


def _pull(repository: str) -> tuple[str, ...]:
    return (f"repository:{repository}:pull",)


def _push(repository: str) -> tuple[str, ...]:
    return (f"repository:{repository}:pull,push",)

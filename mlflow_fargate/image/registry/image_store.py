"""Image storage, as building sees it: `Registry` over HTTP, or `OciLayout` in a folder."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from mlflow_fargate.image.oci.image import Descriptor, Manifest
from mlflow_fargate.image.oci.platforms import Platform

OnBytes = Callable[[int], None]


@dataclass(frozen=True)
class FoundManifest:
    """A manifest in a store, with the digest of its bytes."""

    manifest: Manifest
    digest: str


class ImageStore(Protocol):
    """The operations of the distribution specification that building uses."""

    host: str  # "" for a folder: nothing is mounted from it
    keeps_locks: bool  # whether records for later builds (lock_record.py) are stored next to the images

    def manifest_digest(self, repository: str, identifier: str) -> str | None:
        """Returns the digest of the manifest with that tag or digest, or None."""

    def find_manifest(self, repository: str, identifier: str, platform: Platform) -> FoundManifest | None:
        """Returns the manifest with that tag or digest, or None."""

    def write_manifest(self, repository: str, identifier: str, manifest: Manifest) -> str:
        """Stores the manifest with a tag or its digest; returns its digest. All its blobs must exist."""

    def has_blob(self, repository: str, digest: str) -> bool:
        """Returns whether the blob is in the repository."""

    def read_json(self, repository: str, descriptor: Descriptor) -> dict[str, Any]:
        """Returns a small JSON blob such as a configuration."""

    def stream_blob(self, repository: str, descriptor: Descriptor) -> Iterator[bytes]:
        """Yields the blob's bytes; raises RegistryError at the end if digest or size differ from the descriptor."""

    def upload_blob(
        self,
        repository: str,
        digest: str | Callable[[], str],
        open_chunks: Callable[[], Iterable[bytes]],
        *,
        mount_from: str | None = None,
        on_bytes: OnBytes = lambda _size: None,
    ) -> int:
        """Uploads a blob to the repository; returns how many bytes were sent.

        The store can mount it from its repository `mount_from` (then 0 bytes are sent); otherwise `open_chunks()` is
        streamed, as often as needed. `digest` can be a callable that returns the digest of the last stream, for a blob
        built during the upload. `on_bytes` is called with the size of every chunk, and with a negative number when a
        failed upload starts over.
        """

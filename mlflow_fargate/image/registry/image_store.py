"""Where images are kept, as building sees it: `Registry` over HTTP, or `OciLayout` in a folder."""

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
    """The verbs of the distribution specification that building uses."""

    host: str  # "" for a folder: nothing is mounted from it
    keeps_locks: bool  # whether records for later builds (lock_record.py) go there beside the images

    def manifest_digest(self, repository: str, identifier: str) -> str | None:
        """The digest of the manifest behind a tag or digest; None when there is none."""

    def find_manifest(self, repository: str, identifier: str, platform: Platform) -> FoundManifest | None:
        """The manifest behind a tag or digest; None when there is none."""

    def write_manifest(self, repository: str, identifier: str, manifest: Manifest) -> str:
        """Store the manifest under a tag or its digest; its digest. All its blobs must be there."""

    def has_blob(self, repository: str, digest: str) -> bool:
        """Whether the blob is in the repository."""

    def read_json(self, repository: str, descriptor: Descriptor) -> dict[str, Any]:
        """A small JSON blob such as a configuration."""

    def stream_blob(self, repository: str, descriptor: Descriptor) -> Iterator[bytes]:
        """The blob's bytes; RegistryError at their end when digest or size are not those of the descriptor."""

    def upload_blob(
        self,
        repository: str,
        digest: str | Callable[[], str],
        open_chunks: Callable[[], Iterable[bytes]],
        *,
        mount_from: str | None = None,
        on_bytes: OnBytes = lambda _size: None,
    ) -> int:
        """Put a blob into the repository; how many bytes were sent for it.

        The store may take it from its repository `mount_from` (then 0 bytes are sent); otherwise `open_chunks()` is
        streamed, as often as it takes. A callable returns the digest of what was streamed last, for a blob that is
        made meanwhile. `on_bytes` is called with the size of every chunk, and with a negative number when a broken
        upload begins again.
        """

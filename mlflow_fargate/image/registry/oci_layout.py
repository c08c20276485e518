"""Stores an image in a folder instead of a registry: an OCI image layout, which skopeo, podman and crane read.

    FOLDER/oci-layout              the version of the layout
    FOLDER/index.json              the images, by tag
    FOLDER/manifest.json           the same, for `docker load`
    FOLDER/blobs/sha256/HEX        manifests, configurations and layers

Source: OCI image-spec, image-layout.md; Docker image specification v1.2, "Combined Image JSON + Filesystem Changeset
Format".
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from mlflow_fargate import atomic_files
from mlflow_fargate.errors import ImageError
from mlflow_fargate.image.layers.layer import iter_file
from mlflow_fargate.image.oci.image import OCI_INDEX, OCI_MANIFEST, Descriptor, Manifest, encode_json, sha256_digest
from mlflow_fargate.image.oci.platforms import Platform
from mlflow_fargate.image.registry.client import verified
from mlflow_fargate.image.registry.image_store import FoundManifest, OnBytes

_TAG = "org.opencontainers.image.ref.name"


class OciLayout:
    """The image layout in `directory`, which is created. It has tags but no repositories."""

    host = ""
    keeps_locks = False  # the folder contains only the image

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._blobs = directory / "blobs" / "sha256"
        if directory.exists() and any(directory.iterdir()) and not (directory / "oci-layout").exists():
            raise ImageError(
                f"{directory} is not empty and not an OCI image layout.", hint="choose an empty or a new folder"
            )
        self._blobs.mkdir(parents=True, exist_ok=True)
        if not (directory / "oci-layout").exists():
            (directory / "oci-layout").write_bytes(encode_json({"imageLayoutVersion": "1.0.0"}))
        if not self._index.exists():
            self._write_index([])

    def manifest_digest(self, repository: str, identifier: str) -> str | None:
        """Returns the digest of the manifest with that tag or digest, or None."""
        for entry in self._entries():
            if identifier in {entry["digest"], (entry.get("annotations") or {}).get(_TAG)}:
                return str(entry["digest"])
        return None

    def find_manifest(self, repository: str, identifier: str, platform: Platform) -> FoundManifest | None:
        digest = self.manifest_digest(repository, identifier)
        if digest is None:
            return None
        return FoundManifest(Manifest.of_json(json.loads(self._path(digest).read_bytes())), digest)

    def write_manifest(self, repository: str, identifier: str, manifest: Manifest) -> str:
        """Stores the manifest with a tag; returns its digest."""
        body = manifest.as_bytes()
        digest = sha256_digest(body)
        atomic_files.write(self._path(digest), body)
        entry = {"mediaType": OCI_MANIFEST, "digest": digest, "size": len(body), "annotations": {_TAG: identifier}}
        others = [one for one in self._entries() if (one.get("annotations") or {}).get(_TAG) != identifier]
        self._write_index([*others, entry])
        return digest

    def read_json(self, repository: str, descriptor: Descriptor) -> dict[str, Any]:
        return dict(json.loads(self._path(descriptor.digest).read_bytes()))

    def has_blob(self, repository: str, digest: str) -> bool:
        return self._path(digest).exists()

    def stream_blob(self, repository: str, descriptor: Descriptor) -> Iterator[bytes]:
        return verified(iter_file(self._path(descriptor.digest)), descriptor, str(self._directory))

    def upload_blob(
        self,
        repository: str,
        digest: str | Callable[[], str],
        open_chunks: Callable[[], Iterable[bytes]],
        *,
        mount_from: str | None = None,
        on_bytes: OnBytes = lambda _size: None,
    ) -> int:
        """Stores a blob; returns its size. Raises ImageError if its digest differs."""
        written, moved = hashlib.sha256(), 0
        with atomic_files.draft(self._blobs) as unfinished:
            with unfinished.open("wb") as file:
                for chunk in open_chunks():
                    file.write(chunk)
                    written.update(chunk)
                    moved += len(chunk)
                    on_bytes(len(chunk))
            named = digest if isinstance(digest, str) else digest()
            if named != f"sha256:{written.hexdigest()}":
                raise ImageError(f"Digest mismatch: {named}.")
            unfinished.replace(self._path(named))
        return moved

    @property
    def name(self) -> str:
        """The folder's name, as a repository can be called."""
        return re.sub(r"[^a-z0-9]+", "-", self._directory.resolve().name.lower()).strip("-") or "image"

    @property
    def _index(self) -> Path:
        return self._directory / "index.json"

    def _path(self, digest: str) -> Path:
        return self._blobs / digest.removeprefix("sha256:")

    def _entries(self) -> list[dict[str, Any]]:
        return list(json.loads(self._index.read_bytes())["manifests"])

    def _write_index(self, entries: list[dict[str, Any]]) -> None:
        atomic_files.write(self._index, encode_json({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}))
        named = [entry for entry in entries if _TAG in (entry.get("annotations") or {})]
        for_docker = encode_json([self._describe_for_docker(entry) for entry in named])
        atomic_files.write(self._directory / "manifest.json", for_docker)

    def _describe_for_docker(self, entry: Mapping[str, Any]) -> dict[str, Any]:
        """Returns what every Docker loads; before 25.0 it does not read index.json. The name is the folder's."""
        manifest = Manifest.of_json(json.loads(self._path(entry["digest"]).read_bytes()))
        paths = [f"blobs/sha256/{self._path(blob.digest).name}" for blob in (manifest.config, *manifest.layers)]
        return {"Config": paths[0], "RepoTags": [f"{self.name}:{entry['annotations'][_TAG]}"], "Layers": paths[1:]}

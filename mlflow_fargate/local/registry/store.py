"""The local OCI registry's files; http.py serves them.

    ROOT/blobs/sha256/HEX      every blob and manifest once, for all repositories
    ROOT/repositories/NAME     one JSON file per repository ('/' as '+'): its blobs, manifests and tags
    ROOT/uploads/ID            bytes of uploads in progress; deleted at start, because sessions are in memory

A blob is visible in a repository only if it was pushed or mounted there, as in ECR. Files are renamed into place, so a
killed process leaves no partial blob or repository. Only one process uses a ROOT; its threads can call concurrently.
"""

from __future__ import annotations

import json
import threading
import time
import uuid
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path

from mlflow_fargate import atomic_files
from mlflow_fargate.local.registry.grammar import (
    OciRefusal,
    checked_digest,
    checked_name,
    checked_tag,
    digest_of,
    parse_manifest,
)
from mlflow_fargate.local.registry.records import (
    ImageRecord,
    ManifestEntry,
    Repository,
    StoredManifest,
    read_repository,
)
from mlflow_fargate.local.registry.upload import Upload

# An unreferenced blob may belong to a push whose manifest has not arrived yet.
_ORPHAN_GRACE_SECONDS = 3600.0


class RegistryStore:
    """The repositories, blobs and manifests under `root`.

    `create_on_push=False` is ECR's behavior: pushing to a repository that does not exist is NAME_UNKNOWN.
    """

    def __init__(self, root: Path, *, create_on_push: bool = True) -> None:
        self._blobs = root / "blobs" / "sha256"
        self._files = root / "repositories"
        self._uploading = root / "uploads"
        self._create_on_push = create_on_push
        self._lock = threading.RLock()
        self._uploads: dict[str, Upload] = {}
        for folder in (self._blobs, self._files, self._uploading):
            folder.mkdir(parents=True, exist_ok=True)
        for leftover in [*self._uploading.iterdir(), *self._files.glob("*.new")]:
            leftover.unlink()
        repositories = [read_repository(path) for path in self._files.glob("*.json")]
        self._repositories = {repository.name: repository for repository in repositories}
        self._collect_garbage()

    # Repositories

    def create_repository(self, name: str, *, immutable_tags: bool = False) -> None:
        """Creates the repository, or sets `immutable_tags` of an existing one."""
        with self._lock:
            repository = self._repositories.setdefault(checked_name(name), Repository(name))
            repository.immutable_tags = immutable_tags
            self._save(repository)

    def repository_exists(self, name: str) -> bool:
        return name in self._repositories

    def repositories(self) -> list[str]:
        return sorted(self._repositories)

    def delete_repository(self, name: str) -> bool:
        """Deletes the repository with its images; returns False if it did not exist."""
        with self._lock:
            if self._repositories.pop(name, None) is None:
                return False
            self._file(name).unlink(missing_ok=True)
            self._collect_garbage()
            return True

    def tags(self, name: str) -> list[str]:
        return sorted(self._existing(name).tags)

    # Blobs

    def blob(self, name: str, digest: str) -> Path:
        """Returns the blob's file; BLOB_UNKNOWN if it was neither pushed to nor mounted in this repository."""
        repository = self._existing(name)
        with self._lock:
            if checked_digest(digest) not in repository.blobs:
                raise OciRefusal(404, "BLOB_UNKNOWN", f"blob {digest} is not in repository '{name}'")
            repository.blobs[digest] = time.time()
        return self._blob_path(digest)

    def mount_blob(self, name: str, digest: str, *, source: str) -> bool:
        """Links a blob of repository `source` into `name`; returns False if it does not exist and must be uploaded."""
        with self._lock:
            origin = self._repositories.get(source)
            if origin is None or checked_digest(digest) not in origin.blobs:
                return False
            self._link(self._for_push(name), digest)
            return True

    def begin_upload(self, name: str) -> Upload:
        with self._lock:
            self._for_push(name)
            oldest = time.time() - _ORPHAN_GRACE_SECONDS
            for stale in [upload for upload in self._uploads.values() if upload.touched_at < oldest]:
                self.cancel_upload(stale)
            upload = Upload(name, self._uploading / str(uuid.uuid4()))
            self._uploads[upload.id] = upload
            return upload

    def upload(self, name: str, upload_id: str) -> Upload:
        upload = self._uploads.get(upload_id)
        if upload is None or upload.repository != name:
            raise OciRefusal(
                404, "BLOB_UPLOAD_UNKNOWN", f"no upload '{upload_id}' in repository '{name}': start a new one"
            )
        return upload

    def finish_upload(self, upload: Upload, digest: str) -> None:
        """Turns the uploaded bytes into a blob; the session ends either way.

        DIGEST_INVALID if they have a different digest.
        """
        try:
            if checked_digest(digest) != upload.digest:
                raise OciRefusal(400, "DIGEST_INVALID", f"the upload has the digest {upload.digest}, not {digest}")
            with self._lock:
                upload.path.replace(self._blob_path(digest))
                self._link(self._for_push(upload.repository), digest)
        finally:
            self.cancel_upload(upload)

    def cancel_upload(self, upload: Upload) -> None:
        self._uploads.pop(upload.id, None)
        upload.path.unlink(missing_ok=True)

    def add_blob(self, name: str, content: bytes) -> str:
        """Adds a small blob without HTTP; returns its digest."""
        upload = self.begin_upload(name)
        upload.append([content])
        digest = upload.digest
        self.finish_upload(upload, digest)
        return digest

    # Manifests and images

    def put_manifest(self, name: str, reference: str, body: bytes, media_type: str) -> str:
        """Stores the manifest under its digest, and under `reference` if that is a tag; returns the digest."""
        digest = digest_of(body)
        if ":" in reference and checked_digest(reference) != digest:
            raise OciRefusal(400, "DIGEST_INVALID", f"the manifest has the digest {digest}, not {reference}")
        if ":" not in reference:
            checked_tag(reference)
        with self._lock:
            repository = self._for_push(name)
            entry = self._checked_entry(repository, body, media_type)
            if ":" not in reference:
                _refuse_moving_tag(repository, reference, digest)
                repository.tags[reference] = digest
            path = self._uploading / str(uuid.uuid4())
            path.write_bytes(body)
            path.replace(self._blob_path(digest))
            # Pushing an existing image again keeps its date, as in ECR.
            repository.manifests.setdefault(digest, entry)
            self._save(repository)
        return digest

    def manifest(self, name: str, reference: str) -> StoredManifest:
        with self._lock:
            repository = self._existing(name)
            digest = repository.tags.get(reference, reference)
            entry = repository.manifests.get(digest)
            if entry is None:
                raise _unknown_manifest(name, reference)
            return StoredManifest(digest, entry.media_type, self._blob_path(digest).read_bytes())

    def images(self, name: str) -> list[ImageRecord]:
        """Returns every manifest of the repository, newest first."""
        with self._lock:
            repository = self._existing(name)
            records = [
                ImageRecord(
                    digest=digest,
                    tags=tuple(sorted(tag for tag, tagged in repository.tags.items() if tagged == digest)),
                    pushed_at=datetime.fromtimestamp(entry.pushed_at, timezone.utc),
                    size_bytes=entry.size_bytes,
                    media_type=entry.media_type,
                )
                for digest, entry in repository.manifests.items()
            ]
        return sorted(records, key=lambda record: record.pushed_at, reverse=True)

    def delete_image(self, name: str, reference: str) -> None:
        """Deletes only the tag if `reference` is a tag; with a digest, the image and all its tags."""
        with self._lock:
            repository = self._existing(name)
            if reference in repository.tags:
                del repository.tags[reference]
            elif repository.manifests.pop(reference, None) is not None:
                repository.tags = {tag: digest for tag, digest in repository.tags.items() if digest != reference}
            else:
                raise _unknown_manifest(name, reference)
            self._save(repository)
            self._collect_garbage()

    def _checked_entry(self, repository: Repository, body: bytes, media_type: str) -> ManifestEntry:
        parts = parse_manifest(body, media_type)
        missing = [digest for digest in parts if digest not in repository.blobs and digest not in repository.manifests]
        if missing:
            said = f"repository '{repository.name}' does not have {', '.join(missing)}: push them first"
            raise OciRefusal(404, "MANIFEST_BLOB_UNKNOWN", said)
        return ManifestEntry(media_type, time.time(), sum(parts.values()), list(parts))

    # Files

    def _existing(self, name: str) -> Repository:
        repository = self._repositories.get(checked_name(name))
        if repository is None:
            raise OciRefusal(404, "NAME_UNKNOWN", f"repository '{name}' does not exist")
        return repository

    def _for_push(self, name: str) -> Repository:
        if self._create_on_push and checked_name(name) not in self._repositories:
            self.create_repository(name)
        return self._existing(name)

    def _link(self, repository: Repository, digest: str) -> None:
        repository.blobs[digest] = time.time()
        self._save(repository)

    def _save(self, repository: Repository) -> None:
        atomic_files.write(self._file(repository.name), json.dumps(asdict(repository)))

    def _file(self, name: str) -> Path:
        return self._files / f"{name.replace('/', '+')}.json"

    def _blob_path(self, digest: str) -> Path:
        return self._blobs / digest.removeprefix("sha256:")

    def _collect_garbage(self) -> None:
        """Deletes blobs that no image needs and that were not used for a while."""
        oldest = time.time() - _ORPHAN_GRACE_SECONDS
        kept: set[str] = set()
        for repository in self._repositories.values():
            used = {digest for entry in repository.manifests.values() for digest in entry.blobs}
            blobs = {digest: at for digest, at in repository.blobs.items() if digest in used or at > oldest}
            if blobs != repository.blobs:
                repository.blobs = blobs
                self._save(repository)
            kept.update(blobs, repository.manifests)
        for path in self._blobs.iterdir():
            if f"sha256:{path.name}" not in kept:
                path.unlink(missing_ok=True)


def _refuse_moving_tag(repository: Repository, tag: str, digest: str) -> None:
    if repository.immutable_tags and repository.tags.get(tag, digest) != digest:
        said = f"The image tag '{tag}' already exists in the '{repository.name}' repository and cannot be overwritten"
        raise OciRefusal(400, "TAG_INVALID", f"{said} because the repository is immutable.")


def _unknown_manifest(name: str, reference: str) -> OciRefusal:
    return OciRefusal(404, "MANIFEST_UNKNOWN", f"repository '{name}' has no image '{reference}'")

"""Locks saved in a repository next to its images: the pins for some requirements, and the layers built from them.

    REPOSITORY:_lock-KEY      an OCI artifact
        config ──→ the pins, as JSON
        layers ──→ the layers with the packages, with their keys in their annotations

So a new machine neither resolves nor installs what another one did. A record is read only from the repository that the
image is pushed to: anyone who can push there already chooses what runs. It is still parsed as untrusted text, because
its pins are passed to uv.

Tags in these repositories are immutable, so a record cannot be updated; each month has a new one.
Source: OCI image-spec, manifest.md, "Guidelines for Artifact Usage".
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from mlflow_fargate.errors import RegistryError
from mlflow_fargate.image.layers.layer import Compression
from mlflow_fargate.image.oci.image import BaseImage, Descriptor, Layer, Manifest, encode_json, sha256_digest
from mlflow_fargate.image.oci.platforms import Platform
from mlflow_fargate.image.packages.lock_file import Lock, LockedPackage
from mlflow_fargate.image.packages.uv import PYPI, Indexes, lock, lock_key
from mlflow_fargate.image.registry.image_store import ImageStore
from mlflow_fargate.image.registry.transport import Refused
from mlflow_fargate.progress import Progress

TAG_PREFIX = "_lock-"  # not a valid start of a deployment name
_PINS = "application/vnd.mlflow-fargate.lock.v1+json"
_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
_VERSION = re.compile(r"[a-z0-9]+([.+!_-][a-z0-9]+)*", re.IGNORECASE)
_HASH = re.compile(r"sha256:[0-9a-f]{64}")


class LockRecords:
    """Locks, using the records of one repository: `lock` reads a record, `keep` writes a missing one."""

    def __init__(
        self,
        registry: ImageStore,
        repository: str,
        platform: Platform,
        compression: Compression,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._registry, self._repository = registry, repository
        self._platform, self._compression = platform, compression
        self._clock = clock
        self._tag = ""
        self._found: Manifest | None = None

    @property
    def manifests(self) -> tuple[Manifest, ...]:
        """Returns the record that `lock` found, for the layers in it."""
        return (self._found,) if self._found else ()

    def lock(
        self,
        lines: Sequence[str],
        *,
        python_version: str,
        cache: Path,
        indexes: Indexes = PYPI,
        build_sdists: bool = False,
    ) -> Lock:
        """Returns pins that satisfy normalized lines: those of the record, else a new lock by uv."""
        key = lock_key(lines, python_version=python_version, platform=self._platform, indexes=indexes)
        self._tag = make_record_tag(key, self._compression, self._clock())
        found = self._registry.find_manifest(self._repository, self._tag, self._platform)
        self._found = found.manifest if found else None
        packages = self._read_pins(self._found) if self._found else None
        return lock(
            lines,
            python_version=python_version,
            platform=self._platform,
            cache=cache,
            indexes=indexes,
            packages=packages,
            build_sdists=build_sdists,
        )

    def keep(self, locked: Lock, layers: Sequence[Layer], base: BaseImage | None, progress: Progress) -> None:
        """Saves a record of the lock and its layers, which are in the repository, unless there is one.

        `base` has all system libraries that the layers need; None: not checked.
        """
        is_new = self._registry.keeps_locks and self._found is None
        made = make_record(locked.packages, layers, base) if is_new else None
        if made is None:
            return
        manifest, pins = made
        try:
            self._registry.upload_blob(self._repository, manifest.config.digest, lambda: [pins])
            self._registry.write_manifest(self._repository, self._tag, manifest)
        # Another machine was first, or the registry only accepts images; the image itself is complete.
        except Refused as error:
            progress.note(f"could not save the lock in the repository: {error.message}")

    def _read_pins(self, record: Manifest) -> tuple[LockedPackage, ...]:
        try:
            return parse_pins(self._registry.read_json(self._repository, record.config))
        except (KeyError, TypeError, ValueError) as error:
            raise RegistryError(
                f"{self._registry.host}/{self._repository}:{self._tag} is not a valid lock record: {error}.",
                hint="find out who pushed it, then delete that tag; the next build creates it again",
            ) from error


def make_record_tag(key: str, compression: Compression, now: float) -> str:
    """Returns the tag of this month's record for requirements with that `lock_key`."""
    month = datetime.fromtimestamp(now, timezone.utc).strftime("%Y-%m")
    return f"{TAG_PREFIX}{sha256_digest(encode_json([key, compression.value, month])).removeprefix('sha256:')[:32]}"


def make_record(
    packages: Sequence[LockedPackage], layers: Sequence[Layer], base: BaseImage | None = None
) -> tuple[Manifest, bytes] | None:
    """Returns manifest and configuration of a record; None for a lock that cannot be shared.

    That is a lock with a URL, which can contain a password, or with a package built from source here.
    """
    data = {"packages": [_pin(package) for package in packages]}
    try:
        if parse_pins(data) != tuple(packages):
            return None
    except ValueError:
        return None
    pins = encode_json(data)
    config = Descriptor(_PINS, sha256_digest(pins), len(pins))
    annotations = {"org.opencontainers.image.base.digest": base.manifest_digest} if base else {}
    return Manifest(config, tuple(layer.descriptor for layer in layers), annotations), pins


def _pin(package: LockedPackage) -> dict[str, Any]:
    return {
        "name": package.name,
        "version": package.version,
        "hashes": list(package.hashes),
        "size": package.size_bytes,
    }


def parse_pins(data: Mapping[str, Any]) -> tuple[LockedPackage, ...]:
    """Parses the packages; raises KeyError, TypeError or ValueError unless each has name, version and hashes."""
    return tuple(_parse_pin(pin) for pin in data["packages"])


def _parse_pin(pin: Mapping[str, Any]) -> LockedPackage:
    name, version, hashes = str(pin["name"]), str(pin["version"]), tuple(str(one) for one in pin["hashes"])
    if not (_NAME.fullmatch(name) and _VERSION.fullmatch(version) and hashes and all(map(_HASH.fullmatch, hashes))):
        raise ValueError(f"{name!r} is not pinned by version and hash")
    return LockedPackage(name, f"{name}=={version}", hashes, int(pin["size"]))

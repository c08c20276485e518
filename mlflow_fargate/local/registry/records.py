"""The registry's records of repositories, manifests and images."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path


@dataclass(frozen=True)
class StoredManifest:
    """A manifest as it was pushed, byte for byte."""

    digest: str
    media_type: str
    body: bytes


@dataclass(frozen=True)
class ImageRecord:
    """An image of a repository as ECR's DescribeImages shows it."""

    digest: str
    tags: tuple[str, ...]  # sorted; empty for an untagged image
    pushed_at: datetime
    size_bytes: int  # config and layers, as compressed
    media_type: str


@dataclass
class ManifestEntry:
    media_type: str
    pushed_at: float
    size_bytes: int
    blobs: list[str]  # digests of config, layers or child manifests


@dataclass
class Repository:
    name: str
    immutable_tags: bool = False
    blobs: dict[str, float] = field(default_factory=dict)  # digest → last time it was pushed, mounted or read
    manifests: dict[str, ManifestEntry] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)


def read_repository(path: Path) -> Repository:
    state = json.loads(path.read_text())
    manifests = {digest: ManifestEntry(**entry) for digest, entry in state.pop("manifests").items()}
    return Repository(**state, manifests=manifests)

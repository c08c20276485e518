"""An image as defined by the OCI specification: descriptors, manifest, configuration. Pure values.

    Manifest ── config: Descriptor ──→ ImageConfig (JSON: environment, entry point, diff IDs of the layers)
            └── layers: Descriptor… ─→ blobs (compressed tar files)

Layers built here carry their key and diff ID in their descriptor's annotations. A later build finds them in the
registry by these; no other state is kept.
Source: OCI image-spec, manifest.md, config.md, annotations.md.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any

from mlflow_fargate.errors import ImageError

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER_GZIP = "application/vnd.oci.image.layer.v1.tar+gzip"
OCI_LAYER_ZSTD = "application/vnd.oci.image.layer.v1.tar+zstd"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_INDEX = "application/vnd.docker.distribution.manifest.list.v2+json"

OCI_ANNOTATION = "org.opencontainers.image."

INDEX_TYPES = (OCI_INDEX, DOCKER_INDEX)
MANIFEST_TYPES = (OCI_MANIFEST, DOCKER_MANIFEST)

# Some runtimes reject an OCI manifest with Docker's layer types; the bytes are the same.
_OCI_LAYER_TYPES = {
    "application/vnd.docker.image.rootfs.diff.tar.gzip": OCI_LAYER_GZIP,
    "application/vnd.docker.image.rootfs.diff.tar": "application/vnd.oci.image.layer.v1.tar",
    "application/vnd.docker.image.rootfs.diff.tar.zstd": OCI_LAYER_ZSTD,
}

MISTYPED = (KeyError, TypeError, ValueError, AttributeError, OverflowError)
"""What reading a document raises if its parts are not of the specified types."""
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128}")
_UNKNOWN_TIME = datetime(1970, 1, 1, tzinfo=timezone.utc)
_ANNOTATION = "io.mlflow-fargate.layer"


@dataclass(frozen=True)
class Descriptor:
    """A blob: its media type, digest and size."""

    media_type: str
    digest: str
    size_bytes: int
    annotations: Mapping[str, str] = field(default_factory=dict, hash=False)

    @classmethod
    def of_json(cls, data: Mapping[str, Any]) -> Descriptor:
        """Parses a manifest's descriptor; raises KeyError, TypeError or ValueError if it is not one."""
        annotations = dict(data.get("annotations") or {})
        if not all(isinstance(text, str) for text in annotations.values()) or int(data["size"]) < 0:
            raise ValueError("its annotations are not texts, or its size is negative")
        return cls(str(data["mediaType"]), check_digest(str(data["digest"])), int(data["size"]), annotations)

    def as_json(self) -> dict[str, Any]:
        data: dict[str, Any] = {"mediaType": self.media_type, "digest": self.digest, "size": self.size_bytes}
        return {**data, "annotations": dict(self.annotations)} if self.annotations else data


@dataclass(frozen=True)
class Layer:
    """A layer that exists as a blob; `key` identifies its inputs."""

    name: str
    key: str
    diff_id: str
    digest: str
    size_bytes: int
    media_type: str

    @classmethod
    def of_descriptor(cls, descriptor: Descriptor) -> Layer | None:
        """Returns the layer of a manifest's descriptor; None if it was not built by mlflow-fargate."""
        name, key, diff_id = (
            descriptor.annotations.get(f"{_ANNOTATION}.{part}") for part in ("name", "key", "diff-id")
        )
        if not (name and key and diff_id):
            return None
        return cls(name, key, diff_id, descriptor.digest, descriptor.size_bytes, descriptor.media_type)

    @property
    def descriptor(self) -> Descriptor:
        notes = {"name": self.name, "key": self.key, "diff-id": self.diff_id}
        annotations = {f"{_ANNOTATION}.{part}": value for part, value in notes.items()}
        return Descriptor(self.media_type, self.digest, self.size_bytes, annotations)


@dataclass(frozen=True)
class Manifest:
    """An image's configuration and layers."""

    config: Descriptor
    layers: tuple[Descriptor, ...]
    annotations: Mapping[str, str] = field(default_factory=dict, hash=False)

    @classmethod
    def of_json(cls, data: Mapping[str, Any]) -> Manifest:
        layers = tuple(Descriptor.of_json(layer) for layer in data["layers"])
        return cls(Descriptor.of_json(data["config"]), layers, dict(data.get("annotations") or {}))

    def as_bytes(self) -> bytes:
        data: dict[str, Any] = {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": self.config.as_json(),
            "layers": [layer.as_json() for layer in self.layers],
        }
        return encode_json({**data, "annotations": dict(self.annotations)} if self.annotations else data)

    @property
    def digest(self) -> str:
        return sha256_digest(self.as_bytes())

    @property
    def blobs(self) -> tuple[Descriptor, ...]:
        """Every blob that must be in the registry before this manifest, each once."""
        return tuple({blob.digest: blob for blob in (*self.layers, self.config)}.values())

    def own_layers(self) -> dict[str, Layer]:
        """Returns the layers built by mlflow-fargate, by key."""
        found = (Layer.of_descriptor(descriptor) for descriptor in self.layers)
        return {layer.key: layer for layer in found if layer}


@dataclass(frozen=True)
class BaseImage:
    """The image to build on: its layers, and the configuration to start from."""

    manifest_digest: str
    layers: tuple[Descriptor, ...]
    config: Mapping[str, Any] = field(hash=False)

    @classmethod
    def of_parts(cls, manifest: Manifest, digest: str, config: Mapping[str, Any]) -> BaseImage:
        layers = tuple(_as_oci_layer(layer) for layer in manifest.layers)
        try:
            diff_ids = _checked_diff_ids(config)
        except MISTYPED as error:
            raise ImageError(f"The configuration of the base image {digest} is not valid: {error}.") from error
        if len(diff_ids) != len(layers):
            raise ImageError(f"The base image {digest} is inconsistent: the numbers of layers and of diff IDs differ.")
        return cls(digest, layers, config)

    @property
    def environment(self) -> dict[str, str]:
        entries = (self.config.get("config") or {}).get("Env") or ()
        return {name: value for name, _, value in (str(entry).partition("=") for entry in entries)}

    @property
    def python_minor(self) -> str | None:
        """'3.11', from PYTHON_VERSION in its environment; None: unknown."""
        version = self.environment.get("PYTHON_VERSION")
        return ".".join(version.split(".")[:2]) if version else None


def make_config(
    base: BaseImage,
    layers: Sequence[Layer],
    *,
    environment: Mapping[str, str],
    labels: Mapping[str, str],
    settings: Mapping[str, Any],
    created: datetime | None,
    history: Sequence[str],
) -> bytes:
    """Returns the configuration of the image with `layers` on top of `base`.

    `history` says what is in each of them. Only environment and labels of the base are kept: its `Cmd` would become
    arguments of the new entry point, and labels of the specification describe the base, not this image.
    """
    moment = (created or _UNKNOWN_TIME).astimezone(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    inherited = (base.config.get("config") or {}).get("Labels") or {}
    base_labels = {name: value for name, value in inherited.items() if not name.startswith(OCI_ANNOTATION)}
    config: dict[str, Any] = {
        **settings,
        "Env": [f"{name}={value}" for name, value in {**base.environment, **environment}.items()],
        "Labels": {**base_labels, **labels},
    }
    platform = {name: base.config[name] for name in ("architecture", "os", "variant") if base.config.get(name)}
    data = {
        "created": moment,
        **platform,
        "config": config,
        "rootfs": {
            "type": "layers",
            "diff_ids": [*base.config["rootfs"]["diff_ids"], *(layer.diff_id for layer in layers)],
        },
        "history": [
            *_base_history(base),
            *({"created": moment, "created_by": f"mlflow-fargate: {about}"} for about in history),
        ],
    }
    return encode_json(data)


def encode_json(data: object) -> bytes:
    """Encodes JSON that is addressed by its digest, always the same way."""
    return json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def check_digest(text: str) -> str:
    """Returns the text; raises ValueError if it is not a digest. Digests become parts of URLs and paths."""
    if not _DIGEST.fullmatch(text):
        raise ValueError(f"{text!r} is not a digest")
    return text


def sha256_digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def _checked_diff_ids(config: Mapping[str, Any]) -> list[str]:
    """Returns the diff IDs; raises one of MISTYPED unless everything that is used of the configuration has its type."""
    settings = config.get("config") or {}
    labels, environment, history = settings.get("Labels") or {}, settings.get("Env") or [], config.get("history") or []
    texts = [*labels.keys(), *labels.values(), *environment, *(config.get(name, "") for name in ("os", "architecture"))]
    if not isinstance(environment, list) or not all(isinstance(text, str) for text in texts):
        raise TypeError("its environment or labels are not texts")
    if not isinstance(history, list) or not all(isinstance(entry, dict) for entry in history):
        raise TypeError("its history is not a list of entries")
    return [check_digest(diff_id) for diff_id in config["rootfs"]["diff_ids"]]


def _as_oci_layer(layer: Descriptor) -> Descriptor:
    media_type = _OCI_LAYER_TYPES.get(layer.media_type, layer.media_type)
    if not media_type.startswith("application/vnd.oci.image.layer.v1.tar"):
        raise ImageError(
            f"The base image has a layer of type {layer.media_type}, which cannot be copied.",
            hint="use a Linux base image such as python:3.11-slim",
        )
    return Descriptor(media_type, layer.digest, layer.size_bytes)


def _base_history(base: BaseImage) -> list[Any]:
    """Returns the base's history if it matches its layers, as tools expect; else one entry per layer."""
    history = list(base.config.get("history") or ())
    if sum(not entry.get("empty_layer") for entry in history) == len(base.layers):
        return history
    return [{"created_by": "base"} for _ in base.layers]

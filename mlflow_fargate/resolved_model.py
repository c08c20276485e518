"""A resolved model, and where a deployed model came from. Frozen data.

A URI becomes a `ResolvedModel` (model/); a deployment records its `Provenance`.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

DEFAULT_FLAVOR = "python_function"
EXPLAINER_FLAVOR = "shap"
_NETWORK_FLAVORS = ("tensorflow", "keras")
_IMAGE_CHANNELS = (1, 3, 4)
_USER_IN_URL = re.compile(r"(?<=://)([^/\s'\"]*)@")
_VARIABLE = re.compile(r"([^:]*:)?\$\{[A-Z][A-Z0-9_]*\}")


def without_credentials(text: str) -> str:
    """Returns `text` without the `user:password@` in its URLs: tracking URIs contain them, and MLflow repeats them.

    A user without a password is removed too, because package indexes use tokens. `${NAME}` is kept: it only names a
    secret.
    """
    return _USER_IN_URL.sub(lambda found: found[0] if _VARIABLE.fullmatch(found[1]) else "", text)


def printable(text: str, max_length: int = 256) -> str:
    """Returns `text` on one line, without control characters (also those that reorder text), and not too long."""
    return "".join(letter if letter.isprintable() else " " for letter in text)[:max_length].strip()


def web_url(url: str | None) -> str | None:
    """Returns `url` without credentials and trailing slashes if a browser can open it; otherwise None."""
    if url is None or not url.startswith(("http://", "https://")):
        return None
    bare = without_credentials(url).rstrip("/")
    return bare if "://" in bare else None


@dataclass(frozen=True)
class ModelFile:
    """One file of a model: `path` relative to the model's root, POSIX, never absolute and never through `..`."""

    path: str
    size_bytes: int
    etag: str | None = None  # None: the store has none (the tracking server's proxy, a local path)


@dataclass(frozen=True)
class ResolvedModel:
    """A resolved model URI: the version, and the location of each file."""

    requested_uri: str  # as the user wrote it, without credentials
    resolved_uri: str  # models:/NAME/VERSION if registered, else models:/m-…, runs:/… or the storage URI
    artifact_uri: str  # the model's root: s3://…, mlflow-artifacts:/… or a local path
    files: tuple[ModelFile, ...]  # sorted by path
    metadata: Mapping[str, Any] = field(hash=False)  # the parsed MLmodel file
    requirements: tuple[str, ...] = ()  # lines of the model's requirements.txt, and of the files that it includes
    conda_packages: tuple[str, ...] = ()  # what only conda would install: NAME==VERSION or NAME
    python_version: str | None = None  # '3.11.7', from python_env.yaml; None: not specified
    name: str | None = None  # registered model
    version: str | None = None
    run_id: str | None = None
    created: datetime | None = None  # when the version was registered, or the model logged; in UTC
    labels_uri: str | None = None  # full URI of the labels file found next to the model or at the root of its run
    labels_etag: str | None = None
    registered_ms: int | None = None  # when the version was registered, in milliseconds since 1970

    @property
    def flavors(self) -> Mapping[str, Any]:
        flavors: Mapping[str, Any] = self.metadata.get("flavors", {})
        return flavors

    @property
    def takes_images(self) -> bool:
        """True for a Keras or TensorFlow network unless its signature has another input than a batch of images.

        A batch of images has the shape (-1, height, width, channels).
        """
        conf = next((self.flavors[name] for name in _NETWORK_FLAVORS if name in self.flavors), None)
        if conf is None or conf.get("keras_backend", "tensorflow") != "tensorflow":
            return False
        signature = self.metadata.get("signature") or {}
        if not signature.get("inputs"):
            return True
        inputs = json.loads(signature["inputs"])
        shape = inputs[0].get("tensor-spec", {}).get("shape", []) if len(inputs) == 1 else []
        return len(shape) == 4 and shape[3] in _IMAGE_CHANNELS

    @property
    def input_names(self) -> tuple[str, ...] | None:
        """The names of the signature's inputs, empty if they have none; None without a signature."""
        inputs = (self.metadata.get("signature") or {}).get("inputs")
        return tuple(str(one["name"]) for one in json.loads(inputs) if one.get("name")) if inputs else None

    @property
    def title(self) -> str:
        """'churn version 3', or the URI of a model that is not registered; for display."""
        return printable(f"{self.name} version {self.version}" if self.name else self.resolved_uri)

    @property
    def size_bytes(self) -> int:
        return sum(file.size_bytes for file in self.files)

    @property
    def fingerprint(self) -> str:
        """32 hex digits that change when any file of the model does: location, names, sizes and ETags.

        ETags can differ for equal content (multipart uploads, KMS), so copies of a model have different fingerprints.
        """
        digest = hashlib.sha256(self.artifact_uri.encode())
        for file in self.files:
            digest.update(f"\n{file.path}\0{file.size_bytes}\0{file.etag or ''}".encode())
        digest.update(f"\nlabels\0{self.labels_uri or ''}\0{self.labels_etag or ''}".encode())
        return digest.hexdigest()[:32]


@dataclass(frozen=True)
class Provenance:
    """Where a deployed model came from; recorded on the task definition, so that a rollback by ECS restores it too."""

    requested_uri: str
    resolved_uri: str
    fingerprint: str
    flavor: str
    name: str | None = None
    version: str | None = None
    run_id: str | None = None
    # When the version was registered, in milliseconds since 1970: its number alone can come back with another model.
    registered_ms: int | None = None
    runtime: str | None = (
        None  # what runs the model, and why; None: the model's library, without another being requested
    )

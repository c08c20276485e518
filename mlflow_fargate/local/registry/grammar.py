"""The grammar of an OCI registry: names, tags, digests, what a manifest refers to, and error responses.

Pure; store.py applies these rules, and http.py turns refusals into HTTP responses.
Source: OCI distribution-spec ("Pulling manifests", "Error codes") and image-spec (manifest.md, image-index.md).
"""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any

from mlflow_fargate.errors import RegistryError

# The length limit keeps NAME.json valid as a file name.
_NAME = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*")
_NAME_MAX_LENGTH = 240
_TAG = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
MANIFEST_MAX_BYTES = 4 * 1024 * 1024  # the minimum that the specification requires registries to accept


class OciRefusal(RegistryError):
    """A request that the registry refuses: `status` and `code` as in the distribution specification."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.said = message


def checked_name(name: str) -> str:
    if len(name) > _NAME_MAX_LENGTH or not _NAME.fullmatch(name):
        raise OciRefusal(400, "NAME_INVALID", f"'{name}' is not a valid repository name")
    return name


def digest_of(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def checked_digest(digest: str) -> str:
    if not _DIGEST.fullmatch(digest):
        raise OciRefusal(400, "DIGEST_INVALID", f"'{digest}' is not a valid sha256 digest")
    return digest


def checked_tag(tag: str) -> str:
    if not _TAG.fullmatch(tag):
        raise OciRefusal(400, "TAG_INVALID", f"'{tag}' is not a valid tag")
    return tag


def parse_manifest(body: bytes, media_type: str) -> dict[str, int]:
    """Returns what the manifest requires in the registry: digest → size. Layers with `urls` are stored elsewhere."""
    try:
        manifest: dict[str, Any] = json.loads(body)
        if manifest.get("mediaType", media_type) != media_type:
            raise ValueError(f"its mediaType is {manifest['mediaType']}, the Content-Type is {media_type}")
        if "manifests" in manifest:
            return {checked_digest(child["digest"]): int(child["size"]) for child in manifest["manifests"]}
        parts = [manifest["config"], *(layer for layer in manifest["layers"] if not layer.get("urls"))]
        return {checked_digest(part["digest"]): int(part["size"]) for part in parts}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise OciRefusal(400, "MANIFEST_INVALID", f"not a supported manifest: {error!r}") from error


def parse_range(header: str | None, size: int) -> tuple[int, int]:
    """Returns the requested half-open range of bytes; for other forms of the header, everything (RFC 9110)."""
    match = re.fullmatch(r"bytes=(\d*)-(\d*)", header or "")
    if match is None or not any(match.groups()):
        return 0, size
    first, last = match.groups()
    start = int(first) if first else max(size - int(last), 0)
    end = min(int(last) + 1, size) if first and last else size
    if start >= min(end, size):
        raise OciRefusal(416, "SIZE_INVALID", f"the range {header} is outside of {size} bytes")
    return start, end

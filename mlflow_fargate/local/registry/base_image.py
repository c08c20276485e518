"""The base image built from this machine's Python, for builds without a public registry.

Any container engine can run it (host_python.py lists its files). The local stack's processes do not need it: they
recognize its label and run the layers above it with this machine's interpreter.
"""

from __future__ import annotations

import gzip
import json
import platform
import time
from collections.abc import Iterable

from mlflow_fargate.local.registry.grammar import digest_of
from mlflow_fargate.local.registry.host_python import HostPython, list_files, pack
from mlflow_fargate.local.registry.store import RegistryStore
from mlflow_fargate.progress import Progress, format_bytes

BASE_REPOSITORY = "docker/library/python"  # as in public.ecr.aws/docker/library/python:3.11-slim
BASE_LABEL = "mlflow-fargate.base"
BASE_LABEL_VALUE = "host-python"
BASE_LAYER_LABEL = "mlflow-fargate.base.diff-id"  # of the layer that a process on this machine does not need

_MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
_CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
_LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar+gzip"


def seed_base_image(store: RegistryStore, progress: Progress) -> str | None:
    """Adds the image of this process's Python as `3.11-slim` and `3.11`, unless it is there; returns its digest.

    None if there cannot be one: this machine's programs do not run in Linux images with glibc, so base images have to
    come from a registry.
    """
    if platform.libc_ver()[0] != "glibc":
        progress.note(
            "no base image was built: this machine's Python does not use glibc on Linux; set base_image= to an image "
            "in a registry"
        )
        return None
    python = HostPython.of_this_process()
    store.create_repository(BASE_REPOSITORY)
    tags = (f"{python.minor}-slim", python.minor, f"{python.minor}-{python.fingerprint()}")
    if set(tags) <= set(store.tags(BASE_REPOSITORY)):
        return store.manifest(BASE_REPOSITORY, tags[-1]).digest
    with progress.waiting(f"building the base image of Python {python.version}"):
        began = time.monotonic()
        digest, size_bytes = _add_image(store, python, tags)
    for image in store.images(BASE_REPOSITORY):
        if image.digest != digest and all(tag.startswith(f"{python.minor}-") for tag in image.tags):
            store.delete_image(BASE_REPOSITORY, image.digest)
    size, seconds = format_bytes(size_bytes), time.monotonic() - began
    progress.note(f"base image of Python {python.version}: {size}, built in {seconds:.1f} s")
    return digest


def _add_image(store: RegistryStore, python: HostPython, tags: Iterable[str]) -> tuple[str, int]:
    """Returns the digest of the image, and the compressed size of its layer."""
    archive = pack(list_files(python))
    config = _make_config(python.version, diff_id=digest_of(archive))
    # Level 1 takes a third of the default's time and 10 % more space; Docker before 23 does not read zstd.
    layer = gzip.compress(archive, 1, mtime=0)
    for blob in (config, layer):
        store.add_blob(BASE_REPOSITORY, blob)
    manifest = {
        "schemaVersion": 2,
        "mediaType": _MANIFEST_TYPE,
        "config": _descriptor(_CONFIG_TYPE, config),
        "layers": [_descriptor(_LAYER_TYPE, layer)],
    }
    body = json.dumps(manifest, sort_keys=True).encode()
    for tag in tags:
        store.put_manifest(BASE_REPOSITORY, tag, body, _MANIFEST_TYPE)
    return digest_of(body), len(layer)


def _make_config(python_version: str, *, diff_id: str) -> bytes:
    path = "/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin"
    config = {
        "created": "1970-01-01T00:00:00Z",
        "architecture": "arm64" if platform.machine().lower() in ("arm64", "aarch64") else "amd64",
        "os": "linux",
        "config": {
            "Env": [f"PATH={path}", "LANG=C.UTF-8", f"PYTHON_VERSION={python_version}"],
            "Cmd": ["python3"],
            "Labels": {BASE_LABEL: BASE_LABEL_VALUE, BASE_LAYER_LABEL: diff_id},
        },
        "rootfs": {"type": "layers", "diff_ids": [diff_id]},
        "history": [{"created": "1970-01-01T00:00:00Z", "created_by": "mlflow-fargate: the Python of this machine"}],
    }
    return json.dumps(config, sort_keys=True).encode()


def _descriptor(media_type: str, content: bytes) -> dict[str, str | int]:
    return {"mediaType": media_type, "digest": digest_of(content), "size": len(content)}

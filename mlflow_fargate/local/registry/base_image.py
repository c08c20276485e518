"""The placeholder base image: an OCI image that represents this machine's Python.

It makes builds on a base image reference work without a public registry or a container engine; the local stack
recognizes its label and runs the layers above it with this machine's interpreter.
"""

from __future__ import annotations

import gzip
import io
import json
import platform
import tarfile

from mlflow_fargate.local.registry.grammar import digest_of
from mlflow_fargate.local.registry.store import RegistryStore

BASE_REPOSITORY = "docker/library/python"  # as in public.ecr.aws/docker/library/python:3.11-slim
BASE_LABEL = "mlflow-fargate.base"
BASE_LABEL_VALUE = "host-python"

_MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
_CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
_LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar+gzip"
_OS_RELEASE = 'NAME="mlflow-fargate host Python"\nID=mlflow-fargate\nPRETTY_NAME="the Python of this machine"\n'


def seed_base_image(store: RegistryStore, python_version: str) -> str:
    """Adds the placeholder for `python_version` ('3.11.7') as `3.11-slim` and `3.11`; returns its digest.

    Seeding twice changes nothing: the same version gives the same bytes.
    """
    store.create_repository(BASE_REPOSITORY)
    layer = _make_layer()
    config = _make_config(python_version, diff_id=digest_of(gzip.decompress(layer)))
    manifest = {
        "schemaVersion": 2,
        "mediaType": _MANIFEST_TYPE,
        "config": _descriptor(_CONFIG_TYPE, config),
        "layers": [_descriptor(_LAYER_TYPE, layer)],
    }
    for blob in (config, layer):
        store.add_blob(BASE_REPOSITORY, blob)
    body = json.dumps(manifest, sort_keys=True).encode()
    minor = ".".join(python_version.split(".")[:2])
    digests = [store.put_manifest(BASE_REPOSITORY, tag, body, _MANIFEST_TYPE) for tag in (f"{minor}-slim", minor)]
    return digests[0]


def _make_layer() -> bytes:
    """Returns one file as tar.gz; fixed times and owners make its digest reproducible."""
    content = _OS_RELEASE.encode()
    entry = tarfile.TarInfo("etc/os-release")
    entry.size = len(content)
    packed = io.BytesIO()
    with (
        gzip.GzipFile(fileobj=packed, mode="wb", mtime=0, filename="") as stream,
        tarfile.open(fileobj=stream, mode="w", format=tarfile.USTAR_FORMAT) as archive,
    ):
        archive.addfile(entry, io.BytesIO(content))
    return packed.getvalue()


def _make_config(python_version: str, *, diff_id: str) -> bytes:
    path = "/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin"
    config = {
        "created": "1970-01-01T00:00:00Z",
        "architecture": "arm64" if platform.machine().lower() in ("arm64", "aarch64") else "amd64",
        "os": "linux",
        "config": {
            "Env": [f"PATH={path}", f"PYTHON_VERSION={python_version}"],
            "Cmd": ["python3"],
            "Labels": {BASE_LABEL: BASE_LABEL_VALUE},
        },
        "rootfs": {"type": "layers", "diff_ids": [diff_id]},
        "history": [{"created": "1970-01-01T00:00:00Z", "created_by": "mlflow-fargate: the Python of this machine"}],
    }
    return json.dumps(config, sort_keys=True).encode()


def _descriptor(media_type: str, content: bytes) -> dict[str, str | int]:
    return {"mediaType": media_type, "digest": digest_of(content), "size": len(content)}

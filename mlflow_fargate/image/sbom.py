"""A software bill of materials of an image, as CycloneDX JSON: what its manifest and its files say it contains.

    manifest, configuration                                  → the image, its base, its models
    *.dist-info/METADATA, and the pins in layers of packages → Python packages, licenses, hashes of wheels
    var/lib/dpkg/status, status.d/*                          → Debian packages

Everything is read from the image, so the same image gives the same document. Texts in it are hostile.
Source: https://cyclonedx.org/docs/1.6/json/, https://github.com/package-url/purl-spec
"""

from __future__ import annotations

import re
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from email.parser import HeaderParser
from importlib.metadata import version
from typing import IO, Any
from uuid import NAMESPACE_URL, uuid5

from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model import HashAlgorithm, HashType
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.model.license import DisjunctiveLicense, License
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL
from packaging.utils import canonicalize_name

from mlflow_fargate.errors import ImageError
from mlflow_fargate.image.debian.control import parse_status
from mlflow_fargate.image.layers.members import Stack
from mlflow_fargate.image.layers.paths import LOCKS
from mlflow_fargate.image.oci.image import OCI_ANNOTATION, Layer, Manifest
from mlflow_fargate.image.oci.platforms import LINUX_AMD64
from mlflow_fargate.image.oci.reference import Reference
from mlflow_fargate.image.registry.image_store import ImageStore

_TEXTS = re.compile(
    rf"(etc|usr/lib)/os-release|var/lib/dpkg/status(\.d/[^/]+)?|(.+/)?[^/]+\.dist-info/METADATA|{LOCKS[1:]}/[^/]+\.txt"
)
_LIMIT_BYTES = 16 << 20  # of one file; larger ones are ignored
_TOTAL_LIMIT_BYTES = 8 * _LIMIT_BYTES
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128}")
_PIN = re.compile(r"^([\w.-]+)==(\S+)((?: \\\n    --hash=sha256:[0-9a-f]{64})+)$", re.MULTILINE)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,213}")
_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+!_~:-]{0,99}")
_LICENSE_LENGTH = 100  # longer ones are the license's text


@dataclass(frozen=True)
class ImageContent:
    """The parts of an image that say what it contains."""

    name: str
    digest: str
    manifest: Manifest
    config: Mapping[str, Any]
    texts: Mapping[str, str]  # by path in the image

    @property
    def created(self) -> datetime:
        """When the image was created, to the second; 1970 if it does not say."""
        with suppress(ValueError):
            stated = str(self.config.get("created"))[: len("2026-05-04T03:02:01")]
            return datetime.fromisoformat(stated).replace(tzinfo=timezone.utc)
        return datetime.fromtimestamp(0, timezone.utc)

    def fact(self, key: str) -> str | None:
        """Returns an annotation of the OCI specification."""
        return self.manifest.annotations.get(f"{OCI_ANNOTATION}{key}")


def read_content(store: ImageStore, reference: Reference) -> ImageContent:
    """Reads an image without the layers of models. Raises ImageError if it does not exist or cannot be read."""
    repository = reference.repository
    found = store.find_manifest(repository, reference.identifier, LINUX_AMD64)
    if found is None:
        raise ImageError(f"There is no image {reference}.")
    texts: Stack[str] = Stack(_TOTAL_LIMIT_BYTES, len)
    models = {layer.digest for layer in _models(found.manifest)}
    for layer in found.manifest.layers:
        if layer.digest not in models:
            blob = store.stream_blob(repository, layer)
            texts.add(blob, layer.media_type, f"Layer {layer.digest}", _text_of)
    config = store.read_json(repository, found.manifest.config)
    return ImageContent(repository.rpartition("/")[2], found.digest, found.manifest, config, texts.files)


def make_sbom(content: ImageContent) -> str:
    """Returns the document: CycloneDX 1.6 as JSON. Pure, except for this package's version in it."""
    image = Component(
        name=content.name,
        version=content.digest,
        type=ComponentType.CONTAINER,
        bom_ref="image",
        purl=PackageURL("oci", None, content.name, content.digest),
        hashes=_hashes(content.digest),
    )
    components = {str(one.bom_ref): one for one in _components(content)}
    bom = Bom(components=components.values(), serial_number=uuid5(NAMESPACE_URL, content.digest))
    bom.metadata.timestamp = content.created
    bom.metadata.component = image
    tool = Component(name="mlflow-fargate", version=version("mlflow-fargate"), type=ComponentType.APPLICATION)
    bom.metadata.tools.components.add(tool)
    bom.register_dependency(image, components.values())
    return str(JsonV1Dot6(bom).output_as_string(indent=2))


def _components(content: ImageContent) -> Iterator[Component]:
    if (name := content.fact("base.name")) and (digest := content.fact("base.digest")):
        hashes = _hashes(digest)
        yield Component(name=name, version=digest, type=ComponentType.CONTAINER, bom_ref="base", hashes=hashes)
    for layer in _models(content.manifest):
        is_main = layer.name == "model"
        yield Component(
            name=(content.fact("title") if is_main else None) or layer.name,
            version=content.fact("version") if is_main else None,
            type=ComponentType.MACHINE_LEARNING_MODEL,
            bom_ref=f"model:{layer.name}",
            hashes=_hashes(layer.digest),
            licenses=_licenses(content.fact("licenses") if is_main else None),
        )
    yield from _python_packages(content.texts)
    yield from _debian_packages(content.texts, str(content.config.get("architecture")))


def _python_packages(texts: Mapping[str, str]) -> Iterator[Component]:
    locks = "\n".join(text for path, text in texts.items() if path.startswith(LOCKS[1:]))
    pinned = {(canonicalize_name(name), number): pins for name, number, pins in _PIN.findall(locks)}
    for path, text in sorted(texts.items()):
        headers = HeaderParser().parsestr(text) if path.endswith("/METADATA") else None
        name, number = (str(headers.get(key, "")).strip() if headers else "" for key in ("Name", "Version"))
        if headers and _NAME.fullmatch(name) and _VERSION.fullmatch(number):
            pins = re.findall("sha256:[0-9a-f]{64}", pinned.get((canonicalize_name(name), number), ""))
            classifiers = (str(one) for one in headers.get_all("Classifier", ()))
            named = [one.rpartition(" :: ")[2] for one in classifiers if one.startswith("License :: ")]
            purl = PackageURL("pypi", None, canonicalize_name(name), number)
            yield Component(
                name=name,
                version=number,
                purl=purl,
                bom_ref=purl.to_string(),
                hashes=_hashes(pins[0]) if len(pins) == 1 else (),
                licenses=_licenses(headers.get("License-Expression"), named, headers.get("License")),
            )


def _debian_packages(texts: Mapping[str, str], architecture: str) -> Iterator[Component]:
    release = texts.get("etc/os-release") or texts.get("usr/lib/os-release") or ""
    fields = {key: value.strip("\"'") for key, _, value in (line.partition("=") for line in release.splitlines())}
    system = fields.get("ID", "debian")
    for path, text in sorted(texts.items()):
        packages = parse_status(text) if path.startswith("var/lib/dpkg/") else ()
        for one in packages:
            if _NAME.fullmatch(one.name) and _VERSION.fullmatch(one.version) and _NAME.fullmatch(system):
                qualifiers = {
                    "arch": one.architecture or architecture,
                    "distro": f"{system}-{fields.get('VERSION_ID', '')[:99]}".rstrip("-"),
                }
                purl = PackageURL("deb", system, one.name, one.version, qualifiers)
                yield Component(name=one.name, version=one.version, purl=purl, bom_ref=purl.to_string())


def _licenses(expression: Any, classifiers: Sequence[str] = (), field: Any = None) -> list[License]:
    """Returns what a package states: an SPDX expression, else all classifiers, or a field that is more exact.

    SPDX identifiers if they are, else names. Whole texts of licenses are left out.
    """
    make = LicenseFactory()
    named = [make.make_with_name(text) for text in map(_license_name, classifiers) if text]
    stated, other = (make.make_from_string(text) if text else None for text in map(_license_name, (expression, field)))
    if stated:
        return [stated]
    if other and (not named or (len(named) == 1 and not (isinstance(other, DisjunctiveLicense) and other.name))):
        return [other]
    return [*named]


def _license_name(stated: Any) -> str:
    """Returns the text, or "" if it is nothing that names a license."""
    text = str(stated or "").strip()
    is_name = text.isprintable() and len(text) <= _LICENSE_LENGTH
    return text if is_name and text not in ("UNKNOWN", "OSI Approved", "DFSG approved") else ""


def _models(manifest: Manifest) -> list[Layer]:
    """Returns the layers after the service's: models. (A layer of packages can have any name.)"""
    layers = [Layer.of_descriptor(layer) for layer in manifest.layers]
    names = [layer.name if layer else "" for layer in layers]
    last = len(names) - names[::-1].index("service") if "service" in names else len(names)
    return [layer for layer in layers[last:] if layer]


def _text_of(name: str, member: tarfile.TarInfo, content: Callable[[], IO[bytes]]) -> str | None:
    if member.isfile() and member.size <= _LIMIT_BYTES and _TEXTS.fullmatch(name):
        return content().read().decode(errors="replace")
    return None


def _hashes(digest: str) -> list[HashType]:
    """Returns the hash in a digest; nothing if it is not one."""
    kind, _, value = digest.partition(":")
    algorithm = HashAlgorithm.SHA_512 if kind == "sha512" else HashAlgorithm.SHA_256
    return [HashType(alg=algorithm, content=value)] if _DIGEST.fullmatch(digest) else []

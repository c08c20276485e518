"""The software bill of materials of an image, checked with the format's own validator."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from hypothesis import example, given
from hypothesis import strategies as st

from mlflow_fargate.cli import main
from mlflow_fargate.errors import ImageError
from mlflow_fargate.image import OciLayout, Reference, Registry
from mlflow_fargate.image import sbom as sbom_module
from mlflow_fargate.image.oci.image import OCI_ANNOTATION, OCI_CONFIG, Descriptor, Layer, Manifest
from mlflow_fargate.image.packages.lock_file import LockedPackage
from mlflow_fargate.image.sbom import ImageContent, make_sbom, read_content
from mlflow_fargate.progress import RecordedProgress
from support.image import make_image
from tests.image.conftest import MINOR, push_base

STATUS = """Package: libc6
Status: install ok installed
Architecture: amd64
Version: 2.36-9+deb12u4

Package: removed
Status: deinstall ok config-files
Version: 1
"""
PIP = f"usr/local/lib/python{MINOR}/site-packages/pip-24.0.dist-info/METADATA"
BASE: list[dict[str, str | bytes]] = [
    {"var/lib/dpkg/status": STATUS, "etc/os-release": 'ID=debian\nVERSION_ID="12"\n', PIP: "old"},
    {PIP: "Metadata-Version: 2.1\nName: pip\nVersion: 24.0\nClassifier: License :: OSI Approved :: MIT License\n"},
]
FACTS = {
    "org.opencontainers.image.title": "churn",
    "org.opencontainers.image.version": "3",
    "org.opencontainers.image.licenses": "Apache-2.0",
}


def problem_with(document: str) -> object:
    return JsonStrictValidator(SchemaVersion.V1_6).validate_str(document)


@pytest.fixture
def image(local_registry: str, tmp_path: Path) -> Iterator[dict[str, Any]]:
    """The arguments for an image of a model with one package."""
    (tmp_path / "service").mkdir()
    (tmp_path / "service" / "service.py").write_text("Service = None\n")
    with Registry(local_registry) as registry:
        yield {
            "base": push_base(registry, "library/python", "3-slim", files=BASE),
            "base_registry": registry,
            "requirements": ["six==1.17.0"],
            "python_version": MINOR,
            "service": tmp_path / "service",
            "model": {"MLmodel": tmp_path / "service" / "service.py"},
            "destination": Reference(local_registry, "mlflow-fargate/churn", "latest"),
            "registry": registry,
            "cache": tmp_path / "cache",
            "progress": RecordedProgress(),
            "labels": FACTS,
            "created": datetime(2026, 5, 4, tzinfo=timezone.utc),
        }


def sbom(*arguments: str) -> dict[str, Any]:
    done = CliRunner().invoke(main, ["image", "sbom", *arguments], catch_exceptions=False)
    assert problem_with(done.stdout) is None
    document: dict[str, Any] = json.loads(done.stdout)
    return document


@pytest.mark.slow
def test_packages_model_and_base_are_listed_with_versions_licenses_and_hashes(
    image: dict[str, Any], tmp_path: Path
) -> None:
    built = make_image(**{**image, "registry": OciLayout(tmp_path / "My churn")})

    document = sbom(str(tmp_path / "My churn"))

    digest = str(built.reference.digest)
    found = {one["name"]: one for one in document["components"]}
    assert document["metadata"]["component"]["purl"].startswith("pkg:oci/my-churn@sha256")
    assert document["metadata"]["component"]["hashes"] == [{"alg": "SHA-256", "content": digest[7:]}]
    assert document["metadata"]["timestamp"] == "2026-05-04T00:00:00+00:00"
    assert found["six"]["purl"] == "pkg:pypi/six@1.17.0"
    assert found["six"]["licenses"] == [{"license": {"name": "MIT License"}}] or found["six"]["licenses"] == [
        {"license": {"id": "MIT"}}
    ]
    # https://pypi.org/project/six/1.17.0/#files
    wheel = "4721f391ed90541fddacab5acf947aa0d3dc7d27b2e1e8eda2be8970586c3274"
    assert found["six"]["hashes"] == [{"alg": "SHA-256", "content": wheel}]
    assert found["pip"]["version"] == "24.0"
    assert found["libc6"]["purl"] == "pkg:deb/debian/libc6@2.36-9%2Bdeb12u4?arch=amd64&distro=debian-12"
    assert "removed" not in found
    assert (found["churn"]["type"], found["churn"]["version"]) == ("machine-learning-model", "3")
    assert found["churn"]["licenses"] == [{"license": {"id": "Apache-2.0"}}]
    assert found[str(image["base"])]["type"] == "container"


@pytest.mark.slow
def test_an_image_in_a_registry_gives_the_same_list_each_time(image: dict[str, Any]) -> None:
    reference = make_image(**image).reference

    by_tag, by_digest = sbom(f"{reference.name}:latest"), sbom(str(reference))

    assert by_tag == by_digest
    assert {one["name"] for one in by_tag["components"]} == {"six", "pip", "libc6", "churn", str(image["base"])}


def test_a_missing_image_is_reported(local_registry: str) -> None:
    done = CliRunner().invoke(main, ["image", "sbom", f"{local_registry}/churn:1"])

    assert done.exit_code == 1
    assert f"There is no image {local_registry}/churn:1" in done.output


def test_a_packages_url_is_not_its_version() -> None:
    by_url = LockedPackage("six", "six @ https://user:secret==@example.com/six-1.17.0-py3-none-any.whl", ("sha256:a",))

    assert (by_url.version, LockedPackage("six", "six==1.17.0", ()).version) == ("", "1.17.0")


@pytest.mark.parametrize(
    ("metadata", "licenses"),
    [
        (["License: MIT"], ["MIT"]),
        # docutils 0.21
        (
            ["Classifier: License :: Public Domain", "Classifier: License :: OSI Approved :: BSD License"],
            ["BSD License", "Public Domain"],
        ),
        (["License: Dual License", "Classifier: License :: OSI Approved :: BSD License"], ["BSD License"]),
        (["License: BSD-3-Clause", "Classifier: License :: OSI Approved :: BSD License"], ["BSD-3-Clause"]),
        (["License: MIT", "License-Expression: MIT OR Apache-2.0"], ["MIT OR Apache-2.0"]),
        (["License: Copyright\n  and so on", "Classifier: License :: OSI Approved"], []),
    ],
)
def test_licenses_are_all_that_the_package_states(metadata: list[str], licenses: list[str]) -> None:
    text = "\n".join(["Name: six", "Version: 1", *metadata])
    manifest = Manifest(Descriptor(OCI_CONFIG, f"sha256:{'c' * 64}", 2), (), {})

    document = make_sbom(ImageContent("a", f"sha256:{'d' * 64}", manifest, {}, {"six-1.dist-info/METADATA": text}))

    assert problem_with(document) is None
    (six,) = json.loads(document)["components"]
    stated = [one.get("expression") or one["license"] for one in six.get("licenses", ())]
    assert sorted(one if isinstance(one, str) else one.get("id") or one["name"] for one in stated) == licenses


def test_a_package_of_debian_has_its_own_architecture() -> None:
    status = "Package: tzdata\nStatus: install ok installed\nArchitecture: all\nVersion: 1\n"
    manifest = Manifest(Descriptor(OCI_CONFIG, f"sha256:{'c' * 64}", 2), (), {})

    document = make_sbom(ImageContent("a", f"sha256:{'d' * 64}", manifest, {}, {"var/lib/dpkg/status": status}))

    assert json.loads(document)["components"][0]["purl"] == "pkg:deb/debian/tzdata@1?arch=all&distro=debian"


HOSTILE = st.text(max_size=60)


@given(HOSTILE, HOSTILE, HOSTILE, HOSTILE)
@example("six", "1.0", "MIT OR Apache-2.0", "MIT")
@example("six", "1.0", "MIT AND (", "\x1b[31m")
@example("a", "1", "", "2026-05-04T03:02:01.123456789Z")
@example("a", "1:2~3", "GPL-2.0+", "")
def test_any_text_in_an_image_gives_a_valid_document(name: str, number: str, text: str, fact: str) -> None:
    layers = [Layer(one, "k", "d", f"sha256:{'a' * 64}", 1, "m").descriptor for one in ("service", "model")]
    config = Descriptor(OCI_CONFIG, f"sha256:{'c' * 64}", 2)
    facts = {"title": fact, "version": number, "licenses": text, "base.name": fact, "base.digest": f"sha256:{'b' * 64}"}
    manifest = Manifest(config, tuple(layers), {f"org.opencontainers.image.{key}": fact for key, fact in facts.items()})
    metadata = f"Name: {name}\nVersion: {number}\nLicense-Expression: {text}\nClassifier: License :: {fact}\n"
    texts = {
        "opt/app/site/a-1.dist-info/METADATA": metadata,
        "opt/app/site/b-1.dist-info/METADATA": metadata,
        "var/lib/dpkg/status": f"Package: {name}\nVersion: {number}\n\n{text}\n",
        "etc/os-release": f"ID={fact}\nVERSION_ID={text}\n",
        "opt/app/locks/dependencies.txt": f"{name}=={number} \\\n    --hash=sha256:{'a' * 64}\n",
    }
    created = {"created": fact, "architecture": fact}

    document = make_sbom(ImageContent("churn", f"sha256:{'d' * 64}", manifest, created, texts))

    assert problem_with(document) is None


@pytest.mark.parametrize("name", ["image", "base", "pkg:pypi/six@1.0"])
@pytest.mark.parametrize("digest", ["evil", f"sha256:{'b' * 64}"])
def test_names_and_digests_in_an_image_change_no_other_component(name: str, digest: str) -> None:
    layers = [Layer(one, "k", "d", f"sha256:{'a' * 64}", 1, "m").descriptor for one in ("service", name)]
    facts = {f"{OCI_ANNOTATION}base.name": "debian", f"{OCI_ANNOTATION}base.digest": digest}
    manifest = Manifest(Descriptor(OCI_CONFIG, f"sha256:{'c' * 64}", 2), tuple(layers), facts)
    texts = {"a-1.dist-info/METADATA": "Name: six\nVersion: 1.0\n"}
    content = ImageContent("churn", f"sha256:{'d' * 64}", manifest, {}, texts)

    document = make_sbom(content)

    assert problem_with(document) is None
    assert document == make_sbom(content)
    assert sorted(one["name"] for one in json.loads(document)["components"]) == sorted(["debian", "six", name])


def test_an_image_whose_lists_do_not_fit_into_memory_is_refused(
    local_registry: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sbom_module, "_TOTAL_LIMIT_BYTES", 1 << 20)
    files = {f"p{number}-1.dist-info/METADATA": bytes(300_000) for number in range(4)}
    with Registry(local_registry) as registry:
        reference = push_base(registry, "bomb", "1", files=[files])

        with pytest.raises(ImageError, match="more than 1 MiB"):
            read_content(registry, reference)

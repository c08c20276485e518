"""What is skipped for an image that is already in the repository, counted in requests."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mlflow_fargate.config import parse_config
from mlflow_fargate.errors import InvalidOption
from mlflow_fargate.image import Reference, Registry, StreamedFile
from mlflow_fargate.image.oci.image import OCI_CONFIG, Descriptor, Manifest, sha256_digest
from mlflow_fargate.image.registry.transport import Transport
from mlflow_fargate.local.registry.server import LocalRegistry
from mlflow_fargate.progress import RecordedProgress
from mlflow_fargate.publisher import Publisher, image_inputs, image_labels
from mlflow_fargate.publisher.models import Models
from mlflow_fargate.resolved_model import ModelFile, ResolvedModel
from mlflow_fargate.target import parse_target

MODEL = ResolvedModel(
    requested_uri="models:/churn/1",
    resolved_uri="models:/churn/1",
    artifact_uri="s3://bucket/churn",
    files=(
        ModelFile("MLmodel", 10, "etag-1"),
        ModelFile("requirements.txt", 20, "etag-3"),
        ModelFile("model.pkl", 4 * 10**9, "etag-2"),
    ),
    metadata={"flavors": {"python_function": {"loader_module": "mlflow.sklearn"}}},
    requirements=("scikit-learn==1.5.0",),
    python_version="3.11.4",
    name="churn",
    version="1",
)


class S3ThatIsNotRead:
    """Fails on every call."""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"unexpected call to S3: {name}")


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[LocalRegistry]:
    with LocalRegistry(tmp_path / "registry", password=None) as server:
        yield server


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    seen: list[str] = []
    send = Transport.send

    def counted(self: Transport, method: str, url: str, **arguments: Any) -> Any:
        seen.append(f"{method} {url.partition('?')[0]}")
        return send(self, method, url, **arguments)

    monkeypatch.setattr(Transport, "send", counted)
    return seen


def make_publisher(registry: LocalRegistry, cache: Path) -> Publisher:
    name = f"{registry.address}/mlflow-fargate/default"
    account = SimpleNamespace(
        endpoint=lambda _: SimpleNamespace(repository=SimpleNamespace(ensure=lambda: name)),
        registry_login=lambda: (registry.address, "AWS", "password"),
        artifacts=S3ThatIsNotRead,
    )
    return Publisher(parse_target("fargate:/eu-west-1"), account, cache, RecordedProgress())  # type: ignore[arg-type]


def test_an_existing_image_costs_one_request_and_does_not_read_the_model(
    registry: LocalRegistry, requests: list[str], tmp_path: Path
) -> None:
    config = parse_config({})
    destination = Reference(registry.address, "mlflow-fargate/default", f"churn.{image_inputs(MODEL, config).key}")
    with Registry(registry.address) as client:
        client.upload_blob(destination.repository, sha256_digest(b"{}"), lambda: [b"{}"])
        manifest = Manifest(Descriptor(OCI_CONFIG, sha256_digest(b"{}"), 2), ())
        client.write_manifest(destination.repository, str(destination.tag), manifest)
    requests.clear()

    published = make_publisher(registry, tmp_path / "cache").publish("churn", MODEL, config)

    assert published == str(destination.with_digest(manifest.digest))
    assert requests == [f"HEAD /v2/mlflow-fargate/default/manifests/{destination.tag}"]
    assert not (tmp_path / "cache").exists()


def test_an_images_labels_state_version_run_time_and_license() -> None:
    model = replace(
        MODEL,
        run_id="abc",
        created=datetime(2026, 5, 4, 3, 2, 1, tzinfo=timezone.utc),
        metadata={**MODEL.metadata, "metadata": {"license": "Apache-2.0 OR MIT"}},
    )

    prefix = "org.opencontainers.image."
    assert {name.removeprefix(prefix): value for name, value in image_labels(model).items() if prefix in name} == {
        "title": "churn",
        "version": "1",
        "revision": "abc",
        "source": "models:/churn/1",
        "created": "2026-05-04T03:02:01Z",
        "licenses": "Apache-2.0 OR MIT",
    }


@given(st.text(), st.one_of(st.none(), st.text(), st.dictionaries(st.text(), st.text()), st.lists(st.text())))
@example("\x1b]0;owned\x07\n\u202e" + "n" * 10_000, {"license": "MIT\n"})
def test_hostile_texts_become_short_lines(text: str, metadata: Any) -> None:
    model = replace(MODEL, name=text, version=text, run_id=text, resolved_uri=text, metadata={"metadata": metadata})

    for value in (*image_labels(model).values(), model.title):
        assert value.isprintable() and len(value) <= 256


def test_when_a_version_was_registered_does_not_change_its_images_tag() -> None:
    later = replace(MODEL, created=datetime(2026, 5, 4, tzinfo=timezone.utc))

    assert image_inputs(later, parse_config({})).key == image_inputs(MODEL, parse_config({})).key


def test_a_large_model_is_streamed_and_a_small_one_is_cached(tmp_path: Path) -> None:
    s3: Any = SimpleNamespace(stream=iter)
    models = Models(lambda: s3, tmp_path, RecordedProgress())
    small = ResolvedModel("m", "m", "s3://bucket/m", (ModelFile("MLmodel", 10, "etag"),), {})

    large = models.for_image(MODEL).files

    assert isinstance(large, dict)
    assert {name: file.size_bytes for name, file in large.items() if isinstance(file, StreamedFile)} == {
        "MLmodel": 10,
        "requirements.txt": 20,
        "model.pkl": 4 * 10**9,
    }
    assert callable(models.for_image(small).files)


def test_another_builder_builds_another_image() -> None:
    usual = image_inputs(MODEL, parse_config({}))

    assert usual.key == image_inputs(MODEL, parse_config({"builder": "layers"})).key
    assert usual.key != image_inputs(MODEL, parse_config({"builder": "buildah"})).key


def test_an_engine_cannot_build_on_the_local_stacks_base(registry: LocalRegistry, tmp_path: Path) -> None:
    here = make_publisher(registry, tmp_path / "cache")
    environment = replace(here.target.environment, registry_mirrors={"public.ecr.aws": registry.address})
    publisher = replace(here, target=replace(here.target, environment=environment))

    with pytest.raises(InvalidOption, match=r"(?s)this machine's Python; buildah can neither pull it.*base_image="):
        publisher.export(MODEL, parse_config({"builder": "buildah"}), tmp_path / "layout", "latest")

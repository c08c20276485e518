"""The client against the local registry and CNCF distribution."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from mlflow_fargate.errors import InvalidOption, RegistryError
from mlflow_fargate.image.oci.image import OCI_CONFIG, Descriptor, Manifest, encode_json, sha256_digest
from mlflow_fargate.image.oci.platforms import LINUX_AMD64, LINUX_ARM64
from mlflow_fargate.image.oci.reference import Reference
from mlflow_fargate.image.registry.client import Registry

BLOB = b"layer" * 1000
DIGEST = sha256_digest(BLOB)
UPLOADS = "/v2/models/blobs/uploads/"


def chunks() -> Iterator[bytes]:
    yield BLOB[:1000]
    yield BLOB[1000:]


def descriptor(data: bytes = BLOB) -> Descriptor:
    return Descriptor("application/octet-stream", sha256_digest(data), len(data))


def test_an_uploaded_blob_is_read_back(registry: Registry) -> None:
    moved: list[int] = []
    assert not registry.has_blob("models", DIGEST)

    assert registry.upload_blob("models", DIGEST, chunks, on_bytes=moved.append) == len(BLOB)

    assert moved == [1000, 4000]
    assert registry.has_blob("models", DIGEST)
    assert b"".join(registry.stream_blob("models", descriptor())) == BLOB


def test_many_threads_upload_at_once(registry: Registry) -> None:
    blobs = [f"blob {i}".encode() * 5000 for i in range(8)]
    threads = [
        threading.Thread(target=registry.upload_blob, args=("models", sha256_digest(blob), lambda blob=blob: [blob]))
        for blob in blobs
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert all(registry.has_blob("models", sha256_digest(blob)) for blob in blobs)


def test_a_blob_in_another_repository_is_mounted_and_not_uploaded(registry: Registry) -> None:
    registry.upload_blob("models", DIGEST, chunks)

    assert registry.upload_blob("others", DIGEST, chunks, mount_from="models") == 0
    assert registry.has_blob("others", DIGEST)


def test_a_failed_mount_becomes_an_upload(registry: Registry) -> None:
    assert registry.upload_blob("others", DIGEST, chunks, mount_from="models") == len(BLOB)
    assert registry.has_blob("others", DIGEST)


def test_bytes_with_a_different_digest_are_refused(registry: Registry) -> None:
    with pytest.raises(RegistryError, match=r"400|DIGEST"):
        registry.upload_blob("models", sha256_digest(b"other"), chunks)


def test_a_manifest_is_found_by_tag_and_by_digest(registry: Registry, base: Reference) -> None:
    found = registry.read_manifest("library/python", "3-slim", LINUX_AMD64)

    assert registry.manifest_digest("library/python", "3-slim") == found.digest
    assert registry.read_manifest("library/python", found.digest, LINUX_AMD64) == found
    assert registry.read_json("library/python", found.manifest.config)["os"] == "linux"


def test_a_missing_manifest_is_none_or_an_error(registry: Registry, base: Reference) -> None:
    assert registry.manifest_digest("library/python", "2.7") is None
    assert registry.find_manifest("nothing/here", "latest", LINUX_AMD64) is None
    with pytest.raises(RegistryError, match=rf"(?s){registry.host}.*library/python.*hint: "):
        registry.read_manifest("library/python", "2.7", LINUX_AMD64)


def test_a_manifest_without_its_blobs_is_refused(registry: Registry) -> None:
    manifest = Manifest(Descriptor(OCI_CONFIG, sha256_digest(b"{}"), 2), ())
    registry.upload_blob("models", DIGEST, chunks)

    with pytest.raises(RegistryError, match=r"BLOB_UNKNOWN"):
        registry.write_manifest("models", "v1", manifest)


def test_plain_http_is_only_for_this_machine(scripted: Any) -> None:
    with pytest.raises(InvalidOption, match="HTTPS"):
        Registry("registry.example", insecure=True)


def test_the_image_of_an_index_is_chosen_by_platform(scripted: Any) -> None:
    manifest = Manifest(Descriptor(OCI_CONFIG, DIGEST, 2), ()).as_bytes()
    entries = [
        {"digest": sha256_digest(b"other"), "platform": {"os": "unknown", "architecture": "unknown"}},
        {"digest": sha256_digest(manifest), "platform": {"os": "linux", "architecture": "arm64", "variant": "v8"}},
    ]
    index = encode_json({"mediaType": "application/vnd.oci.image.index.v1+json", "manifests": entries})
    scripted.answers("GET", "/v2/python/manifests/3", (200, {}, index))
    scripted.answers("GET", f"/v2/python/manifests/{sha256_digest(manifest)}", (200, {}, manifest))

    with Registry(scripted.host) as registry:
        assert registry.read_manifest("python", "3", LINUX_ARM64).digest == sha256_digest(manifest)
        with pytest.raises(RegistryError, match=r"no image for linux/amd64, only for linux/arm64"):
            registry.read_manifest("python", "3", LINUX_AMD64)


def test_a_manifest_with_a_different_digest_is_refused(scripted: Any) -> None:
    scripted.answers("GET", f"/v2/a/manifests/{DIGEST}", (200, {}, b"{}"))

    with Registry(scripted.host) as registry, pytest.raises(RegistryError, match="the wrong manifest"):
        registry.read_manifest("a", DIGEST, LINUX_AMD64)


def test_an_endless_document_is_not_read_completely(scripted: Any) -> None:
    scripted.answers("GET", "/v2/a/manifests/v1", (200, {}, b" " * (5 * 1024 * 1024)))

    with Registry(scripted.host) as registry, pytest.raises(RegistryError, match="more than 4194304 bytes"):
        registry.read_manifest("a", "v1", LINUX_AMD64)


@pytest.mark.parametrize("body", [BLOB[:-1], BLOB + b"x", BLOB[:-1] + b"x"])
def test_a_blob_with_wrong_data_is_detected(scripted: Any, body: bytes) -> None:
    scripted.answers("GET", f"/v2/a/blobs/{DIGEST}", (200, {}, body))

    with Registry(scripted.host) as registry, pytest.raises(RegistryError, match="wrong data"):
        list(registry.stream_blob("a", descriptor()))


def test_a_failed_upload_starts_over_in_a_new_session(scripted: Any) -> None:
    scripted.answers(
        "POST", UPLOADS, (202, {"Location": "/upload/1"}, b""), (202, {"Location": "/upload/2?state=x"}, b"")
    )
    scripted.answers("PATCH", "/upload/1", (500, {}, b"out of order"))
    scripted.answers("PATCH", "/upload/2", (201, {"Location": "/upload/2?state=y"}, b""))
    scripted.answers("PUT", "/upload/2", (201, {}, b""))
    moved: list[int] = []

    with Registry(scripted.host) as registry:
        assert registry.upload_blob("models", DIGEST, chunks, on_bytes=moved.append) == len(BLOB)

    first, second = scripted.seen("PATCH")
    assert first.body == second.body == BLOB
    assert second.headers["Transfer-Encoding"] == "chunked"
    assert "Content-Range" not in second.headers
    assert scripted.seen("PUT")[0].path == f"/upload/2?state=y&digest={DIGEST.replace(':', '%3A')}"
    assert sum(moved) == len(BLOB)


def test_the_error_for_a_busy_registry_contains_its_message(scripted: Any) -> None:
    body = encode_json({"errors": [{"code": "TOOMANYREQUESTS", "message": "slow down"}]})
    scripted.answers("HEAD", f"/v2/a/blobs/{DIGEST}", (429, {}, b""))
    scripted.answers("GET", "/v2/a/manifests/v1", (429, {}, body), (503, {}, body))

    with Registry(scripted.host) as registry:
        with pytest.raises(RegistryError, match="returned 429 for HEAD"):
            registry.has_blob("a", DIGEST)
        with pytest.raises(RegistryError, match=r"503 .*TOOMANYREQUESTS slow down"):
            registry.read_manifest("a", "v1", LINUX_AMD64)
    assert len(scripted.seen("GET")) == 3


def test_a_refused_connection_is_an_error_without_a_library_traceback() -> None:
    with Registry("127.0.0.1:9") as registry, pytest.raises(RegistryError, match="Connection refused"):
        registry.has_blob("a", DIGEST)


def test_redirects_are_followed_and_their_signatures_are_not_shown(scripted: Any) -> None:
    scripted.answers("GET", f"/v2/a/blobs/{DIGEST}", (307, {"Location": "/storage?signature=secret"}, b""))
    scripted.answers("GET", "/storage", (200, {}, BLOB), (403, {}, b"<Error>expired</Error>"))

    with Registry(scripted.host) as registry:
        assert b"".join(registry.stream_blob("a", descriptor())) == BLOB
        with pytest.raises(RegistryError, match="expired") as caught:
            list(registry.stream_blob("a", descriptor()))
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("send", [lambda r: r.has_blob("a", DIGEST), lambda r: r.upload_blob("a", DIGEST, chunks)])
def test_a_redirect_from_https_to_http_is_refused(
    send: Callable[[Registry], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Needs no TLS server: the response is injected into requests' adapter."""
    import requests
    from requests.adapters import HTTPAdapter

    asked: list[str] = []

    def answer(self: HTTPAdapter, request: requests.PreparedRequest, **_: object) -> requests.Response:
        asked.append(str(request.url))
        response = requests.Response()
        response.status_code = 307 if request.method == "HEAD" else 202
        response.headers["Location"] = "http://evil.example/upload"
        response.url, response.request = str(request.url), request
        response.raw = io.BytesIO()
        return response

    monkeypatch.setattr(HTTPAdapter, "send", answer)

    with Registry("registry.example") as registry, pytest.raises(RegistryError, match="not HTTPS"):
        send(registry)
    assert all(url.startswith("https://registry.example/") for url in asked)

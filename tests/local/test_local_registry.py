"""The local registry: the distribution API over real HTTP, its files on disk, and a real client (skopeo)."""

from __future__ import annotations

import gzip
import hashlib
import http.client
import json
import platform
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from mlflow_fargate.errors import LocalStackError
from mlflow_fargate.local.registry import store as registry_store
from mlflow_fargate.local.registry.base_image import BASE_REPOSITORY, seed_base_image
from mlflow_fargate.local.registry.grammar import OciRefusal
from mlflow_fargate.local.registry.server import LocalRegistry
from mlflow_fargate.local.registry.store import RegistryStore
from mlflow_fargate.progress import RecordedProgress
from support.base_image import MINOR, seed_shared_base_image

MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
HELLO_DIGEST = "sha256:2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"  # of b"hello"

needs_skopeo = pytest.mark.skipif(shutil.which("skopeo") is None, reason="skopeo is not installed")


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[LocalRegistry]:
    with LocalRegistry(tmp_path / "registry", password=None) as running:
        yield running


@pytest.fixture
def url(registry: LocalRegistry) -> str:
    return f"http://{registry.address}"


def digest_of(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def push_blob(url: str, repository: str, content: bytes) -> str:
    digest = digest_of(content)
    answer = requests.post(f"{url}/v2/{repository}/blobs/uploads/", params={"digest": digest}, data=content)
    assert answer.status_code == 201, answer.text
    return digest


def make_manifest(*blobs: bytes) -> bytes:
    config, *layers = [{"mediaType": "a/b", "digest": digest_of(blob), "size": len(blob)} for blob in blobs]
    manifest = {"schemaVersion": 2, "mediaType": MANIFEST_TYPE, "config": config, "layers": layers}
    return json.dumps(manifest).encode()


def put_manifest(url: str, repository: str, reference: str, manifest: bytes) -> requests.Response:
    headers = {"Content-Type": MANIFEST_TYPE}
    return requests.put(f"{url}/v2/{repository}/manifests/{reference}", data=manifest, headers=headers)


def push_image(url: str, repository: str, tag: str, layer: bytes = b"layer") -> str:
    for blob in (b"{}", layer):
        push_blob(url, repository, blob)
    answer = put_manifest(url, repository, tag, make_manifest(b"{}", layer))
    assert answer.status_code == 201, answer.text
    return answer.headers["Docker-Content-Digest"]


def error_code(answer: requests.Response) -> str:
    code: str = answer.json()["errors"][0]["code"]
    return code


def test_the_api_responds_to_a_ping(url: str) -> None:
    answer = requests.get(f"{url}/v2/")

    assert (answer.status_code, answer.json()) == (200, {})


def test_a_monolithic_upload_creates_a_blob(url: str) -> None:
    push_blob(url, "team/app", b"hello")

    answer = requests.get(f"{url}/v2/team/app/blobs/{HELLO_DIGEST}")

    assert answer.content == b"hello"
    assert answer.headers["Docker-Content-Digest"] == HELLO_DIGEST
    assert requests.head(answer.url).headers["Content-Length"] == "5"


def test_a_chunked_stream_of_unknown_digest_creates_a_blob(url: str) -> None:
    location = requests.post(f"{url}/v2/app/blobs/uploads/").headers["Location"]
    patched = requests.patch(url + location, data=iter([b"he", b"", b"llo"]))
    status = requests.get(url + location)
    finished = requests.put(url + location, params={"digest": HELLO_DIGEST})

    assert patched.status_code == 202
    assert (status.status_code, status.headers["Range"]) == (204, "0-4")
    assert finished.status_code == 201
    assert requests.get(f"{url}/v2/app/blobs/{HELLO_DIGEST}").content == b"hello"


def test_patches_are_appended_and_one_at_the_wrong_offset_is_refused(url: str) -> None:
    location = requests.post(f"{url}/v2/app/blobs/uploads/").headers["Location"]
    requests.patch(url + location, data=b"he", headers={"Content-Range": "0-1"})
    misplaced = requests.patch(url + location, data=b"llo", headers={"Content-Range": "7-9"})
    requests.patch(url + location, data=b"l", headers={"Content-Range": "2-2"})
    finished = requests.put(url + location, params={"digest": HELLO_DIGEST}, data=b"lo")

    assert (misplaced.status_code, misplaced.headers["Range"]) == (416, "0-1")
    assert finished.status_code == 201


def test_a_wrong_digest_is_refused_and_leaves_nothing_behind(url: str, tmp_path: Path) -> None:
    wrong = digest_of(b"something else")
    answer = requests.post(f"{url}/v2/app/blobs/uploads/", params={"digest": wrong}, data=b"hello")

    assert (answer.status_code, error_code(answer)) == (400, "DIGEST_INVALID")
    assert requests.head(f"{url}/v2/app/blobs/{wrong}").status_code == 404
    assert list((tmp_path / "registry" / "uploads").iterdir()) == []


def test_a_cancelled_upload_is_gone(url: str) -> None:
    location = requests.post(f"{url}/v2/app/blobs/uploads/").headers["Location"]

    assert requests.delete(url + location).status_code == 204
    assert error_code(requests.patch(url + location, data=b"hello")) == "BLOB_UPLOAD_UNKNOWN"


def test_an_upload_belongs_to_its_repository(url: str) -> None:
    location = requests.post(f"{url}/v2/mine/blobs/uploads/").headers["Location"]

    answer = requests.put(url + location.replace("mine", "yours"), params={"digest": HELLO_DIGEST}, data=b"hello")

    assert error_code(answer) == "BLOB_UPLOAD_UNKNOWN"


@pytest.mark.parametrize(
    ("asked", "status", "content", "content_range"),
    [
        ("bytes=1-3", 206, b"ell", "bytes 1-3/5"),
        ("bytes=3-", 206, b"lo", "bytes 3-4/5"),
        ("bytes=-2", 206, b"lo", "bytes 3-4/5"),
        ("bytes=2-99", 206, b"llo", "bytes 2-4/5"),
        ("lines=1-2", 200, b"hello", None),
    ],
)
def test_a_range_of_a_blob_is_returned(
    url: str, asked: str, status: int, content: bytes, content_range: str | None
) -> None:
    push_blob(url, "app", b"hello")

    answer = requests.get(f"{url}/v2/app/blobs/{HELLO_DIGEST}", headers={"Range": asked})

    assert (answer.status_code, answer.content) == (status, content)
    assert answer.headers.get("Content-Range") == content_range


def test_a_range_outside_the_blob_is_refused(url: str) -> None:
    push_blob(url, "app", b"hello")

    answer = requests.get(f"{url}/v2/app/blobs/{HELLO_DIGEST}", headers={"Range": "bytes=5-"})

    assert answer.status_code == 416


def test_a_blob_is_visible_only_in_repositories_with_a_push_or_mount(url: str) -> None:
    push_blob(url, "one", b"hello")
    push_blob(url, "two", b"other")
    assert requests.head(f"{url}/v2/two/blobs/{HELLO_DIGEST}").status_code == 404

    mount = requests.post(f"{url}/v2/two/blobs/uploads/", params={"mount": HELLO_DIGEST, "from": "one"})

    assert mount.status_code == 201
    assert requests.get(f"{url}/v2/two/blobs/{HELLO_DIGEST}").content == b"hello"


def test_mounting_a_missing_blob_starts_an_upload(url: str) -> None:
    mount = requests.post(f"{url}/v2/two/blobs/uploads/", params={"mount": HELLO_DIGEST, "from": "one"})
    finished = requests.put(url + mount.headers["Location"], params={"digest": HELLO_DIGEST}, data=b"hello")

    assert (mount.status_code, finished.status_code) == (202, 201)


def test_a_manifest_is_kept_byte_for_byte_under_tag_and_digest(url: str) -> None:
    digest = push_image(url, "team/app", "v1")

    for reference in ("v1", digest):
        answer = requests.get(f"{url}/v2/team/app/manifests/{reference}")
        assert answer.content == make_manifest(b"{}", b"layer")
        assert answer.headers["Content-Type"] == MANIFEST_TYPE
        assert answer.headers["Docker-Content-Digest"] == digest
    assert requests.head(f"{url}/v2/team/app/manifests/v1").headers["Docker-Content-Digest"] == digest


def test_a_manifest_whose_layer_is_missing_is_refused(url: str) -> None:
    push_blob(url, "app", b"{}")
    push_blob(url, "other", b"layer")  # a blob of another repository does not count

    answer = put_manifest(url, "app", "v1", make_manifest(b"{}", b"layer"))

    assert (answer.status_code, error_code(answer)) == (404, "MANIFEST_BLOB_UNKNOWN")
    assert digest_of(b"layer") in answer.text


def test_an_index_requires_its_manifests(url: str) -> None:
    index_type = "application/vnd.oci.image.index.v1+json"
    digest = push_image(url, "app", "v1")
    child: dict[str, Any] = {"mediaType": MANIFEST_TYPE, "size": 1}
    headers = {"Content-Type": index_type}

    for listed, status in ((digest, 201), (HELLO_DIGEST, 404)):
        index = {"schemaVersion": 2, "mediaType": index_type, "manifests": [{**child, "digest": listed}]}
        answer = requests.put(f"{url}/v2/app/manifests/multi", json=index, headers=headers)
        assert answer.status_code == status


@pytest.mark.parametrize(
    ("reference", "body", "code"),
    [
        ("v1", b"not json", "MANIFEST_INVALID"),
        ("v1", b"[]", "MANIFEST_INVALID"),
        ("v1", b'{"config": {"digest": "sha256:short", "size": 1}, "layers": []}', "DIGEST_INVALID"),
        ("v1", b'{"mediaType": "application/other"}', "MANIFEST_INVALID"),
        (HELLO_DIGEST, b"{}", "DIGEST_INVALID"),
        ("-tag", b"{}", "TAG_INVALID"),
        ("v1", b" " * (4 * 1024 * 1024 + 1), "SIZE_INVALID"),
    ],
)
def test_an_invalid_manifest_is_refused(url: str, reference: str, body: bytes, code: str) -> None:
    assert error_code(put_manifest(url, "app", reference, body)) == code


@pytest.mark.parametrize(
    "path",
    [
        "/v2/../../etc/blobs/" + HELLO_DIGEST,
        "/v2/..%2F..%2Fetc/blobs/" + HELLO_DIGEST,
        "/v2/UPPER/tags/list",
        "/v2/a//b/tags/list",
        "/v2/a/blobs/sha256:..%2F..%2F..%2Fetc%2Fpasswd",
        "/v2/" + "a" * 300 + "/tags/list",
        "/v2/a%00b/tags/list",
    ],
)
def test_names_that_point_outside_the_root_are_refused(registry: LocalRegistry, path: str) -> None:
    registry.store.create_repository("a")
    connection = http.client.HTTPConnection("127.0.0.1", registry.port)
    connection.request("GET", path)

    assert connection.getresponse().status in (400, 404)
    connection.close()


@pytest.mark.parametrize(
    "request_text",
    [
        "GET http://[ HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
        f"GET /v2/_catalog?n={'9' * 5000} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
        "PUT /v2/a/manifests/b HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: x\r\n\r\n",
        f"PUT /v2/a/manifests/b HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 200000\r\n\r\n{'[' * 200_000}",
    ],
    ids=["no URL", "a long number", "no length", "nested"],
)
def test_a_request_that_cannot_be_parsed_is_refused(registry: LocalRegistry, request_text: str) -> None:
    host, _, port = registry.address.partition(":")
    with socket.create_connection((host, int(port)), timeout=5) as connection:
        connection.sendall(request_text.encode())

        assert connection.recv(100).startswith(b"HTTP/1.1 400 ")


def test_tags_are_listed_in_pages(url: str) -> None:
    for tag in ("b", "a", "c"):
        push_image(url, "app", tag)

    first = requests.get(f"{url}/v2/app/tags/list", params={"n": 2})
    second = requests.get(url + first.links["next"]["url"])

    assert first.json() == {"name": "app", "tags": ["a", "b"]}
    assert second.json() == {"name": "app", "tags": ["c"]}
    assert "next" not in second.links


def test_the_catalog_lists_repositories_in_pages(url: str) -> None:
    for name in ("b/x", "a"):
        push_blob(url, name, b"hello")

    first = requests.get(f"{url}/v2/_catalog", params={"n": 1})

    assert first.json() == {"repositories": ["a"]}
    assert requests.get(url + first.links["next"]["url"]).json() == {"repositories": ["b/x"]}


def test_deleting_a_tag_keeps_the_image_and_deleting_the_image_deletes_its_tags(url: str) -> None:
    digest = push_image(url, "app", "v1")
    push_image(url, "app", "v2")

    assert requests.delete(f"{url}/v2/app/manifests/v1").status_code == 202
    assert requests.head(f"{url}/v2/app/manifests/{digest}").status_code == 200
    assert requests.delete(f"{url}/v2/app/manifests/{digest}").status_code == 202
    assert requests.get(f"{url}/v2/app/tags/list").json()["tags"] == []
    assert error_code(requests.get(f"{url}/v2/app/manifests/v2")) == "MANIFEST_UNKNOWN"


def test_an_immutable_tag_cannot_be_moved(url: str, registry: LocalRegistry) -> None:
    registry.store.create_repository("app", immutable_tags=True)
    push_image(url, "app", "v1")
    push_image(url, "app", "v1")  # pushing the same image again does not move it
    push_blob(url, "app", b"other")

    answer = put_manifest(url, "app", "v1", make_manifest(b"{}", b"other"))

    assert (answer.status_code, error_code(answer)) == (400, "TAG_INVALID")


def test_a_strict_registry_requires_repositories_to_exist(tmp_path: Path) -> None:
    with LocalRegistry(tmp_path, password=None, create_on_push=False) as registry:
        begin = f"http://{registry.address}/v2/app/blobs/uploads/"
        refused = requests.post(begin)
        registry.store.create_repository("app")

        assert (refused.status_code, error_code(refused)) == (404, "NAME_UNKNOWN")
        assert requests.post(begin).status_code == 202


def test_a_refused_body_does_not_confuse_the_next_request_of_the_session(url: str) -> None:
    with requests.Session() as session:
        for _ in range(3):
            refused = session.put(f"{url}/v2/app/blobs/uploads/nothing", data=b"x" * 3_000_000)
            assert error_code(refused) == "BLOB_UPLOAD_UNKNOWN"
            assert session.get(f"{url}/v2/").status_code == 200


def test_images_are_listed_as_ecr_shows_them(url: str, registry: LocalRegistry) -> None:
    old = push_image(url, "app", "v1", b"layer one")
    new = push_image(url, "app", "v2", b"layer three")
    requests.put(f"{url}/v2/app/manifests/v1", data=make_manifest(b"{}", b"layer three"))

    images = registry.store.images("app")

    assert [(image.digest, image.tags, image.size_bytes) for image in images] == [
        (new, ("v1", "v2"), len(b"{}layer three")),
        (old, (), len(b"{}layer one")),
    ]
    assert registry.store.manifest("app", old).body == make_manifest(b"{}", b"layer one")


def test_images_survive_a_restart(tmp_path: Path) -> None:
    with LocalRegistry(tmp_path, password=None) as registry:
        digest = push_image(f"http://{registry.address}", "team/app", "v1")
        requests.post(f"http://{registry.address}/v2/team/app/blobs/uploads/")

    with LocalRegistry(tmp_path, password=None) as registry:
        url = f"http://{registry.address}"
        assert requests.get(f"{url}/v2/team/app/tags/list").json()["tags"] == ["v1"]
        assert requests.get(f"{url}/v2/team/app/blobs/{digest_of(b'layer')}").content == b"layer"
        assert [image.digest for image in registry.store.images("team/app")] == [digest]
    assert list((tmp_path / "uploads").iterdir()) == []


def test_deleting_a_repository_frees_only_its_own_blobs(url: str, registry: LocalRegistry, tmp_path: Path) -> None:
    push_image(url, "one", "v1", b"shared")
    push_image(url, "two", "v1", b"shared")
    push_blob(url, "two", b"hello")

    assert registry.store.delete_repository("two")

    assert not registry.store.repository_exists("two")
    assert not registry.store.delete_repository("two")
    assert requests.get(f"{url}/v2/one/blobs/{digest_of(b'shared')}").content == b"shared"
    assert not (tmp_path / "registry" / "blobs" / "sha256" / HELLO_DIGEST.removeprefix("sha256:")).exists()


def test_unused_layers_are_deleted_after_a_while(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = RegistryStore(tmp_path)
    for blob in (b"{}", b"layer"):
        store.add_blob("app", blob)
    digest = store.put_manifest("app", "v1", make_manifest(b"{}", b"layer"), MANIFEST_TYPE)
    store.add_blob("app", b"of a push in progress")

    store.delete_image("app", digest)
    kept = {path.name for path in (tmp_path / "blobs" / "sha256").iterdir()}
    monkeypatch.setattr(registry_store, "_ORPHAN_GRACE_SECONDS", -1.0)
    RegistryStore(tmp_path)

    assert {f"sha256:{name}" for name in kept} == {digest_of(b) for b in (b"{}", b"layer", b"of a push in progress")}
    assert list((tmp_path / "blobs" / "sha256").iterdir()) == []


def test_reading_missing_content_is_refused(tmp_path: Path) -> None:
    store = RegistryStore(tmp_path)
    with pytest.raises(OciRefusal, match="repository 'app' does not exist"):
        store.images("app")
    store.create_repository("app")
    with pytest.raises(OciRefusal, match="no image 'v1'"):
        store.delete_image("app", "v1")


def test_concurrent_pushes_all_arrive(url: str, registry: LocalRegistry) -> None:
    threads = [threading.Thread(target=push_image, args=(url, "app", f"v{n}", b"%d" % n)) for n in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(registry.store.tags("app")) == 16


def test_stop_ends_threads_and_frees_the_port(tmp_path: Path) -> None:
    before = set(threading.enumerate())
    registry = LocalRegistry(tmp_path, password=None).start()
    with requests.Session() as session:  # keeps a connection open
        session.get(f"http://{registry.address}/v2/")
        with pytest.raises(LocalStackError, match="cannot listen"):
            LocalRegistry(tmp_path / "second", password=None, port=registry.port).start()
        began = time.monotonic()
        registry.stop()

    assert time.monotonic() - began < 30
    assert set(threading.enumerate()) <= before
    with LocalRegistry(tmp_path, password=None, port=registry.port) as again:
        assert again.port == registry.port


@pytest.mark.slow
def test_a_killed_registry_leaves_no_partial_blob(tmp_path: Path) -> None:
    program = (
        "import sys, time; from pathlib import Path; from mlflow_fargate.local.registry.server import LocalRegistry;"
        "print(LocalRegistry(Path(sys.argv[1]), password=None).start().address, flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    host, port = process.stdout.readline().strip().split(":")
    connection = http.client.HTTPConnection(host, int(port))
    connection.putrequest("POST", f"/v2/app/blobs/uploads/?digest={HELLO_DIGEST}")
    connection.putheader("Content-Length", "5")
    connection.endheaders(b"hel")
    deadline = time.monotonic() + 10
    while not list((tmp_path / "uploads").iterdir()) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert list((tmp_path / "uploads").iterdir())
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    connection.close()

    store = RegistryStore(tmp_path)

    assert list((tmp_path / "blobs" / "sha256").iterdir()) == []
    assert list((tmp_path / "uploads").iterdir()) == []
    with pytest.raises(OciRefusal, match=r"not in repository|does not exist"):
        store.blob("app", HELLO_DIGEST)


def test_the_base_image_is_a_complete_image(registry: LocalRegistry, url: str) -> None:
    digest = seed_shared_base_image(registry.store)
    assert seed_base_image(registry.store, RecordedProgress()) == digest

    manifest = requests.get(f"{url}/v2/{BASE_REPOSITORY}/manifests/{MINOR}-slim").json()
    blobs = f"{url}/v2/{BASE_REPOSITORY}/blobs"
    config = requests.get(f"{blobs}/{manifest['config']['digest']}").json()
    layer = requests.get(f"{blobs}/{manifest['layers'][0]['digest']}").content

    assert {MINOR, f"{MINOR}-slim"} < set(registry.store.tags(BASE_REPOSITORY))
    assert f"PYTHON_VERSION={platform.python_version()}" in config["config"]["Env"]
    diff_id = f"sha256:{hashlib.sha256(gzip.decompress(layer)).hexdigest()}"
    assert config["rootfs"]["diff_ids"] == [diff_id]
    assert config["config"]["Labels"] == {
        "mlflow-fargate.base": "host-python",
        "mlflow-fargate.base.diff-id": diff_id,
    }
    assert manifest["layers"][0]["size"] == len(layer)


@needs_skopeo
@pytest.mark.slow
def test_skopeo_pulls_the_base_image_and_pushes_it_elsewhere(registry: LocalRegistry, url: str, tmp_path: Path) -> None:
    seed_shared_base_image(registry.store)
    source = f"docker://{registry.address}/{BASE_REPOSITORY}:{MINOR}-slim"
    insecure = ("--src-tls-verify=false", "--dest-tls-verify=false")

    def skopeo(*arguments: str) -> str:
        done = subprocess.run(["skopeo", *arguments], capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    skopeo("copy", *insecure[:1], source, f"dir:{tmp_path}/pulled")
    skopeo("copy", *insecure[1:], f"dir:{tmp_path}/pulled", f"docker://{registry.address}/pushed/base:one")
    skopeo("copy", *insecure, source, f"docker://{registry.address}/copied/base:two")
    seen = json.loads(skopeo("inspect", "--tls-verify=false", f"docker://{registry.address}/copied/base:two"))
    tags = json.loads(skopeo("list-tags", "--tls-verify=false", f"docker://{registry.address}/pushed/base"))
    skopeo("delete", "--tls-verify=false", f"docker://{registry.address}/pushed/base:one")

    assert seen["Labels"]["mlflow-fargate.base"] == "host-python"
    assert tags["Tags"] == ["one"]
    assert registry.store.images("pushed/base") == []
    layer = json.loads((tmp_path / "pulled" / "manifest.json").read_text())["layers"][0]["digest"]
    with tarfile.open(tmp_path / "pulled" / layer.removeprefix("sha256:")) as archive:
        assert {"etc/os-release", "usr/local/bin/python3"} < set(archive.getnames())

"""Registries and base images that try to fill the memory of the machine that reads them."""

from __future__ import annotations

import gzip
import io
import json
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import zstandard

from mlflow_fargate.errors import FargateError, ImageError, RegistryError
from mlflow_fargate.image.base.base_image import Base, read_base
from mlflow_fargate.image.base.files import read_base_files
from mlflow_fargate.image.base.standard_library import make_standard_library_recipe
from mlflow_fargate.image.layers.layer import Compression
from mlflow_fargate.image.layers.members import open_members
from mlflow_fargate.image.oci.image import OCI_CONFIG, OCI_LAYER_ZSTD, BaseImage, Descriptor, Manifest, sha256_digest
from mlflow_fargate.image.oci.platforms import LINUX_AMD64
from mlflow_fargate.image.oci.reference import Reference
from mlflow_fargate.image.registry.client import Registry
from mlflow_fargate.image.registry.transport import MAX_DOCUMENT_BYTES
from mlflow_fargate.progress import RecordedProgress

DIGEST = sha256_digest(b"blob")
MIB = 1 << 20
ZSTD_TAR = "application/vnd.oci.image.layer.v1.tar+zstd"


@contextmanager
def endless(status: int, headers: dict[str, str]) -> Iterator[tuple[str, list[int]]]:
    """Yields a registry that answers everything with a body without end, and how much of it was sent."""
    sent = [0]

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.close_connection = True
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            chunk = b"x" * MIB
            try:
                while sent[0] < 512 * MIB:
                    self.wfile.write(chunk)
                    sent[0] += MIB
            except OSError:
                pass  # the client had enough

        do_POST = do_PUT = do_PATCH = do_GET

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield f"127.0.0.1:{server.server_port}", sent
    finally:
        server.shutdown()
        server.server_close()


REQUESTS: dict[str, tuple[int, dict[str, str], Callable[[Registry], Any]]] = {
    "GET": (200, {}, lambda registry: registry.read_manifest("a", "v1", LINUX_AMD64)),
    "GET redirected": (302, {"Location": "/v2/b"}, lambda registry: registry.read_manifest("a", "v1", LINUX_AMD64)),
    "POST": (202, {"Location": "/up"}, lambda registry: registry.upload_blob("a", DIGEST, lambda: [b"blob"])),
    "POST mounted": (201, {}, lambda registry: registry.upload_blob("a", DIGEST, lambda: [b"b"], mount_from="c")),
    "PUT": (201, {}, lambda registry: registry.write_manifest("a", "v1", Manifest(Descriptor("x", DIGEST, 4), ()))),
    "401": (401, {"WWW-Authenticate": "Basic"}, lambda registry: registry.upload_blob("a", DIGEST, lambda: [b"blob"])),
    "refused": (400, {}, lambda registry: registry.upload_blob("a", DIGEST, lambda: [b"blob"])),
}


@pytest.mark.parametrize("request_kind", REQUESTS)
def test_no_response_of_a_registry_is_read_without_a_limit(request_kind: str) -> None:
    status, headers, call = REQUESTS[request_kind]
    with endless(status, headers) as (host, sent), Registry(host) as registry, pytest.raises(RegistryError):
        call(registry)

    # Three attempts, each with what the sockets hold.
    assert sent[0] * 1.0 < 3 * (MAX_DOCUMENT_BYTES + 32 * MIB)


def header(name: str, size: int, kind: bytes = tarfile.REGTYPE, **more: Any) -> bytes:
    entry = tarfile.TarInfo(name)
    entry.size, entry.type = size, kind
    for key, value in more.items():
        setattr(entry, key, value)
    return entry.tobuf(tarfile.GNU_FORMAT)


def old_sparse(name: str, size: int) -> bytes:
    """Returns the header of a sparse file of `size` zeros, in GNU's old form."""
    block = bytearray(header(name, 0, tarfile.GNUTYPE_SPARSE))
    block[386:398] = block[398:410] = b"00000000000\0"
    block[483:495] = b"%011o\0" % size
    block[148:156] = b"        "
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def pax_sparse(name: str, size: int) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive:
        entry = tarfile.TarInfo(f"GNUSparseFile.0/{name}")
        entry.pax_headers = {
            "GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": name, "GNU.sparse.realsize": str(size),
        }  # fmt: skip
        content = b"1\n0\n0\n".ljust(512, b"\0")
        entry.size = len(content)
        archive.addfile(entry, io.BytesIO(content))
    return packed.getvalue()


def zeros(parts: list[tuple[bytes, int]]) -> bytes:
    """Returns a compressed layer: each part, then so many zeros."""
    packed, nothing = io.BytesIO(), bytes(MIB)
    with zstandard.ZstdCompressor(level=3).stream_writer(packed, closefd=False) as stream:
        for head, count in parts:
            stream.write(head)
            for start in range(0, count, MIB):
                stream.write(nothing[: min(MIB, count - start)])
    return packed.getvalue()


def long_path(name: str) -> bytes:
    return tarfile.TarInfo(name).tobuf(tarfile.GNU_FORMAT)


STATUS = "var/lib/dpkg/status.d/{}"
GIB = 1 << 30
BOMBS: dict[str, Callable[[], bytes]] = {
    "many texts": lambda: zeros([(header(STATUS.format(number), 16 * MIB), 16 * MIB) for number in range(60)]),
    "a long name": lambda: zeros([(header("././@LongLink", GIB, tarfile.GNUTYPE_LONGNAME), GIB)]),
    "a long link": lambda: zeros([(header("././@LongLink", GIB, tarfile.GNUTYPE_LONGLINK), GIB)]),
    "a pax header": lambda: zeros([(header("./PaxHeaders/x", GIB, tarfile.XHDTYPE), GIB)]),
    "a global pax header": lambda: zeros([(header("./PaxHeaders/x", GIB, tarfile.XGLTYPE), GIB)]),
    "nested long names": lambda: zeros([(header("././@LongLink", 1, tarfile.GNUTYPE_LONGNAME), 512)] * 20_000),
    "old sparse files": lambda: zeros([(old_sparse(STATUS.format(number), 16 * MIB), 0) for number in range(300)]),
    "pax sparse files": lambda: zeros([(pax_sparse(STATUS.format(1), 16 * MIB), 0)]),
    "many libraries": lambda: zeros([(header(f"usr/lib/lib{number}.so", 0), 0) for number in range(300_000)]),
    "many whiteouts": lambda: zeros([(header(f"usr/lib/.wh.lib{number}.so", 0), 0) for number in range(200_000)]),
    "a long path": lambda: zeros([(long_path(f"usr/lib/{'l' * 5000}.so"), 0)]),
    "a deep path": lambda: zeros([(long_path(f"{'a/' * 300}lib.so"), 0)]),
}
LIMIT_MIB = 700


def base_of(*layers: bytes) -> Base:
    class Store:
        host = "registry.example"

        def stream_blob(self, repository: str, descriptor: Descriptor) -> Iterator[bytes]:
            yield next(layer for layer in layers if sha256_digest(layer) == descriptor.digest)

    described = tuple(Descriptor(ZSTD_TAR, sha256_digest(layer), len(layer)) for layer in layers)
    image = BaseImage(sha256_digest(b"".join(layers)), described, {})
    return Base(Store(), Reference.parse("registry.example/base:1"), image)  # type: ignore[arg-type]


def scan(cache: Path, *layers: bytes) -> None:
    """Reads what is in a base image of these layers."""
    read_base_files(base_of(*layers), cache=cache, progress=RecordedProgress())


@pytest.mark.slow
def test_small_layers_cannot_fill_the_memory(tmp_path: Path) -> None:
    for bomb, make in BOMBS.items():
        (tmp_path / bomb).write_bytes(make())
    code = "import sys; from pathlib import Path; import test_image_bombs as t; t.read_all(Path(sys.argv[1]))"
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )

    assert done.returncode == 0, done.stderr[-2000:]
    print(done.stdout)
    read = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(read) == len(BOMBS)
    for bomb, said, peak_mib, seconds in read:
        assert said.startswith(("Layer sha256:", "The base image registry.example/base:1")), (bomb, said)
        assert peak_mib < LIMIT_MIB and seconds < 60, bomb


def read_all(folder: Path) -> None:
    """In a process of its own: prints each layer's name, the error, the peak of the memory in MiB, and seconds."""
    for layer in sorted(folder.iterdir()):
        began, said = time.monotonic(), ""
        try:
            scan(folder / "cache", layer.read_bytes())
        except ImageError as error:
            said = error.message
        # Not ru_maxrss, which begins with that of the process that started this one.
        peak_mib = int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]) // 1024
        print(json.dumps([layer.name, said, peak_mib, round(time.monotonic() - began, 1)]))


LIBRARY = "usr/local/lib/python3.11"
LIBRARIES: dict[str, Callable[[], bytes]] = {
    "a long name": lambda: zeros([(long_path(f"{LIBRARY}/{'a' * 300}.py"), 0)]),
    "many files": lambda: zeros([(header(f"{LIBRARY}/a{number}.py", 0), 0) for number in range(20_000)]),
    "large files": lambda: zeros([(header(f"{LIBRARY}/a{number}.py", 2 * MIB), 2 * MIB) for number in range(40)]),
    "many whiteouts": lambda: zeros([(header(f"usr/lib/.wh.lib{number}.so", 0), 0) for number in range(200_000)]),
}


@pytest.mark.slow
@pytest.mark.parametrize("bomb", LIBRARIES)
def test_a_hostile_standard_library_is_refused(bomb: str, tmp_path: Path) -> None:
    recipe = make_standard_library_recipe(base_of(LIBRARIES[bomb]()), "3.11", Compression.ZSTD, tmp_path)

    with pytest.raises(ImageError, match="cannot be read"), recipe.files():
        pass


@pytest.mark.slow
def test_many_whiteouts_above_many_files_take_seconds(tmp_path: Path) -> None:
    files = zeros([(header(f"usr/lib/lib{number}.so", 0), 0) for number in range(40_000)])
    whiteouts = zeros([(header(f"usr/share/.wh.{number}", 0), 0) for number in range(50_000)])
    began = time.process_time()

    found = read_base_files(base_of(files, whiteouts), cache=tmp_path, progress=RecordedProgress())

    assert len(found.libraries) == 40_000
    assert time.process_time() - began < 300


def test_whiteouts_hide_what_is_below_their_layer_and_nothing_else(tmp_path: Path) -> None:
    def layer(*names: str) -> bytes:
        return zeros([(header(name, 0), 0) for name in names] + [(b"", 1024)])

    below = layer("lib/liba.so", "lib/libb.so", "usr/lib/libc1.so", "opt/x/libd.so", "opt/libe.so", "libf.so")
    above = layer(
        *("opt/libg.so", "lib/libb.so", "lib/.wh.libb.so", "lib/.wh.lib", "opt/.wh..wh..opq"),
        *(".wh.usr", ".wh.libf.so", "usr/lib/libh.so"),
    )

    found = read_base_files(base_of(below, above), cache=tmp_path, progress=RecordedProgress())

    assert found.libraries == ("liba.so", "libb.so", "libg.so", "libh.so")


@pytest.mark.parametrize(
    ("limit", "value", "part"),
    [
        ("_MAX_ENTRIES", 1000, lambda number: [(header(f"opt/{number}", 0), 0)] * 600),
        ("_MAX_CONTENT_BYTES", 10 * MIB, lambda number: [(header(f"opt/{number}", 6 * MIB), 6 * MIB)]),
        ("_MAX_HEADER_BYTES", 20_000, lambda number: [(long_path(f"opt/{number}{'l' * 200}"), 0)] * 60),
    ],
)
def test_the_limits_are_those_of_all_layers_together(
    limit: str, value: int, part: Callable[[int], list[tuple[bytes, int]]], tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setattr(f"mlflow_fargate.image.layers.members.{limit}", value)
    layers = [zeros([*part(number), (b"", 1024)]) for number in range(2)]
    for layer in layers:
        scan(tmp_path, layer)

    with pytest.raises(ImageError, match="the image is too large when unpacked"):
        scan(tmp_path, *layers)


@pytest.mark.parametrize(("layers", "size_bytes"), [(126, 100), (125, 200 * MIB), (1, 21 * GIB), (20_000, 0)])
def test_a_base_of_too_many_layers_or_bytes_is_refused_after_its_manifest(
    scripted: Any, layers: int, size_bytes: int
) -> None:
    layer = {"mediaType": ZSTD_TAR, "digest": DIGEST, "size": size_bytes}
    manifest = json.dumps({"config": {**layer, "size": 4}, "layers": [layer] * layers}).encode()
    scripted.answers("GET", "/v2/a/manifests/v1", (200, {}, manifest))

    with pytest.raises(ImageError, match=rf"a:v1 has {layers:,} layers of [\d.]+ GB in total; at most 125 layers"):
        read(scripted)
    assert len(scripted.requests) == 1


def test_a_layer_with_ordinary_headers_is_read() -> None:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for number in range(50):
            entry = tarfile.TarInfo(f"usr/lib/{'long' * 60}{number}")
            entry.pax_headers = {"SCHILY.xattr.user.note": "x" * 500}
            archive.addfile(entry)
    with open_members(iter([packed.getvalue()]), "tar", "It") as members:
        assert [name for name, _, _ in members] == [f"usr/lib/{'long' * 60}{number}" for number in range(50)]


GOOD_CONFIG = {"os": "linux", "architecture": "amd64", "config": {"Env": ["A=b"]}, "rootfs": {"diff_ids": []}}
CONFIGS: list[Any] = [
    [],
    7,
    None,
    "x",
    {},
    {"rootfs": []},
    {"rootfs": {}},
    {"rootfs": {"diff_ids": 7}},
    {"rootfs": {"diff_ids": ["../x"]}},
    {**GOOD_CONFIG, "config": "x"},
    {**GOOD_CONFIG, "config": {"Env": {"A": "b"}}},
    {**GOOD_CONFIG, "config": {"Env": [7]}},
    {**GOOD_CONFIG, "config": {"Labels": ["x"]}},
    {**GOOD_CONFIG, "history": 7},
    {**GOOD_CONFIG, "config": {"Labels": {"a": {}}}},
    {**GOOD_CONFIG, "history": ["x"]},
    {**GOOD_CONFIG, "os": {}},
    {**GOOD_CONFIG, "rootfs": {"diff_ids": [DIGEST]}},
]
GOOD_BLOB = {"mediaType": "m", "digest": DIGEST, "size": 4}
MANIFESTS: list[Any] = [
    [],
    7,
    {},
    {"layers": []},
    {"config": GOOD_BLOB},
    {"config": GOOD_BLOB, "layers": ["x"]},
    {"config": [], "layers": []},
    {"config": {**GOOD_BLOB, "size": float("inf")}, "layers": []},
    {"config": {**GOOD_BLOB, "size": -1}, "layers": []},
    {"config": {**GOOD_BLOB, "size": []}, "layers": []},
    {"config": {**GOOD_BLOB, "annotations": 7}, "layers": []},
    {"config": GOOD_BLOB, "layers": [{**GOOD_BLOB, "annotations": {"a": []}}]},
    {"config": GOOD_BLOB, "layers": {"a": 1}},
    {"manifests": 7},
    {"manifests": ["x"]},
    {"manifests": [{"platform": "x"}]},
    {"manifests": [{"platform": []}]},
    {"mediaType": "application/vnd.oci.image.index.v1+json"},
    {"mediaType": []},
]


def read(scripted: Any) -> None:
    with Registry(scripted.host) as registry:
        read_base(registry, Reference.parse(f"{scripted.host}/a:v1"), platform=LINUX_AMD64, python_version="3.11")


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: json.dumps(config)[:60])
def test_a_mistyped_configuration_is_refused_in_a_sentence(scripted: Any, config: Any) -> None:
    body = json.dumps(config).encode()
    digest = sha256_digest(body)
    manifest = {"config": {"mediaType": OCI_CONFIG, "digest": digest, "size": len(body)}, "layers": []}
    scripted.answers("GET", "/v2/a/manifests/v1", (200, {}, json.dumps(manifest).encode()))
    scripted.answers("GET", f"/v2/a/blobs/{digest}", (200, {}, body))

    with pytest.raises(FargateError):
        read(scripted)


@pytest.mark.parametrize("manifest", [*MANIFESTS, "nested"], ids=lambda manifest: json.dumps(manifest)[:60])
def test_a_mistyped_manifest_is_refused_in_a_sentence(scripted: Any, manifest: Any) -> None:
    body = b"[" * 100_000 if manifest == "nested" else json.dumps(manifest).encode()
    scripted.answers("GET", "/v2/a/manifests/v1", (200, {}, body))

    with pytest.raises(FargateError):
        read(scripted)


@pytest.mark.parametrize("location", ["http://[", "//[::1", "http://127.0.0.1:x/"])
def test_an_upload_at_an_invalid_address_is_refused(scripted: Any, location: str) -> None:
    scripted.answers("POST", "/v2/a/blobs/uploads/", (202, {"Location": location}, b""))
    scripted.answers("GET", "/v2/a/manifests/v1", (302, {"Location": location}, b""))

    with Registry(scripted.host) as registry:
        with pytest.raises(RegistryError):
            registry.upload_blob("a", DIGEST, lambda: [b"blob"])
        with pytest.raises(RegistryError):
            registry.read_manifest("a", "v1", LINUX_AMD64)


def test_a_gzip_bomb_in_a_layer_ends(tmp_path: Path) -> None:
    blob = gzip.compress(header("x", 65 * GIB) + bytes(MIB))

    with (
        pytest.raises(ImageError, match="too large when unpacked"),
        open_members(iter([blob]), "gzip", "It") as members,
    ):
        list(members)
    assert OCI_LAYER_ZSTD == ZSTD_TAR

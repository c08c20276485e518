"""Locks saved in the repository, for new machines."""

from __future__ import annotations

import subprocess
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlflow_fargate.errors import RegistryError
from mlflow_fargate.image import Compression, Reference, Registry
from mlflow_fargate.image.oci.image import BaseImage, Descriptor, Layer, Manifest, encode_json, sha256_digest
from mlflow_fargate.image.oci.platforms import LINUX_AMD64, LINUX_ARM64
from mlflow_fargate.image.packages.lock_file import Lock, LockedPackage
from mlflow_fargate.image.packages.lock_record import LockRecords, make_record, make_record_tag, parse_pins
from mlflow_fargate.image.packages.uv import lock_key
from mlflow_fargate.progress import RecordedProgress
from support.image import make_image
from tests.image.conftest import MINOR

HASH = f"sha256:{'a' * 64}"
SIX = LockedPackage("six", "six==1.17.0", (HASH,), 11_000)
BASE = BaseImage(sha256_digest(b"base"), (), {})
LAYER = Layer("dependencies", "key", sha256_digest(b"plain"), sha256_digest(b"packed"), 6, "application/x")


def moment(year: int, month: int, day: int) -> float:
    return datetime(year, month, day, tzinfo=timezone.utc).timestamp()


def records(registry: Registry, now: float = moment(2026, 5, 1)) -> LockRecords:
    return LockRecords(registry, "models", LINUX_AMD64, Compression.ZSTD, clock=lambda: now)


def put_record(registry: Registry, lines: list[str], pins: object) -> None:
    """Pushes a record as anyone with push permission could."""
    body = encode_json(pins)
    registry.upload_blob("models", sha256_digest(body), lambda: [body])
    config = Descriptor("application/vnd.mlflow-fargate.lock.v1+json", sha256_digest(body), len(body))
    key = lock_key(lines, python_version=MINOR, platform=LINUX_AMD64)
    registry.write_manifest("models", make_record_tag(key, Compression.ZSTD, moment(2026, 5, 1)), Manifest(config, ()))


@pytest.mark.slow
def test_a_new_machine_does_not_run_uv_or_build_packages(
    registry: Registry, base: Reference, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even if the latest image in the repository has other packages."""
    (tmp_path / "service").mkdir()
    (tmp_path / "service" / "service.py").write_text("Service = None\n")

    def build(tag: str, requirements: list[str]) -> Any:
        return make_image(
            base=base,
            requirements=requirements,
            python_version=MINOR,
            service=tmp_path / "service",
            model={"MLmodel": tmp_path / "service" / "service.py"},
            model_key=tag,
            destination=Reference(registry.host, "models", tag),
            registry=registry,
            cache=tmp_path / tag,
            progress=RecordedProgress(),
        )

    build("v1", ["six==1.17.0"])
    build("v2", ["idna==3.10"])
    monkeypatch.setattr(subprocess, "run", lambda command, **_: pytest.fail(f"ran {command}"))

    image = build("v3", ["six==1.17.0"])

    assert [(layer.name, layer.origin) for layer in image.report.layers] == [
        ("base", "base"),
        ("dependencies", "cached"),
        ("service", "built"),
        ("model", "built"),
    ]
    assert not (tmp_path / "v3" / "work").exists()
    assert not (tmp_path / "v3" / "locks").exists()


def test_a_lock_is_read_back(registry: Registry, tmp_path: Path) -> None:
    put_record(
        registry, ["six"], {"packages": [{"name": "six", "version": "1.17.0", "hashes": [HASH], "size": 11_000}]}
    )

    found = records(registry).lock(["six"], python_version=MINOR, cache=tmp_path)

    assert found.packages == (SIX,)
    assert found.python_version == MINOR


@pytest.mark.parametrize(
    "pin",
    [
        {"name": "six\n--index-url http://evil.example", "version": "1", "hashes": [HASH], "size": 1},
        {"name": "six", "version": "1\n--index-url=http://evil.example", "hashes": [HASH], "size": 1},
        {"name": "six", "version": "1 @ http://evil.example/six.whl", "hashes": [HASH], "size": 1},
        {"name": "six", "version": "1", "hashes": [f"{HASH} --pre"], "size": 1},
        {"name": "six", "version": "1", "hashes": [], "size": 1},
        {"name": "six"},
        "six==1",
    ],
)
def test_a_record_with_more_than_pins_is_refused(local_registry: str, tmp_path: Path, pin: object) -> None:
    with Registry(local_registry) as registry:
        put_record(registry, ["six"], {"packages": [pin]})

        with pytest.raises(RegistryError, match=r"(?s)is not a valid lock record.*hint: find out who pushed it"):
            records(registry).lock(["six"], python_version=MINOR, cache=tmp_path)


# Text alone is hardly ever a name or a version: most are one, with or without something after it.
_MORE = st.just("") | st.text("-_.[]@ \n\r#;=,é", max_size=3)
_NAMES = st.tuples(st.from_regex(r"[a-z0-9]{1,5}(-[a-z0-9]{1,5})?", fullmatch=True), _MORE).map("".join)
_VERSIONS = st.tuples(st.from_regex(r"[0-9]{1,3}(\.[0-9]{1,3}){0,2}(rc1|\.post2|\+cpu)?", fullmatch=True), _MORE)


@given(_NAMES | st.text(), _VERSIONS.map("".join) | st.text())
def test_any_pin_is_one_requirement_or_refused(name: str, version: str) -> None:
    try:
        (package,) = parse_pins({"packages": [{"name": name, "version": version, "hashes": [HASH], "size": 1}]})
    except ValueError:
        return
    assert len(package.text.splitlines()) == 2
    assert not package.text.startswith("-")
    assert " " not in package.requirement


def test_a_lock_with_more_than_names_and_hashes_is_not_saved() -> None:
    private = LockedPackage("six", "six @ https://me:secret@index.example/six.whl", (HASH,))

    assert make_record([SIX], [LAYER], BASE) is not None
    assert make_record([SIX, private], [LAYER], BASE) is None


def test_a_record_is_for_a_month_its_platform_and_compression() -> None:
    key = lock_key(["six"], python_version="3.11.4", platform=LINUX_AMD64)
    tag = make_record_tag(key, Compression.ZSTD, moment(2026, 5, 1))

    assert make_record_tag(key, Compression.ZSTD, moment(2026, 5, 31)) == tag
    assert make_record_tag(key, Compression.ZSTD, moment(2026, 6, 1)) != tag
    assert make_record_tag(key, Compression.GZIP, moment(2026, 5, 1)) != tag
    assert lock_key(["six"], python_version="3.11.9", platform=LINUX_AMD64) == key
    assert lock_key(["six"], python_version="3.12", platform=LINUX_AMD64) != key
    assert lock_key(["six"], python_version="3.11", platform=LINUX_ARM64) != key
    assert lock_key(["--index-url https://a.example/simple", "six"], python_version="3.11", platform=LINUX_AMD64) != key


def test_a_new_index_password_does_not_change_the_lock() -> None:
    def key(password: str) -> str:
        lines = [f"--index-url https://aws:{password}@index.example/simple", "six"]
        return lock_key(lines, python_version="3.11", platform=LINUX_AMD64)

    assert key("today") == key("tomorrow")


def test_a_registry_that_rejects_records_still_gets_the_image(scripted: Any) -> None:
    progress = RecordedProgress()
    scripted.answers("POST", "/v2/models/blobs/uploads/", (403, {}, b'{"errors": [{"code": "DENIED"}]}'))
    with Registry(scripted.host) as registry:
        records(registry).keep(Lock((SIX,), MINOR, LINUX_AMD64), [LAYER], BASE, progress)

    assert "could not save the lock in the repository" in progress.lines[0]

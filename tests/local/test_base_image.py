"""The base image made from this machine's Python: its files, its cache, and that it runs."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest

from mlflow_fargate.errors import LocalStackError
from mlflow_fargate.local.container.container_engine import ContainerEngine
from mlflow_fargate.local.registry import base_image, host_python
from mlflow_fargate.local.registry.base_image import BASE_REPOSITORY, seed_base_image
from mlflow_fargate.local.registry.host_python import (
    LEFT_OUT,
    Content,
    HostPython,
    list_files,
    list_libraries,
    list_packages,
    list_python,
    pack,
    place_libraries,
)
from mlflow_fargate.local.registry.server import LocalRegistry
from mlflow_fargate.local.registry.store import RegistryStore
from mlflow_fargate.progress import RecordedProgress
from support.base_image import MINOR, seed_shared_base_image

HERE = HostPython.of_this_process()
USES_LIBRARIES = """
import bz2, ctypes, decimal, hashlib, lzma, os, pwd, socket, sqlite3, ssl, sys, tempfile, uuid, zlib
assert sys.prefix == sys.base_prefix == "/usr/local", sys.prefix
assert os.getuid() == os.getgid() == 65532 and pwd.getpwuid(65532).pw_name == "nonroot"
for library in ("libc.so.6", "libdl.so.2", "libpthread.so.0", "librt.so.1"):
    ctypes.CDLL(library)
assert sqlite3.connect(":memory:").execute("select 6 * 7").fetchone() == (42,)
assert lzma.decompress(lzma.compress(b"a")) == bz2.decompress(bz2.compress(b"a")) == b"a"
assert socket.gethostbyname("127.0.0.1") == "127.0.0.1"
assert sys.getfilesystemencoding() == "utf-8"
print(ssl.create_default_context().cert_store_stats()["x509_ca"], sys.version.split()[0])
"""


@pytest.mark.parametrize(
    "path",
    [
        "test",
        "test/test_ssl.py",
        "unittest/test",
        "lib2to3/tests",
        "idlelib",
        "tkinter/ttk.py",
        "turtle.py",
        "ensurepip",
        "site-packages",
        "dist-packages/six.py",
        "json/__pycache__",
        "config-3.11-x86_64-linux-gnu",
        "libpython3.11.a",
        "lib-dynload/_tkinter.cpython-311-x86_64-linux-gnu.so",
        "lib-dynload/_testcapi.cpython-311-x86_64-linux-gnu.so",
        "lib-dynload/_ctypes_test.cpython-311-x86_64-linux-gnu.so",
        "lib-dynload/xxlimited.cpython-311-x86_64-linux-gnu.so",
    ],
)
def test_what_no_model_needs_is_left_out(path: str) -> None:
    assert LEFT_OUT.fullmatch(path)


@pytest.mark.parametrize(
    "path",
    [
        "unittest/case.py",
        "doctest.py",
        "lib-dynload/_ssl.cpython-311-x86_64-linux-gnu.so",
        "lib-dynload/_xxsubinterpreters.cpython-311-x86_64-linux-gnu.so",
        "_sysconfigdata__linux_x86_64-linux-gnu.py",
        "json/decoder.py",
        "latest/module.py",
    ],
)
def test_the_rest_of_the_standard_library_is_kept(path: str) -> None:
    assert not LEFT_OUT.fullmatch(path)


@pytest.mark.parametrize("library_folder", ["lib", "lib64"])  # Fedora's is lib64
def test_every_installation_is_in_usr_local(tmp_path: Path, library_folder: str) -> None:
    prefix, stdlib = tmp_path / "opt" / "python", tmp_path / "opt" / "python" / library_folder / "python3.11"
    (stdlib / "json").mkdir(parents=True)
    (stdlib / "site-packages").mkdir()
    for name in ("os.py", "json/decoder.py", "site-packages/six.py", "../other.py"):
        (stdlib / name).write_text("")
    (stdlib / "sitecustomize.py").symlink_to("/nonexistent")

    files = list_python(replace(HERE, version="3.11.7", prefix=prefix, stdlib=stdlib))

    assert files == {
        f"usr/local/{library_folder}/python3.11/os.py": stdlib / "os.py",
        f"usr/local/{library_folder}/python3.11/json/decoder.py": stdlib / "json" / "decoder.py",
        "usr/local/bin/python3.11": prefix / "bin" / "python3.11",
        "usr/local/bin/python3": "python3.11",
        "usr/local/bin/python": "python3.11",
    }


def test_libraries_are_beside_the_c_library_and_the_loader_keeps_its_path() -> None:
    found = {
        "libc.so.6": Path("/lib/aarch64-none/libc.so.6"),
        "libpython3.11.so.1.0": Path("/opt/my python/lib/libpython3.11.so.1.0"),
        "/lib/ld-linux-aarch64.so.1": Path("/lib/ld-linux-aarch64.so.1"),
        "/lib64/ld-linux-x86-64.so.2": Path("/usr/lib/ld-linux-x86-64.so.2"),
    }

    assert place_libraries(found) == {
        "usr/lib/aarch64-none/libc.so.6": found["libc.so.6"],
        "usr/lib/aarch64-none/libpython3.11.so.1.0": found["libpython3.11.so.1.0"],
        "usr/lib/ld-linux-aarch64.so.1": found["/lib/ld-linux-aarch64.so.1"],
        "usr/lib64/ld-linux-x86-64.so.2": found["/lib64/ld-linux-x86-64.so.2"],
    }
    with pytest.raises(LocalStackError, match=r"does not list this Python's libc\.so\.6"):
        place_libraries({})


def test_a_machine_without_ldd_gets_a_hint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")

    with pytest.raises(LocalStackError, match=r"(?s)has no ldd.*hint: .*libc-bin"):
        list_libraries([HERE.program])
    assert list_packages([HERE.program]) == ""


def test_bytes_depend_on_names_contents_and_modes_only(tmp_path: Path) -> None:
    one, program = tmp_path / "one", tmp_path / "program"
    one.write_text("1")
    program.write_text("2")
    program.chmod(0o750)
    files: dict[str, Content] = {
        "tmp": 0o1777,
        "usr/bin/program": program,
        "etc/one": one,
        "etc/two": b"2",
        "bin": "usr/bin",
    }

    packed = pack(files)
    os.utime(one, (1, 1))
    one.chmod(0o600)

    assert pack(dict(reversed(files.items()))) == packed
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        members = {member.name: member for member in archive}
    assert all((member.mtime, member.uid, member.gid) == (0, 0, 0) for member in members.values())
    assert {name: oct(members[name].mode) for name in ("etc/one", "etc/two", "usr/bin/program", "usr", "tmp")} == {
        "etc/one": "0o644",
        "etc/two": "0o644",
        "usr/bin/program": "0o755",
        "usr": "0o755",
        "tmp": "0o1777",
    }
    assert members["bin"].linkname == "usr/bin"


def test_the_fingerprint_changes_with_the_installation(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / HERE.program.name
    shutil.copy(HERE.program, program)
    python = replace(HERE, prefix=tmp_path)
    before = python.fingerprint()

    assert python.fingerprint() == before
    assert replace(python, build="3.11.8 (main)").fingerprint() != before
    os.utime(program, (1, 1))
    assert python.fingerprint() != before


def test_an_image_of_an_updated_python_replaces_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, progress = RegistryStore(tmp_path), RecordedProgress()
    monkeypatch.setattr(base_image, "list_files", lambda _: {"etc/motd": b"first"})
    first = seed_base_image(store, progress)
    monkeypatch.setattr(base_image, "list_files", lambda _: {"etc/motd": b"second"})

    assert seed_base_image(store, progress) == first
    assert len(progress.lines) == 1
    monkeypatch.setattr(host_python, "_FORMAT", host_python._FORMAT + 1)
    second = seed_base_image(store, progress)

    assert second != first
    assert [image.digest for image in store.images(BASE_REPOSITORY)] == [second]
    assert store.manifest(BASE_REPOSITORY, f"{MINOR}-slim").digest == second


def test_a_machine_without_glibc_has_no_base_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.libc_ver", lambda: ("", ""))
    store, progress = RegistryStore(tmp_path), RecordedProgress()

    assert seed_base_image(store, progress) is None
    assert "no base image was built" in progress.lines[0]
    assert store.repositories() == []


@pytest.mark.skipif(not Path("/var/lib/dpkg/status").exists(), reason="this machine has no Debian packages")
def test_debian_packages_of_the_files_are_listed() -> None:
    listed = list_packages(list_libraries([Path("/bin/sh").resolve()]).values())

    assert "\nStatus: install ok installed\n" in listed
    assert [line for line in listed.splitlines() if line.startswith("Package: ")] == ["Package: libc6"]


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="chroot needs root")
@pytest.mark.parametrize("interpreter", ["this process's", "/usr/bin/python3"])
def test_the_image_runs_without_this_machines_files(tmp_path: Path, interpreter: str) -> None:
    python = HERE if interpreter == "this process's" else python_of(interpreter)
    with tarfile.open(fileobj=io.BytesIO(pack(list_files(python)))) as archive:
        archive.extractall(tmp_path)
    tmp_path.chmod(0o755)  # as a container's root folder is
    room = ["chroot", "--userspec=65532:65532", "--groups=65532", str(tmp_path), "/usr/bin/sh", "-c"]
    environment = "export PATH=/usr/local/bin:/bin LANG=C.UTF-8"
    done = run(*room, f'{environment}; read line < /etc/os-release; python3 -c "$0"; echo "$line"', USES_LIBRARIES)

    assert done.returncode == 0, done.stderr
    certificates, version, line = done.stdout.split(maxsplit=2)
    assert int(certificates) > 0
    assert version == python.version
    assert line in host_python.make_os_release().decode().splitlines(keepends=True)


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


def python_of(interpreter: str) -> HostPython:
    """Returns the Python of another program of this machine."""
    if not Path(interpreter).exists():
        pytest.skip(f"{interpreter} is not installed")
    code = (
        "import sys, sysconfig, ssl, json; print(json.dumps([sys.version, sys.base_prefix, "
        "sysconfig.get_path('stdlib'), ssl.get_default_verify_paths().openssl_cafile]))"
    )
    build, prefix, stdlib, ca_file = json.loads(subprocess.check_output([interpreter, "-c", code]))
    return HostPython(build.split()[0].rstrip("+"), build, Path(prefix), Path(stdlib), ca_file)


@pytest.mark.slow
def test_an_engine_runs_it_read_only_and_without_rights(container_engine: ContainerEngine, tmp_path: Path) -> None:
    options = ["--read-only", "--cap-drop=ALL", "--user=65532:65532", "--network=none"]
    options += ["--ulimit=nofile=1024:4096", "--ulimit=nproc=4096:4096"]
    options += ["--tls-verify=false"] if container_engine.traits.is_podman else []
    with LocalRegistry(tmp_path / "registry", password=None) as registry:
        seed_shared_base_image(registry.store)
        image = f"{registry.address}/{BASE_REPOSITORY}:{MINOR}-slim"
        try:
            said = container_engine.call("run", "--rm", *options, image, "python3", "-c", USES_LIBRARIES)
        finally:
            container_engine.call("rmi", "--force", image)

    assert said.split()[1] == HERE.version

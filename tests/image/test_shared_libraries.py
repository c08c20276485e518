"""The shared libraries that wheels need, found in real ELF files and looked up in real base images."""

from __future__ import annotations

import importlib.util
import platform
import sys
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mlflow_fargate.errors import ImageError
from mlflow_fargate.image import Reference, Registry
from mlflow_fargate.image.base.base_image import read_base
from mlflow_fargate.image.base.checks import check_libraries, describe_missing
from mlflow_fargate.image.base.files import BaseFiles, read_base_files
from mlflow_fargate.image.layers.layer import Recipe
from mlflow_fargate.image.oci.platforms import LINUX_AMD64
from mlflow_fargate.image.packages.optional_imports import is_optional
from mlflow_fargate.image.packages.shared_libraries import (
    LIBRARY_NAME,
    SharedLibraries,
    defined_glibc,
    find_libraries,
    find_missing,
    find_too_new,
)
from mlflow_fargate.local.registry.server import LocalRegistry
from mlflow_fargate.progress import RecordedProgress
from support.base_image import seed_shared_base_image
from support.image import make_image

MINOR = f"{sys.version_info[0]}.{sys.version_info[1]}"
GLIBC = ("libc.so.6", "libm.so.6", "libpthread.so.0", "libgcc_s.so.1", "ld-linux-x86-64.so.2")
LIBRARY_FOLDER = "usr/lib/x86_64-linux-gnu"
PushBase = Callable[..., Reference]
BOOKWORM = 'PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\nID=debian\nVERSION_CODENAME=bookworm\n'


@pytest.fixture
def host(local_registry: str) -> str:
    """One registry is enough here."""
    return local_registry


@pytest.fixture
def service(tmp_path: Path) -> Path:
    (tmp_path / "service").mkdir()
    (tmp_path / "service" / "service.py").write_text("Service = None\n")
    return tmp_path / "service"


@pytest.fixture
def inputs(registry: Registry, service: Path, tmp_path: Path) -> dict[str, Any]:
    return {
        "requirements": ["ujson==6.1.0"],  # 50 kB, and it needs libstdc++.so.6
        "python_version": MINOR,
        "service": service,
        "model": {},
        "model_key": "none",
        "destination": Reference(registry.host, "models", "v1"),
        "registry": registry,
        "cache": tmp_path / "cache",
        "progress": RecordedProgress(),
    }


@pytest.fixture
def push_debian(make_base: PushBase) -> PushBase:
    """Pushes a Debian base with these libraries."""

    def push(*libraries: str, tag: str = "3-slim") -> Reference:
        files = {f"{LIBRARY_FOLDER}/{name}": "" for name in libraries}
        return make_base("library/python", tag, files=[{"usr/lib/os-release": BOOKWORM}, files])

    return push


def read(registry: Registry, reference: Reference, cache: Path) -> BaseFiles:
    base = read_base(registry, reference, platform=LINUX_AMD64, python_version=MINOR)
    return read_base_files(base, cache=cache, progress=RecordedProgress())


def test_a_library_in_neither_layers_nor_base_is_missing() -> None:
    lightgbm = SharedLibraries(("lib_lightgbm.so",), {"libgomp.so.1": ["lightgbm"], "libc.so.6": ["lightgbm"]})
    xgboost = SharedLibraries(("libgomp.so.1",), {"libm.so.6": ["xgboost"]})

    assert find_missing([lightgbm], frozenset(GLIBC)) == {"libgomp.so.1": ["lightgbm"]}
    assert find_missing([lightgbm, xgboost], frozenset(GLIBC)) == {}


def test_a_base_without_glibc_is_reported() -> None:
    alpine = BaseFiles((), {"PRETTY_NAME": "Alpine Linux v3.20"})

    message, hint = describe_missing({"libc.so.6": ["numpy"]}, alpine)

    assert "Alpine Linux" in message
    assert "glibc" in hint


def test_a_package_for_a_newer_glibc_is_reported(tmp_path: Path) -> None:
    amazon = BaseFiles(GLIBC, {"PRETTY_NAME": "Amazon Linux 2"}, glibc="2.26")
    SharedLibraries((), {}, {"2.17": ["ujson"], "2.28": ["numpy", "scipy"]}).save(tmp_path / "libraries.json")
    recipe = Recipe("dependencies", "key", nullcontext, libraries=tmp_path / "libraries.json")  # type: ignore[arg-type]
    progress = RecordedProgress()

    with pytest.raises(
        ImageError, match=r"\(Amazon Linux 2\) has glibc 2\.26, but packages need 2\.28 \(numpy, scipy\)\."
    ):
        check_libraries([recipe], amazon, on_missing="error", progress=progress)
    check_libraries([recipe], amazon, on_missing="note", progress=progress)
    check_libraries([recipe], replace(amazon, glibc="2.36"), on_missing="error", progress=progress)

    assert len(progress.lines) == 1
    assert "base image with a newer system" in progress.lines[0]


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="this machine has no glibc to read")
def test_the_version_of_glibc_is_read_from_it_and_from_what_needs_it() -> None:
    real = Path(__import__("zstandard.backend_c").backend_c.__file__)
    libc = next(line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines() if "/libc.so.6" in line)

    with Path(libc).open("rb") as file, real.open("rb") as other:
        defined, nothing = defined_glibc(file), defined_glibc(other)
    (needed,) = find_libraries({"opt/backend_c.so": real}, real.parent).glibc

    assert defined == platform.libc_ver()[1]
    assert nothing is None
    assert find_too_new([SharedLibraries((), {}, {needed: ["zstandard"]})], str(defined)) == {}
    assert find_too_new([SharedLibraries((), {}, {needed: ["zstandard"]})], "2.0") == {needed: ["zstandard"]}


@pytest.mark.skipif(sys.platform != "linux", reason="ELF is Linux's")
def test_what_numba_imports_under_try_is_not_needed() -> None:
    numba = importlib.util.find_spec("numba")
    assert numba is not None and numba.origin is not None
    site = Path(numba.origin).parents[1]
    ufunc = site / "numba" / "np" / "ufunc"
    extensions = [*ufunc.glob("tbbpool.*.so"), *ufunc.glob("omppool.*.so"), *ufunc.glob("workqueue.*.so")]

    found = find_libraries({f"opt/{path.name}": path for path in extensions}, site)

    assert len(extensions) == 3
    assert not [library for library in found.needed if library.startswith(("libtbb", "libgomp"))]
    assert found.needed["libc.so.6"] == ["numba"]


@pytest.mark.parametrize(
    ("source", "is_one"),
    [
        ("try:\n    from pkg import _fast\nexcept ImportError:\n    _fast = None\n", True),
        ("try:\n    import pkg._fast as f\nexcept (ImportError, AttributeError):\n    f = None\n", True),
        ("def f():\n    try:\n        from pkg._fast import g\n    except:\n        g = 1\n", True),
        ("try:\n    if True:\n        from . import _fast\nexcept OSError:\n    pass\n", True),
        ("from pkg import _fast\n", False),
        ("try:\n    from pkg import _fast\nexcept ImportError as e:\n    raise ImportError('no') from e\n", False),
        ("try:\n    from pkg import _fast\nexcept KeyError:\n    pass\n", False),
        ("try:\n    pass\nexcept ImportError:\n    from pkg import _fast\n", False),
        ("try:\n    from pkg import _fast\nfinally:\n    pass\n", False),
        ("load('_fast')\n", False),
        ("_fast = (\n", False),
    ],
)
def test_an_extension_is_optional_if_every_import_may_fail(tmp_path: Path, source: str, is_one: bool) -> None:
    (tmp_path / "a.py").write_text(source)
    (tmp_path / "b.py").write_text("try:\n    from pkg import _fast\nexcept ImportError:\n    pass\n")
    sources = [tmp_path / "a.py", *([tmp_path / "b.py"] if "import" in source else [])]

    assert is_optional(Path("_fast.cpython-311-x86_64-linux-gnu.so"), sources) is is_one
    assert not is_optional(Path("lib_fast.so.1"), sources)


@pytest.mark.skipif(sys.platform != "linux", reason="ELF is Linux's")
def test_names_and_needs_are_read_only_from_elf_files(tmp_path: Path) -> None:
    real = Path(__import__("zstandard.backend_c").backend_c.__file__)
    (tmp_path / "script.so").write_text("INPUT(libc.so.6)")
    (tmp_path / "cut.so").write_bytes(real.read_bytes()[:100])
    (tmp_path / "whole.so").write_bytes(real.read_bytes())

    found = find_libraries({f"opt/{path.name}": path for path in tmp_path.iterdir()}, tmp_path)

    assert "libc.so.6" in found.needed
    assert found.needed["libc.so.6"] == ["whole.so"]
    assert set(found.offered) == {"script.so", "cut.so", "whole.so"}


@pytest.mark.parametrize(
    ("name", "is_one"),
    [
        ("lib/libcrypto-5409cd36.so.1.1.1k", True),
        ("libgomp.so.1.0.0", True),
        ("_core.cpython-311-x86_64-linux-gnu.so", True),
        ("libfoo.so.2-rc1", True),
        ("libfoo.so.py", False),
        ("libfoo.so.", False),
        ("notes.sofa", False),
    ],
)
def test_a_library_is_recognized_by_name_in_any_version(name: str, is_one: bool) -> None:
    assert bool(LIBRARY_NAME.fullmatch(name)) is is_one


@pytest.mark.slow
def test_a_missing_library_is_reported_with_the_package_that_needs_it(
    push_debian: PushBase, registry: Registry, inputs: dict[str, Any]
) -> None:
    base = push_debian(*GLIBC)

    with pytest.raises(ImageError) as caught:
        make_image(**inputs, base=base)

    assert "Missing shared libraries: libstdc++.so.6 (needed by ujson)" in str(caught.value)
    assert "the base (Debian GNU/Linux 12 (bookworm)) provide them" in str(caught.value)
    assert "libstdc++6" in str(caught.value.hint)
    assert registry.manifest_digest("models", "v1") is None


@pytest.mark.slow
def test_a_missing_library_can_be_noted_instead(push_debian: PushBase, inputs: dict[str, Any]) -> None:
    make_image(**inputs, base=push_debian(*GLIBC), missing_libraries="note")

    assert any("libstdc++.so.6 (needed by ujson)" in line for line in inputs["progress"].lines)


@pytest.mark.slow
def test_a_new_base_is_checked_and_a_known_one_is_not(push_debian: PushBase, inputs: dict[str, Any]) -> None:
    whole, lacking = push_debian(*GLIBC, "libstdc++.so.6"), push_debian(*GLIBC, tag="lacking")
    first = make_image(**inputs, base=whole).reference
    looked = [line for line in inputs["progress"].lines if "scanning base image" in line]

    make_image(**{**inputs, "model_key": "other"}, base=whole, previous=first)

    assert [line for line in inputs["progress"].lines if "scanning base image" in line] == looked
    with pytest.raises(ImageError, match=r"libstdc\+\+\.so\.6"):
        make_image(**{**inputs, "destination": replace(inputs["destination"], tag="v2")}, base=lacking, previous=first)


@pytest.mark.slow
def test_a_new_machine_notes_what_it_cannot_check(
    push_debian: PushBase, inputs: dict[str, Any], tmp_path: Path
) -> None:
    first = make_image(**inputs, base=push_debian(*GLIBC, "libstdc++.so.6")).reference
    elsewhere = {**inputs, "cache": tmp_path / "empty", "destination": replace(inputs["destination"], tag="v2")}

    make_image(**elsewhere, base=push_debian(*GLIBC, tag="lacking"), previous=first)

    assert "library check skipped for layers built on another machine: dependencies" in " ".join(
        inputs["progress"].lines
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("files", "complaint"),
    [
        ({"usr/bin/python3.9": "", "usr/bin/python3": ""}, rf"has Python 3\.9, but the model requires Python {MINOR}"),
        ({"usr/bin/perl": ""}, rf"has no Python, but the model requires Python {MINOR}"),
        (
            {
                "lib/ld-musl-x86_64.so.1": "",
                f"usr/bin/python{MINOR}": "",
                "etc/os-release": "PRETTY_NAME='Alpine 3.20'",
            },
            r"\(Alpine 3\.20\) uses musl",
        ),
    ],
)
def test_a_base_that_cannot_run_the_packages_is_refused_before_they_are_installed(
    make_base: PushBase, inputs: dict[str, Any], files: dict[str, str], complaint: str
) -> None:
    base = make_base("own/base", "1", files=[files], python_version=None)

    with pytest.raises(ImageError, match=rf"(?s){complaint}.*hint: "):
        make_image(**inputs, base=base)
    assert not any("installing" in line for line in inputs["progress"].lines)


@pytest.mark.slow
def test_a_custom_base_does_not_have_to_state_its_python_version(make_base: PushBase, inputs: dict[str, Any]) -> None:
    libraries = {f"{LIBRARY_FOLDER}/{name}": "" for name in (*GLIBC, "libstdc++.so.6")}
    base = make_base("own/base", "1", files=[libraries | {f"opt/venv/bin/python{MINOR}": ""}], python_version=None)

    image = make_image(**inputs, base=base)

    assert image.reference.digest


@pytest.mark.slow
def test_upper_layers_delete_files_of_lower_ones(make_base: PushBase, registry: Registry, tmp_path: Path) -> None:
    lower = {"usr/lib/liba.so.1": "", "usr/lib/libb.so.1": "", "opt/libc.so.6": "", "etc/os-release": BOOKWORM}
    upper = {"usr/lib/.wh.liba.so.1": "", "opt/.wh..wh..opq": "", "var/lib/dpkg/status": "Package: libc6\n"}
    reference = make_base("library/python", "layered", files=[lower, upper])

    found = read(registry, reference, tmp_path)

    assert found.libraries == ("libb.so.1",)
    assert found.system == "Debian GNU/Linux 12 (bookworm)"
    assert found.packages == "Package: libc6\n"
    assert read(registry, reference, tmp_path) == found


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="this machine's Python cannot be a base image")
def test_the_local_stacks_base_is_read_like_any_other(tmp_path: Path) -> None:
    with LocalRegistry(tmp_path / "registry", password=None) as server, Registry(server.address) as registry:
        seed_shared_base_image(server.store)
        reference = Reference(server.address, "docker/library/python", f"{MINOR}-slim")

        found = read(registry, reference, tmp_path)

    assert found.is_this_machine
    assert {"libc.so.6", "libpthread.so.0", "libstdc++.so.6"} < set(found.libraries)
    assert found.glibc == platform.libc_ver()[1]
    assert found.pythons == (MINOR,)


@pytest.mark.exhaustive
def test_lightgbm_is_known_to_need_libgomp(push_debian: PushBase, inputs: dict[str, Any]) -> None:
    base = push_debian(*GLIBC, "libstdc++.so.6", "libdl.so.2", "librt.so.1", "libz.so.1", "libutil.so.1")

    with pytest.raises(ImageError, match=r"shared libraries: libgomp\.so\.1 \(needed by lightgbm\)\."):
        make_image(**{**inputs, "requirements": ["lightgbm"]}, base=base)


@pytest.mark.exhaustive
def test_a_missing_library_can_be_added_as_a_debian_package(
    make_base: PushBase, registry: Registry, inputs: dict[str, Any]
) -> None:
    status = "Package: libc6\nStatus: install ok installed\nVersion: 2.36-9+deb12u10\n"
    libraries = {f"{LIBRARY_FOLDER}/{name}": "" for name in GLIBC}
    system = {"usr/lib/os-release": BOOKWORM, "var/lib/dpkg/status": status}
    base = make_base("library/python", "3-slim", files=[system, libraries])

    image = make_image(**inputs, base=base, system_packages=["libstdc++6"])

    layers = registry.read_manifest("models", str(image.reference.digest), LINUX_AMD64).manifest.own_layers()
    assert [layer.name for layer in layers.values()] == ["dependencies", "system", "service", "model"]

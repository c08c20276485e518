"""Locks and installations with uv and tiny packages from PyPI."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlflow_fargate.errors import ImageError
from mlflow_fargate.image.layers.layer import Compression, files_below
from mlflow_fargate.image.oci.platforms import LINUX_AMD64, LINUX_ARM64
from mlflow_fargate.image.packages.bytecode import compiled_files
from mlflow_fargate.image.packages.lock_file import Lock, LockedPackage, check_urls, parse_pylock
from mlflow_fargate.image.packages.package_layers import make_groups, make_package_recipes, site_files
from mlflow_fargate.image.packages.uv import Indexes, find_interpreter, install, lock

RUNNING = f"{sys.version_info[0]}.{sys.version_info[1]}"


def ignore(_note: str) -> None:
    pass


def test_a_package_by_url_must_be_named_by_a_line() -> None:
    ours = LockedPackage("ours", "ours @ https://h.example/a%2Bb/ours-1-py3-none-any.whl", ())
    other = LockedPackage("other", "other @ http://169.254.169.254/other-1-py3-none-any.whl", ())
    lines = ["ours @ https://me:secret@h.example/a+b/ours-1-py3-none-any.whl ; python_version >= '3'", "six"]

    check_urls([ours, LockedPackage("six", "six==1.17.0", ())], lines)
    with pytest.raises(ImageError, match="requires other by URL"):
        check_urls([ours, other], lines)


@pytest.mark.slow
def test_a_lock_pins_with_hashes_and_installs(tmp_path: Path) -> None:
    locked = lock(["six==1.17.0", "idna"], python_version="3.11.7", platform=LINUX_AMD64, cache=tmp_path)
    (tmp_path / "site").mkdir()

    install(locked, tmp_path / "site")

    assert [package.name for package in locked.packages] == ["idna", "six"]
    assert "six==1.17.0 \\\n    --hash=sha256:" in locked.text
    assert locked.python_version == "3.11"
    assert (tmp_path / "site" / "six.py").exists()


@pytest.mark.slow
def test_a_lock_is_reused_for_a_day(tmp_path: Path) -> None:
    def locked_at(moment: float) -> str:
        return lock(["six"], python_version="3.11", platform=LINUX_AMD64, cache=tmp_path, clock=lambda: moment).text

    real = locked_at(0)
    (path,) = (tmp_path / "locks").iterdir()
    path.write_text('[[packages]]\nname = "six"\nversion = "0"\n')

    assert locked_at(time.time() + 3600) == "six==0\n"
    assert locked_at(time.time() + 25 * 3600) == real


@pytest.mark.slow
def test_packages_without_wheels_are_named(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"(?s)No wheel for docopt \(Python 3\.11, linux/amd64\).*hint: "):
        lock(["docopt==0.6.2", "six"], python_version="3.11", platform=LINUX_AMD64, cache=tmp_path)
    with pytest.raises(ImageError, match=r"No wheel for tensorflow-cpu \(Python 3\.11, linux/arm64\)"):
        lock(["tensorflow-cpu==2.21.0"], python_version="3.11", platform=LINUX_ARM64, cache=tmp_path)


@pytest.mark.slow
def test_conflicting_requirements_are_shown_with_uvs_output(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"(?s)six==1\.16.*six==1\.17"):
        lock(["six==1.16", "six==1.17"], python_version="3.11", platform=LINUX_AMD64, cache=tmp_path)


@pytest.mark.slow
def test_a_build_that_is_not_on_pypi_is_reported_with_its_index(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"(?s)hint: six==1\.17\.0\+cpu is not on PyPI.* extra_index_urls=https://"):
        lock(["six==1.17.0+cpu"], python_version="3.11", platform=LINUX_AMD64, cache=tmp_path)


@pytest.mark.slow
def test_an_index_password_is_never_shown(tmp_path: Path, scripted: Any) -> None:
    url = f"http://me:secret@{scripted.host}/simple"

    with pytest.raises(ImageError) as caught:
        lock(["six"], python_version="3.11", platform=LINUX_AMD64, cache=tmp_path, indexes=Indexes(url))

    assert scripted.seen("GET")[0].path == "/simple/six/"
    assert "secret" not in str(caught.value)
    assert "secret" not in repr(Lock((), "3.11", LINUX_AMD64, (f"--index-url {url}",)))
    assert "secret" not in repr(LockedPackage("six", f"six @ {url}", ("sha256:1",)))


def test_an_interpreter_is_found_for_this_minor_version_but_not_for_an_unknown_one() -> None:
    assert find_interpreter(f"{RUNNING}.0") == sys.executable
    assert find_interpreter("3.99") is None


def test_only_reviewed_files_are_excluded(tmp_path: Path) -> None:
    kept = [
        "tensorflow/_api/v2/__internal__/test/__init__.py",
        "numpy/testing/__init__.py",
        "mypackage/tests/__init__.py",
        "six-1.17.0.dist-info/METADATA",
        "torch/bin/tool",
    ]
    dropped = [
        "tensorflow/include/a/b.h",
        "clang/native/libclang.so",
        "numpy/tests/test_a.py",
        "scipy/special/tests/data/x.npz",
        "six-1.17.0.dist-info/RECORD",
        "bin/six",
        ".lock",
    ]
    for name in (*kept, *dropped):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()

    assert set(site_files(tmp_path, ignore)) == {f"opt/app/site/{name}" for name in kept}


def test_a_named_program_is_kept_but_scripts_are_not(tmp_path: Path) -> None:
    for name in ("bin/uv", "bin/uvx", "bin/flask"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()

    assert set(site_files(tmp_path, ignore, ["uv"])) == {"opt/app/site/bin/uv"}


def test_pth_files_are_noted(tmp_path: Path) -> None:
    (tmp_path / "google-nspkg.pth").touch()
    (tmp_path / "distutils-precedence.pth").touch()
    notes: list[str] = []

    site_files(tmp_path, notes.append)

    assert len(notes) == 1
    assert "google-nspkg.pth" in notes[0]


def compiled_at(site: Path, cache: Path) -> dict[str, Path]:
    return compiled_files(files_below(site, "opt/app/site"), sys.executable, cache)


def test_compiled_files_do_not_depend_on_where_they_are_compiled(tmp_path: Path) -> None:
    made = []
    for place in ("one", "another/place"):
        site = tmp_path / place
        (site / "package").mkdir(parents=True)
        (site / "package" / "module.py").write_text("def f(): raise ValueError\n")
        (site / "package" / "template.py").write_text("{% not python %}")
        found = compiled_at(site, tmp_path / place / "cache")
        made.append({name: path.read_bytes() for name, path in found.items()})

    assert made[0] == made[1]
    assert list(made[0]) == [f"opt/app/site/package/__pycache__/module.{sys.implementation.cache_tag}.pyc"]
    assert b"/opt/app/site/package/module.py" in next(iter(made[0].values()))


def test_only_new_files_are_compiled(tmp_path: Path) -> None:
    site, cache = tmp_path / "site", tmp_path / "cache"
    site.mkdir()
    (site / "same.py").write_text("x = 1\n")
    (site / "other.py").write_text("x = 1\n")
    before = {name: path.stat().st_ino for name, path in compiled_at(site, cache).items()}
    (site / "other.py").write_text("x = 2\n")

    after = {name: path.stat().st_ino for name, path in compiled_at(site, cache).items()}

    tag = sys.implementation.cache_tag
    assert {name for name in after if after[name] != before[name]} == {f"opt/app/site/__pycache__/other.{tag}.pyc"}


def test_compiled_files_are_used_without_reading_their_source(tmp_path: Path) -> None:
    (tmp_path / "module.py").write_text("print('compiled')")
    (compiled,) = compiled_at(tmp_path, tmp_path / "cache").values()
    (tmp_path / "__pycache__").mkdir()
    compiled.rename(tmp_path / "__pycache__" / f"module.{sys.implementation.cache_tag}.pyc")
    (tmp_path / "module.py").write_text("print('source')")

    command = [sys.executable, "-c", "import module"]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)

    assert run.stdout == "compiled\n"


def package(name: str, size_bytes: int = 0, *, digest: str = "1") -> LockedPackage:
    return LockedPackage(name, f"{name}==1", (f"sha256:{digest}",), size_bytes)


def recipe_keys(*packages: LockedPackage, cache: Path) -> dict[str, str]:
    locked = Lock(packages, RUNNING, LINUX_AMD64)
    recipes = make_package_recipes(locked, Compression.ZSTD, cache, ignore)
    return {recipe.name: recipe.key for recipe in recipes}


def test_the_heaviest_packages_have_separate_layers_and_the_rest_share_one() -> None:
    packages = [package(f"heavy-{i}", i * 20 * 10**6) for i in range(1, 9)]

    groups = make_groups([package("light"), *packages, package("unknown")])

    assert [name for name, _ in groups] == ["heavy-8", "heavy-7", "heavy-6", "heavy-5", "heavy-4", "dependencies"]
    assert [one.name for one in groups[-1][1]] == ["light", "heavy-1", "heavy-2", "heavy-3", "unknown"]
    assert make_groups([]) == []


def test_a_changed_pin_does_not_change_the_layers_of_other_packages(tmp_path: Path) -> None:
    tensorflow = package("tensorflow-cpu", 270 * 10**6)

    before = recipe_keys(tensorflow, package("six"), cache=tmp_path)
    after = recipe_keys(tensorflow, package("six", digest="2"), cache=tmp_path)

    assert after["tensorflow-cpu"] == before["tensorflow-cpu"]
    assert after["dependencies"] != before["dependencies"]


def test_a_lock_file_is_parsed_with_wheels_and_urls() -> None:
    text = """
        lock-version = "1.0"
        [[packages]]
        name = "six"
        version = "1.17.0"
        archive = { url = "https://example.org/six-1.17.0-py3-none-any.whl", hashes = { sha256 = "47" } }
        [[packages]]
        name = "idna"
        version = "3.20"
        wheels = [
            { url = "https://example.org/idna-3.20-py3-none-any.whl", size = 10, hashes = { sha256 = "02" } },
            { url = "https://a.example/idna-3.20-cp311-abi3-linux_x86_64.whl", size = 30, hashes = { sha256 = "01" } },
        ]
    """

    assert parse_pylock(text, "3.11", LINUX_AMD64) == (
        LockedPackage("idna", "idna==3.20", ("sha256:01",), 30),
        LockedPackage("six", "six @ https://example.org/six-1.17.0-py3-none-any.whl", ("sha256:47",)),
    )


# From the most preferred to the least: interpreter, then ABI, then platform, then build number.
_FITTING = (
    "cp311-cp311-manylinux_2_28_x86_64",
    "cp311-cp311-manylinux_2_17_x86_64.manylinux2014_x86_64",
    "cp311-abi3-manylinux2014_x86_64",
    "cp37-abi3-manylinux_2_28_x86_64",
    "py3-none-manylinux1_x86_64",
    "py2.py3-none-any",
)
_OTHER = (
    "cp312-cp312-manylinux_2_28_x86_64",
    "cp312-abi3-manylinux_2_17_x86_64",
    "cp311-cp311-manylinux_2_34_x86_64",
    "cp311-cp311-manylinux_2_17_aarch64",
    "cp311-cp311-musllinux_1_2_x86_64",
    "cp311-cp311-win_amd64",
    "cp311-cp311-macosx_11_0_arm64",
    "cp311-cp311t-manylinux_2_28_x86_64",
)


@given(
    st.lists(st.integers(0, len(_FITTING) - 1), min_size=1, unique=True),
    st.lists(st.sampled_from(_OTHER), unique=True),
    st.randoms(use_true_random=False),
)
def test_the_same_wheel_is_locked_whichever_other_wheels_are_listed(
    fitting: list[int], other: list[str], random: Random
) -> None:
    tags = [*(_FITTING[one] for one in fitting), *other]
    random.shuffle(tags)
    wheels = "".join(
        f"""{{ url = "https://example.org/a-1%2Bcpu-{tag}.whl", hashes = {{ sha256 = "{tag}" }} }},\n""" for tag in tags
    )

    (package,) = parse_pylock(
        f"""[[packages]]\nname = "a"\nversion = "1+cpu"\nwheels = [\n{wheels}]""", "3.11", LINUX_AMD64
    )

    assert package.hashes == (f"sha256:{_FITTING[min(fitting)]}",)


@pytest.mark.slow
def test_the_locked_wheel_is_installed_although_others_fit(tmp_path: Path) -> None:
    locked = lock(["charset-normalizer"], python_version=RUNNING, platform=LINUX_AMD64, cache=tmp_path)
    (tmp_path / "site").mkdir()

    install(locked, tmp_path / "site")

    (found,) = (tmp_path / "site").glob("*.dist-info/WHEEL")
    assert len(locked.packages[0].hashes) == 1
    assert f"Tag: cp{RUNNING.replace('.', '')}-cp{RUNNING.replace('.', '')}-manylinux" in found.read_text()


def test_a_machine_without_the_right_python_reuses_compiled_layers_from_others(tmp_path: Path) -> None:
    notes: list[str] = []
    locked = Lock((package("six"),), "3.99", LINUX_AMD64)

    (recipe,) = make_package_recipes(locked, Compression.ZSTD, tmp_path, notes.append)

    assert len(recipe.other_keys) == 1
    assert recipe.key not in recipe.other_keys
    assert "Python 3.99 is not installed" in notes[0]

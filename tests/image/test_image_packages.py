"""Locks and installations with uv and tiny packages from PyPI."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from mlflow_fargate.errors import ImageError
from mlflow_fargate.image.dependencies import compile_site, make_dependency_recipes, site_files
from mlflow_fargate.image.layer import Compression
from mlflow_fargate.image.packages import Lock, find_interpreter, install, lock
from mlflow_fargate.image.platforms import LINUX_AMD64, LINUX_ARM64

RUNNING = f"{sys.version_info[0]}.{sys.version_info[1]}"


def ignore(_note: str) -> None:
    pass


@pytest.mark.slow
def test_a_lock_pins_with_hashes_and_installs(tmp_path: Path) -> None:
    locked = lock(["six==1.17.0", "idna"], python_version="3.11.7", platform=LINUX_AMD64, cache=tmp_path)
    (tmp_path / "site").mkdir()

    install(locked, tmp_path / "site")

    assert locked.packages == ("idna", "six")
    assert "six==1.17.0 \\\n    --hash=sha256:" in locked.text
    assert locked.python_version == "3.11"
    assert (tmp_path / "site" / "six.py").exists()


@pytest.mark.slow
def test_a_lock_is_used_again_for_a_day(tmp_path: Path) -> None:
    def locked_at(moment: float) -> str:
        return lock(["six"], python_version="3.11", platform=LINUX_AMD64, cache=tmp_path, clock=lambda: moment).text

    real = locked_at(0)
    (path,) = (tmp_path / "locks").iterdir()
    path.write_text("six==0\n")

    assert locked_at(time.time() + 3600) == "six==0\n"
    assert locked_at(time.time() + 25 * 3600) == real


@pytest.mark.slow
def test_packages_without_wheels_are_named(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"(?s)no wheel of docopt for Python 3\.11 on linux/amd64.*hint: "):
        lock(["docopt==0.6.2", "six"], python_version="3.11", platform=LINUX_AMD64, cache=tmp_path)
    with pytest.raises(ImageError, match=r"no wheel of tensorflow-cpu for Python 3\.11 on linux/arm64"):
        lock(["tensorflow-cpu==2.21.0"], python_version="3.11", platform=LINUX_ARM64, cache=tmp_path)


@pytest.mark.slow
def test_requirements_that_do_not_fit_together_are_shown_in_uvs_words(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"(?s)six==1\.16.*six==1\.17"):
        lock(["six==1.16", "six==1.17"], python_version="3.11", platform=LINUX_AMD64, cache=tmp_path)


@pytest.mark.slow
def test_the_password_of_an_index_appears_nowhere(tmp_path: Path, scripted: Any) -> None:
    url = f"http://me:secret@{scripted.host}/simple"

    with pytest.raises(ImageError) as caught:
        lock(["six"], python_version="3.11", platform=LINUX_AMD64, cache=tmp_path, index_url=url)

    assert scripted.seen("GET")[0].path == "/simple/six/"
    assert "secret" not in str(caught.value)
    assert "secret" not in repr(Lock("six==1", "3.11", LINUX_AMD64, (f"--index-url {url}",)))


def test_the_running_interpreter_serves_its_own_minor_and_none_an_unknown_one() -> None:
    assert find_interpreter(f"{RUNNING}.0") == sys.executable
    assert find_interpreter("3.99") is None


def test_only_reviewed_files_are_left_out(tmp_path: Path) -> None:
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


def test_pth_files_are_pointed_out(tmp_path: Path) -> None:
    (tmp_path / "google-nspkg.pth").touch()
    (tmp_path / "distutils-precedence.pth").touch()
    notes: list[str] = []

    site_files(tmp_path, notes.append)

    assert len(notes) == 1
    assert "google-nspkg.pth" in notes[0]


def test_compiled_files_are_the_same_wherever_they_are_made(tmp_path: Path) -> None:
    compiled = []
    for place in ("one", "another/place"):
        site = tmp_path / place
        (site / "package").mkdir(parents=True)
        (site / "package" / "module.py").write_text("def f(): raise ValueError\n")
        (site / "package" / "template.py").write_text("{% not python %}")
        compile_site(site, sys.executable)
        compiled.append({path.relative_to(site): path.read_bytes() for path in site.rglob("*.pyc")})

    assert compiled[0] == compiled[1]
    assert len(compiled[0]) == 1
    assert b"/opt/app/site/package/module.py" in next(iter(compiled[0].values()))


def test_compiled_files_are_used_without_a_look_at_their_source(tmp_path: Path) -> None:
    (tmp_path / "module.py").write_text("print('compiled')")
    compile_site(tmp_path, sys.executable)
    (tmp_path / "module.py").write_text("print('source')")

    command = [sys.executable, "-c", "import module"]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)

    assert run.stdout == "compiled\n"


def test_a_machine_without_the_right_python_takes_compiled_layers_of_others(tmp_path: Path) -> None:
    notes: list[str] = []
    locked = Lock("six==1.17.0\n", "3.99", LINUX_AMD64)

    (recipe,) = make_dependency_recipes(locked, Compression.ZSTD, bytecode=True, work=tmp_path, note=notes.append)

    assert len(recipe.other_keys) == 1
    assert recipe.key not in recipe.other_keys
    assert "no Python 3.99" in notes[0]

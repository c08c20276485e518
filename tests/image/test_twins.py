"""Images of packages that write the same files: what is locked with real wheels, and what is refused."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Mapping
from hashlib import sha256
from importlib.metadata import requires
from pathlib import Path
from zipfile import ZipFile

import pytest
import uv
from packaging.specifiers import SpecifierSet

from mlflow_fargate.errors import ImageError
from mlflow_fargate.image import LINUX_ARM64, Compression, Reference, Registry
from mlflow_fargate.image.layers.layer import Recipe
from mlflow_fargate.image.oci.platforms import LINUX_AMD64, Platform
from mlflow_fargate.image.packages.file_lists import check_code, read_file_lists, save_code
from mlflow_fargate.image.packages.lock_file import Lock, LockedPackage
from mlflow_fargate.image.packages.package_layers import make_package_recipes
from mlflow_fargate.image.packages.requirements import normalize
from mlflow_fargate.image.packages.twins import find_replacements
from mlflow_fargate.image.packages.uv import lock
from mlflow_fargate.progress import RecordedProgress
from support.image import make_image

MINOR = f"{sys.version_info[0]}.{sys.version_info[1]}"
FILES = {"a.py": "sha256=1", "b.so": "sha256=2", "c/__init__.py": "sha256=3"}


def locked(lines: list[str], cache: Path, platform: Platform = LINUX_AMD64, *, adapt: bool = True) -> list[str]:
    wanted = normalize(lines, machine=platform.machine, adapt=adapt).lines
    return [one.requirement for one in lock(wanted, python_version="3.11", platform=platform, cache=cache).packages]


@pytest.mark.slow
@pytest.mark.parametrize("platform", [LINUX_AMD64, LINUX_ARM64], ids=str)
def test_xgboost_is_locked_once_and_without_gpu_libraries(platform: Platform, tmp_path: Path) -> None:
    pins = locked(["xgboost==3.2.0", "xgboost-cpu==3.2.0"], tmp_path, platform)

    assert [pin.partition("==")[0] for pin in pins] == ["numpy", "scipy", "xgboost-cpu"]
    assert "xgboost-cpu==3.2.0" in pins


@pytest.mark.slow
@pytest.mark.parametrize("platform", [LINUX_AMD64, LINUX_ARM64], ids=str)
@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        # imgaug depends on opencv-python.
        (["imgaug==0.4.0"], "opencv-python-headless"),
        (["imgaug==0.4.0", "opencv-python-headless==4.10.0.84"], "opencv-python-headless==4.10.0.84"),
        (["imgaug==0.4.0", "opencv-contrib-python"], "opencv-contrib-python-headless"),
    ],
)
def test_what_a_package_depends_on_is_replaced_too(
    lines: list[str], expected: str, platform: Platform, tmp_path: Path
) -> None:
    (pin,) = (pin for pin in locked(lines, tmp_path, platform) if "opencv" in pin)

    assert expected in (pin, pin.partition("==")[0])


@pytest.mark.slow
def test_without_adapting_the_named_distribution_replaces_what_others_depend_on(tmp_path: Path) -> None:
    pins = locked(["imgaug==0.4.0", "opencv-contrib-python==4.10.0.84"], tmp_path, adapt=False)

    assert [pin for pin in pins if "opencv" in pin] == ["opencv-contrib-python==4.10.0.84"]


def make_site(folder: Path, distributions: Mapping[str, Mapping[str, str]]) -> Path:
    for name, files in distributions.items():
        (folder / f"{name}-1.0.dist-info").mkdir(parents=True)
        rows = [*(f"{file},{digest},1" for file, digest in files.items()), f"{name}-1.0.dist-info/RECORD,,"]
        (folder / f"{name}-1.0.dist-info" / "RECORD").write_text("\n".join(rows))
    return folder


def check(layers: list[Mapping[str, Mapping[str, str]]], folder: Path) -> None:
    paths = [folder / f"{i}.json" for i in range(len(layers))]
    for path, distributions in zip(paths, layers, strict=True):
        save_code(read_file_lists(make_site(folder / f"site-{path.stem}", distributions)), path)
    check_code([*paths, folder / "unknown.json"])


@pytest.mark.parametrize(
    "layers",
    [
        pytest.param([{"one_gpu": FILES, "one": {**FILES, "b.so": "sha256=9"}}], id="in one layer"),
        pytest.param([{"one_gpu": FILES}, {"one": {**FILES, "b.so": "sha256=9"}}], id="in two layers"),
        pytest.param([{"one_gpu": FILES}, {"one": {"a.py": "sha256=9"}}], id="as a part"),
    ],
)
def test_distributions_with_different_files_at_the_same_paths_are_refused(
    layers: list[Mapping[str, Mapping[str, str]]], tmp_path: Path
) -> None:
    with pytest.raises(ImageError, match=r"(?s)one and one-gpu install the same files.*requirements="):
        check(layers, tmp_path)


@pytest.mark.parametrize(
    "other",
    [
        pytest.param(FILES, id="with equal files"),
        pytest.param({"c/__init__.py": "sha256=9", "d.py": "sha256=4"}, id="in one namespace"),
        pytest.param({"a.py": "sha256=9", "d.py": "sha256=4"}, id="with one file of several"),
        pytest.param({"LICENSE": "sha256=9"}, id="with other texts"),
    ],
)
def test_distributions_that_share_harmless_files_are_accepted(other: Mapping[str, str], tmp_path: Path) -> None:
    check([{"one": {**FILES, "LICENSE": "sha256=1"}}, {"other": other}], tmp_path)


def make_wheel(folder: Path, name: str) -> LockedPackage:
    """Returns a package, large enough for a layer of its own, with the module `same`."""
    path = folder / f"{name}-1-py3-none-any.whl"
    files = {
        "same.py": f"WRITER = {name!r}\n",
        f"{name}-1.dist-info/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n",
        f"{name}-1.dist-info/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    rows = [f"{file},sha256={sha256(text.encode()).hexdigest()},{len(text)}" for file, text in files.items()]
    with ZipFile(path, "w") as archive:
        for file, text in {**files, f"{name}-1.dist-info/RECORD": "\n".join(rows)}.items():
            archive.writestr(file, text)
    digest = f"sha256:{sha256(path.read_bytes()).hexdigest()}"
    return LockedPackage(name, f"{name} @ {path.as_uri()}", (digest,), 20 * 10**6)


@pytest.mark.slow
def test_layers_that_overwrite_each_other_are_refused_also_when_one_was_built_before(tmp_path: Path) -> None:
    packages = tuple(make_wheel(tmp_path, name) for name in ("one", "other"))

    def recipes() -> list[Recipe]:
        locked = Lock(packages, MINOR, LINUX_AMD64)
        return make_package_recipes(locked, Compression.ZSTD, tmp_path / "cache", lambda _: None)

    first, second = recipes()
    with first.files() as files:
        assert "opt/app/site/same.py" in files
    refused = r"one and other install the same files \(such as same\.py\)"
    with pytest.raises(ImageError, match=refused), second.files():
        pass
    with pytest.raises(ImageError, match=refused):
        recipes()


@pytest.fixture
def host(local_registry: str) -> str:
    """One registry is enough here."""
    return local_registry


@pytest.mark.slow
@pytest.mark.exhaustive
@pytest.mark.timeout(900)
def test_the_oldest_and_the_newest_uv_give_the_same_image(
    base: Reference, registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (floor,) = (re.search(r"[\d.]+", line) for line in requires("mlflow-fargate") or () if re.match(r"uv\W", line))
    assert floor
    (tmp_path / "service").mkdir()
    (tmp_path / "service" / "service.py").write_text("Service = None\n")
    digests, versions = [], []
    for wanted in (f"uv=={floor[0]}.0", "uv"):
        place = tmp_path / wanted
        command = [uv.find_uv_bin(), "pip", "install", "-q", "--upgrade", "--target", str(place), wanted]
        subprocess.run(command, check=True)
        with monkeypatch.context() as patch:
            patch.setattr(uv, "find_uv_bin", lambda place=place: str(place / "bin" / "uv"))
            versions.append(subprocess.check_output([uv.find_uv_bin(), "--version"], text=True))
            pushed = make_image(
                base=base,
                requirements=["mlflow", "scikit-learn", "xgboost", "charset-normalizer", "imgaug==0.4.0"],
                python_version=MINOR,
                service=tmp_path / "service",
                model={},
                destination=Reference(registry.host, f"models-{len(digests)}", "v1"),
                registry=registry,
                cache=place / "cache",
                progress=RecordedProgress(),
                missing_libraries="note",
            )
            digests.append(pushed.reference.digest)

    assert versions[0] != versions[1]
    assert digests[0]
    assert digests[1] == digests[0]


def test_a_version_that_is_any_text_has_no_replacement() -> None:
    assert find_replacements({"xgboost": SpecifierSet("===weird")}, "x86_64") == {}

"""Wheels inside models: installed from the model, and nothing that a model's author writes reaches anything else."""

from __future__ import annotations

import random
import shutil
import struct
import time
import zipfile
from base64 import b64encode
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from mlflow_fargate.config import parse_config
from mlflow_fargate.errors import FargateError, ImageError, ModelUnusable
from mlflow_fargate.image import PYPI, normalize, temporary_installation
from mlflow_fargate.image.docker.context import write_context
from mlflow_fargate.image.oci.platforms import LINUX_AMD64
from mlflow_fargate.image.oci.reference import Reference
from mlflow_fargate.image.packages.lock_file import Lock, LockedPackage
from mlflow_fargate.image.packages.uv import install, lock
from mlflow_fargate.image.spec import ImageSpec
from mlflow_fargate.model import ArtifactStores, download_model, resolve_model
from mlflow_fargate.progress import RecordedProgress
from mlflow_fargate.publisher.inputs import ImageInputs, image_inputs
from mlflow_fargate.publisher.wheels import check_wheel, check_wheels, share_wheels, wheels_of, with_wheels
from mlflow_fargate.resolved_model import ModelFile
from support.wheels import write_wheel

TINY = "wheels/tiny-1.0-py3-none-any.whl"
MAC = "wheels/mac-1.0-cp311-cp311-macosx_11_0_arm64.whl"
SHA = "sha256:" + "0" * 64


def no_s3() -> ArtifactStores:
    raise AssertionError("a local model needs no S3")


STORES = ArtifactStores(s3=no_s3)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    for name in (
        TINY,
        "code/ours-2.0+cpu-py3-none-any.whl",
        "a/twice-1-py3-none-any.whl",
    ):
        write_wheel(folder / name)
    write_wheel(folder / "b/twice-1-py3-none-any.whl", files={"other.py": "#"})
    write_wheel(folder / "wheels/mlflow-3.1.0-py3-none-any.whl")
    write_wheel(folder / MAC)
    (folder / "wheels/notawheel.whl").write_text("")
    (folder / "code/tiny-1.0.tar.gz").write_text("")
    (folder / "MLmodel").write_text(
        "flavors: {python_function: {loader_module: m, python_version: 3.11.7}}\nmlflow_version: 3.14.0\n"
    )
    return folder


def inputs_for(folder: Path, text: str, **options: object) -> ImageInputs:
    (folder / "requirements.txt").write_text(text)
    model = resolve_model(str(folder), stores=STORES, progress=RecordedProgress(), tracking_uri="sqlite://")
    return image_inputs(model, parse_config(options))


def lines_for(folder: Path, text: str, **options: object) -> list[str]:
    """Returns the lines for uv, with WHEELS instead of the folder of the model's wheels."""
    inputs = inputs_for(folder, text, **options)
    lines = normalize(inputs.requirements, machine="x86_64").lines
    every_image = ("bentoml", "mlflow-skinny", "httptools", "uvloop", "orjson", "pandas")
    place = f"model:{wheels_of(inputs.model).fingerprint}/model"
    return [
        line.replace("@ ", " @ ").replace("  ", " ").replace(place, "WHEELS")
        for line in lines
        if not line.startswith(every_image)
    ]


@pytest.mark.parametrize(
    ("line", "lines"),
    [
        (TINY, [f"tiny @ WHEELS/{TINY}"]),
        (f"./{TINY}", [f"tiny @ WHEELS/{TINY}"]),
        ("code/ours-2.0+cpu-py3-none-any.whl", ["ours @ WHEELS/code/ours-2.0+cpu-py3-none-any.whl"]),
        (f"tiny @ file:///home/me/dist/{TINY}", [f"tiny @ WHEELS/{TINY}"]),
        (f"file:///dbfs/tmp/{TINY}", [f"tiny @ WHEELS/{TINY}"]),
        (f"/Volumes/x/{TINY}", [f"tiny @ WHEELS/{TINY}"]),
        (f"../{TINY}", [f"tiny @ WHEELS/{TINY}"]),
        (f"{TINY}[more] ; python_version > '3.8'", [f'tiny[more] @ WHEELS/{TINY} ; python_version > "3.8"']),
        (f"tiny[more] @ file:{TINY}", [f"tiny[more] @ WHEELS/{TINY}"]),
        ("a/twice-1-py3-none-any.whl", ["twice @ WHEELS/a/twice-1-py3-none-any.whl"]),
        (f"{TINY} --hash={SHA}", [f"tiny @ WHEELS/{TINY}", f"-c tiny @ WHEELS/{TINY} --hash={SHA}"]),
        (f"{TINY}\ntiny>=1", [f"tiny @ WHEELS/{TINY}"]),
        (
            f"{TINY}#{SHA.replace(':', '=')}&egg=x".replace("sha256=", "SHA256%3D"),
            [f"tiny @ WHEELS/{TINY}", f"-c tiny @ WHEELS/{TINY} --hash={SHA}"],
        ),
        (
            f"{TINY} ; python_version > '3.8' --hash={SHA}",
            [
                f'tiny @ WHEELS/{TINY} ; python_version > "3.8"',
                f'-c tiny @ WHEELS/{TINY} ; python_version > "3.8" --hash={SHA}',
            ],
        ),
        ("file:code/ours-2.0%2Bcpu-py3-none-any.whl", ["ours @ WHEELS/code/ours-2.0+cpu-py3-none-any.whl"]),
        (rf"C:\Users\me\{TINY}", [f"tiny @ WHEELS/{TINY}"]),
        (f"dbfs:/tmp/{TINY}", [f"tiny @ WHEELS/{TINY}"]),
        (f"{MAC} ; sys_platform == 'darwin'\nsix", ["six"]),
        (f"{TINY} ; platform_machine == 'arm64'\nsix", ["six"]),
        (f"{MAC} ; implementation_name == 'pypy'\nsix", ["six"]),
        (f"{MAC} ; platform_python_implementation == 'PyPy'\nsix", ["six"]),
        (f"{MAC} ; python_full_version < '3.11'\nsix", ["six"]),
        (f"{MAC} ; implementation_version >= '3.12.0'\nsix", ["six"]),
        (f"{MAC} ; extra == 'gpu'\nsix", ["six"]),
        (f"{TINY} ; python_full_version >= '3.11.4'", [f'tiny @ WHEELS/{TINY} ; python_full_version >= "3.11.4"']),
        (f"{TINY} ; platform_machine ~= 'x'", [f'tiny @ WHEELS/{TINY} ; platform_machine ~= "x"']),
        (f"{TINY} ; python_version ~= '3'", [f'tiny @ WHEELS/{TINY} ; python_version ~= "3"']),
        ("wheels/mlflow-3.1.0-py3-none-any.whl ; python_version < '3.8'\nsix", ["six"]),
    ],
)
def test_a_line_that_names_a_wheel_of_the_model_installs_it(model: Path, line: str, lines: list[str]) -> None:
    assert lines_for(model, line) == lines


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("wheels/absent-1-py3-none-any.whl", "log its wheel"),
        ("elsewhere/twice-1-py3-none-any.whl", "log its wheel"),
        ("code/tiny-1.0.tar.gz", "cannot be read"),
        ("./code/tiny-1.0.tar.gz", "log its wheel"),
        ("wheels/notawheel.whl", "not named as a wheel"),
        (r"C:\dist\absent-1-py3-none-any.whl", "log its wheel"),
        ("dbfs:/tmp/absent-1-py3-none-any.whl", "log its wheel"),
        ("a/twice-1-py3-none-any.whl\nb/twice-1-py3-none-any.whl", "required from two places: model:.*a/twice"),
        (f"{TINY} ; python_version >", "cannot be read"),
        (MAC, r"requirements=mac==1\.0"),
        (f"{MAC} ; python_full_version < '3.11.4'", r"requirements=mac==1\.0"),
        (f"{MAC} ; python_full_version == '3.11.4'", r"requirements=mac==1\.0"),
        (f"{TINY}#md5={'0' * 32}", "hash that can be forged: md5"),
        ("--find-links wheels", "extra_pip_requirements="),
        (f"tiny @ model:{'0' * 32}/model/../../../{TINY}", "is not a package"),
        (f"tiny @ model:{'0' * 32}/model/secret", "is not a package"),
        (f"tiny @ MODEL:x/../../../outside/{TINY}", "is not a package"),
        ("http://h.example/tiny-1.0-py3-none-any.whl", "cannot be read"),
        ("tiny @ http://h.example/tiny-1.0-py3-none-any.whl", "https://"),
    ],
)
def test_other_places_are_refused_with_what_to_do(model: Path, line: str, said: str) -> None:
    with pytest.raises(FargateError, match=said):
        lines_for(model, f"numpy\n{line}\n")


def test_one_wheel_in_two_models_is_one_requirement(model: Path, tmp_path: Path) -> None:
    second = tmp_path / "second"
    shutil.copytree(model, second)
    code = tmp_path / "service.py"
    code.write_text("import bentoml\n\n@bentoml.service\nclass Both:\n    pass\n")
    models = [model, second]
    for folder in models:
        (folder / "requirements.txt").write_text(f"{TINY}\n")
    first, other = (
        resolve_model(str(folder), stores=STORES, progress=RecordedProgress(), tracking_uri="sqlite://")
        for folder in models
    )
    assert [file.etag for file in wheels_of(first).files] == [file.etag for file in wheels_of(other).files]

    inputs = image_inputs(first, parse_config({"service": str(code)}), {"other": other})

    assert tiny(inputs) == [f"tiny @ model:{wheels_of(first).fingerprint}/model/{TINY}"]

    unused = replace(first, requirements=("six",))
    inputs = image_inputs(unused, parse_config({"service": str(code)}), {"other": other})

    assert tiny(inputs) == [f"tiny @ model:{wheels_of(other).fingerprint}/model/{TINY}"]
    checked: list[str] = []
    with pytest.raises(RuntimeError):
        check_wheels(inputs.served.further_models["other"], lambda wheels: checked.append(wheels.fingerprint) or fail())
    assert checked == [wheels_of(other).fingerprint]


def fail() -> Path:
    raise RuntimeError


def tiny(inputs: ImageInputs) -> list[str]:
    return [line for line in normalize(inputs.requirements, machine="x86_64").lines if line.startswith("tiny")]


def test_twenty_thousand_wheels_and_lines_take_seconds(model: Path) -> None:
    inputs = inputs_for(model, "six\n")
    names = [f"{'deep/' * 20}w{number}-1-py3-none-any.whl" for number in range(20_000)]
    lines = (*names[:1000], *(["-f wheels2"] * 5000), *([".whl#" * 400 + " x"] * 500))
    crowded = replace(inputs.model, files=tuple(ModelFile(name, 1, "e") for name in names), requirements=lines)
    began = time.thread_time()

    adapted = with_wheels(crowded, (), "3.11", LINUX_AMD64)
    (shared,) = share_wheels([adapted])
    with pytest.raises(RuntimeError):
        check_wheels(shared, lambda _: fail())

    assert time.thread_time() - began < 60  # in quadratic time, minutes
    assert sum("model:" in line for line in shared.requirements) == 1000


def test_a_wheel_at_a_url_stays_one(model: Path) -> None:
    url = "https://h.example/tiny-1.0-py3-none-any.whl"

    assert lines_for(model, f"tiny @ {url}") == [f"tiny @ {url}"]


def test_the_deployers_option_replaces_a_wheel(model: Path) -> None:
    assert lines_for(model, TINY, requirements="Tiny==2.0") == ["tiny==2.0"]
    assert lines_for(model, MAC, requirements="mac==1.0") == ["mac==1.0"]


def test_mlflow_itself_comes_from_the_index(model: Path) -> None:
    inputs = inputs_for(model, f"wheels/mlflow-3.1.0-py3-none-any.whl\n{TINY}")

    assert [line for line in inputs.requirements if "mlflow" in line] == ["mlflow-skinny==3.14.0"]


@pytest.mark.slow
def test_a_wheel_is_installed_from_the_model_by_its_hash(model: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache with a space"
    inputs = inputs_for(model, f"{TINY}\ncode/ours-2.0+cpu-py3-none-any.whl")
    check_wheels(
        inputs.model,
        lambda wheels: download_model(wheels, stores=STORES, cache=cache, progress=RecordedProgress()),
    )
    lines = [line for line in normalize(inputs.requirements, machine="x86_64").lines if "model:" in line]

    locked = lock(lines, python_version="3.11", platform=LINUX_AMD64, cache=cache)
    again = lock(lines, python_version="3.11", platform=LINUX_AMD64, cache=cache)
    (tmp_path / "site").mkdir()
    install(locked, tmp_path / "site")

    assert locked == again
    assert [(one.name, one.is_sdist, len(one.hashes)) for one in locked.packages] == [
        ("ours", False, 1),
        ("tiny", False, 1),
    ]
    assert (tmp_path / "site" / "tiny.py").read_text() == 'VERSION = "1.0"\n'
    with temporary_installation(
        lines, python_version="3.11", platform=LINUX_AMD64, indexes=PYPI, adapt=True, cache=cache
    ) as installed:
        assert sorted(installed.pins.values()) == sorted(lines)
    with pytest.raises(ImageError, match="another hash"):
        lock([*lines, f"-c {lines[1]} --hash={SHA}"], python_version="3.11", platform=LINUX_AMD64, cache=cache)


def test_an_engine_that_cannot_read_the_cache_is_refused(tmp_path: Path) -> None:
    locked = Lock((LockedPackage("tiny", "tiny @ file:///cache/tiny.whl", (SHA,)),), "3.11", LINUX_AMD64)
    spec = ImageSpec(Reference.parse("python:3.11-slim"), "3.11", (), tmp_path)

    with pytest.raises(ImageError, match="builder=layers"):
        write_context(tmp_path / "context", spec, locked)


def test_a_repository_that_a_wheel_requires_is_not_cloned(tmp_path: Path) -> None:
    wheel = write_wheel(tmp_path / TINY, requires=["other @ git+https://127.0.0.1:9/x/y"])

    with pytest.raises(ImageError, match="transport 'https' not allowed"):
        lock([f"tiny @ {wheel.as_uri()}"], python_version="3.11", platform=LINUX_AMD64, cache=tmp_path / "cache")


def lying(path: Path) -> None:
    """A file that is a thousand times larger than the archive declares."""
    write_wheel(path, files={"blob.py": "#" * 3_000_000})
    path.write_bytes(path.read_bytes().replace(struct.pack("<I", 3_000_000), struct.pack("<I", 100)))


def overlapping(path: Path) -> None:
    """An index that names the same megabytes very often."""
    write_wheel(path, files={"blob.py": "#" * 10_000_000})
    with zipfile.ZipFile(path, "a") as archive:
        blob = archive.getinfo("blob.py")
        archive.filelist += [blob] * 100
        archive._didModify = True  # type: ignore[attr-defined]


def with_a_long_index(path: Path) -> None:
    content = write_wheel(path).read_bytes()
    path.write_bytes(content[:-10] + struct.pack("<I", 1 << 30) + content[-6:])


def in_the_format_for_large_files(path: Path) -> None:
    content = write_wheel(path).read_bytes()
    path.write_bytes(content[:-22] + b"PK\6\7" + b"\0" * 16 + content[-22:])


def damaged(path: Path) -> None:
    content = write_wheel(path, files={"blob.py": "".join(random.Random(1).choices("abcdef\n", k=5000))}).read_bytes()
    at = content.index(b"blob.py") + 1000
    path.write_bytes(content[:at] + bytes([content[at] ^ 255]) + content[at + 1 :])


def in_another_compression(path: Path) -> None:
    with zipfile.ZipFile(write_wheel(path), "a", zipfile.ZIP_LZMA) as archive:
        archive.writestr("more.py", "")


def no_zip_file(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"")


def with_metadata_without_end(path: Path) -> None:
    write_wheel(path, metadata="X: " + "x" * (2 << 20))


def requiring(text: str) -> Callable[[Path], None]:
    return lambda path: write_wheel(path, metadata=text) and None


@pytest.mark.parametrize(
    ("write", "said"),
    [
        (lying, "is damaged|cannot be unpacked"),
        (overlapping, "50 times its size"),
        (with_a_long_index, "too many files"),
        (in_the_format_for_large_files, "too many files"),
        (damaged, "is damaged|cannot be unpacked"),
        (in_another_compression, "compression"),
        (no_zip_file, "not a zip file"),
        (with_metadata_without_end, "by URL"),
        (requiring("Requires-Dist: other @ git+ssh://h.example/other\n"), "by URL"),
        (requiring("requires-dist :other[x]@file:///etc/passwd\n"), "by URL"),
        (requiring("Requires-Dist: other\n  @ http://169.254.169.254/latest\n"), "by URL"),
        (requiring(f"Requires-Dist: =?utf-8?B?{b64encode(b'other @ http://h.example/x').decode()}?=\n"), "by URL"),
        (requiring("Summary: x\rRequires-Dist: other @ http://169.254.169.254/latest\n"), "by URL"),
    ],
)
def test_a_hostile_wheel_is_refused_before_it_is_unpacked(
    tmp_path: Path, write: Callable[[Path], None], said: str
) -> None:
    path = tmp_path / TINY
    write(path)

    with pytest.raises(ModelUnusable, match=said) as refused:
        check_wheel(path, f"'{TINY}' in the model")

    assert "requirements=tiny==VERSION" in str(refused.value)


def test_a_wheel_with_ordinary_requirements_is_accepted(tmp_path: Path) -> None:
    requires = ["six>=1", "numpy ; platform_machine != 'a@b'", "pandas[excel]<3"]

    check_wheel(write_wheel(tmp_path / TINY, requires=requires, metadata="\nWrite to me@h.example.\n"), "tiny")


def test_no_changed_byte_of_a_wheel_ends_in_anything_but_a_reason(tmp_path: Path) -> None:
    chance = random.Random(2026)
    path = write_wheel(tmp_path / TINY, files={"blob.py": "#" * 100_000})
    content, refused = path.read_bytes(), 0
    began = time.process_time()

    for _ in range(600):
        changed = bytearray(content)
        for _ in range(chance.choice((1, 1, 2, 8))):
            changed[chance.randrange(len(changed))] = chance.choice((0, 255, chance.randrange(256)))
        path.write_bytes(changed)
        try:
            check_wheel(path, "tiny")
        except ModelUnusable:
            refused += 1

    assert refused > 300
    assert time.process_time() - began < 200

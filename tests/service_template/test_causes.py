"""The last line of a failed start, and what stands above it."""

from __future__ import annotations

import ctypes
import platform
import sys
from collections.abc import Callable
from importlib.machinery import ExtensionFileLoader
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import bentoml
import pytest

from fargate_service.cause import InputExampleError, ModelLoadError, make_cause, write_explanation
from fargate_service.errors import RequestError
from fargate_service.models.package_versions import describe_other_version
from mlflow_fargate.stop_reasons import find_cause, hint_for_stop


def raised(error: BaseException, cause: BaseException | None = None) -> BaseException:
    try:
        raise error from cause
    except BaseException as caught:
        return caught


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (raised(ModelLoadError(), KeyError("a")), "ModelLoadError: KeyError: 'a'"),
        (raised(InputExampleError(), RequestError(400, "no\ncolumns")), "InputExampleError: RequestError: no columns"),
        (
            raised(ModelLoadError("six 1 is installed"), MemoryError()),
            "ModelLoadError: MemoryError (six 1 is installed)",
        ),
        (ValueError("PORT is not a number"), "ServiceStartError: ValueError: PORT is not a number"),
        (
            raised(ModelLoadError(), raised(RuntimeError("cannot load"), ModuleNotFoundError("No module named 'x'"))),
            "ModelLoadError: RuntimeError: cannot load (caused by ModuleNotFoundError: No module named 'x')",
        ),
        (
            raised(ModelLoadError(), raised(RuntimeError("cannot load"), KeyError("x"))),
            "ModelLoadError: RuntimeError: cannot load",
        ),
    ],
)
def test_a_cause_is_one_line_that_the_deployer_finds(error: BaseException, cause: str) -> None:
    assert make_cause(error) == cause
    assert find_cause(["x", cause]) == cause


class Unprintable(Exception):
    def __str__(self) -> str:
        raise RuntimeError


def in_a_cycle() -> BaseException:
    error = ValueError("a")
    error.__cause__ = KeyError("b")
    error.__cause__.__cause__ = error
    return error


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (Unprintable(), "ModelLoadError: Unprintable"),
        (in_a_cycle(), "ModelLoadError: ValueError: a"),
        (ValueError("name\ud800"), "ModelLoadError: ValueError: name\\ud800"),
    ],
)
def test_an_exception_that_cannot_be_written_still_has_a_cause(
    capfd: pytest.CaptureFixture[str], error: BaseException, cause: str
) -> None:
    assert write_explanation(raised(ModelLoadError(), error)) == cause
    assert capfd.readouterr().out.endswith(f"{cause}\n")


def test_a_long_message_is_cut() -> None:
    assert len(make_cause(ValueError("x" * 10_000))) < 1100


def test_the_traceback_has_no_frames_of_frameworks(capsys: pytest.CaptureFixture[str]) -> None:
    class Fails:
        def __init__(self) -> None:
            raise OSError("libgomp.so.1: cannot open shared object file")

    service = bentoml.service(Fails)
    with pytest.raises(OSError, match="libgomp") as told:
        service()

    cause = write_explanation(told.value)

    written = capsys.readouterr().out
    assert written.endswith(f"{cause}\n")
    assert "test_causes.py" in written
    assert "_bentoml_sdk" not in written
    assert "system_packages=" in (hint_for_stop("", 1, written.splitlines()) or "")


@pytest.mark.parametrize("load", [ctypes.CDLL, lambda path: ExtensionFileLoader("made", path).load_module("made")])
@pytest.mark.parametrize(("machine", "order", "name"), [(183, "little", "aarch64"), (22, "big", "s390x")])
def test_a_library_for_another_cpu_is_not_called_missing(
    machine: int, order: Literal["little", "big"], name: str, load: Callable[[str], object], tmp_path: Path
) -> None:
    if platform.machine() == name:
        pytest.skip(f"this machine is {name}, so a library for it is not for another CPU")
    library = tmp_path / "made.so"
    header = bytearray(Path(sys.executable).read_bytes()[:64])
    header[5] = 1 if order == "little" else 2
    header[18:20] = machine.to_bytes(2, order)
    library.write_bytes(bytes(header) + bytes(4000))
    with pytest.raises((OSError, ImportError)) as raised_:
        load(str(library))

    cause = make_cause(raised(ModelLoadError(), raised_.value))

    assert cause.endswith(
        "made.so: cannot open shared object file: No such file or directory "
        f"(it is there, but built for {name}, not {platform.machine()})"
    )
    assert "built for another CPU" in (hint_for_stop("", 1, [cause]) or "")


def test_a_library_that_is_missing_is_called_missing(tmp_path: Path) -> None:
    said = f"{tmp_path}/none.so: cannot open shared object file: No such file or directory"
    (tmp_path / "text.so").write_text("not a library")

    assert make_cause(OSError(said)) == f"ServiceStartError: OSError: {said}"
    assert make_cause(OSError(said.replace("none", "text"))).endswith("No such file or directory")


def test_a_pickle_of_another_version_names_both(tmp_path: Path) -> None:
    installed = version("numpy")
    (tmp_path / "requirements.txt").write_text("not-installed==1\nnumpy==0.9  # old\npandas>=1\n")

    said = describe_other_version(ModuleNotFoundError("no", name="numpy._gone"), tmp_path)
    hint = hint_for_stop("", 1, [f"ModelLoadError: ModuleNotFoundError: no ({said})"])

    assert said == f"numpy {installed} is installed; the model was logged with 0.9"
    assert hint == f"the model was logged with numpy 0.9, and the image has {installed}: -C requirements=numpy==0.9"


@pytest.mark.parametrize("error", [KeyError("x"), ModuleNotFoundError("no", name="not_there.at_all")])
def test_versions_are_not_blamed_for_other_errors(error: Exception, tmp_path: Path) -> None:
    (tmp_path / "requirements.txt").write_text("numpy==0.9\n")

    assert describe_other_version(error, tmp_path) == ""


def test_a_model_with_its_own_versions_blames_none(tmp_path: Path) -> None:
    (tmp_path / "requirements.txt").write_text(f"numpy=={version('numpy')}\n")

    assert describe_other_version(ValueError("no"), tmp_path) == ""
    assert describe_other_version(ValueError("no"), tmp_path / "none") == ""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlflow_fargate.errors import ImageError
from mlflow_fargate.image.packages.requirements import normalize
from mlflow_fargate.resolved_model import without_credentials

_names = st.sampled_from(
    ["mlflow", "mlflow-skinny", "tensorflow", "tensorflow-cpu", "tensorflow-intel", "opencv-python", "Six", "pandas"]
)
_lines = st.lists(st.tuples(_names, st.sampled_from(["", "==2.21.0", ">=1", "[and-cuda]==2.21.0"])).map("".join))


@given(_lines, st.sampled_from(["x86_64", "aarch64"]))
def test_normalizing_is_idempotent(lines: list[str], machine: str) -> None:
    once = normalize(lines, machine=machine).lines

    assert normalize(once, machine=machine).lines == once


@given(_lines.flatmap(lambda lines: st.tuples(st.just(lines), st.permutations(lines))))
def test_the_order_of_the_lines_does_not_matter(pair: tuple[list[str], list[str]]) -> None:
    assert normalize(pair[0], machine="x86_64").lines == normalize(pair[1], machine="x86_64").lines


@pytest.mark.parametrize(("machine", "expected"), [("x86_64", "tensorflow-cpu"), ("aarch64", "tensorflow")])
def test_the_one_tensorflow_matches_the_machine(machine: str, expected: str) -> None:
    lines = ["tensorflow-cpu==2.21.0", "tensorflow==2.21.0", "tensorflow-intel==2.21.0"]

    assert normalize(lines, machine=machine).lines == (f"{expected}==2.21.0",)


def test_mlflow_is_replaced_by_its_slim_distribution_and_pandas() -> None:
    normalized = normalize(["mlflow==3.17.2", "scikit-learn==1.9.1"], machine="x86_64")

    assert normalized.lines == ("mlflow-skinny==3.17.2", "pandas<3", "scikit-learn==1.9.1")
    assert normalized.notes[0].startswith("mlflow → mlflow-skinny: ")


def test_the_models_own_pandas_is_kept() -> None:
    assert normalize(["mlflow", "pandas==3.1.1"], machine="x86_64").lines == ("mlflow-skinny", "pandas==3.1.1")


def test_mlflow_is_kept_or_dropped_on_request() -> None:
    assert normalize(["mlflow[gateway]==3.1"], machine="x86_64").lines == ("mlflow[gateway]==3.1",)


def test_opencv_loses_its_gui_and_cuda_its_extra() -> None:
    normalized = normalize(["opencv_python>=4", "tensorflow[and-cuda]"], machine="x86_64")

    assert normalized.lines == ("opencv-python-headless>=4", "tensorflow-cpu")
    assert len(normalized.notes) == 3


def test_duplicates_are_merged_into_one_line() -> None:
    assert normalize(["six>=1", "Six<2 # why", "", "# six"], machine="x86_64").lines == ("six<2,>=1",)


def test_lines_for_other_systems_stay_separate() -> None:
    lines = ['six==1.16; sys_platform == "win32"', "six==1.17"]

    assert len(normalize(lines, machine="x86_64").lines) == 2


def test_index_urls_come_first_and_are_kept() -> None:
    lines = ["six", "-i https://one.example/simple", "--extra-index-url=https://two.example/simple"]

    assert normalize(lines, machine="x86_64").lines == (
        "--index-url https://one.example/simple",
        "--extra-index-url https://two.example/simple",
        "six",
    )


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("-r more.txt", "another file"),
        ("-c constraints.txt", "another file"),
        ("-e .", "option"),
        ("--find-links /wheels", "option"),
        ("./code", "is a path on the machine"),
        ("/home/me/six.whl", "is a path on the machine"),
        ("wheels/six-1.17.0-py2.py3-none-any.whl", "is a path on the machine"),
        ("six @ file:///home/me/six.whl", "is a path on the machine"),
        ("git+https://github.com/benjaminp/six", "is a source distribution"),
        ("six @ git+https://github.com/benjaminp/six", "is a source distribution"),
        ("six==1.17.0 --hash=sha256:00", "hashes"),
        ("six six", "cannot be read"),
    ],
)
def test_unsupported_lines_are_refused_with_a_reason(line: str, reason: str) -> None:
    with pytest.raises(ImageError, match=reason):
        normalize([line], machine="x86_64")


def test_a_wheel_url_is_accepted() -> None:
    line = "six @ https://example.org/six-1.17.0-py2.py3-none-any.whl"

    (kept,) = normalize([line], machine="x86_64").lines

    assert kept.replace("six@", "six @") == line  # packaging before 26 writes no blank


def test_passwords_are_not_shown() -> None:
    assert without_credentials("see https://me:secret@host/simple") == "see https://host/simple"

    with pytest.raises(ImageError) as caught:
        normalize(["git+https://me:secret@host/x"], machine="x86_64")
    assert "secret" not in str(caught.value)


def test_without_adapting_packages_are_not_replaced() -> None:
    asked = ["tensorflow==2.21.0", "mlflow>=3", "opencv-python", "mlflow-skinny", "tensorflow<3"]

    kept = normalize(asked, machine="x86_64", adapt=False)

    assert kept.lines == ("mlflow-skinny", "mlflow>=3", "opencv-python", "tensorflow<3,==2.21.0")
    assert kept.notes == ()


def test_without_adapting_unsupported_lines_are_refused_too() -> None:
    with pytest.raises(ImageError, match="is a source distribution"):
        normalize(["git+https://example.com/a.git"], machine="x86_64", adapt=False)

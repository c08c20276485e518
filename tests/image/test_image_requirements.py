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
def test_normalising_twice_is_normalising_once(lines: list[str], machine: str) -> None:
    once = normalize(lines, machine=machine).lines

    assert normalize(once, machine=machine).lines == once


@given(_lines.flatmap(lambda lines: st.tuples(st.just(lines), st.permutations(lines))))
def test_the_order_of_the_lines_does_not_matter(pair: tuple[list[str], list[str]]) -> None:
    assert normalize(pair[0], machine="x86_64").lines == normalize(pair[1], machine="x86_64").lines


@pytest.mark.parametrize(("machine", "expected"), [("x86_64", "tensorflow-cpu"), ("aarch64", "tensorflow")])
def test_there_is_one_tensorflow_and_it_fits_the_machine(machine: str, expected: str) -> None:
    lines = ["tensorflow-cpu==2.21.0", "tensorflow==2.21.0", "tensorflow-intel==2.21.0"]

    assert normalize(lines, machine=machine).lines == (f"{expected}==2.21.0",)


def test_mlflow_becomes_its_slim_distribution_with_the_pandas_it_needs() -> None:
    normalized = normalize(["mlflow==3.17.2", "scikit-learn==1.9.1"], machine="x86_64")

    assert normalized.lines == ("mlflow-skinny==3.17.2", "pandas<3", "scikit-learn==1.9.1")
    assert normalized.notes[0].startswith("mlflow → mlflow-skinny: ")


def test_a_pandas_of_the_models_own_is_left_alone() -> None:
    assert normalize(["mlflow", "pandas==3.1.1"], machine="x86_64").lines == ("mlflow-skinny", "pandas==3.1.1")


def test_mlflow_is_kept_or_dropped_when_the_caller_says_so() -> None:
    assert normalize(["mlflow[gateway]==3.1"], machine="x86_64").lines == ("mlflow[gateway]==3.1",)


def test_opencv_loses_its_windows_and_cuda_its_extra() -> None:
    normalized = normalize(["opencv_python>=4", "tensorflow[and-cuda]"], machine="x86_64")

    assert normalized.lines == ("opencv-python-headless>=4", "tensorflow-cpu")
    assert len(normalized.notes) == 3


def test_duplicates_become_one_line_that_means_both() -> None:
    assert normalize(["six>=1", "Six<2 # why", "", "# six"], machine="x86_64").lines == ("six<2,>=1",)


def test_lines_for_other_systems_stay_lines_of_their_own() -> None:
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
        ("./code", "lies on the machine"),
        ("/home/me/six.whl", "lies on the machine"),
        ("wheels/six-1.17.0-py2.py3-none-any.whl", "lies on the machine"),
        ("six @ file:///home/me/six.whl", "lies on the machine"),
        ("git+https://github.com/benjaminp/six", "built from source"),
        ("six @ git+https://github.com/benjaminp/six", "built from source"),
        ("six==1.17.0 --hash=sha256:00", "hashes"),
        ("six six", "cannot be read"),
    ],
)
def test_lines_that_cannot_be_followed_are_refused_with_a_reason(line: str, reason: str) -> None:
    with pytest.raises(ImageError, match=reason):
        normalize([line], machine="x86_64")


def test_the_url_of_a_wheel_is_fine() -> None:
    line = "six @ https://example.org/six-1.17.0-py2.py3-none-any.whl"

    (kept,) = normalize([line], machine="x86_64").lines

    assert kept.replace("six@", "six @") == line  # packaging before 26 writes no blank


def test_passwords_are_not_shown() -> None:
    assert without_credentials("see https://me:secret@host/simple") == "see https://host/simple"

    with pytest.raises(ImageError) as caught:
        normalize(["git+https://me:secret@host/x"], machine="x86_64")
    assert "secret" not in str(caught.value)


def test_without_adapting_every_package_stays_what_was_asked_for() -> None:
    asked = ["tensorflow==2.21.0", "mlflow>=3", "opencv-python", "mlflow-skinny", "tensorflow<3"]

    kept = normalize(asked, machine="x86_64", adapt=False)

    assert kept.lines == ("mlflow-skinny", "mlflow>=3", "opencv-python", "tensorflow<3,==2.21.0")
    assert kept.notes == ()


def test_without_adapting_lines_that_cannot_be_followed_are_refused_all_the_same() -> None:
    with pytest.raises(ImageError, match="would have to be built from source"):
        normalize(["git+https://example.com/a.git"], machine="x86_64", adapt=False)

from __future__ import annotations

from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from packaging.requirements import Requirement

from mlflow_fargate.errors import ImageError
from mlflow_fargate.image.packages.requirements import lines_of_a_model, normalize, replace_locked_twins
from mlflow_fargate.image.packages.twins import LIBRARIES, Library
from mlflow_fargate.resolved_model import without_credentials

_names = st.sampled_from(
    ["mlflow", "mlflow-skinny", "Six", "pandas", *(name for one in LIBRARIES for name in (one.best, *one.others))]
)
_lines = st.lists(
    st.tuples(
        _names,
        st.sampled_from(["", "==2.21.0", ">=1", "<2", "[and-cuda]==2.21.0", "==2.21.0; sys_platform == 'linux'"]),
    ).map("".join)
)


def outcome(lines: list[str], machine: str, *, adapt: bool = True) -> tuple[str, ...]:
    """Returns the normalized lines; nothing if their versions contradict each other."""
    try:
        return normalize(lines, machine=machine, adapt=adapt).lines
    except ImageError as refused:
        assert "same library in different versions" in str(refused)
        return ()


def twins(names: Iterable[str], machine: str) -> list[set[str]]:
    """Returns the distributions that write the same files."""
    here = [one for one in LIBRARIES if machine in one.machines]
    both = [{one.best, *one.others, *one.parts} & set(names) for one in here]
    return [names for names in both if len(names) > 1]


def distributions(lines: Iterable[str]) -> set[str]:
    return {Requirement(line).name for line in lines if not line.startswith("--")}


@given(_lines, st.sampled_from(["x86_64", "aarch64"]))
def test_no_two_distributions_of_a_library_are_left(lines: list[str], machine: str) -> None:
    assert twins(distributions(outcome(lines, machine)), machine) == []


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
@pytest.mark.parametrize("library", LIBRARIES, ids=lambda library: f"{library.best}-{library.machines[0]}")
def test_each_distribution_gives_way_to_the_best_one_at_its_version(library: Library, machine: str) -> None:
    if machine in library.machines:
        for name in (library.best, *library.others):
            assert normalize([f"{name}==9.1"], machine=machine).lines == (f"{library.best}==9.1",)


@pytest.mark.parametrize(
    ("line", "lines"),
    [
        ("faiss-gpu-cu12==1.8.0.2", ("faiss-cpu==1.8.*",)),
        ("faiss-gpu-cu12==1.14.1.post1", ("faiss-cpu==1.14.*",)),
        ("faiss-gpu-cu12~=1.8.0.2", ("faiss-cpu==1.8.*",)),
        ("faiss-gpu-cu12===1.8.0.2", ("faiss-cpu==1.8.*",)),
        ("faiss-gpu>=1.7,<2", ("faiss-cpu<2,>=1.7",)),
        ("faiss-gpu-cu12>=1.8.0.2,<=1.9.0.0", ("faiss-cpu<1.10,>=1.8",)),
        ("faiss-gpu<=1.7.2", ("faiss-cpu<1.8",)),
        ("faiss-gpu>1.7.2", ("faiss-cpu>1.7.2",)),
        ("faiss-cpu<=1.8.0", ("faiss-cpu<=1.8.0",)),
        ("faiss-cpu==1.8.0", ("faiss-cpu==1.8.0",)),
        ("faiss-cpu\n-c faiss-gpu-cu11==1.9.0.0", ("faiss-cpu", "-c faiss-gpu-cu11==1.9.0.0")),
        ("xgboost==3.0.1", ("xgboost-cpu==3.0.1",)),
    ],
)
def test_a_distribution_with_patches_of_its_own_gives_way_at_its_minor_version(line: str, lines: tuple[str]) -> None:
    assert normalize(line.split("\n"), machine="x86_64").lines == lines


@given(_lines, st.booleans(), st.sets(_names.filter(str.islower)))
def test_no_two_distributions_are_locked(lines: list[str], adapt: bool, further: set[str]) -> None:
    kept = outcome(lines, "x86_64", adapt=adapt)
    locked = dict.fromkeys(distributions(kept) | further, "2.21.0")
    try:
        better = replace_locked_twins(kept, locked, "x86_64")
    except ImageError:
        assert not adapt  # the lines contradict each other
        return

    added, removed = (distributions(better[0]), set(better[1])) if better else (set(), set())
    assert twins(locked.keys() - removed | added, "x86_64") == []
    assert not added & removed


@given(_lines, st.sampled_from(["x86_64", "aarch64"]))
def test_normalizing_is_idempotent(lines: list[str], machine: str) -> None:
    once = outcome(lines, machine)

    assert normalize(once, machine=machine).lines == once


@given(_lines.flatmap(lambda lines: st.tuples(st.just(lines), st.permutations(lines))))
def test_the_order_of_the_lines_does_not_matter(pair: tuple[list[str], list[str]]) -> None:
    assert outcome(pair[0], "x86_64") == outcome(pair[1], "x86_64")


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


def test_xgboost_is_replaced_in_the_versions_that_its_cpu_distribution_has() -> None:
    assert normalize(["xgboost==3.2.0", "xgboost-cpu==3.2.0"], machine="x86_64").lines == ("xgboost-cpu==3.2.0",)
    assert normalize(["xgboost>=2"], machine="aarch64").lines == ("xgboost-cpu>=2",)
    for early in ("xgboost==1.7.6", "xgboost<2.1.1", "xgboost~=1.7", "xgboost==1.*"):
        assert normalize([early], machine="x86_64").lines == (early,)


def test_a_distribution_with_more_of_the_library_is_kept() -> None:
    lines = ["opencv-python==4.10.0.84", "opencv-contrib-python", "opencv-python-headless"]

    assert normalize(lines, machine="x86_64").lines == ("opencv-contrib-python-headless==4.10.0.84",)


@pytest.mark.parametrize(
    ("lines", "kept"),
    [
        (["opencv-python==4.9.0.80", "opencv-python-headless==4.10.0.84"], "opencv-python-headless==4.10.0.84"),
        (["tensorflow==2.15.1", "tensorflow-cpu==2.15.0"], "tensorflow-cpu==2.15.0"),
        (["xgboost<3", "xgboost-cpu==3.2.0"], "xgboost-cpu==3.2.0"),
        (["xgboost==3.0.0; sys_platform == 'linux'", "xgboost-cpu==2.1.1"], "xgboost-cpu==2.1.1"),
        (["faiss-cpu==1.11.0", "faiss-gpu-cu12==1.12.0; python_version > '3.9'"], "faiss-cpu==1.11.0"),
        (["onnxruntime-training==1.19.2", "onnxruntime==1.20.0"], "onnxruntime==1.20.0"),
    ],
)
def test_the_version_of_the_kept_distribution_counts(lines: list[str], kept: str) -> None:
    normalized = normalize(lines, machine="x86_64")

    assert normalized.lines == (kept,)
    assert "in different versions" in normalized.notes[-1]


def test_replaced_distributions_in_different_versions_are_refused_until_one_is_chosen() -> None:
    lines = ["tensorflow==2.15.1", "tensorflow-intel==2.15.0"]

    with pytest.raises(ImageError, match=r"tensorflow-intel==2\.15\.0, tensorflow==2\.15\.1") as refused:
        normalize(lines, machine="x86_64")

    assert "requirements=tensorflow-cpu==VERSION" in str(refused.value)
    assert normalize([*lines, "tensorflow-cpu==2.15.1"], machine="x86_64").lines == ("tensorflow-cpu==2.15.1",)


def test_versions_for_some_environments_stay_apart_unless_the_kept_distribution_is_pinned() -> None:
    marked = "xgboost==3.0.0; sys_platform == 'darwin'"

    lines = normalize([marked, "xgboost-cpu>=2.1.1"], machine="x86_64").lines
    merged = normalize([marked.replace("3.0.0", "2.1.1"), "xgboost-cpu==2.1.1"], machine="x86_64").lines

    assert lines == ('xgboost-cpu==3.0.0; sys_platform == "darwin"', "xgboost-cpu>=2.1.1")
    assert merged == ("xgboost-cpu==2.1.1",)


def test_a_distribution_by_url_replaces_the_others() -> None:
    line = "xgboost @ https://example.org/xgboost-3.2.0-py3-none-any.whl"

    assert distributions(normalize([line, "xgboost-cpu==3.1.0"], machine="x86_64").lines) == {"xgboost"}


@pytest.mark.parametrize(
    ("lines", "locked", "better"),
    [
        (["a", "xgboost-cpu>=3"], {"xgboost": "3.2.0", "xgboost-cpu": "3.2.0"}, ["a", "xgboost-cpu<=3.2.0,>=3"]),
        (["a", "xgboost-cpu==3.2.0"], {"xgboost": "3.0.0", "xgboost-cpu": "3.2.0"}, ["a", "xgboost-cpu==3.2.0"]),
        (["a"], {"xgboost": "3.2.0"}, ["a", "xgboost-cpu<=3.2.0"]),
        (["a", "xgboost"], {"xgboost": "3.2.0", "xgboost-cpu": "3.1.0"}, ["a", "xgboost<=3.1.0"]),
        (["a", "xgboost"], {"xgboost": "3.2.0"}, None),
        (["a"], {"xgboost": "1.7.6"}, None),
        # A build of another index; only == accepts its label.
        (["a"], {"xgboost": "3.2.0+cu12"}, ["a", "xgboost-cpu<=3.2.0"]),
    ],
)
def test_locked_twins_are_replaced_by_what_a_requirement_names_else_by_the_best(
    lines: list[str], locked: dict[str, str], better: list[str] | None
) -> None:
    found = replace_locked_twins(lines, {"a": "1", **locked}, "x86_64")

    assert (found[0] if found else None) == better


def test_the_distribution_that_tensorflow_depends_on_is_kept_on_arm() -> None:
    locked = {"tensorflow": "2.15.1", "tensorflow-cpu-aws": "2.15.1"}

    assert replace_locked_twins(["tensorflow==2.15.1"], locked, "aarch64") is None
    assert twins(locked, "aarch64") == []


def test_gpu_packages_and_extras_are_dropped() -> None:
    normalized = normalize(["jax[cuda12,k8s]", "jax-cuda12-plugin", "jax_cuda12_pjrt==0.6"], machine="x86_64")

    assert normalized.lines == ("jax[k8s]",)
    assert len(normalized.notes) == 3


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
        ("six @ FILE:///home/me/six.whl", "is a path on the machine"),
        ("six@/home/me/six.whl", "is a path on the machine"),
        ("six @ ./six.whl", "is a path on the machine"),
        ("six @ ../../home/me/six", "is a path on the machine"),
        ("six @ https:///home/me/six.whl", "is a path on the machine"),
        ("six @ GIT+https://example.org/six", "is a source distribution"),
        ("git+https://github.com/benjaminp/six", "is a source distribution"),
        ("six @ git+https://github.com/benjaminp/six", "is a source distribution"),
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


OWN_INDEX = "https://me:secret@pypi.example.com/simple"


def test_a_models_index_is_accepted_only_if_the_options_name_it() -> None:
    lines = ["--index-url https://pypi.example.com/simple/", "-i https://pypi.org/simple", "six  # a comment", ""]

    assert lines_of_a_model(lines, (None, OWN_INDEX)) == ("six",)
    with pytest.raises(ImageError, match=r"not among the options: https://pypi\.example\.com/simple/") as refused:
        lines_of_a_model(lines, (None,))
    assert "extra_index_urls=https://pypi.example.com/simple/" in str(refused.value)


@pytest.mark.parametrize(
    "line",
    [
        "--extra-index-url http://evil.example/simple",
        "--extra-index-url=file:///srv/wheels",
        "-i https://pypi.example.com.evil.example/simple",
        "-i https://evil.example/simple#https://pypi.example.com/simple",
        "-f https://evil.example",
        "--find-links /srv/wheels",
        "-fhttps://evil.example",
        "x @ git+https://evil.example/x",
        "git+https://evil.example/x",
        "x @ http://169.254.169.254/x.whl",
        "x @ file:///x.whl",
        "x @ ../x",
        "-e .",
        "--index-url https://${TOKEN}.evil.example",
        "--trusted-host evil.example",
        "--pre",
        "-r other.txt",
    ],
)
def test_a_models_lines_do_not_widen_where_packages_come_from(line: str) -> None:
    with pytest.raises(ImageError):
        lines_of_a_model(["six", line], (OWN_INDEX,))


def test_a_models_wheel_at_an_https_url_is_kept() -> None:
    line = "x @ https://h.example/x-1-py3-none-any.whl"

    assert lines_of_a_model([line], ()) == (line,)

"""Tests that no file of a model occupies the machine that reads it, or ends in anything but an error that says why."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from mlflow_fargate.config import parse_config
from mlflow_fargate.errors import FargateError, ModelUnusable
from mlflow_fargate.image.packages.requirements import normalize
from mlflow_fargate.model.documents import parse_conda, parse_mlmodel, parse_requirements, python_version
from mlflow_fargate.publisher.inputs import image_inputs, image_labels, python_of
from mlflow_fargate.resolved_model import ModelFile, ResolvedModel
from support import hostile_models

MLMODEL = b"flavors: {python_function: {}}\n"
# CPU seconds of one input: a hang takes minutes, and a loaded machine ten times the usual half second.
HANG_SECONDS = 20.0
FEW, MANY = 150, 20_000


def use(mlmodel: bytes, requirements: bytes) -> None:
    """Does what a deployment does with the values before it builds anything."""
    metadata = parse_mlmodel(mlmodel, "m/MLmodel")
    model = ResolvedModel(
        requested_uri="models:/m/1",
        resolved_uri="models:/m/1",
        artifact_uri="s3://b/m",
        files=(ModelFile("MLmodel", 1, "e"), ModelFile("requirements.txt", 1, "e")),
        metadata=metadata,
        requirements=parse_requirements(requirements, "m/requirements.txt"),
        python_version=python_version(mlmodel[:100], metadata),
        run_id=metadata.get("run_id"),
    )
    assert isinstance(model.takes_images, bool)
    assert all(len(text) <= 256 for text in image_labels(model).values())
    assert len(python_of(model)) <= 6
    inputs = image_inputs(model, parse_config({}))
    assert len(inputs.key) == 16
    normalize(inputs.requirements, machine="x86_64")


def slowest(count: int, first: int, work: Callable[[int], None]) -> float:
    """Returns the longest time of any of `count` inputs; only this package's own errors are allowed."""
    longest = 0.0
    for seed in range(first, first + count):
        began = time.thread_time()
        try:
            work(seed)
        except FargateError as error:
            assert len(error.message) < 5000, seed
        except Exception as error:
            raise AssertionError(f"seed {seed}: {type(error).__name__}") from error
        longest = max(longest, time.thread_time() - began)
    return longest


def use_mlmodel(seed: int) -> None:
    use(hostile_models.mlmodel(seed), b"numpy==2.1\n")


def use_requirements(seed: int) -> None:
    use(MLMODEL, hostile_models.requirements(seed))


def use_conda(seed: int) -> None:
    parse_conda(hostile_models.mlmodel(seed), "m/conda.yaml")


@pytest.mark.parametrize("work", [use_mlmodel, use_requirements, use_conda])
def test_no_generated_file_hangs_or_raises_a_bug(work: Callable[[int], None]) -> None:
    assert slowest(FEW, 0, work) < HANG_SECONDS


@pytest.mark.exhaustive
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("work", [use_mlmodel, use_requirements, use_conda])
def test_none_of_many_generated_files_hangs_or_raises_a_bug(work: Callable[[int], None]) -> None:
    longest = slowest(MANY, FEW, work)
    print(f"{work.__name__}: the slowest of {MANY} took {longest:.2f} s")

    assert longest < HANG_SECONDS


def test_values_of_the_wrong_type_are_dropped() -> None:
    text = b"run_id: [1]\nmlflow_version: {}\nutc_time_created: 7\nmetadata: MIT\nsignature: x\nother: y\n"

    assert parse_mlmodel(MLMODEL + text, "m") == {"flavors": {"python_function": {}}, "utc_time_created": "7"}


def test_numbers_stay_texts() -> None:
    text = b"flavors: {python_function: {python_version: 3.10}}\nrun_id: 0123\nmlflow_version: 3.10\n"
    parsed = parse_mlmodel(text, "m")

    assert (parsed["run_id"], parsed["mlflow_version"], python_version(b"", parsed)) == ("0123", "3.10", "3.10")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"a: &a [x, x]\nb: &b [*a, *a]\nflavors: {python_function: {}}\n", None),
        (b"flavors: {python_function: {}}\nrun_id: &a [*a]\n", "too large with its YAML aliases"),
        (MLMODEL + b"x: " + b"[" * 51 + b"]" * 51, "nested too deeply"),
        (MLMODEL + b"x: [" + b"1," * 200_000 + b"]", "too large"),
        (MLMODEL + b"signature: {inputs: '[{'}\n", "not a JSON list of columns"),
        (MLMODEL + b"signature: {inputs: '[1]'}\n", "not a JSON list of columns or tensors"),
        (b"flavors: 1", "lists no flavors"),
        (b"\xff\xfe", "is not text in UTF-8: see line 1"),
    ],
)
def test_hostile_documents_are_refused_with_the_reason(content: bytes, said: str | None) -> None:
    if said is None:
        parse_mlmodel(content, "m/MLmodel")
        return
    with pytest.raises(ModelUnusable, match=said) as caught:
        parse_mlmodel(content, "m/MLmodel")

    assert caught.value.message.startswith("m/MLmodel")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"a\n" * 1001, "more than 1000 lines"),
        (b"a" * 2001, "too long or nested"),
        (b"a; " + b"(" * 21, "too long or nested"),
    ],
)
def test_endless_requirements_are_refused(content: bytes, said: str) -> None:
    with pytest.raises(ModelUnusable, match=said):
        parse_requirements(content, "m/requirements.txt")


def test_a_long_signature_is_read() -> None:
    columns = ", ".join(
        f'{{"type": "double", "name": "column_{number}", "required": true}}' for number in range(50_000)
    )
    parsed = parse_mlmodel(MLMODEL + f"signature: {{inputs: '[{columns}]'}}\n".encode(), "m")

    assert parsed["signature"]["inputs"].startswith('[{"type"')

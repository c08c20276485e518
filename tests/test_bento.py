"""The template for a model, the requirements of its image, and the Bento that BentoML builds."""

from __future__ import annotations

import dataclasses
import json
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from mlflow_fargate import bento
from mlflow_fargate.bento import ServedModel
from mlflow_fargate.errors import ImageError, ModelUnusable
from mlflow_fargate.resolved_model import ResolvedModel

BENTOML = f"bentoml=={version('bentoml')}"
SERVER = ("httptools>=0.6", "uvloop>=0.19")
TABLES = "orjson>=3.11.6"


def make_model(**changes: Any) -> ResolvedModel:
    """A Keras image classifier as `mlflow.tensorflow.log_model` leaves it, with its labels."""
    model = ResolvedModel(
        requested_uri="models:/Intel Scenes/Production",
        resolved_uri="models:/Intel Scenes/3",
        artifact_uri="s3://bucket/1/models/m-1/artifacts",
        files=(),
        metadata={
            "mlflow_version": "3.16.0",
            "flavors": {
                "python_function": {"loader_module": "mlflow.tensorflow", "data": "data"},
                "tensorflow": {"data": "data", "model_type": "keras", "save_format": "tf"},
            },
            "signature": {"inputs": tensors((-1, 100, 100, 3))},
        },
        requirements=("mlflow==3.16.0", "numpy==2.4.6", "tensorflow-cpu==2.21.0"),
        python_version="3.11.7",
        name="Intel Scenes",
        version="3",
        run_id="0a1b",
        labels_uri="s3://bucket/1/0a1b/artifacts/rev_labels_intel.json",
    )
    return dataclasses.replace(model, **changes)


def tensors(*shapes: tuple[int, ...]) -> str:
    return json.dumps([{"type": "tensor", "tensor-spec": {"dtype": "float32", "shape": shape}} for shape in shapes])


def with_metadata(**changes: Any) -> ResolvedModel:
    return make_model(metadata={**make_model().metadata, **changes})


def test_keras_with_labels_and_images_is_an_image_classifier() -> None:
    assert bento.choose_template(make_model()) == "image_classifier"


@pytest.mark.parametrize("signature", [None, {}, {"inputs": None}])
def test_a_missing_signature_does_not_rule_out_images(signature: Any) -> None:
    assert bento.choose_template(with_metadata(signature=signature)) == "image_classifier"


@pytest.mark.parametrize(
    "inputs",
    [
        tensors((-1, 10)),
        tensors((-1, 10, 10, 7)),
        tensors((-1, 10), (-1, 100, 100, 3)),
        json.dumps([{"type": "double", "name": "a"}]),
    ],
)
def test_models_without_image_inputs_are_served_by_mlflow(inputs: str) -> None:
    assert bento.choose_template(with_metadata(signature={"inputs": inputs})) == "pyfunc"


def test_without_labels_a_network_is_not_an_image_classifier() -> None:
    assert bento.choose_template(make_model(labels_uri=None)) == "pyfunc"


@pytest.mark.parametrize(
    ("flavor", "template"),
    [
        ({"keras": {"data": "data", "keras_backend": "tensorflow"}}, "image_classifier"),
        ({"keras": {"data": "data", "keras_backend": "torch"}}, "pyfunc"),
        ({"pytorch": {}}, "pyfunc"),
        ({}, "pyfunc"),
    ],
)
def test_only_tensorflow_is_loaded_without_mlflow(flavor: dict[str, Any], template: str) -> None:
    assert bento.choose_template(with_metadata(flavors={"python_function": {}, **flavor})) == template


def test_the_service_description_names_its_model() -> None:
    assert bento.make_service_description(ServedModel(make_model(), "image_classifier")) == {
        "template": "image_classifier",
        "flavor": "tensorflow",
        "model": {"name": "Intel Scenes", "version": "3", "run_id": "0a1b", "uri": "models:/Intel Scenes/3"},
        "labels": "labels.json",
        "options": {},
        "models": {},
    }


def test_an_image_classifier_needs_no_mlflow() -> None:
    lines = bento.service_requirements(ServedModel(make_model(), "image_classifier"))

    assert lines == ("numpy==2.4.6", "tensorflow-cpu==2.21.0", "pillow>=13.0", BENTOML, *SERVER)


def test_a_pyfunc_needs_skinny_mlflow_of_the_version_that_logged_it() -> None:
    lines = bento.service_requirements(ServedModel(make_model(), "pyfunc"))

    assert lines == (
        "numpy==2.4.6",
        "tensorflow-cpu==2.21.0",
        BENTOML,
        "pandas<4",
        "mlflow-skinny==3.16.0",
        TABLES,
        *SERVER,
    )


@pytest.mark.parametrize(
    ("logged_with", "pin", "bounds"),
    [
        ("1.30.0", "mlflow", ["numpy<2", "pandas<2"]),
        (None, "mlflow==1.20.2", ["numpy<2", "pandas<2"]),
        ("2.12.2", "mlflow==2.12.2", ["numpy<2", "pandas<3"]),
        ("2.22.5", "mlflow==2.22.5", ["pandas<3"]),
        ("2.1.1", "mlflow==2.1.1", ["numpy<2", "pandas<2"]),
        ("3.15.0", "mlflow==3.15.0", ["pandas<3"]),
        ("3.17.2", "mlflow==3.17.2", ["pandas<4"]),
        (None, "mlflow", ["pandas<4"]),
    ],
)
def test_pandas_and_numpy_are_bounded_as_by_the_mlflow_that_logged_the_model(
    logged_with: str | None, pin: str, bounds: list[str]
) -> None:
    model = dataclasses.replace(with_metadata(mlflow_version=logged_with), requirements=(pin, "scikit-learn==1.2.2"))
    lines = bento.service_requirements(ServedModel(model, "pyfunc"))

    assert sorted(line for line in lines if line.startswith(("numpy", "pandas"))) == bounds


@pytest.mark.parametrize(
    ("own", "further", "bounds"),
    [
        (("pandas==2.1.0", "numpy>=2"), (), ["numpy>=2", "pandas==2.1.0"]),
        (("pandas~=2.1", "numpy>=1.2"), (), ["numpy<2", "numpy>=1.2", "pandas~=2.1"]),
        (("pandas!=1.4,<3", "numpy==1.26.*"), (), ["numpy==1.26.*", "pandas!=1.4,<3", "pandas<2"]),
        (("pandas",), (), ["numpy<2", "pandas", "pandas<2"]),
        ((), ("pandas==3.1.1",), ["numpy<2", "pandas==3.1.1"]),
    ],
)
def test_versions_that_the_model_or_the_user_states_are_bounded_where_they_allow_it(
    own: tuple[str, ...], further: tuple[str, ...], bounds: list[str]
) -> None:
    model = dataclasses.replace(with_metadata(mlflow_version="1.30.0"), requirements=own)
    lines = bento.service_requirements(ServedModel(model, "pyfunc"), further)

    assert sorted(line for line in lines if line.startswith(("numpy", "pandas"))) == bounds


def test_the_oldest_of_several_models_decides_the_bounds() -> None:
    old = dataclasses.replace(with_metadata(mlflow_version="2.10.0"), requirements=("mlflow==2.10.0",))
    served = ServedModel(dataclasses.replace(make_model(), requirements=()), "custom", further_models={"old": old})

    assert {"numpy<2", "pandas<3"} <= set(bento.service_requirements(served))


@pytest.mark.parametrize("logged_with", ["2.9.1", "1.30.0", "3.17.0.dev0", "", None])
def test_an_unsupported_mlflow_version_is_replaced_by_the_installed_one(logged_with: str | None) -> None:
    model = dataclasses.replace(with_metadata(mlflow_version=logged_with), requirements=("mlflow",))
    lines = bento.service_requirements(ServedModel(model, "pyfunc"))

    assert f"mlflow-skinny=={version('mlflow-skinny')}" in lines


@pytest.mark.parametrize("line", ["mlflow[gateway]==3.16.0", "mlflow @ https://example.com/mlflow.whl"])
def test_a_model_that_requires_more_of_mlflow_gets_it(line: str) -> None:
    lines = bento.service_requirements(ServedModel(make_model(requirements=(line,)), "pyfunc"))

    assert line in lines
    assert not any(other.startswith("mlflow-skinny") for other in lines)


def test_the_models_own_versions_win_except_bentoml() -> None:
    lines = bento.service_requirements(
        ServedModel(make_model(requirements=("Pillow==13.0", "bentoml==1.3.0")), "image_classifier")
    )

    assert lines == ("Pillow==13.0", "pillow>=13.0", BENTOML, *SERVER)


@pytest.mark.parametrize("line", ["pillow==9.5.0", "Pillow==12.3.*", "pillow<13", "pillow~=12.0", "pillow>=8,<10.1"])
def test_an_image_classifier_does_not_decode_with_a_pillow_of_known_flaws(line: str) -> None:
    served = ServedModel(make_model(requirements=(line,)), "image_classifier")

    assert bento.service_requirements(served) == ("pillow>=13.0", BENTOML, *SERVER)
    assert bento.replaced_requirements(served) == (line,)


@pytest.mark.parametrize("line", ["pillow", "pillow>=8", "pillow<14", "pillow==13.0.*", "pillow~=13.0", "pillow>11.2"])
def test_a_pillow_that_can_be_a_safe_one_is_kept(line: str) -> None:
    served = ServedModel(make_model(requirements=(line,)), "image_classifier")

    assert bento.service_requirements(served)[:2] == (line, "pillow>=13.0")
    assert bento.replaced_requirements(served) == ()


def test_images_with_python_3_10_get_the_last_pillow_for_it() -> None:
    model = make_model(requirements=("pillow==12.3.0",), python_version="3.10.14")
    served = ServedModel(model, "image_classifier")

    assert bento.service_requirements(served)[:2] == ("pillow==12.3.0", "pillow>=12.3")


def test_other_templates_keep_the_models_pillow() -> None:
    served = ServedModel(make_model(requirements=("pillow==9.5.0",)), "pyfunc")

    assert "pillow==9.5.0" in bento.service_requirements(served)
    assert bento.replaced_requirements(served) == ()


def test_lines_without_a_package_name_are_kept() -> None:
    own = ("--extra-index-url https://example.com/simple", "git+https://example.com/x.git")

    assert bento.service_requirements(ServedModel(make_model(requirements=own), "pyfunc"))[:2] == own


@pytest.mark.parametrize("content", ['{"0": "sea", "1": "ice"}', '["sea", "ice"]', '{"sea": 0, "ice": 1}'])
def test_labels_are_read_in_three_formats(content: str) -> None:
    assert bento.parse_labels(content.encode()) == {"0": "sea", "1": "ice"}


@pytest.mark.parametrize(
    "content",
    [
        *("", "{", "{}", "[]", '"sea"', '{"0": "sea", "2": "ice"}', '{"a": "b"}', "\xff"),
        *("[" * 100_000, '[["sea"]]', '{"0": {}}', "[null]", f'{{"{"9" * 5000}": "sea"}}', f"[{'9' * 5000}]"),
    ],
    ids=repr,
)
def test_labels_without_class_numbers_are_refused(content: str) -> None:
    with pytest.raises(ModelUnusable, match="labels file"):
        bento.parse_labels(content.encode("latin-1"))


def test_an_image_classifier_without_labels_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelUnusable, match="no labels file"):
        bento.build_bento(ServedModel(make_model(), "image_classifier"), None, tmp_path)


def test_the_template_folder_exists() -> None:
    assert (bento.template_folder() / "service.py").is_file()
    assert len(bento.template_digest()) == 16


@pytest.mark.slow
def test_bentoml_builds_the_same_twice_without_output(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    labels = b'{"0": "sea", "1": "ice"}'
    modules = set(sys.modules)

    first = bento.build_bento(ServedModel(make_model(), "image_classifier"), labels, tmp_path / "one")
    second = bento.build_bento(ServedModel(make_model(), "image_classifier"), labels, tmp_path / "two")

    assert contents(first.source) == contents(second.source)
    assert {"service.py", "service.json", "labels.json"} <= set(contents(first.source))
    assert first.tag == second.tag
    assert first.tag.startswith("intel-scenes:")
    assert (first.path / "bento.yaml").is_file()
    assert capfd.readouterr() == ("", "")
    assert not {"service", "bentoml"} & (set(sys.modules) - modules)
    assert not (tmp_path / "home" / "bentoml").exists()


@pytest.mark.slow
def test_code_only_writes_the_same_files_as_bentoml(tmp_path: Path) -> None:
    labels = b'{"0": "sea", "1": "ice"}'

    built = bento.build_bento(ServedModel(make_model(), "image_classifier"), labels, tmp_path / "built")
    written = bento.build_bento(
        ServedModel(make_model(), "image_classifier"), labels, tmp_path / "written", code_only=True
    )

    assert contents(written.source) == contents(built.source)
    assert written.tag == built.tag


@pytest.mark.slow
def test_an_index_password_is_not_in_the_bento(tmp_path: Path) -> None:
    lines = ("--extra-index-url https://me:hunter2@host.example/simple", "six")

    built = bento.build_bento(ServedModel(make_model(requirements=lines), "pyfunc"), None, tmp_path)

    assert [path for path in built.path.rglob("*") if path.is_file() and b"hunter2" in path.read_bytes()] == []


@pytest.mark.slow
def test_a_new_model_version_builds_a_new_bento_and_the_same_one_does_not(tmp_path: Path) -> None:
    first = bento.build_bento(ServedModel(make_model(), "pyfunc"), None, tmp_path)
    built_at = (first.path / "bento.yaml").stat().st_mtime_ns
    same = bento.build_bento(ServedModel(make_model(), "pyfunc"), None, tmp_path)
    other = bento.build_bento(ServedModel(make_model(version="4"), "pyfunc"), None, tmp_path)

    assert same == first
    assert (same.path / "bento.yaml").stat().st_mtime_ns == built_at
    assert other.tag != first.tag
    assert not [path for path in tmp_path.iterdir() if path.name.startswith("build-")]


@pytest.mark.slow
def test_bentomls_error_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    template = tmp_path / "template"
    template.mkdir()
    (template / "service.py").write_text("raise RuntimeError('no such luck')\n")
    monkeypatch.setattr("mlflow_fargate.bento.build.template_folder", lambda: template)

    with pytest.raises(ImageError, match="no such luck"):
        bento.build_bento(ServedModel(make_model(), "pyfunc"), None, tmp_path / "store")


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}

"""The rules of .importlinter: they cover every module, and refuse the imports that ARCHITECTURE.md says they refuse."""

from __future__ import annotations

import re

import pytest

from support.layers import PACKAGE, ROOT, check, lay_out, modules, not_covered, placed


def test_every_module_is_in_a_layer() -> None:
    assert not_covered(modules()) == []


def test_a_module_that_no_layer_names_is_listed() -> None:
    names = ["mlflow_fargate.image.oci.image", "mlflow_fargate.images", "mlflow_fargate.new.module", PACKAGE]

    assert not_covered(names) == ["mlflow_fargate.images", "mlflow_fargate.new.module"]


def test_the_architecture_page_names_every_layer() -> None:
    page = (ROOT / "ARCHITECTURE.md").read_text("utf-8")
    drawn = set(re.findall(r"\w+", page.partition("## Layers")[2].partition("\n## ")[0]))

    assert (
        sorted(layer for layer in placed() if layer.split(".")[1] != "local" and layer.split(".")[-1] not in drawn)
        == []
    )


# By the name of a new module: what it imports, which is refused there.
REFUSED = {
    "added": "mlflow_fargate",
    "aws.added": "moto",
    "bento.added": "bentoml",
    "cli.added": "uv",
    "config.added": "mlflow_fargate.deployment",
    "deployments.added": "mlflow_fargate.local.stack",
    "doctor.added": "mlflow_fargate.webhook.control_loop.rules",
    "examples.added": "mlflow_fargate.client",
    "image.added": "mlflow_fargate.aws.account",
    "image.added_too": "mlflow",
    "local.added": "mlflow_fargate.config",
    "model.added": "pydantic",
    "onnx_converter.added": "mlflow_fargate.errors",
    "publisher.added": "mlflow_fargate.aws.s3",
    "resources.added": "mlflow_fargate.service_template.deployed",
    "scoring.added": "boto3",
    "service_template.added": "mlflow_fargate.errors",
    "webhook.added": "mlflow_fargate.deployments.deployer",
    "webhook.added_too": "flask",
}


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What the rules report for the project with all these modules in it."""
    tree = tmp_path_factory.mktemp("tree")
    lay_out(tree)
    for name, imported in REFUSED.items():
        (tree / PACKAGE / f"{name.replace('.', '/')}.py").write_text(f"import {imported}\n")
    for one, other in (("left", "right"), ("right", "left")):
        (tree / PACKAGE / "sandbox" / f"{one}.py").write_text(f"import mlflow_fargate.sandbox.{other}\n")
    done = check(tree)
    assert done.returncode == 1, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("name", REFUSED)
def test_an_import_that_goes_up_or_leaves_a_librarys_home_is_refused(report: str, name: str) -> None:
    assert f"{PACKAGE}.{name} -> {REFUSED[name]} (l.1)" in report


@pytest.mark.slow
def test_a_module_without_a_layer_and_a_circle_are_refused(report: str) -> None:
    assert f"- {PACKAGE}.added\n" in report
    assert f"No cycles are allowed in {PACKAGE}.sandbox." in report

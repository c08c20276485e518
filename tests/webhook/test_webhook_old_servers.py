"""Reads the registries of old MLflow servers, each in an environment of its own from the package index."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow import MlflowClient

from mlflow_fargate.webhook.control_loop.model_registry import MlflowModelRegistry, ModelState
from support.mlflow_server import serve_mlflow

pytestmark = [pytest.mark.slow, pytest.mark.exhaustive]

_BEFORE_3_12 = pytest.mark.skipif(sys.version_info >= (3, 12), reason="MLflow 1.30 does not run on Python 3.12")


@pytest.mark.parametrize("version", [pytest.param("1.30.1", marks=_BEFORE_3_12), "2.10.2"])
def test_promotions_and_absent_models_are_seen_on_servers_of_earlier_releases(version: str, tmp_path: Path) -> None:
    bin_folder = tmp_path / "environment" / "bin"
    uv = str(Path(sys.executable).with_name("uv"))
    subprocess.run([uv, "venv", "-q", "--python", sys.executable, bin_folder.parent], check=True)
    packages = [f"mlflow=={version}", "setuptools<80", "sqlalchemy<2.0.31"]
    subprocess.run([uv, "pip", "install", "-q", "--python", bin_folder / "python", *packages], check=True)
    root = ("--default-artifact-root", str(tmp_path))
    environment = {"PATH": f"{bin_folder}{os.pathsep}{os.environ['PATH']}"}

    with serve_mlflow(tmp_path, *root, python=str(bin_folder / "python"), **environment) as uri:
        client, registry = MlflowClient(uri), MlflowModelRegistry(uri)
        for name in ("churn", "fraud-eu", "tagged"):
            client.create_registered_model(name)
            client.create_model_version(name, "s3://bucket/model")
        client.transition_model_version_stage("churn", "1", "Production")
        client.set_registered_model_tag("tagged", "fargate.deploy", "prod")
        states = registry.look(["churn", "fraud-eu", "nobody"])

        assert {name: dict(state.stages) for name, state in states.items()} == {
            "churn": {"Production": ("1",)},
            "fraud-eu": {"None": ("1",)},
        }
        assert registry.look([], patterns=["fraud-*"]).keys() == {"fraud-eu"}
        assert registry.look([], tag="fargate.deploy").keys() == {"tagged"}
        close = registry.look_closely("churn")
        assert isinstance(close, ModelState) and close.stages == {"Production": ("1",)}
        assert registry.look_closely("nobody") is None

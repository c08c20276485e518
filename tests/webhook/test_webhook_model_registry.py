"""Tests reading the registry of a real tracking server."""

from __future__ import annotations

import pytest
from mlflow import MlflowClient

from mlflow_fargate.webhook.control_loop.model_registry import MlflowModelRegistry, ModelState
from support.mlflow_server import LoggedModels, MlflowServer

pytestmark = pytest.mark.slow


def test_stages_and_aliases_of_many_models_are_read_in_one_request(
    mlflow_server: MlflowServer, logged_models: LoggedModels
) -> None:
    states = MlflowModelRegistry(mlflow_server.uri).look(["iris", "iris-copy", "empty", "nobody"])

    assert states == {
        "iris": ModelState({"Production": ("2",)}, {"champion": "1"}),
        "iris-copy": ModelState({"None": ("1",)}, {}),
        "empty": ModelState({}, {}),
    }


def test_a_close_look_returns_every_version_of_a_stage(
    mlflow_server: MlflowServer, logged_models: LoggedModels
) -> None:
    registry = MlflowModelRegistry(mlflow_server.uri)

    assert registry.look_closely("iris") == ModelState({"Production": ("1", "2")}, {"champion": "1"})
    assert registry.look_closely("nobody") is None


def test_more_models_than_fit_one_request_and_unusual_names_are_read(mlflow_server: MlflowServer) -> None:
    client = MlflowClient(mlflow_server.uri)
    names = [f"model {number}" for number in range(60)] + ["it's", 'a "b"', "50%", "ümlaut", "both ' and \""]
    for name in names:
        client.create_registered_model(name)
    try:
        registry = MlflowModelRegistry(mlflow_server.uri)

        assert registry.look(names).keys() == set(names)
        assert registry.look_closely("it's") == ModelState({}, {})
        assert registry.look_closely("both ' and \"") == ModelState({}, {})
        assert registry.look_closely("nobody's \"") is None
        assert registry.look([], patterns=["model 1?", "it's*"]).keys() == {f"model {n}" for n in range(10, 20)} | {
            "it's"
        }
        client.set_registered_model_tag("ümlaut", "fargate.deploy", "prod")
        tagged = {"ümlaut": ModelState({}, {}, {"fargate.deploy": "prod"})}
        assert registry.look([], tag="fargate.deploy") == tagged
    finally:
        for name in names:
            client.delete_registered_model(name)

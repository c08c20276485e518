"""Tests reading the registry of a real tracking server."""

from __future__ import annotations

import pytest
from mlflow import MlflowClient

from mlflow_fargate.webhook.control_loop.model_registry import MlflowModelRegistry, ModelState
from support.mlflow_server import LoggedModels, MlflowServer

pytestmark = pytest.mark.slow


def names_of(state: ModelState | None) -> ModelState:
    assert state is not None
    return ModelState(state.stages, state.aliases, state.tags)


def test_stages_and_aliases_of_many_models_are_read_in_one_request(
    mlflow_server: MlflowServer, logged_models: LoggedModels
) -> None:
    states = MlflowModelRegistry(mlflow_server.uri).look(["iris", "iris-copy", "empty", "nobody"])

    assert {name: names_of(state) for name, state in states.items()} == {
        "iris": ModelState({"Production": ("2",)}, {"champion": "1"}),
        "iris-copy": ModelState({"None": ("1",)}, {}),
        "empty": ModelState({}, {}),
    }


def test_a_close_look_returns_every_version_of_a_stage(
    mlflow_server: MlflowServer, logged_models: LoggedModels
) -> None:
    registry = MlflowModelRegistry(mlflow_server.uri)

    assert names_of(registry.look_closely("iris")) == ModelState({"Production": ("1", "2")}, {"champion": "1"})
    assert registry.look_closely("nobody") is None


def test_more_models_than_fit_one_request_and_unusual_names_are_read(mlflow_server: MlflowServer) -> None:
    client = MlflowClient(mlflow_server.uri)
    names = [f"model {number}" for number in range(60)] + ["it's", 'a "b"', "50%", "ümlaut", "both ' and \""]
    for name in names:
        client.create_registered_model(name)
    try:
        registry = MlflowModelRegistry(mlflow_server.uri)

        assert registry.look(names).keys() == set(names)
        assert names_of(registry.look_closely("it's")) == ModelState({}, {})
        assert names_of(registry.look_closely("both ' and \"")) == ModelState({}, {})
        assert registry.look_closely("nobody's \"") is None
        assert registry.look(["it's", "not/a/name", " "]).keys() == {"it's"}
        assert registry.look([], patterns=["model 1?", "it's*"]).keys() == {f"model {n}" for n in range(10, 20)} | {
            "it's"
        }
        client.set_registered_model_tag("ümlaut", "fargate.deploy", "prod")
        (tagged,) = registry.look([], tag="fargate.deploy").items()
        assert (tagged[0], names_of(tagged[1])) == ("ümlaut", ModelState({}, {}, {"fargate.deploy": "prod"}))
    finally:
        for name in names:
            client.delete_registered_model(name)


def test_a_version_that_is_registered_again_under_the_same_number_is_another_one(
    mlflow_server: MlflowServer, logged_models: LoggedModels
) -> None:
    client, registry = MlflowClient(mlflow_server.uri), MlflowModelRegistry(mlflow_server.uri)
    found = []
    for run_id in (logged_models.direct_run_id, logged_models.proxied_run_id):
        client.create_registered_model("anew")
        client.create_model_version("anew", logged_models.direct_location, run_id)
        client.set_registered_model_alias("anew", "champion", "1")
        found.append(registry.look(["anew"])["anew"])
        client.delete_registered_model("anew")
    first, second = found

    assert names_of(first) == names_of(second)
    assert first.registrations["1"].run_id == logged_models.direct_run_id
    assert first.registrations["1"] != second.registrations["1"]
    assert first.created_ms is not None and second.created_ms is not None and first.created_ms < second.created_ms


def test_prompts_are_not_models(mlflow_server: MlflowServer) -> None:
    client = MlflowClient(mlflow_server.uri)
    client.register_prompt("a-prompt", "Say {{word}}.")
    try:
        assert MlflowModelRegistry(mlflow_server.uri).look([], patterns=["a-*"]) == {}
    finally:
        client.delete_prompt_version("a-prompt", "1")
        client.delete_prompt("a-prompt")

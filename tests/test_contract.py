"""MLflow's contract with a deployment plugin, rule by rule, as used by `mlflow.deployments` and its command line.

The rules are those of mlflow/deployments/*.py. AWS is the local stack's, in this process; the images are real and tiny,
and the command line is MLflow's.
"""

from __future__ import annotations

import importlib.metadata
import inspect
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import click
import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner, Result
from mlflow.deployments import BaseDeploymentClient, PredictionsResponse, get_deploy_client, set_deployments_target
from mlflow.deployments.cli import commands
from mlflow.deployments.interface import plugin_store
from mlflow.exceptions import MlflowException

import mlflow_fargate
from mlflow_fargate import FargateDeploymentClient, scoring
from mlflow_fargate.aws.endpoint import Endpoint
from mlflow_fargate.deployments.deployer import Deployer
from mlflow_fargate.errors import FargateError
from mlflow_fargate.model.uri import ModelRegistry
from support.deployer import QUICK, TARGET
from support.mlflow_server import LoggedModels, MlflowServer

QUICK_OPTIONS = [part for key, value in QUICK.items() for part in ("-C", f"{key}={value}")]


class Shell:
    """`mlflow deployments …` in this process: its output and exit code. `churn` is an existing deployment."""

    def __init__(self, deployer: Deployer) -> None:
        self.deployer = deployer
        self.created_churn = self.create("churn")

    def __call__(self, verb: str, *arguments: str) -> Result:
        return CliRunner().invoke(commands, [verb, "-t", TARGET, *arguments])

    def create(self, name: str, *arguments: str) -> Result:
        return self("create", "--name", name, "-m", "models:/churn/Production", *QUICK_OPTIONS, *arguments)

    def predict(self, rows: Any, folder: Path, *arguments: str) -> Result:
        (folder / "rows.json").write_text(json.dumps(rows))
        return self("predict", "-I", str(folder / "rows.json"), *arguments)


@pytest.fixture(scope="module")
def shell(plugged_in: Deployer) -> Shell:
    """MLflow's command line, with AWS in this process."""
    return Shell(plugged_in)


@pytest.fixture
def client(shell: Shell) -> FargateDeploymentClient:
    return get_deploy_client(TARGET)


class TestLoading:
    def test_c1_the_entry_point_names_a_module(self) -> None:
        (entry,) = importlib.metadata.entry_points(group="mlflow.deployments", name="fargate")

        assert inspect.ismodule(entry.load())
        assert plugin_store["fargate"] is mlflow_fargate

    @pytest.mark.slow
    def test_c1_loading_imports_one_module_and_a_client_no_library_for_later_calls(self) -> None:
        """MLflow's own imports do not count: they are loaded before any plugin."""
        heavy = ("boto3", "botocore", "bentoml", "docker", "moto", "pandas", "tensorflow")
        code = (
            "import json, sys, mlflow.deployments; before = set(sys.modules)\n"
            "import mlflow_fargate; first = sorted(set(sys.modules) - before)\n"
            "mlflow.deployments.get_deploy_client('fargate:/eu-west-1')\n"
            "print(json.dumps([first, sorted(set(sys.modules) - before)]))"
        )
        first, loaded = json.loads(subprocess.check_output([sys.executable, "-c", code], text=True).splitlines()[-1])

        assert first == ["mlflow_fargate"]
        assert [name for name in loaded if name.partition(".")[0] in heavy] == []

    def test_c2_the_module_contains_run_local_target_help_and_exactly_one_client(self) -> None:
        members = dict(inspect.getmembers(mlflow_fargate))
        classes = [member for member in members.values() if inspect.isclass(member)]

        assert [item for item in classes if issubclass(item, BaseDeploymentClient)] == [FargateDeploymentClient]
        assert callable(members["run_local"]) and callable(members["target_help"])
        assert isinstance(get_deploy_client("fargate"), FargateDeploymentClient)

    def test_c3_every_method_is_defined_and_creating_a_client_makes_no_calls(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
        verbs = [name for name, _ in inspect.getmembers(BaseDeploymentClient, inspect.isfunction) if name[0] != "_"]

        assert isinstance(FargateDeploymentClient("fargate:/eu-west-1"), BaseDeploymentClient)
        assert [verb for verb in verbs if verb not in vars(FargateDeploymentClient)] == []

    def test_c13_mlflows_own_create_endpoint_fails_before_any_plugin_is_called(self) -> None:
        """Its option is called `endpoint`, and its function takes a `name`: no spelling of the options helps."""
        done = CliRunner().invoke(commands, ["create-endpoint", "-t", "fargate:/eu-west-1", "--endpoint", "side"])

        mended = "MLflow has fixed create-endpoint: update README.md and docs/cli.md, and test it like the others"
        assert isinstance(done.exception, TypeError), mended
        assert "create_endpoint() got an unexpected keyword argument 'endpoint'" in str(done.exception), mended

    @pytest.mark.slow
    def test_the_help_can_be_piped_to_head(self) -> None:
        program = Path(sys.executable).with_name("mlflow")
        command = f"set -o pipefail; {program} deployments help -t fargate | head -n 3"
        done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)

        assert (done.returncode, done.stdout.splitlines()[0]) == (0, "Deploy MLflow models to AWS Fargate.")
        assert "Traceback" not in done.stderr

    @pytest.mark.parametrize(
        "uri",
        ["fargate", "fargate:/us-east-1/prod", "fargate://us-east-1/prod", "fargate:us-east-1", "FARGATE:/us-east-1"],
    )
    def test_c4_every_spelling_of_a_target_reaches_the_plugin(self, uri: str) -> None:
        assert isinstance(get_deploy_client(uri), FargateDeploymentClient)

    def test_c4_the_target_can_be_set_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("mlflow.deployments.utils._deployments_target", None)
        monkeypatch.setenv("MLFLOW_DEPLOYMENTS_TARGET", "fargate:/eu-west-1")
        from_environment = get_deploy_client()
        set_deployments_target("fargate://us-east-1/prod")

        assert from_environment.target_uri == "fargate:/eu-west-1"
        assert get_deploy_client().target_uri == "fargate://us-east-1/prod"

    def test_c5_run_local_has_no_target_and_target_help_returns_a_text(self, tmp_path: Path) -> None:
        assert list(inspect.signature(mlflow_fargate.run_local).parameters) == ["name", "model_uri", "flavor", "config"]
        assert list(inspect.signature(mlflow_fargate.target_help).parameters) == []
        assert CliRunner().invoke(commands, ["help", "-t", "fargate"]).output.startswith("Deploy MLflow models")


@pytest.mark.slow
class TestCommandLine:
    def test_c6_options_are_strings_or_values_and_none_means_no_options(
        self, shell: Shell, client: FargateDeploymentClient
    ) -> None:
        by_text = shell("update", "--name", "churn", "-C", "desired_count=1", "-C", "base_image=")
        by_value = client.update_deployment("churn", config={"desired_count": 1, "base_image": None})

        assert by_text.exit_code == 0, by_text.output
        assert client.update_deployment("churn", config=None) == by_value
        assert "Usage" in shell.create("other", "-C", "cpu").output
        assert "Did you mean 'cpu'?" in shell.create("other", "-C", "cpus=1").output

    def test_c7_create_returns_name_and_flavor_and_prints_the_url(self, shell: Shell) -> None:
        assert shell.created_churn.stdout == "\npython_function deployment churn is created\n"
        assert "churn is at http://" in shell.created_churn.stderr

    def test_c8_update_returns_name_and_flavor_and_does_not_require_a_model_uri(
        self, shell: Shell, client: FargateDeploymentClient
    ) -> None:
        done = shell("update", "--name", "churn", "-C", "desired_count=1")

        assert done.stdout == "Deployment churn is updated (with flavor python_function)\n"
        assert client.update_deployment("churn")["name"] == "churn"

    def test_c9_delete_accepts_config_and_endpoint_by_name_and_can_be_repeated(self, shell: Shell) -> None:
        parameters = inspect.signature(FargateDeploymentClient.delete_deployment).parameters
        shell.create("short-lived", "-C", "wait=false")
        both = [shell("delete", "--name", "short-lived", "--endpoint", "default") for _ in range(2)]

        assert {"config", "endpoint"} <= set(parameters)
        assert [done.stdout for done in both] == ["Deployment short-lived is deleted\n"] * 2

    def test_c10_list_and_get_give_plain_values_and_the_name_first(
        self, shell: Shell, client: FargateDeploymentClient
    ) -> None:
        churn = next(found for found in client.list_deployments() if found["name"] == "churn")
        printed = shell("get", "--name", "churn").stdout.splitlines()

        assert all(isinstance(value, str | int | bool) for value in churn.values())
        assert datetime.fromisoformat(churn["created_at"]).tzinfo is not None
        assert printed[0] == "name: churn"
        assert [line.partition(":")[0] for line in printed if line] == list(churn)
        assert f"{[churn]}" in shell("list").stdout
        assert code_of(lambda: client.get_deployment("nobody")) == "RESOURCE_DOES_NOT_EXIST"

    @pytest.mark.parametrize(
        "rows", [{"inputs": [[1, 2]]}, {"dataframe_split": {"columns": ["x"], "data": [[1.5]]}}, [{"x": 1}]]
    )
    def test_c11_a_document_that_pandas_read_as_a_table_is_sent_as_written(
        self, shell: Shell, tmp_path: Path, rows: Any
    ) -> None:
        by_name = shell.predict(rows, tmp_path, "--name", "churn")
        by_endpoint = shell.predict(rows, tmp_path, "--endpoint", "default")
        meant = {"dataframe_split": {"columns": ["x"], "data": [[1]]}} if isinstance(rows, list) else rows

        assert json.loads(by_name.stdout) == json.loads(by_endpoint.stdout) == {"predictions": meant}

    def test_c12_predict_returns_a_response_and_stdout_has_no_other_output(
        self, shell: Shell, client: FargateDeploymentClient, tmp_path: Path
    ) -> None:
        answer = client.predict("churn", pd.DataFrame({"x": [1]}))
        written = shell.predict([{"x": 1}], tmp_path, "--name", "churn", "-O", str(tmp_path / "out.json"))
        printed = shell.predict([{"x": 1}], tmp_path, "--name", "churn")

        assert isinstance(answer, PredictionsResponse)
        assert (written.stdout, json.loads((tmp_path / "out.json").read_text())) == ("", answer)
        assert json.loads(printed.stdout) == answer

    def test_c13_explain_reports_a_missing_explainer(self, shell: Shell, tmp_path: Path) -> None:
        (tmp_path / "rows.json").write_text('[{"x": 1}]')
        done = shell("explain", "--name", "churn", "-I", str(tmp_path / "rows.json"))

        assert done.exit_code == 1
        assert "Error: Deployment 'churn' does not serve an explainer; its flavor is python_function." in done.stderr

    def test_c13_explain_returns_an_explainers_output(
        self, shell: Shell, client: FargateDeploymentClient, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        status = shell.deployer.get("churn")
        explainer = replace(status, provenance=replace(status.provenance, flavor="shap"))
        monkeypatch.setattr(Endpoint, "status", lambda *_: explainer)

        explained = client.explain("churn", pd.DataFrame({"x": [1]}))

        assert explained == {"dataframe_split": {"columns": ["x"], "data": [[1]]}}

    def test_c13_the_endpoint_commands_work_and_create_ignores_other_arguments(
        self, shell: Shell, client: FargateDeploymentClient
    ) -> None:
        made = client.create_endpoint("side", config={}, endpoint="side")
        # MLflow 3.17's own create-endpoint fails before it calls a plugin; update-endpoint also creates one.
        done = [shell("update-endpoint", "--endpoint", "side"), shell("get-endpoint", "--endpoint", "side")]

        assert made["name"] == "side"
        assert [one.exit_code for one in done] == [0, 0]
        assert "name: side" in done[1].stdout
        assert "side" in shell("list-endpoints").stdout
        assert shell("delete-endpoint", "--endpoint", "side").exit_code == 0
        assert "side" not in [endpoint["name"] for endpoint in client.list_endpoints()]

    def test_c14_there_are_no_prompts_spinners_or_floods_for_an_agent(self, shell: Shell) -> None:
        printed = shell.created_churn.output

        assert "\r" not in printed and "\x1b" not in printed
        assert len(printed) < 10_000


@pytest.mark.slow
class TestErrors:
    def test_c15_an_error_is_one_clean_sentence_on_the_command_line(
        self, shell: Shell, client: FargateDeploymentClient
    ) -> None:
        done = shell("get", "--name", "nobody")

        assert done.exit_code == 1
        assert done.stderr.startswith("Error: There is no deployment 'nobody' on endpoint 'default' in us-east-1.")
        assert "Traceback" not in done.output
        with pytest.raises(MlflowException) as caught:
            client.get_deployment("nobody")
        assert isinstance(caught.value, click.ClickException)
        assert json.loads(caught.value.serialize_as_json())["error_code"] == "RESOURCE_DOES_NOT_EXIST"
        assert caught.value.get_http_status_code() == 404

    def test_c16_every_refusal_has_mlflows_code(self, shell: Shell, client: FargateDeploymentClient) -> None:
        rows = pd.DataFrame({"x": [1]})

        assert code_of(lambda: client.create_deployment("churn", "models:/churn/2")) == "RESOURCE_ALREADY_EXISTS"
        for missing in (client.update_deployment, client.get_deployment, lambda name: client.predict(name, rows)):
            assert code_of(lambda verb=missing: verb("nobody")) == "RESOURCE_DOES_NOT_EXIST"
        for options in ({"cpu": "banana"}, {"cpus": 1}):
            refused = code_of(lambda config=options: client.update_deployment("churn", config=config))
            assert refused == "INVALID_PARAMETER_VALUE"
        assert code_of(lambda: client.create_deployment("a/b", "models:/churn/1")) == "INVALID_PARAMETER_VALUE"
        assert code_of(lambda: get_deploy_client("fargate:/nowhere").list_deployments()) == "INVALID_PARAMETER_VALUE"
        slow = {**QUICK, "environment.MODE": "never", "timeout_seconds": 1}
        late = code_of(lambda: client.create_deployment("late", "models:/churn/1", config=slow))
        client.delete_deployment("late")
        assert late == "DEADLINE_EXCEEDED"


@pytest.mark.slow
class TestBehaviour:
    def test_c17_create_returns_once_the_model_responds(self, client: FargateDeploymentClient) -> None:
        client.create_deployment("at-once", "models:/churn/1", config=QUICK)

        answer = client.predict("at-once", [[1]])

        client.delete_deployment("at-once")
        assert answer == {"predictions": {"inputs": [[1]]}}

    @pytest.mark.parametrize(
        ("flavor", "code"), [("no_such_flavor", "INVALID_PARAMETER_VALUE"), ("xgboost", "RESOURCE_DOES_NOT_EXIST")]
    )
    def test_c17_an_unknown_flavor_and_a_missing_flavor_have_different_errors(
        self, client: FargateDeploymentClient, flavor: str, code: str
    ) -> None:
        assert code_of(lambda: client.create_deployment("new", "models:/churn/1", flavor, QUICK)) == code
        assert code_of(lambda: client.get_deployment("new")) == "RESOURCE_DOES_NOT_EXIST"

    def test_c17_a_flavor_needs_a_model(self, client: FargateDeploymentClient) -> None:
        refused = code_of(lambda: client.update_deployment("churn", flavor="sklearn"))

        assert refused == "INVALID_PARAMETER_VALUE"

    def test_c18_unsupported_calls_raise_mlflows_exception_and_endpoint_names_are_checked(self) -> None:
        client = get_deploy_client(TARGET)

        for verb in (client.create_deployment, client.update_deployment):
            refused = code_of(lambda verb=verb: verb("churn", "models:/churn/1", endpoint="../up"))
            assert refused == "INVALID_PARAMETER_VALUE"
        for verb in (client.delete_deployment, client.get_deployment, client.predict, client.explain):
            assert code_of(lambda verb=verb: verb("churn", endpoint="../up")) == "INVALID_PARAMETER_VALUE"
        assert code_of(lambda: client.list_deployments(endpoint="../up")) == "INVALID_PARAMETER_VALUE"

    def test_c19_progress_is_shown_without_configuring_logging(self, shell: Shell) -> None:
        for step in ("Planning", "Applying", "Waiting for the rollout", "churn is at"):
            assert step in shell.created_churn.stderr

    @pytest.mark.parametrize(
        "inputs", [{"noise": np.zeros((1, 2))}, {"a": [float("nan")]}, pd.DataFrame({"a": [None, 1.0]})]
    )
    def test_c20_a_dict_can_be_sent_and_missing_values_are_null(self, inputs: Any) -> None:
        def refuse(constant: str) -> None:
            pytest.fail(f"{constant} is not JSON")

        sent = b"".join(scoring.JsonStream(scoring.make_document(inputs)))

        assert json.loads(sent, parse_constant=refuse)

    def test_c21_a_stage_is_its_highest_version(self, mlflow_server: MlflowServer, logged_models: LoggedModels) -> None:
        registry = ModelRegistry(mlflow_server.uri, mlflow_server.uri)
        uris = ("models:/iris/production", "models:/iris@champion", "models:/iris/latest", "models:/iris/1")

        found = {uri: registry.follow(uri) for uri in uris}

        assert {uri: place.resolved_uri for uri, place in found.items()} == {
            "models:/iris/production": "models:/iris/2",
            "models:/iris@champion": "models:/iris/1",
            "models:/iris/latest": "models:/iris/2",
            "models:/iris/1": "models:/iris/1",
        }
        assert {place.run_id for place in found.values()} == {logged_models.direct_run_id}

    def test_c21_both_the_requested_and_the_resolved_uri_are_stored(self, client: FargateDeploymentClient) -> None:
        kept = client.get_deployment("churn")

        assert (kept["model_uri"], kept["resolved_model_uri"]) == ("models:/churn/Production", "models:/churn/1")


def code_of(call: Callable[[], object]) -> str:
    """Returns the code of the FargateError that `call` raises."""
    with pytest.raises(FargateError) as caught:
        call()
    return str(caught.value.error_code)

"""The MLflow deployment client for `-t fargate`: each method is short and calls deployments/.

MLflow's command line passes options as strings and prints what is returned; the contract is that of
`mlflow.deployments.BaseDeploymentClient`. The implementation is imported when a method needs it, not when MLflow looks
for plugins: boto3 and BentoML take seconds to load.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from mlflow.deployments import BaseDeploymentClient, PredictionsResponse
from mlflow.environment_variables import MLFLOW_DEPLOYMENT_PREDICT_TIMEOUT

from mlflow_fargate.config import NamedOptions, parse_config, parse_retain
from mlflow_fargate.config.describe import describe_options
from mlflow_fargate.deployment import as_dict
from mlflow_fargate.errors import InvalidOption, NotSupported
from mlflow_fargate.mlflow_errors import methods_raise_mlflow_errors, raises_mlflow_errors
from mlflow_fargate.progress import progress_for_stderr
from mlflow_fargate.resolved_model import DEFAULT_FLAVOR, EXPLAINER_FLAVOR
from mlflow_fargate.target import Target, cache_directory, check_endpoint_name, parse_target

if TYPE_CHECKING:
    from mlflow_fargate.aws.account import Account
    from mlflow_fargate.deployments.callees import Callees
    from mlflow_fargate.deployments.deployer import Deployer

Options = Mapping[str, Any]

_HELP = """\
Deploy MLflow models to AWS Fargate.

  mlflow deployments create -t fargate --name churn -m models:/churn/Production
  mlflow deployments update -t fargate --name churn -m models:/churn/4 -C cpu=2048 -C memory=4096
  mlflow deployments predict -t fargate --name churn --input-path rows.json
  mlflow deployments get|list|delete -t fargate …

Targets: fargate (your default AWS region) · fargate:/REGION · fargate:/REGION/ENDPOINT · fargate:/REGION?profile=NAME
         fargate:/local (the local stack on this machine; start it with: mlflow-fargate local up --detach)
         An ENDPOINT is an ECS cluster and a load balancer that deployments share; the default one is named default.

Options (-C KEY=VALUE):
"""


@methods_raise_mlflow_errors
class FargateDeploymentClient(BaseDeploymentClient):  # type: ignore[misc]  # mlflow ships no types
    """Deployments on AWS Fargate; `target_uri` names region and endpoint (see target.py). No AWS call yet."""

    def __init__(self, target_uri: str) -> None:
        super().__init__(target_uri)
        self._lock = threading.Lock()
        self._kept: tuple[Target, Account, Callees] | None = None

    def create_deployment(
        self,
        name: str,
        model_uri: str,
        flavor: str | None = None,
        config: Options | None = None,
        endpoint: str | None = None,
    ) -> dict[str, Any]:
        """Creates a deployment; returns it as a dict (`name`, `flavor`, `url` and more) once it responds."""
        status = self.deployer(endpoint).create(name, model_uri, flavor, NamedOptions.parse(config))
        return as_dict(status) if status else _dry_run(name, flavor)

    def update_deployment(
        self,
        name: str,
        model_uri: str | None = None,
        flavor: str | None = None,
        config: Options | None = None,
        endpoint: str | None = None,
    ) -> dict[str, Any]:
        """Updates a deployment's model or options; anything not passed stays the same."""
        status = self.deployer(endpoint).update(name, model_uri, flavor, NamedOptions.parse(config))
        return as_dict(status) if status else _dry_run(name, flavor)

    def delete_deployment(self, name: str, config: Options | None = None, endpoint: str | None = None) -> None:
        """Deletes a deployment; does nothing if it does not exist. `retain` keeps images, logs or both."""
        self.deployer(endpoint).delete(name, parse_retain(config))

    def list_deployments(self, endpoint: str | None = None) -> list[dict[str, Any]]:
        """Returns every deployment on the endpoint."""
        return [as_dict(status) for status in self.deployer(endpoint).list()]

    def get_deployment(self, name: str, endpoint: str | None = None) -> dict[str, Any]:
        """Returns one deployment; raises DeploymentNotFound if it does not exist."""
        return as_dict(self.deployer(endpoint).get(name))

    def predict(
        self,
        deployment_name: str | None = None,
        inputs: Any = None,
        endpoint: str | None = None,
        timeout_seconds: float | None = None,
    ) -> PredictionsResponse:
        """Returns the model's predictions for `inputs`: a DataFrame, dict, list, array, or an image's path or bytes.

        `timeout_seconds` defaults to MLflow's MLFLOW_DEPLOYMENT_PREDICT_TIMEOUT (120).
        """
        timeout_seconds = _prediction_timeout(timeout_seconds)
        deployer = self.deployer(endpoint)
        inputs = _read_by_mlflow(inputs, sys._getframe(2).f_globals.get("__name__"))
        answer = deployer.predict(_the_deployment(deployer, deployment_name), inputs, timeout_seconds)
        return PredictionsResponse(answer if isinstance(answer, dict) else {"predictions": answer})

    def predict_stream(
        self,
        deployment_name: str | None = None,
        inputs: Any = None,
        endpoint: str | None = None,
        timeout_seconds: float | None = None,
    ) -> Iterator[Any]:
        """Yields the chunks of the model's `predict_stream` as they arrive; `inputs` are those of `predict`.

        `timeout_seconds` limits the wait for each chunk. Closing the iterator ends the model's work.
        """
        timeout_seconds = _prediction_timeout(timeout_seconds)
        deployer = self.deployer(endpoint)
        yield from deployer.predict_stream(_the_deployment(deployer, deployment_name), inputs, timeout_seconds)

    def explain(self, deployment_name: str | None = None, df: Any = None, endpoint: str | None = None) -> Any:
        """Returns the explainer's output for `df`; raises NotSupported unless the deployed model is an explainer.

        Source: https://mlflow.org/docs/latest/ml/evaluation/shap/ (an explainer is a model of the flavor shap).
        """
        deployer = self.deployer(endpoint)
        name = _the_deployment(deployer, deployment_name)
        flavor = deployer.get(name).provenance.flavor
        if flavor != EXPLAINER_FLAVOR:
            raise NotSupported(
                f"Deployment '{name}' does not serve an explainer; its flavor is {flavor}.",
                hint=f"log one with mlflow.shap.log_explainer() and deploy it with -f {EXPLAINER_FLAVOR}",
            )
        df = _read_by_mlflow(df, sys._getframe(2).f_globals.get("__name__"))
        answer = deployer.predict(name, df, _prediction_timeout(None))
        return answer.get("predictions", answer) if isinstance(answer, dict) else answer

    def create_endpoint(self, name: str, config: Options | None = None, **_: Any) -> dict[str, str]:
        """Creates an endpoint: a load balancer and a cluster that deployments share. Other arguments are ignored."""
        return self.deployer().create_endpoint(name, parse_config(config))

    def update_endpoint(self, endpoint: str, config: Options | None = None) -> dict[str, str]:
        """Updates what differs; the same as create_endpoint."""
        return self.deployer().create_endpoint(endpoint, parse_config(config))

    def delete_endpoint(self, endpoint: str) -> None:
        """Deletes an endpoint that has no deployments."""
        self.deployer().delete_endpoint(endpoint)

    def list_endpoints(self) -> list[dict[str, str]]:
        """Returns every endpoint in the region."""
        return list(self.deployer().account.endpoints())

    def get_endpoint(self, endpoint: str) -> dict[str, str]:
        """Returns one endpoint; raises EndpointNotFound if it does not exist."""
        return self.deployer().get_endpoint(endpoint)

    def deployer(self, endpoint: str | None = None) -> Deployer:
        """Returns the Deployer for this target, or for another endpoint of it."""
        from mlflow_fargate.aws.account import Account  # noqa: PLC0415  # see the module's docstring
        from mlflow_fargate.deployments.callees import Callees  # noqa: PLC0415
        from mlflow_fargate.deployments.deployer import make_deployer  # noqa: PLC0415

        target = parse_target(self.target_uri)
        if endpoint is not None:
            target = replace(target, endpoint=check_endpoint_name(endpoint))
        # AWS clients and their connections are reused between calls while the target stays the same.
        with self._lock:
            if self._kept is None or self._kept[0] != target:
                self._kept = target, Account(target), Callees()
            _, account, callees = self._kept
        return replace(make_deployer(target, account, cache_directory(), progress_for_stderr()), callees=callees)


def target_help() -> str:
    """Returns the text of `mlflow deployments help -t fargate`."""
    return _HELP + describe_options()


@raises_mlflow_errors
def run_local(name: str, model_uri: str, flavor: str | None = None, config: Options | None = None) -> None:
    """Deploys to the local stack, `fargate:/local`, which must be running (`mlflow-fargate local up --detach`)."""
    FargateDeploymentClient("fargate:/local").create_deployment(name, model_uri, flavor, config)


def _dry_run(name: str, flavor: str | None) -> dict[str, Any]:
    return {"name": name, "flavor": flavor or DEFAULT_FLAVOR, "dry_run": True}


def _prediction_timeout(named: float | None) -> float:
    try:
        seconds = MLFLOW_DEPLOYMENT_PREDICT_TIMEOUT.get() if named is None else float(named)
    except ValueError as error:
        raise InvalidOption(f"{error}.") from error
    if not seconds > 0:
        raise InvalidOption(f"timeout_seconds must be greater than 0, not {seconds:g}.", hint="timeout_seconds=120")
    return float(seconds)


def _read_by_mlflow(inputs: Any, caller: str | None) -> Any:
    """Returns `inputs`, or the request in the file that MLflow's command or MCP tool read as a table.

    Only the caller's module tells a file's {"inputs": […]} from a DataFrame with the column `inputs`.
    """
    from mlflow_fargate.scoring import document_in_frame, is_frame  # noqa: PLC0415

    return document_in_frame(inputs) if caller == "mlflow.deployments.cli" and is_frame(inputs) else inputs


def _the_deployment(deployer: Deployer, name: str | None) -> str:
    """`name`, or the only deployment of the endpoint: `mlflow deployments predict --endpoint E` does not name one."""
    if name is not None:
        return name
    names = [status.name for status in deployer.list()]
    if len(names) == 1:
        return names[0]
    if not names:
        raise InvalidOption(
            f"Endpoint '{deployer.target.endpoint}' has no deployments.",
            hint="create one with: mlflow deployments create",
        )
    raise InvalidOption(
        f"Endpoint '{deployer.target.endpoint}' has {len(names)} deployments ({', '.join(names)}).",
        hint="choose one: --name NAME -t fargate:/REGION/ENDPOINT",
    )

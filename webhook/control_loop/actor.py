"""Makes one change to one deployment with `mlflow.deployments`, and returns its outcome."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from mlflow_fargate.errors import DeploymentExists, RolloutFailed
from mlflow_fargate.resolved_model import without_credentials
from mlflow_fargate.webhook.control_loop.reconcile import Action
from mlflow_fargate.webhook.control_loop.watch import Watch

# Models and their packages are code, and this machine has the service's permissions: never run them here.
_CAUTION = {"smoke_test": False, "convert": False, "build_sdists": False}


class Deployments(Protocol):
    """The methods of `mlflow.deployments` clients used here."""

    def list_deployments(self, endpoint: str | None = None) -> list[dict[str, Any]]: ...

    def list_endpoints(self) -> list[dict[str, str]]: ...

    def create_deployment(
        self, name: str, model_uri: str, flavor: str | None = None, config: Any = None, endpoint: str | None = None
    ) -> Any: ...

    def update_deployment(
        self,
        name: str,
        model_uri: str | None = None,
        flavor: str | None = None,
        config: Any = None,
        endpoint: str | None = None,
    ) -> Any: ...

    def delete_deployment(self, name: str, config: Any = None, endpoint: str | None = None) -> None: ...


@dataclass(frozen=True)
class Outcome:
    """The outcome of a change."""

    key: str  # the deployment
    kind: str  # create, update, scale_to_zero or delete
    model_name: str
    version: str | None
    result: Literal["success", "failure", "rollback"]
    reason: str  # of a failure
    began: float  # seconds since 1970
    duration_seconds: float


def act(client: Deployments, watch: Watch, action: Action, clock: Callable[[], float]) -> Outcome:
    """Makes the decided change and waits for AWS to finish it; a failure is returned, not raised."""
    began = clock()
    result: Literal["success", "failure", "rollback"] = "success"
    reason = ""
    try:
        _call(client, watch, action)
    except Exception as error:  # shown, remembered and retried; one deployment must not block the others
        if not _is_there_already(error):
            result = "rollback" if isinstance(error, RolloutFailed) else "failure"
            reason = without_credentials(f"{type(error).__name__}: {error}")
    deployed = watch.deployed
    return Outcome(
        key=deployed.key,
        kind=action.kind,
        model_name=deployed.model_name or "",
        version=action.version,
        result=result,
        reason=reason,
        began=began,
        duration_seconds=clock() - began,
    )


def _call(client: Deployments, watch: Watch, action: Action) -> None:
    name, endpoint = watch.deployed.name, watch.deployed.endpoint
    if action.kind == "delete":
        client.delete_deployment(name, endpoint=endpoint)
    elif action.kind == "scale_to_zero":
        client.update_deployment(name, config={"desired_count": 0}, endpoint=endpoint)
    elif action.kind == "create":
        client.create_deployment(name, _model_uri(watch, action), config=_config(watch), endpoint=endpoint)
    else:
        flavor = watch.deployed.flavor
        client.update_deployment(
            name, model_uri=_model_uri(watch, action), flavor=flavor, config=_config(watch), endpoint=endpoint
        )


def _model_uri(watch: Watch, action: Action) -> str:
    return f"models:/{watch.deployed.model_name}/{action.version}"


def _config(watch: Watch) -> Mapping[str, Any]:
    """Returns the rule's options, with `follow`: without it, the version in the URI would pin the deployment."""
    config = {**(watch.rule.config if watch.rule else {}), **_CAUTION, "follow": watch.deployed.follow}
    if watch.rule and watch.rule.on_demotion == "scale_to_zero" and watch.deployed.desired_count == 0:
        config.setdefault("desired_count", 1)
    return config


def _is_there_already(error: Exception) -> bool:
    """Returns True if someone else just created the deployment: the next poll will see it."""
    return isinstance(error, DeploymentExists)

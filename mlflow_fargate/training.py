"""Deploying from training code: `deploy` after logging a model, `promote` after evaluating it.

    info = mlflow.sklearn.log_model(model, name="model")
    deployment = mlflow_fargate.deploy(info, name="churn", cpu=512, memory=1024)
    deployment.predict(rows)

They do the same as MLflow's command, on the target set by `mlflow.deployments.set_deployments_target()` or
MLFLOW_DEPLOYMENTS_TARGET. Progress goes to stderr: a bar in a terminal, plain lines in a notebook.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from mlflow.deployments import PredictionsResponse, get_deployments_target
from mlflow.exceptions import MlflowException

from mlflow_fargate.client import FargateDeploymentClient
from mlflow_fargate.config import NamedOptions
from mlflow_fargate.errors import DeploymentNotFound, FargateError, InvalidOption, RolloutTimeout
from mlflow_fargate.mlflow_errors import methods_raise_mlflow_errors, raises_mlflow_errors
from mlflow_fargate.progress import progress_for_stderr

if TYPE_CHECKING:
    from mlflow_fargate.deployments.deployer import Deployer


@methods_raise_mlflow_errors
class Deployment:
    """A deployment. Its properties are read from AWS each time."""

    def __init__(self, name: str, client: FargateDeploymentClient, under_way: Future[None] | None = None) -> None:
        self.name = name
        self._client = client
        self._under_way = under_way

    def __repr__(self) -> str:
        return f"<Deployment {self.name} on {self._client.target_uri}>"

    @property
    def status(self) -> dict[str, Any]:
        """Returns what `mlflow deployments get` prints; raises DeploymentNotFound until it exists on AWS."""
        return self._client.get_deployment(self.name)

    @property
    def url(self) -> str:
        return str(self.status["url"])

    @property
    def version(self) -> str | None:
        """Returns the registered model's version; None if the model is not registered."""
        return str(self.status["model_version"]) or None

    def predict(self, inputs: Any, timeout_seconds: float | None = None) -> PredictionsResponse:
        """Returns the model's predictions for a DataFrame, dict, list, array, or an image's path or bytes."""
        return self._client.predict(self.name, inputs, timeout_seconds=timeout_seconds)

    def predict_stream(self, inputs: Any, timeout_seconds: float | None = None) -> Iterator[Any]:
        """Yields the chunks of the model's streamed response; each must arrive within `timeout_seconds`."""
        return self._client.predict_stream(self.name, inputs, timeout_seconds=timeout_seconds)

    def wait(self, timeout_seconds: float = 1800) -> Deployment:
        """Returns self once it responds; raises the error that stopped it, or RolloutTimeout."""
        from mlflow_fargate.deployments import operations  # noqa: PLC0415  # boto3 takes a second to load

        began = time.monotonic()
        if self._under_way is not None:
            try:
                self._under_way.result(timeout_seconds)
            except FutureTimeoutError as error:
                raise RolloutTimeout(
                    f"'{self.name}' was not deployed within {timeout_seconds:g} s; the deployment continues."
                ) from error
        left = max(timeout_seconds - (time.monotonic() - began), 1.0)
        operations.watch(self._client.deployer(), self.name, left)
        return self

    def rollback(self, to: int | None = None) -> Deployment:
        """Returns self after going back to the previous version, or to revision `to`; the deployment is then pinned."""
        from mlflow_fargate.deployments.roll_back import roll_back  # noqa: PLC0415

        roll_back(self._client.deployer(), self.name, to)
        return self

    def logs(self, since_minutes: float = 60) -> list[str]:
        """Returns the recent log lines of its tasks, oldest first: time (UTC), task, line."""
        from mlflow_fargate.deployments.logs import read_logs  # noqa: PLC0415

        since = int((time.time() - since_minutes * 60) * 1000)
        lines = read_logs(self._client.deployer(), self.name, since)
        return [f"{_moment(line.at_milliseconds)} {line.task[:8]}  {line.message}" for line in lines]


@raises_mlflow_errors
def deploy(
    model: Any,
    *,
    name: str,
    target: str | None = None,
    flavor: str | None = None,
    wait: bool = True,
    **options: Any,
) -> Deployment:
    """Creates or updates the deployment `name` to serve `model`; returns once it responds.

    `model`: a model URI, the ID of a run that logged one model, or what `log_model` returned. A run's or a logged model
    that is registered under one name is deployed as its newest version. `options`: see
    docs/options.md. `wait=False` returns immediately and continues in a thread, which the interpreter waits for at
    exit; errors are then raised by `wait()` and printed to stderr.
    """
    named = NamedOptions.parse({**options, "wait": wait})
    named.over()  # raises for a typo now
    from mlflow_fargate.model.logged import model_uri_of  # noqa: PLC0415  # takes a while to load

    client = FargateDeploymentClient(target or _target())
    model_uri = model_uri_of(model)
    if not re.match(r"models:/[^/@]+[/@]", model_uri):
        progress_for_stderr().step(f"{model_uri} is not a registered version, so it cannot be promoted")

    def work() -> None:
        _create_or_update(client.deployer(), name, model_uri, flavor, named)

    if wait:
        work()
        return Deployment(name, client)
    return Deployment(name, client, _start(f"deploy {name}", work))


@raises_mlflow_errors
def promote(name: str, version: str | int | None, stage: str = "Production") -> None:
    """Moves a stage or an alias ('@champion') to a version of the registered model `name`.

    The webhook service updates deployments that follow it. Versions that were in the stage are archived. Raises
    InvalidOption for None, which is the version of a deployment whose model is not registered.
    """
    from mlflow_fargate.model.logged import move_version  # noqa: PLC0415

    if version is None:
        raise InvalidOption(
            "The model is not registered, so it has no version to promote.",
            hint=f"log it with registered_model_name={name!r}, then deploy and promote that version",
        )
    move_version(name, str(version), stage)
    progress_for_stderr().step(f"{name} version {version} is now in {stage}")


def _target() -> str:
    try:
        return str(get_deployments_target())
    except MlflowException:
        return "fargate"


def _create_or_update(deployer: Deployer, name: str, model_uri: str, flavor: str | None, options: NamedOptions) -> None:
    try:
        deployer.get(name)
    except DeploymentNotFound:
        deployer.create(name, model_uri, flavor, options)
    else:
        deployer.update(name, model_uri, flavor, options)


def _start(what: str, work: Callable[[], None]) -> Future[None]:
    """Runs `work` in a thread; the interpreter waits for it at exit."""
    done: Future[None] = Future()

    def run() -> None:
        try:
            work()
        except FargateError as error:
            progress_for_stderr().step(f"{what} failed: {error.message}")
            done.set_exception(error)
        except BaseException as error:  # wait() raises it
            done.set_exception(error)
        else:
            done.set_result(None)

    thread = threading.Thread(target=run, name=what)
    thread.start()
    # Uses a private hook of `threading`: at exit, the interpreter shuts down the pools of concurrent.futures before it
    # waits for threads, and downloads need a pool. Hooks registered later run earlier.
    threading._register_atexit(thread.join)  # type: ignore[attr-defined]
    return done


def _moment(milliseconds: int) -> str:
    return datetime.fromtimestamp(milliseconds / 1000, timezone.utc).isoformat(timespec="seconds")

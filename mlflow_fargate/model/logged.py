"""What training code has in hand becomes a model URI: a run's id, what `log_model` returned, or a URI already.

Home of the calls that training code makes to the model registry; resolve.py follows the URI.
"""

from __future__ import annotations

import json
import re
import warnings
from typing import Any

import mlflow
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from mlflow_fargate.errors import InvalidOption, ModelNotFound
from mlflow_fargate.redirects import RefusingRedirects
from mlflow_fargate.resolved_model import without_credentials

_RUN_ID = re.compile(r"[0-9a-f]{32}")


@RefusingRedirects()
def model_uri_of(model: Any) -> str:
    """The URI of a `ModelInfo` (its registered version, where it has one), of a run's only model, or `model` itself."""
    if hasattr(model, "model_uri"):
        return _registered_uri(model) or str(model.model_uri)
    if isinstance(model, str) and _RUN_ID.fullmatch(model):
        return _only_model_of_run(model)
    if isinstance(model, str) and model:
        return model
    raise InvalidOption(
        f"A {type(model).__name__} is not a model.", hint="pass a model URI, a run's id, or what log_model() returned"
    )


@RefusingRedirects()
def move_version(name: str, version: str, to: str) -> None:
    """Moves a stage ('Production') or an alias ('@champion') to a version; ModelNotFound when there is no such one.

    Versions that held the stage are archived: MLflow takes the highest number in a stage for the one that serves.
    """
    client = MlflowClient()
    try:
        if to.startswith("@"):
            client.set_registered_model_alias(name, to[1:], version)
            return
        with warnings.catch_warnings():
            # "Model registry stages will be removed": they work in every MLflow 3.
            warnings.simplefilter("ignore", FutureWarning)
            client.transition_model_version_stage(name, version, to, archive_existing_versions=True)
    except MlflowException as error:
        said = without_credentials(str(error.message))
        raise ModelNotFound(f"Version {version} of '{name}' could not be moved to {to}: {said}") from None


def _registered_uri(info: Any) -> str | None:
    """models:/NAME/VERSION; MLflow tells the version and leaves the name to the logged model's tags."""
    version = getattr(info, "registered_model_version", None)
    if version is None or not info.model_id:
        return None
    registered = json.loads(MlflowClient().get_logged_model(info.model_id).tags.get("mlflow.modelVersions", "[]"))
    names = [item["name"] for item in registered if str(item["version"]) == str(version)]
    return f"models:/{names[-1]}/{version}" if names else None


def _only_model_of_run(run_id: str) -> str:
    try:
        run = MlflowClient().get_run(run_id)
    except MlflowException as error:
        raise ModelNotFound(
            f"There is no run {run_id} at {without_credentials(mlflow.get_tracking_uri())}.",
            hint="the tracking server is set by MLFLOW_TRACKING_URI or mlflow.set_tracking_uri()",
        ) from error
    logged = [output.model_id for output in run.outputs.model_outputs] if run.outputs else []
    if len(logged) == 1:
        return f"models:/{logged[0]}"
    if not logged:
        raise ModelNotFound(f"Run {run_id} has logged no model.", hint="log one with mlflow.….log_model(name='model')")
    listed = ", ".join(f"models:/{model_id}" for model_id in logged)
    raise InvalidOption(f"Run {run_id} has logged {len(logged)} models.", hint=f"name one: {listed}")

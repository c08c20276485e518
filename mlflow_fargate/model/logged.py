"""Converts what training code has (a run ID, the result of `log_model`, a URI) to a model URI.

Contains the model registry calls for training code; resolve.py follows the URI.
"""

from __future__ import annotations

import json
import re
import warnings
from typing import Any

import mlflow
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_DOES_NOT_EXIST, ErrorCode
from mlflow.tracking import MlflowClient
from mlflow.utils.mlflow_tags import MLFLOW_LOGGED_MODELS

from mlflow_fargate.errors import InvalidOption, ModelNotFound
from mlflow_fargate.redirects import RefusingRedirects
from mlflow_fargate.resolved_model import without_credentials

_RUN_ID = re.compile(r"[0-9a-f]{32}")
_MISTYPED = (ValueError, TypeError, KeyError, RecursionError)  # anyone can set tags


@RefusingRedirects()
def model_uri_of(model: Any) -> str:
    """Returns the URI of a `ModelInfo` (its registered version, if any), of a run's only model, or `model` itself."""
    if hasattr(model, "model_uri"):
        return _registered_uri(model) or str(model.model_uri)
    if isinstance(model, str) and _RUN_ID.fullmatch(model):
        return _only_model_of_run(model)
    if isinstance(model, str) and model:
        return model
    raise InvalidOption(
        f"Expected a model, got {type(model).__name__}.", hint="pass a model URI, a run ID, or log_model()'s result"
    )


@RefusingRedirects()
def move_version(name: str, version: str, to: str) -> None:
    """Moves a stage ('Production') or alias ('@champion') to a version; raises ModelNotFound if it does not exist.

    Versions that were in the stage are archived, because MLflow serves the highest version number in a stage.
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
    """models:/NAME/VERSION; MLflow returns the version, and the name only in the logged model's tags."""
    version = getattr(info, "registered_model_version", None)
    if version is None or not info.model_id:
        return None
    tags = MlflowClient().get_logged_model(info.model_id).tags
    try:
        registered = json.loads(tags.get("mlflow.modelVersions", "[]"))
        names = [item["name"] for item in registered if str(item["version"]) == str(version)]
    except _MISTYPED:
        names = []
    return f"models:/{names[-1]}/{version}" if names else None


def _only_model_of_run(run_id: str) -> str:
    """Returns the version registered from a run's only model, if any, else the model's own URI."""
    client = MlflowClient()
    try:
        run = client.get_run(run_id)
    except MlflowException as error:
        raise ModelNotFound(
            f"Run {run_id} not found on {without_credentials(mlflow.get_tracking_uri())}.",
            hint="the tracking server is set by MLFLOW_TRACKING_URI or mlflow.set_tracking_uri()",
        ) from error
    logged = _logged_models(client, run)
    if not logged:
        raise ModelNotFound(f"Run {run_id} has not logged a model.", hint="log one with mlflow.FLAVOR.log_model()")
    if len(logged) > 1:
        raise InvalidOption(f"Run {run_id} has logged {len(logged)} models.", hint=f"choose one: {', '.join(logged)}")
    versions = client.search_model_versions(f"run_id = '{run_id}'")
    if len({version.name for version in versions}) != 1:
        return logged[0]
    newest = max(versions, key=lambda version: int(version.version))
    return f"models:/{newest.name}/{newest.version}"


def _logged_models(client: MlflowClient, run: Any) -> list[str]:
    """Returns the URIs of a run's models that still exist; clients before MLflow 3 list theirs in a tag."""
    outputs = run.outputs.model_outputs if run.outputs else []
    logged = []
    for model_id in dict.fromkeys(output.model_id for output in outputs):
        try:
            logged.append(client.get_logged_model(model_id).model_uri)
        except MlflowException as error:
            if error.error_code != ErrorCode.Name(RESOURCE_DOES_NOT_EXIST):
                raise
    try:
        history = [] if outputs else json.loads(run.data.tags.get(MLFLOW_LOGGED_MODELS, "[]"))
        paths = dict.fromkeys(str(item["artifact_path"]) for item in history)
    except _MISTYPED:
        paths = {}
    return logged or [f"runs:/{run.info.run_id}/{path}" for path in paths]

"""Converts what training code has (a run ID, the result of `log_model`, a URI) to a model URI.

Contains the model registry calls for training code; resolve.py follows the URI.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Sequence
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
_RUN_URI = re.compile(r"runs:/([0-9a-f]{32})/(.+)")
_COPY_URI = re.compile(r"models:/[^/]+/\d+")  # the source of a version that copy_model_version made
_LOGGED_URI = re.compile(r"models:/(m-\w+)/?")


@RefusingRedirects()
def model_uri_of(model: Any) -> str:
    """Returns the URI of a `ModelInfo`, of a run's only model, or `model` itself: of the registered version, if any."""
    if hasattr(model, "model_uri"):
        version = getattr(model, "registered_model_version", None)
        return _registered_uri(model.model_id, version) or str(model.model_uri)
    if isinstance(model, str) and _RUN_ID.fullmatch(model):
        return _only_model_of_run(model)
    if isinstance(model, str) and (run := _RUN_URI.fullmatch(model)):
        return _registered_from_run(run[1], run[2].rstrip("/")) or model
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


def _registered_uri(model_id: str | None, version: object = None) -> str | None:
    """Returns models:/NAME/VERSION of a logged model, whose tags list these; the newest if no version is given.

    None: it is not registered, or under several names.
    """
    if not model_id:
        return None
    try:
        tags = MlflowClient().get_logged_model(model_id).tags
    except MlflowException:  # the model's URI is resolved later, with errors that explain
        return None
    try:
        registered = json.loads(tags.get("mlflow.modelVersions", "[]"))
        versions = [(str(item["name"]), int(item["version"])) for item in registered]
    except _MISTYPED:
        return None
    if version is not None:
        versions = [one for one in versions if str(one[1]) == str(version)][-1:]
    return _newest(versions)


def _newest(versions: Sequence[tuple[str, int]]) -> str | None:
    if len({name for name, _ in versions}) != 1:
        return None
    name, number = max(versions, key=lambda one: one[1])
    return f"models:/{name}/{number}"


def _registered_from_run(run_id: str, path: str | None = None) -> str | None:
    """Returns the newest version registered from a run, or from the model with that path in it."""
    client = MlflowClient()
    try:
        found = client.search_model_versions(f"run_id = '{run_id}'")
        registered = [one for one in found if not _COPY_URI.fullmatch(str(one.source))]
        kept = [one for one in registered if path is None or _path_in_run(client, one) == path]
    except MlflowException:
        return None
    return _newest([(one.name, int(one.version)) for one in kept])


def _path_in_run(client: MlflowClient, version: Any) -> str:
    """Returns the name of the logged model that a version has; its folder in the run, if MLflow 2 logged it."""
    model_id = version.model_id or (_LOGGED_URI.fullmatch(str(version.source)) or ["", ""])[1]
    if model_id:
        return str(client.get_logged_model(model_id).name)
    return str(version.source).rstrip("/").rpartition("/artifacts/")[2]


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
    return _registered_from_run(run_id) or logged[0]


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

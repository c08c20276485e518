"""A model URI is followed to the folder that holds the model, asking MLflow as little as possible.

    models:/churn/Production ─┐ version 3 ─ source ─┐
    models:/churn@champion ───┤                     ├─ models:/m-… ─ logged model ─┐
    models:/churn/latest ─────┘                     │                              ├─ artifact root
    runs:/RUN/model ────────────────────────────────┘                              │
    s3://… · /a/path ──────────────────────────────────────────────────────────────┘

Home of MLflow's tracking and registry client; resolve.py reads what lies at the end.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import functools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.runs_artifact_repo import RunsArtifactRepository
from mlflow.store.artifact.utils.models import _parse_model_uri

from mlflow_fargate.errors import FargateError, InvalidOption, ModelNotFound, ModelUnusable
from mlflow_fargate.model.server import check_reachable
from mlflow_fargate.model.sources import check_source, is_local, scheme_of
from mlflow_fargate.redirects import RefusingRedirects
from mlflow_fargate.resolved_model import without_credentials

MODEL_URI_FORMS = (
    "models:/NAME/VERSION, models:/NAME@ALIAS, models:/NAME/STAGE, models:/m-ID, runs:/RUN/PATH, s3://… or a folder"
)
_LONGEST_CHAIN = 8  # version → version → run → logged model is four; a registry can be made to point in a circle
_ABSENT_CODES = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")  # the latter: an alias that is not there


class _Absent(ModelNotFound):
    """MLflow answered, and the answer is no."""


@dataclass(frozen=True)
class Place:
    """Where a model URI leads: the model's root, and what the registry knows of it."""

    artifact_uri: str
    resolved_uri: str
    name: str | None = None
    version: str | None = None
    run_id: str | None = None


class ModelRegistry:
    """The model registry and the tracking server, asked as little as possible."""

    def __init__(self, tracking_uri: str, registry_uri: str) -> None:
        self._uris = (tracking_uri, registry_uri)

    @functools.cached_property
    def _client(self) -> MlflowClient:
        # Made late: for a local database it makes the database, which a path or an s3:// URI has no use for.
        return MlflowClient(*self._uris)

    def follow(self, uri: str) -> Place:
        """Where `uri` leads; a registered model's version, run and source are read on the way.

        UntrustedSource when they lead to a place that gets no request (sources.py).
        """
        if not _asks_mlflow(uri):
            return Place(artifact_uri=uri.rstrip("/"), resolved_uri=without_credentials(uri.rstrip("/")))
        self._check_reachable()
        place = self._follow(uri, _LONGEST_CHAIN)
        check_source(place.artifact_uri, *self._uris)
        return place

    def run_root(self, run_id: str) -> str | None:
        """The artifact root of a run; None when there is no such run any more; UntrustedSource as for `follow`."""
        try:
            with self._errors(f"run {run_id}"):
                root = str(self._client.get_run(run_id).info.artifact_uri)
        except _Absent:
            return None
        check_source(root, *self._uris)
        return root

    def tag_version(self, name: str, version: str, tags: Mapping[str, str]) -> None:
        """Writes tags on a version of a registered model; ModelNotFound says why when MLflow does not take them."""
        self._check_reachable()
        with self._errors(f"models:/{name}/{version}"):
            for key, value in tags.items():
                self._client.set_model_version_tag(name, version, key, value)

    def _follow(self, uri: str, hops: int) -> Place:
        if not hops:
            raise ModelUnusable(f"The sources of this model lead in a circle, through {uri}.")
        if _asks_mlflow(uri):
            return self._follow_model(uri, hops) if scheme_of(uri) == "models" else self._follow_run(uri)
        return Place(artifact_uri=uri.rstrip("/"), resolved_uri=without_credentials(uri.rstrip("/")))

    def _follow_model(self, uri: str, hops: int) -> Place:
        with _invalid_uri(uri):
            parsed = _parse_model_uri(uri)
        if parsed.model_id:
            return self._logged_model(parsed.model_id)
        version = self._version(uri, parsed.name, parsed.version, parsed.stage, parsed.alias)
        where = f"models:/{version.name}/{version.version}"
        if version.status and version.status != "READY":
            raise ModelUnusable(f"{where} is not ready ({version.status}): {version.status_message or ''}")
        place = self._follow(version.source, hops - 1)
        run_id = version.run_id or place.run_id
        return dataclasses.replace(
            place, resolved_uri=where, name=str(version.name), version=str(version.version), run_id=run_id
        )

    def _version(self, uri: str, name: str, version: str | None, stage: str | None, alias: str | None) -> Any:
        try:
            with self._errors(uri):
                if version:
                    return self._client.get_model_version(name, version)
                if alias:
                    return self._client.get_model_version_by_alias(name, alias)
        except _Absent as error:
            raise self._nothing_there(uri, self._registered(uri, name)) from error
        # get_latest_versions() asks this first and then once more for the same.
        registered = self._registered(uri, name)
        wanted = [one for one in registered.latest_versions if not stage or one.current_stage.lower() == stage.lower()]
        if not wanted:
            raise self._nothing_there(uri, registered)
        # The highest number, not the one that was promoted last: so does MLflow.
        return max(wanted, key=lambda one: int(one.version))

    def _registered(self, uri: str, name: str) -> Any:
        try:
            with self._errors(uri):
                return self._client.get_registered_model(name)
        except _Absent as error:
            with self._errors(uri):
                names = [model.name for model in self._client.search_registered_models(max_results=200)]
            alike = difflib.get_close_matches(name, names, n=1)
            known = ", ".join(names[:10]) or "none at all"
            hint = f"did you mean '{alike[0]}'?" if alike else f"registered models: {known}"
            raise ModelNotFound(f"There is no registered model '{name}' ({uri}).", hint=hint) from error

    @staticmethod
    def _nothing_there(uri: str, registered: Any) -> ModelNotFound:
        held = [f"{one.version} ({one.current_stage})" for one in registered.latest_versions]
        aliases = [f"@{alias} → {version}" for alias, version in sorted(registered.aliases.items())]
        return ModelNotFound(
            f"{uri} names no version of '{registered.name}'.",
            hint=f"newest versions: {', '.join(held) or 'none'}; aliases: {', '.join(aliases) or 'none'}; "
            f"promote one in MLflow's UI or with: mlflow_fargate.promote('{registered.name}', VERSION)",
        )

    def _follow_run(self, uri: str) -> Place:
        with _invalid_uri(uri):
            run_id, path = RunsArtifactRepository.parse_runs_uri(uri)
        with self._errors(uri):
            run = self._client.get_run(run_id)
        # Since MLflow 3 a model lies beside its run, not below it.
        outputs = run.outputs.model_outputs if run.outputs else []
        with self._errors(uri):
            logged = [self._client.get_logged_model(output.model_id) for output in outputs]
        named = [one for one in logged if one.name == path]
        if named:
            return self._logged_model_place(max(named, key=lambda one: int(one.creation_timestamp)))
        root = "/".join(part for part in (str(run.info.artifact_uri).rstrip("/"), path) if part)
        return Place(artifact_uri=root, resolved_uri=uri, run_id=run_id)

    def _logged_model(self, model_id: str) -> Place:
        with self._errors(f"models:/{model_id}"):
            return self._logged_model_place(self._client.get_logged_model(model_id))

    @staticmethod
    def _logged_model_place(logged: Any) -> Place:
        return Place(
            artifact_uri=str(logged.artifact_location).rstrip("/"),
            resolved_uri=f"models:/{logged.model_id}",
            run_id=logged.source_run_id or None,
        )

    def _check_reachable(self) -> None:
        for uri in dict.fromkeys(self._uris):
            if scheme_of(uri) in {"http", "https"}:
                with self._errors(uri):
                    check_reachable(uri)

    @contextlib.contextmanager
    def _errors(self, what: str) -> Iterator[None]:
        try:
            with RefusingRedirects():
                yield
        except FargateError:
            raise
        except MlflowException as error:
            server = without_credentials(self._uris[0])
            said = without_credentials(str(error.message))
            message = f"{without_credentials(what)} could not be read from MLflow at {server}: {said[:500]}"
            # The cause is shown in notebooks; it must not tell the password either.
            cause = None if said != str(error.message) else error
            kind = _Absent if error.error_code in _ABSENT_CODES else ModelNotFound
            raise kind(message, hint=_hint(error, server)) from cause


def _hint(error: MlflowException, server: str) -> str | None:
    said = str(error.message)
    if "Invalid Host header" in said:
        return (
            f"the server does not know its name; start it with: mlflow server --allowed-hosts {urlsplit(server).netloc}"
        )
    if re.search(r"failed with error code 30[12378]\b", said):
        return "the server redirects, and no redirect is followed; set MLFLOW_TRACKING_URI to where it answers itself"
    status = error.get_http_status_code()
    if status == 401:
        return "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD (or MLFLOW_TRACKING_TOKEN)"
    if status == 403:
        return "your MLflow user may not read this; ask for the READ permission"
    if "failed with exception" in said or "timeout" in said:
        return "is the tracking server running, and reachable from here? It is set by MLFLOW_TRACKING_URI"
    return None


def _asks_mlflow(uri: str) -> bool:
    return not is_local(uri) and scheme_of(uri) in {"models", "runs"}


@contextlib.contextmanager
def _invalid_uri(uri: str) -> Iterator[None]:
    try:
        yield
    except MlflowException as error:
        raise InvalidOption(f"'{without_credentials(uri)}' is not a model URI.", hint=MODEL_URI_FORMS) from error

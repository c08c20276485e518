"""Follows a model URI to the folder that contains the model, with as few calls to MLflow as possible.

    models:/churn/Production ─┐
    models:/churn@champion ───┼─ version 3 ─ the place that MLflow recorded at registration ─┐
    models:/churn/latest ─────┘                                                              ├─ artifact root
    runs:/RUN/model ── models:/m-… ── logged model ──────────────────────────────────────────┤
    s3://… · /a/path ────────────────────────────────────────────────────────────────────────┘

The source of a version can be renamed, deleted or replaced later; only a registry that recorded no place has a
source to follow.

The only module that uses MLflow's tracking and registry client; resolve.py reads the folder.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import functools
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.runs_artifact_repo import RunsArtifactRepository
from mlflow.store.artifact.utils.models import _parse_model_uri

from mlflow_fargate.errors import FargateError, InvalidOption, ModelNotFound, ModelUnusable
from mlflow_fargate.model.server import check_reachable, hint_for
from mlflow_fargate.model.sources import check_source, is_local, scheme_of
from mlflow_fargate.redirects import RefusingRedirects
from mlflow_fargate.resolved_model import without_credentials

MODEL_URI_FORMS = (
    "models:/NAME/VERSION, models:/NAME@ALIAS, models:/NAME/STAGE, models:/m-ID, runs:/RUN/PATH, s3://… or a folder"
)
_LONGEST_CHAIN = 8  # version → version → run → logged model is four; a registry can contain a cycle
_SHOWN_MODELS = 5
_MOST_PAGES = 100  # of models with a run's model's name; a registry can go on without end
# The second: an alias that does not exist. The third: the server is too old for the request.
_ABSENT_CODES = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE", "ENDPOINT_NOT_FOUND")


class _Absent(ModelNotFound):
    """MLflow responded that it does not exist."""


@dataclass(frozen=True)
class Place:
    """Where a model URI points: the model's root, and what the registry knows about it."""

    artifact_uri: str
    resolved_uri: str
    name: str | None = None
    version: str | None = None
    run_id: str | None = None
    other_models: str | None = None  # a hint: what the run has instead, if nothing is there
    created_ms: int | None = None  # when it was registered or logged, in milliseconds since 1970


class ModelRegistry:
    """The model registry and the tracking server, called as rarely as possible."""

    def __init__(self, tracking_uri: str, registry_uri: str) -> None:
        self._uris = (tracking_uri, registry_uri)

    @functools.cached_property
    def _client(self) -> MlflowClient:
        # Created late: for a local database URI it creates the database, which a path or s3:// URI does not need.
        return MlflowClient(*self._uris)

    def follow(self, uri: str) -> Place:
        """Returns where `uri` points, after reading a registered model's version, run and source.

        Raises UntrustedSource if they point to a location that is not allowed (sources.py).
        """
        if not _is_in_mlflow(uri):
            return Place(artifact_uri=uri.rstrip("/"), resolved_uri=without_credentials(uri.rstrip("/")))
        self._check_reachable()
        place = self._follow(uri, _LONGEST_CHAIN)
        check_source(place.artifact_uri, *self._uris)
        return place

    def run_root(self, run_id: str) -> str | None:
        """Returns the artifact root of a run, or None if it no longer exists; raises UntrustedSource like `follow`."""
        try:
            with self._errors(f"run {run_id}"):
                root = str(self._client.get_run(run_id).info.artifact_uri)
        except _Absent:
            return None
        check_source(root, *self._uris)
        return root

    def tag_version(self, name: str, version: str, tags: Mapping[str, str]) -> None:
        """Sets tags on a version of a registered model; raises ModelNotFound with the reason if MLflow refuses."""
        self._check_reachable()
        with self._errors(f"models:/{name}/{version}"):
            for key, value in tags.items():
                self._client.set_model_version_tag(name, version, key, value)

    def _follow(self, uri: str, hops: int) -> Place:
        if not hops:
            raise ModelUnusable(f"The model's source URIs form a cycle (through {uri}).")
        if _is_in_mlflow(uri):
            return self._follow_model(uri, hops) if scheme_of(uri) == "models" else self._follow_run(uri)
        return Place(artifact_uri=uri.rstrip("/"), resolved_uri=without_credentials(uri.rstrip("/")))

    def _follow_model(self, uri: str, hops: int) -> Place:
        _check_slashes(uri)
        with _invalid_uri(uri):
            parsed = _parse_model_uri(uri)
        if parsed.model_id and parsed.model_id.startswith("m-"):
            return self._logged_model(parsed.model_id)
        if parsed.model_id:  # MLflow reads models:/NAME as the ID of a logged model
            raise self._nothing_there(uri, self._registered(uri, parsed.model_id))
        version = self._version(uri, parsed.name, parsed.version, parsed.stage, parsed.alias)
        where = f"models:/{version.name}/{version.version}"
        if version.status and version.status != "READY":
            raise ModelUnusable(f"{where} is not ready ({version.status}): {version.status_message or ''}")
        with self._errors(where):
            recorded = self._client.get_model_version_download_uri(version.name, version.version)
        place = self._follow(recorded, hops - 1)
        run_id = version.run_id or place.run_id
        return dataclasses.replace(
            place,
            resolved_uri=where,
            name=str(version.name),
            version=str(version.version),
            run_id=run_id,
            created_ms=version.creation_timestamp,
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
        # get_latest_versions() makes this call first, then repeats it.
        registered = self._registered(uri, name)
        wanted = [one for one in registered.latest_versions if not stage or one.current_stage.lower() == stage.lower()]
        if not wanted:
            raise self._nothing_there(uri, registered)
        # The highest number, not the most recently promoted version, as in MLflow.
        return max(wanted, key=lambda one: int(one.version))

    def _registered(self, uri: str, name: str) -> Any:
        try:
            with self._errors(uri):
                return self._client.get_registered_model(name)
        except _Absent as error:
            with self._errors(uri):
                names = [model.name for model in self._client.search_registered_models(max_results=200)]
            alike = difflib.get_close_matches(name, names, n=1)
            hint = f"did you mean '{alike[0]}'?" if alike else f"registered models: {', '.join(names[:10])}"
            if not names:
                registry = without_credentials(self._uris[1])
                hint = f"the registry at {registry} is empty; to use another server, set MLFLOW_TRACKING_URI"
            raise ModelNotFound(f"Registered model '{name}' not found ({uri}).", hint=hint) from error

    @staticmethod
    def _nothing_there(uri: str, registered: Any) -> ModelNotFound:
        held = [f"{one.version} ({_shown_stage(one.current_stage)})" for one in registered.latest_versions]
        aliases = [f"@{alias} → {version}" for alias, version in sorted(registered.aliases.items())]
        return ModelNotFound(
            f"{uri} does not match any version of '{registered.name}'.",
            hint=f"choose a version, stage or alias: models:/{registered.name}/VERSION; "
            f"newest versions: {', '.join(held) or 'none'}; aliases: {', '.join(aliases) or 'none'}",
        )

    def _follow_run(self, uri: str) -> Place:
        with _invalid_uri(uri):
            run_id, path = RunsArtifactRepository.parse_runs_uri(uri)
        if not run_id:
            raise InvalidOption(f"'{uri}' does not name a run.", hint=MODEL_URI_FORMS)
        run = self._get(uri, "run", lambda: self._client.get_run(run_id))
        # Since MLflow 3, models are stored next to their run, not inside it.
        # No model's name contains a quotation mark.
        if path and "'" not in path and (model := self._model_of_run(run, path)):
            return self._logged_model_place(model)
        outputs = run.outputs.model_outputs if run.outputs else []
        logged = [one for output in outputs if (one := self._existing(output.model_id)) is not None]
        if own := next((one for one in logged if (one.name, one.source_run_id) == (path, run_id)), None):
            return self._logged_model_place(own)
        names = sorted({str(one.name) for one in logged})
        listed = f"models of this run: {', '.join(f'runs:/{run_id}/{name}' for name in names) or 'none'}"
        if not path:
            raise ModelNotFound(f"{uri} does not name a model of the run.", hint=listed)
        root = f"{str(run.info.artifact_uri).rstrip('/')}/{path}"
        listed += f"; this is {self._server}; to use another server, set MLFLOW_TRACKING_URI"
        return Place(root, resolved_uri=uri, run_id=run_id, other_models=listed)

    def _model_of_run(self, run: Any, name: str) -> Any:
        """Returns the model that MLflow's RunsArtifactRepository uses, or None: the first found that the run logged."""
        token, filter_string, experiments = None, f"name = '{name}'", [run.info.experiment_id]
        # MLflow 2 has no such search, and no such models.
        with contextlib.suppress(_Absent), self._errors(f"runs:/{run.info.run_id}/{name}"):
            for _ in range(_MOST_PAGES):
                page = self._client.search_logged_models(experiments, filter_string=filter_string, page_token=token)
                found = next((one for one in page if one.source_run_id == run.info.run_id), None)
                if found or not (token := page.token):
                    return found
        return None

    def _existing(self, model_id: str) -> Any:
        """Returns a logged model, or None if it was deleted: a run lists it nevertheless."""
        with contextlib.suppress(_Absent), self._errors(f"models:/{model_id}"):
            return self._client.get_logged_model(model_id)
        return None

    def _logged_model(self, model_id: str) -> Place:
        uri = f"models:/{model_id}"
        return self._logged_model_place(self._get(uri, "logged model", lambda: self._client.get_logged_model(model_id)))

    def _get(self, uri: str, kind: str, read: Callable[[], Any]) -> Any:
        """Returns what `read` does; if it does not exist, the error names the newest models and the server."""
        try:
            with self._errors(uri):
                return read()
        except _Absent as error:
            newest = ", ".join(self._newest_models(uri)) or "none"
            raise ModelNotFound(
                f"{uri} was not found: {self._server} has no such {kind}.",
                hint=f"newest models there: {newest}; to use another server, set MLFLOW_TRACKING_URI",
            ) from error

    def _newest_models(self, uri: str) -> Iterator[str]:
        """Yields the URIs of the models logged last, in the form of `uri`; none if the server knows none."""
        order = [{"field_name": "creation_timestamp", "ascending": False}]
        with contextlib.suppress(FargateError), self._errors(uri):
            experiments = [one.experiment_id for one in self._client.search_experiments(max_results=100)]
            found = self._client.search_logged_models(experiments, order_by=order, max_results=_SHOWN_MODELS)
            for one in found[:_SHOWN_MODELS]:
                by_run = scheme_of(uri) == "runs" and one.source_run_id
                yield f"runs:/{one.source_run_id}/{one.name}" if by_run else f"models:/{one.model_id} ({one.name})"

    @property
    def _server(self) -> str:
        return f"MLflow at {without_credentials(self._uris[0])}"

    @staticmethod
    def _logged_model_place(logged: Any) -> Place:
        return Place(
            artifact_uri=str(logged.artifact_location).rstrip("/"),
            resolved_uri=f"models:/{logged.model_id}",
            run_id=logged.source_run_id or None,
            created_ms=logged.creation_timestamp,
        )

    def _check_reachable(self) -> None:
        for uri in dict.fromkeys(self._uris):
            if scheme_of(uri) in {"http", "https"}:
                with self._errors(server=uri):
                    check_reachable(uri)

    @contextlib.contextmanager
    def _errors(self, what: str = "", server: str = "") -> Iterator[None]:
        try:
            with RefusingRedirects():
                yield
        except FargateError:
            raise
        except MlflowException as error:
            server = without_credentials(server or self._uris[0])
            said = without_credentials(str(error.message))
            failed = (
                f"{without_credentials(what)} could not be read from MLflow at {server}"
                if what
                else f"MLflow at {server} could not be reached"
            )
            message = f"{failed}: {said[:500]}"
            # Notebooks show the cause; it must not contain the password either.
            cause = None if said != str(error.message) else error
            kind = _Absent if error.error_code in _ABSENT_CODES else ModelNotFound
            raise kind(message, hint=hint_for(error, server)) from cause


def _shown_stage(stage: str) -> str:
    return "no stage" if stage == "None" else stage


def _check_slashes(uri: str) -> None:
    """Raises InvalidOption for models://NAME/VERSION, where MLflow drops NAME; Databricks has a profile there."""
    host = re.match(r"models://([^/]+)(/.*)?$", uri, re.IGNORECASE)
    if host and "@" not in host[1]:
        right = f"models:/{host[1]}{host[2] or '/VERSION'}"
        raise InvalidOption(f"'{uri}' is not a model URI: it has two slashes.", hint=f"did you mean {right}?")


def _is_in_mlflow(uri: str) -> bool:
    return not is_local(uri) and scheme_of(uri) in {"models", "runs"}


@contextlib.contextmanager
def _invalid_uri(uri: str) -> Iterator[None]:
    try:
        yield
    except MlflowException as error:
        raise InvalidOption(f"'{without_credentials(uri)}' is not a model URI.", hint=MODEL_URI_FORMS) from error

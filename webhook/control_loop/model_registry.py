"""Reads the model registry: which version holds which stage or alias, for all models in one request."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, NamedTuple, Protocol
from urllib.parse import quote

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE, PERMISSION_DENIED, RESOURCE_DOES_NOT_EXIST, ErrorCode

from mlflow_fargate.redirects import RefusingRedirects

logger = logging.getLogger(__name__)

TAG_PREFIX = "fargate."  # other tags are not kept, however many and long they are
# The last: no model can have this name. One of them in a rule must not stop the others.
_NOT_VISIBLE = set(map(ErrorCode.Name, (RESOURCE_DOES_NOT_EXIST, PERMISSION_DENIED, INVALID_PARAMETER_VALUE)))
_PROMPT_TAG = "mlflow.prompt.is_prompt"
# The filter is part of the URL: servers and proxies accept a few thousand characters.
_NAMES_A_REQUEST = 100
_CHARACTERS_A_REQUEST = 6000
# Anyone who can register models decides how many a search finds: 10,000 models, and a million versions of one.
_MOST_PAGES = 100


class Registration(NamedTuple):
    """What tells a version from an earlier one with the same number."""

    registered_ms: int | None
    run_id: str | None


@dataclass(frozen=True)
class ModelState:
    """The stages and aliases of one registered model; the versions of a stage are in ascending order."""

    stages: Mapping[str, tuple[str, ...]]
    aliases: Mapping[str, str]
    tags: Mapping[str, str] = field(default_factory=dict)  # of the registered model, those for this package
    registrations: Mapping[str, Registration] = field(default_factory=dict)  # of the versions that were read
    created_ms: int | None = None  # of the registered model, in milliseconds since 1970


class ModelStateSource(Protocol):
    """The queries sent to a model registry."""

    def look(
        self, names: Collection[str], *, patterns: Collection[str] = (), tag: str | None = None
    ) -> dict[str, ModelState]:
        """Returns the state of each visible model, with the highest version of each stage.

        Models are selected by name, by pattern (`*` and `?`; the result can include near matches) or by tag.
        """

    def look_closely(self, name: str) -> ModelState | None:
        """Returns one model's state with *all* versions of each stage; None if the model is not visible."""


class MlflowModelRegistry:
    """The registry of an MLflow tracking server. Raises MlflowException if it does not respond."""

    def __init__(self, tracking_uri: str, registry_uri: str | None = None) -> None:
        self._client = MlflowClient(tracking_uri, registry_uri or tracking_uri)

    @RefusingRedirects()
    def look(
        self, names: Collection[str], *, patterns: Collection[str] = (), tag: str | None = None
    ) -> dict[str, ModelState]:
        searches = [self._search(f"name LIKE {_quoted(_like(pattern))}") for pattern in sorted(patterns)]
        if tag:
            searches.append(self._search(f"tags.`{tag}` LIKE '%'"))
        states = {model.name: _state(model.latest_versions, model) for model in chain.from_iterable(searches)}
        for chunk in _chunks(sorted(set(names) - states.keys())):
            # MLflow 1.30 ignores a list of names, and returns every model.
            found = (model for model in self._named(chunk) if model.name in chunk)
            states |= {model.name: _state(model.latest_versions, model) for model in found}
        # A server that does not understand a search finds nothing; only this answer says that a model is absent.
        for name in sorted(set(names) - states.keys()):
            states |= {model.name: _state(model.latest_versions, model) for model in self._get(name)}
        return states

    @RefusingRedirects()
    def look_closely(self, name: str) -> ModelState | None:
        (model,) = self._get(name) or [None]
        if model is None:
            return None
        if _is_unquotable(name):
            return _state(model.latest_versions, model)
        wanted = f"name = {_quoted(name)}"
        versions = all_pages(lambda token: self._client.search_model_versions(wanted, page_token=token))
        return _state(versions, model)

    def _named(self, names: list[str]) -> list[Any]:
        if _is_unquotable(names[0]):
            return []
        if len(names) == 1:
            return self._search(f"name = {_quoted(names[0])}")
        try:
            return self._search(f"name IN ({', '.join(map(_quoted, names))})")
        except MlflowException as error:
            if error.error_code == ErrorCode.Name(INVALID_PARAMETER_VALUE):
                return []  # MLflow 2.10, for example, accepts no list of names; `look` then reads each
            raise

    def _get(self, name: str) -> list[Any]:
        try:
            return [self._client.get_registered_model(name)]
        except MlflowException as error:
            if error.error_code in _NOT_VISIBLE:
                return []
            raise

    def _search(self, wanted: str) -> list[Any]:
        # Not through the client, which adds a condition (no prompts) that servers before MLflow 2.21 do not understand.
        search = self._client._get_registry_client().store.search_registered_models
        found = all_pages(lambda token: search(wanted, max_results=100, page_token=token))
        return [model for model in found if _PROMPT_TAG not in model.tags]


def all_pages(fetch: Callable[[str | None], Any]) -> Iterator[Any]:
    """Yields the items of MLflow's pages, up to a limit; `fetch` receives a page token, None for the first page."""
    token: str | None = None
    for _ in range(_MOST_PAGES):
        page = fetch(token)
        yield from page
        if not (token := page.token):
            return
    logger.warning("the model registry's answer has more than %d pages; the rest is ignored", _MOST_PAGES)


def _chunks(names: Iterable[str]) -> Iterator[list[str]]:
    """Yields lists of names that fit into one request; a name that cannot be quoted is alone in its list."""
    chunk: list[str] = []
    length = 0
    for name in names:
        size = len(quote(_quoted(name))) + 6
        if _is_unquotable(name):
            yield [name]
            continue
        if chunk and (len(chunk) == _NAMES_A_REQUEST or length + size > _CHARACTERS_A_REQUEST):
            yield chunk
            chunk, length = [], 0
        chunk.append(name)
        length += size
    if chunk:
        yield chunk


def _state(versions: Iterable[Any], model: Any) -> ModelState:
    stages: dict[str, list[int]] = {}
    registrations: dict[str, Registration] = {}
    for version in versions:
        stages.setdefault(str(version.current_stage), []).append(int(version.version))
        registrations[str(version.version)] = Registration(version.creation_timestamp, version.run_id or None)
    ordered = {stage: tuple(str(number) for number in sorted(numbers)) for stage, numbers in stages.items()}
    aliases = {alias: str(version) for alias, version in model.aliases.items()}
    tags = {str(key): str(value) for key, value in model.tags.items() if str(key).startswith(TAG_PREFIX)}
    return ModelState(ordered, aliases, tags, registrations, model.creation_timestamp)


def _is_unquotable(name: str) -> bool:
    # MLflow's filters support both quotation marks, but no escapes.
    return "'" in name and '"' in name


def _quoted(name: str) -> str:
    return f'"{name}"' if "'" in name else f"'{name}'"


def _like(pattern: str) -> str:
    return pattern.replace("*", "%").replace("?", "_")

"""What the model registry says now: which version holds which stage or alias, for all models in one request."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol

from mlflow import MlflowClient

_NAMES_A_REQUEST = 50  # the filter travels in the URL


@dataclass(frozen=True)
class ModelState:
    """Who holds what in one registered model; versions by stage in ascending order."""

    stages: Mapping[str, tuple[str, ...]]
    aliases: Mapping[str, str]


class ModelRegistry(Protocol):
    """The questions asked of a model registry."""

    def look(self, names: Collection[str]) -> dict[str, ModelState]:
        """The state of each model that the registry shows; of each stage, its highest version."""

    def look_closely(self, name: str) -> ModelState | None:
        """The state of one model with *all* versions of each stage; None when the registry does not show it."""


class MlflowModelRegistry:
    """The registry behind an MLflow tracking server. MlflowException when it does not answer."""

    def __init__(self, tracking_uri: str, registry_uri: str | None = None) -> None:
        self._client = MlflowClient(tracking_uri, registry_uri or tracking_uri)

    def look(self, names: Collection[str]) -> dict[str, ModelState]:
        rest = iter(sorted(names))
        states: dict[str, ModelState] = {}
        while chunk := list(islice(rest, _NAMES_A_REQUEST)):
            states |= {model.name: _state(model.latest_versions, model.aliases) for model in self._search(chunk)}
        return states

    def look_closely(self, name: str) -> ModelState | None:
        (model,) = self._search([name]) or [None]
        if model is None:
            return None
        versions: list[Any] = []
        page = None
        while page is None or page.token:
            page = self._client.search_model_versions(f"name = {_quoted(name)}", page_token=page and page.token)
            versions += page
        return _state(versions, model.aliases)

    def _search(self, names: list[str]) -> list[Any]:
        models: list[Any] = []
        page = None
        while page is None or page.token:
            wanted = f"name IN ({', '.join(map(_quoted, names))})" if len(names) > 1 else f"name = {_quoted(names[0])}"
            page = self._client.search_registered_models(wanted, max_results=100, page_token=page and page.token)
            models += page
        return models


def _state(versions: Iterable[Any], aliases: Mapping[str, Any]) -> ModelState:
    stages: dict[str, list[int]] = {}
    for version in versions:
        stages.setdefault(str(version.current_stage), []).append(int(version.version))
    ordered = {stage: tuple(str(number) for number in sorted(numbers)) for stage, numbers in stages.items()}
    return ModelState(ordered, {alias: str(version) for alias, version in aliases.items()})


def _quoted(name: str) -> str:
    # MLflow's filters know both quotation marks and no escape.
    return f'"{name}"' if "'" in name else f"'{name}'"

"""Deployments and a model registry in memory, with verbs to move them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection
from typing import Any

from mlflow_fargate.webhook.model_registry import ModelState


class FakeDeployments:
    """What `mlflow.deployments` answers; `updates` are the calls that changed something."""

    def __init__(self) -> None:
        self.listed: dict[str, dict[str, Any]] = {}
        self.updates: list[tuple[str, str]] = []
        self.running: list[str] = []
        self.most_at_once: dict[str, int] = {}
        self.lists = 0
        self.on_update: Callable[[str], None] = lambda name: None
        self._lock = threading.Lock()

    def deploy(self, name: str, model: str, version: str, follow: str = "Production", **more: Any) -> None:
        self.listed[name] = {
            "name": name, "model_name": model, "model_version": version, "follow": follow,
            "state": "COMPLETED", "flavor": "tensorflow", "last_failed_version": None, **more,
        }  # fmt: skip

    def version(self, name: str) -> str:
        return str(self.listed[name]["model_version"])

    def list_deployments(self) -> list[dict[str, Any]]:
        self.lists += 1
        return [dict(item) for item in self.listed.values()]

    def update_deployment(
        self, name: str, model_uri: str | None = None, flavor: str | None = None, config: Any = None
    ) -> dict[str, Any]:
        with self._lock:
            self.running.append(name)
            self.most_at_once[name] = max(self.most_at_once.get(name, 0), self.running.count(name))
            self.updates.append((name, str(model_uri)))
        try:
            self.on_update(name)
            assert config == {"follow": self.listed[name]["follow"]}
            assert flavor == self.listed[name]["flavor"]
            self.listed[name]["model_version"] = str(model_uri).rpartition("/")[2]
        finally:
            with self._lock:
                self.running.remove(name)
        return self.listed[name]


class FakeRegistry:
    """A model registry whose stages and aliases can be moved; `error` makes it unreachable."""

    def __init__(self) -> None:
        self.stages: dict[str, dict[str, tuple[str, ...]]] = {}
        self.aliases: dict[str, dict[str, str]] = {}
        self.error: Exception | None = None
        self.looks = 0

    def promote(self, model: str, *versions: str, stage: str = "Production") -> None:
        self.stages.setdefault(model, {})[stage] = versions

    def alias(self, model: str, alias: str, version: str) -> None:
        self.stages.setdefault(model, {})
        self.aliases.setdefault(model, {})[alias] = version

    def look(self, names: Collection[str]) -> dict[str, ModelState]:
        self.looks += 1
        if self.error:
            raise self.error
        quick = {name: {stage: held[-1:] for stage, held in stages.items()} for name, stages in self.stages.items()}
        return {name: ModelState(quick[name], self.aliases.get(name, {})) for name in names if name in quick}

    def look_closely(self, name: str) -> ModelState | None:
        return ModelState(self.stages[name], self.aliases.get(name, {})) if name in self.stages else None

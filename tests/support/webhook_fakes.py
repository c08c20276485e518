"""Deployments and a model registry in memory, with methods to change them."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Collection, Iterator
from fnmatch import fnmatchcase
from typing import Any

from mlflow_fargate.webhook.control_loop.model_registry import ModelState


class FakeDeployments:
    """A fake of `mlflow.deployments`; `updates` are the calls that changed something."""

    def __init__(self) -> None:
        self.listed: dict[str, dict[str, Any]] = {}
        self.updates: list[tuple[str, str]] = []
        self.configs: dict[str, dict[str, Any]] = {}
        self.deleted: list[str] = []
        self.running: list[str] = []
        self.most_at_once: dict[str, int] = {}
        self.lists = 0
        self.endpoints = ["default", "prod"]
        self.on_update: Callable[[str], None] = lambda name: None
        self._lock = threading.Lock()

    def deploy(self, name: str, model: str, version: str, follow: str = "Production", **more: Any) -> None:
        self.listed[name] = {
            "name": name, "model_name": model, "model_version": version, "follow": follow,
            "state": "COMPLETED", "flavor": "tensorflow", "last_failed_version": None, **more,
        }  # fmt: skip

    def version(self, name: str) -> str:
        return str(self.listed[name]["model_version"])

    def list_deployments(self, endpoint: str | None = None) -> list[dict[str, Any]]:
        self.lists += 1
        return [dict(item) for item in self.listed.values() if item.get("at") == endpoint]

    def list_endpoints(self) -> list[dict[str, str]]:
        return [{"name": name} for name in self.endpoints]

    def create_deployment(
        self, name: str, model_uri: str, flavor: str | None = None, config: Any = None, endpoint: str | None = None
    ) -> dict[str, Any]:
        assert name not in self.listed
        model = model_uri.removeprefix("models:/").rpartition("/")[0]
        with self._changing(name, model_uri):
            self.deploy(name, model, model_uri.rpartition("/")[2], config["follow"], at=endpoint)
            self.configs[name] = dict(config)
        return self.listed[name]

    def update_deployment(
        self,
        name: str,
        model_uri: str | None = None,
        flavor: str | None = None,
        config: Any = None,
        endpoint: str | None = None,
    ) -> dict[str, Any]:
        item = self.listed[name]
        assert item.get("at") == endpoint
        with self._changing(name, str(model_uri)):
            if model_uri is not None:
                assert flavor == item["flavor"]
                item["model_version"] = model_uri.rpartition("/")[2]
            self.configs[name] = dict(config)
            item |= {key: config[key] for key in ("follow", "desired_count") if key in config}
        return item

    def delete_deployment(self, name: str, config: Any = None, endpoint: str | None = None) -> None:
        self.deleted.append(name)
        self.listed.pop(name, None)

    @contextlib.contextmanager
    def _changing(self, name: str, model_uri: str) -> Iterator[None]:
        with self._lock:
            self.running.append(name)
            self.most_at_once[name] = max(self.most_at_once.get(name, 0), self.running.count(name))
            self.updates.append((name, model_uri))
        try:
            self.on_update(name)
            yield
        finally:
            with self._lock:
                self.running.remove(name)


class FakeRegistry:
    """A model registry whose stages and aliases can be moved; `error` makes it unreachable."""

    def __init__(self) -> None:
        self.stages: dict[str, dict[str, tuple[str, ...]]] = {}
        self.aliases: dict[str, dict[str, str]] = {}
        self.tags: dict[str, dict[str, str]] = {}
        self.error: Exception | None = None
        self.looks = 0

    def promote(self, model: str, *versions: str, stage: str = "Production") -> None:
        self.stages.setdefault(model, {})[stage] = versions

    def tag(self, model: str, **tags: str) -> None:
        self.stages.setdefault(model, {})
        self.tags[model] = {f"fargate.{key.replace('__', '.')}": value for key, value in tags.items()}

    def alias(self, model: str, alias: str, version: str) -> None:
        self.stages.setdefault(model, {})
        self.aliases.setdefault(model, {})[alias] = version

    def look(
        self, names: Collection[str], *, patterns: Collection[str] = (), tag: str | None = None
    ) -> dict[str, ModelState]:
        self.looks += 1
        if self.error:
            raise self.error
        states: dict[str, ModelState] = {}
        for name, stages in self.stages.items():
            tags = self.tags.get(name, {})
            if name in names or tag in tags or any(fnmatchcase(name, pattern) for pattern in patterns):
                quick = {stage: held[-1:] for stage, held in stages.items() if held}
                states[name] = ModelState(quick, dict(self.aliases.get(name, {})), tags)
        return states

    def look_closely(self, name: str) -> ModelState | None:
        if name not in self.stages:
            return None
        held = {stage: versions for stage, versions in self.stages[name].items() if versions}
        return ModelState(held, dict(self.aliases.get(name, {})), self.tags.get(name, {}))

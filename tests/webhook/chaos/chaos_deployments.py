"""A plugin of `mlflow.deployments` for `chaos://HOST:PORT`: each call is one HTTP request to the test's fake cloud."""

from __future__ import annotations

from typing import Any

import requests
from mlflow.deployments import BaseDeploymentClient


class ChaosDeployments(BaseDeploymentClient):  # type: ignore[misc]
    def create_deployment(self, name, model_uri, flavor=None, config=None, endpoint=None):  # type: ignore[no-untyped-def]
        return self._ask("create", name=name, model_uri=model_uri, config=config)

    def update_deployment(self, name, model_uri=None, flavor=None, config=None, endpoint=None):  # type: ignore[no-untyped-def]
        return self._ask("update", name=name, model_uri=model_uri, config=config)

    def delete_deployment(self, name, config=None, endpoint=None):  # type: ignore[no-untyped-def]
        self._ask("delete", name=name)

    def list_deployments(self, endpoint=None):  # type: ignore[no-untyped-def]
        return self._ask("list")

    def get_deployment(self, name, endpoint=None):  # type: ignore[no-untyped-def]
        return next(item for item in self.list_deployments() if item["name"] == name)

    def predict(self, deployment_name=None, inputs=None, endpoint=None):  # type: ignore[no-untyped-def]
        raise NotImplementedError

    def _ask(self, verb: str, **told: Any) -> Any:
        answer = requests.post(f"{self.target_uri.replace('chaos:', 'http:')}/cloud/{verb}", json=told, timeout=30)
        answer.raise_for_status()
        return answer.json()


def run_local(name: str, model_uri: str, flavor: str | None = None, config: Any = None) -> None:
    raise NotImplementedError


def target_help() -> str:
    return __doc__

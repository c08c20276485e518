"""Fixtures for every test; those that need a real server are in separate modules."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from xdist.scheduler import LoadScopeScheduling

# A shared machine is sometimes slow; that is not a failure of the code.
settings.register_profile("shared machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("shared machine")

pytest_plugins = [
    "support.mlflow_server",
    "support.registry",
    "support.deployer",
    "support.container_engine",
    "support.container_stack",
]


@pytest.fixture(autouse=True)
def no_log_is_set_up() -> Iterator[None]:
    """Resets the root logger: some libraries set its level on import, and pytest adds handlers, so progress would go to
    the log in later tests of the process. A test that needs the log uses `caplog`."""
    ours = logging.getLogger("mlflow_fargate")
    before = ours.level
    ours.setLevel(logging.WARNING)
    yield
    ours.setLevel(before)


@pytest.fixture(autouse=True)
def no_aws_client_of_an_earlier_test() -> None:
    """Each local stack has its own keys and address; boto3's default session and MLflow's S3 clients keep old ones."""
    if boto3 := sys.modules.get("boto3"):
        boto3.DEFAULT_SESSION = None  # type: ignore[attr-defined]
    if s3 := sys.modules.get("mlflow.store.artifact.s3_artifact_repo"):
        s3._cached_get_s3_client.cache_clear()


@pytest.fixture(scope="module", autouse=True)
def no_experiment_of_an_earlier_module() -> None:
    """MLflow remembers the experiment that a process has chosen; the next module's server does not have it."""
    os.environ.pop("MLFLOW_EXPERIMENT_ID", None)
    if fluent := sys.modules.get("mlflow.tracking.fluent"):
        fluent._active_experiment_id = None  # type: ignore[attr-defined]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Runs end-to-end tests last, because others fail faster; first if `Together` gives them a separate process."""
    first = "PYTEST_XDIST_WORKER" in os.environ
    items.sort(key=lambda item: (item.get_closest_marker("end_to_end") is not None) != first)


class Together(LoadScopeScheduling):  # type: ignore[misc]  # ships no types
    """Keeps each module in one process, so that its servers start only once; the end-to-end tests share a stack."""

    def _split_scope(self, nodeid: str) -> str:
        return "stack" if nodeid.startswith("tests/end_to_end/") else nodeid.partition("::")[0]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Together:
    return Together(config, log)

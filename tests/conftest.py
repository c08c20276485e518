"""Fixtures for every test; those that need a real server stand in modules of their own."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from xdist.scheduler import LoadScopeScheduling

# A machine that others use too is slow at times; that says nothing about the code.
settings.register_profile("shared machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("shared machine")

pytest_plugins = ["support.mlflow_server", "support.registry", "support.deployer"]


@pytest.fixture(autouse=True)
def no_log_is_set_up() -> Iterator[None]:
    """Some libraries set the root logger's level when they are imported, and pytest adds handlers: progress would go
    to the log in whichever test comes later in that process. A test that wants the log asks for it by `caplog`."""
    ours = logging.getLogger("mlflow_fargate")
    before = ours.level
    ours.setLevel(logging.WARNING)
    yield
    ours.setLevel(before)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """End-to-end tests go last, for the others are quicker to fail; first where `Together` gives them a process."""
    first = "PYTEST_XDIST_WORKER" in os.environ
    items.sort(key=lambda item: (item.get_closest_marker("end_to_end") is not None) != first)


class Together(LoadScopeScheduling):  # type: ignore[misc]  # ships no types
    """A module stays in one process, so that what it starts is started once; the end-to-end tests share a stack."""

    def _split_scope(self, nodeid: str) -> str:
        return "stack" if nodeid.startswith("tests/end_to_end/") else nodeid.partition("::")[0]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Together:
    return Together(config, log)

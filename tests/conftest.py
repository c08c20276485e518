"""Fixtures for every test; those that need a real server stand in modules of their own."""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, settings

# A machine that others use too is slow at times; that says nothing about the code.
settings.register_profile("shared machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("shared machine")

pytest_plugins = ["fixtures_mlflow", "fixtures_registry", "fixtures_deployer"]


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """With more than one process (`-n`) a module stays in one, so that what it starts is started once.

    The end-to-end tests share a stack, and with it a process. They go first there, being the longest; else they
    go last, for the others are quicker to fail.
    """
    workers = "PYTEST_XDIST_WORKER" in os.environ
    items.sort(key=lambda item: (item.get_closest_marker("end_to_end") is not None) != workers)
    for item in items:
        group = "stack" if item.get_closest_marker("end_to_end") else item.nodeid.partition("::")[0]
        item.add_marker(pytest.mark.xdist_group(group))

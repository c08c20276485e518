"""Fixtures for every test; those that need a real server stand in modules of their own."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings

# A machine that others use too is slow at times; that says nothing about the code.
settings.register_profile("shared machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("shared machine")

pytest_plugins = ["fixtures_mlflow", "fixtures_registry", "fixtures_deployer"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """End-to-end tests go last: the others are quicker to fail, and should not meet a running stack's environment."""
    items.sort(key=lambda item: item.get_closest_marker("end_to_end") is not None)

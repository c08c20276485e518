"""Fixtures for every test; those that need a real server stand in modules of their own."""

from __future__ import annotations

import pytest

pytest_plugins = ["fixtures_mlflow", "fixtures_registry"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """End-to-end tests go last: the others are quicker to fail, and should not meet a running stack's environment."""
    items.sort(key=lambda item: item.get_closest_marker("end_to_end") is not None)

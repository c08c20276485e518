"""A worker over deployments and a registry in memory."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


from mlflow_fargate.webhook.control_loop.rules import RuleBook
from mlflow_fargate.webhook.control_loop.worker import Timing, Worker
from support.webhook_fakes import FakeDeployments, FakeRegistry

WaitUntil = Callable[[Callable[[], bool]], None]


@pytest.fixture
def deployments() -> FakeDeployments:
    return FakeDeployments()


@pytest.fixture
def registry() -> FakeRegistry:
    return FakeRegistry()


@pytest.fixture
def worker(deployments: FakeDeployments, registry: FakeRegistry) -> Iterator[Worker]:
    """Returns a worker that is not started, and that polls rarely."""
    worker = Worker(
        connect=lambda: deployments,
        registry=registry,
        rules=RuleBook(by_tag=True),
        threads=4,
        timing=Timing(poll_seconds=3600, rest_seconds=0.02),
    )
    yield worker
    if worker.is_alive:
        worker.stop(5)


@pytest.fixture
def wait_until() -> WaitUntil:
    def wait(is_so: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 10
        while not is_so():
            assert time.monotonic() < deadline, "it did not come to be"
            time.sleep(0.01)

    return wait

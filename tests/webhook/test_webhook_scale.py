"""Tests that a poll is one request, however many models the registry has; counted below MLflow's client."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing

import pytest
import requests

from mlflow_fargate.webhook.control_loop.model_registry import MlflowModelRegistry
from mlflow_fargate.webhook.control_loop.rules import RuleBook
from mlflow_fargate.webhook.control_loop.worker import Worker
from support.mlflow_server import serve_mlflow
from support.webhook_fakes import FakeDeployments

pytestmark = pytest.mark.exhaustive

MODELS, WATCHED = 10_000, 50


@pytest.fixture(scope="module")
def crowded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Returns the address of a server with ten thousand models of two versions, the second in Production."""
    names = [f"crowd-{number}" for number in range(MODELS)]
    versions = [(name, number, stage) for name in names for number, stage in ((1, "Archived"), (2, "Production"))]
    folder = tmp_path_factory.mktemp("crowd")
    with serve_mlflow(folder) as uri, closing(sqlite3.connect(folder / "mlflow.db", timeout=60)) as database:
        with database:
            database.executemany(
                "insert into registered_models (name, creation_time, last_updated_time) values (?, 1, 1)",
                [(name,) for name in names],
            )
            database.executemany(
                "insert into model_versions (name, version, current_stage, creation_time, last_updated_time, source,"
                " status) values (?, ?, ?, 1, 1, 's3://nowhere', 'READY')",
                versions,
            )
        yield uri


@pytest.mark.parametrize(("rules", "requests_sent"), [("models: {}", 1), (None, 2)], ids=["rules", "tags"])
def test_reading_fifty_of_ten_thousand_models_is_one_request_and_one_more_for_tags(
    crowded: str, monkeypatch: pytest.MonkeyPatch, rules: str | None, requests_sent: int
) -> None:
    sent: list[str] = []
    send = requests.adapters.HTTPAdapter.send

    def count(self, request, *told, **named):  # type: ignore[no-untyped-def]
        sent.append(request.url)
        return send(self, request, *told, **named)

    monkeypatch.setattr(requests.adapters.HTTPAdapter, "send", count)
    deployments = FakeDeployments()
    for number in range(WATCHED):
        deployments.deploy(f"d{number}", f"crowd-{number * 199}", "2")
    book = RuleBook(by_tag=True) if rules is None else RuleBook(lambda: rules, "the test")
    worker = Worker(connect=lambda: deployments, registry=MlflowModelRegistry(crowded), rules=book)
    began = time.monotonic()
    worker.look()
    print(f"one look at {WATCHED} of {MODELS} models: {len(sent)} requests, {time.monotonic() - began:.2f} s")

    assert len(sent) == requests_sent
    assert {seen.action.reason for seen in worker.seen().values()} == {"version 2 is deployed"}
    assert len(worker.seen()) == WATCHED

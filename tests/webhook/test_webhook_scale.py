"""The periodic look costs one request, however many models the registry holds: counted below MLflow's client."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator

import pytest
import requests
from fakes_webhook import FakeDeployments
from fixtures_mlflow import MlflowServer

from mlflow_fargate.webhook.model_registry import MlflowModelRegistry
from mlflow_fargate.webhook.worker import Worker

pytestmark = pytest.mark.exhaustive

MODELS, WATCHED = 10_000, 50


@pytest.fixture
def crowded(mlflow_server: MlflowServer) -> Iterator[str]:
    """The address of a server with ten thousand models of two versions, the second in Production."""
    names = [f"crowd-{number}" for number in range(MODELS)]
    versions = [(name, number, stage) for name in names for number, stage in ((1, "Archived"), (2, "Production"))]
    database = sqlite3.connect(mlflow_server.database, timeout=60)
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
    yield mlflow_server.uri
    with database:
        database.execute("delete from model_versions where name like 'crowd-%'")
        database.execute("delete from registered_models where name like 'crowd-%'")
    database.close()


def test_a_look_at_fifty_of_ten_thousand_models_is_one_request(crowded: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[str] = []
    send = requests.adapters.HTTPAdapter.send

    def count(self, request, *told, **named):  # type: ignore[no-untyped-def]
        sent.append(request.url)
        return send(self, request, *told, **named)

    monkeypatch.setattr(requests.adapters.HTTPAdapter, "send", count)
    deployments = FakeDeployments()
    for number in range(WATCHED):
        deployments.deploy(f"d{number}", f"crowd-{number * 199}", "2")
    worker = Worker(connect=lambda: deployments, registry=MlflowModelRegistry(crowded))
    began = time.monotonic()
    worker.look()
    print(f"one look at {WATCHED} of {MODELS} models: {len(sent)} request, {time.monotonic() - began:.2f} s")

    assert len(sent) == 1
    assert {seen.action.reason for seen in worker.seen().values()} == {"version 2 is deployed"}
    assert len(worker.seen()) == WATCHED

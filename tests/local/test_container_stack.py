"""A whole stack whose tasks are containers, with what a deployment goes through."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import boto3
import pytest
import requests
from mlflow.deployments import get_deploy_client
from urllib3.exceptions import ConnectTimeoutError, NewConnectionError

from mlflow_fargate.local.container.container_engine import ContainerEngine
from support.container_stack import DOUBLER, QUICK, ROWS, TARGET, log_model, run, wait_until_left

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

CLUSTER = "mlflow-fargate-default"
SLOW = """
import time
import mlflow

class Slow(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input, params=None):
        time.sleep(0.3)
        return (model_input["x"] * 2).tolist()

mlflow.models.set_model(Slow())
"""


@pytest.fixture(scope="module")
def churn(container_stack: dict[str, str]) -> str:
    """Returns the name of a registered model with two versions."""
    for _ in range(2):
        log_model(DOUBLER, "churn")
    return "churn"


def test_the_stack_shows_what_runs_its_tasks(
    container_stack: dict[str, str], container_engine: ContainerEngine
) -> None:
    assert container_stack["engine"] == container_engine.name
    assert f"tasks:           containers ({container_engine.version}" in run("mlflow-fargate", "local", "status")


def test_a_deployment_lives_in_containers(churn: str, list_containers: Callable[[], list[str]]) -> None:
    client = get_deploy_client(TARGET)

    client.create_deployment(churn, "models:/churn/1", config=QUICK)
    assert client.predict(churn, ROWS)["predictions"] == [{"x": 42.0}]
    assert len(list_containers()) == 1
    with steady_requests(churn) as outcomes:
        client.update_deployment(churn, "models:/churn/2", config={"memory": "1024", "cpu": "512"})
    assert set(outcomes) == {""}, outcomes
    assert client.get_deployment(churn)["model_version"] == "2"
    assert "models:/churn/2 loaded" in run("mlflow-fargate", "logs", "-t", TARGET, "--name", churn)
    client.delete_deployment(churn)

    wait_until_left(list_containers, 0)


@pytest.mark.exhaustive
def test_sigterm_under_16_clients_loses_no_request(
    container_stack: dict[str, str],
    container_engine: ContainerEngine,
    list_containers: Callable[[], list[str]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Each request is answered or its connection is not opened, without a load balancer and without retries."""
    (tmp_path / "slow.py").write_text(SLOW)
    log_model(tmp_path / "slow.py", "slow")
    get_deploy_client(TARGET).create_deployment("slow", "models:/slow/1", config={**QUICK, "auth": "none"})
    (task,) = boto3.client("ecs").list_tasks(cluster=CLUSTER, serviceName="slow")["taskArns"]
    (container,) = list_containers()
    url = f"http://{address_of(container_engine, container)}:3000/slow/invocations"
    seen: Counter[str] = Counter()
    clients = [
        threading.Thread(target=send_until_refused, args=(url, seen), kwargs={"keeps_connection": number % 2 == 0})
        for number in range(16)
    ]
    for client in clients:
        client.start()
    time.sleep(2)

    container_engine.call("kill", "--signal", "TERM", container)
    for client in clients:
        client.join()
    exit_code = exit_code_of(task)
    get_deploy_client(TARGET).delete_deployment("slow")

    with capsys.disabled():
        print(f"\nSIGTERM under 16 clients: {dict(seen)}, exit code {exit_code}")
    assert seen.pop("answered") > 32
    assert seen == {"not connected": 16}
    assert exit_code == 0


def send_until_refused(url: str, seen: Counter[str], *, keeps_connection: bool) -> None:
    """Sends requests until no connection can be opened; counts what became of each."""
    session = requests.Session()
    until = time.monotonic() + 60
    while time.monotonic() < until:
        try:
            answer = (session if keeps_connection else requests).post(url, json=ROWS, timeout=(10, 30))
        except requests.ConnectionError as error:
            reason = getattr(error.args[0], "reason", error)
            if isinstance(reason, NewConnectionError | ConnectTimeoutError):
                seen["not connected"] += 1
                return
            seen[f"lost: {error}"] += 1
        else:
            is_right = answer.status_code == 200 and answer.json() == {"predictions": [42.0]}
            seen["answered" if is_right else f"{answer.status_code} {answer.text}"] += 1


def address_of(engine: ContainerEngine, container: str) -> str:
    """Returns the container's own address, which a load balancer on AWS connects to."""
    (described,) = json.loads(engine.call("inspect", "--type", "container", container))
    networks = described["NetworkSettings"]["Networks"].values()
    return next(network["IPAddress"] for network in networks if network["IPAddress"])


def exit_code_of(task: str) -> int:
    ecs, until = boto3.client("ecs"), time.monotonic() + 60
    while time.monotonic() < until:
        (described,) = ecs.describe_tasks(cluster=CLUSTER, tasks=[task])["tasks"]
        if described["lastStatus"] == "STOPPED":
            return int(described["containers"][0]["exitCode"])
        time.sleep(0.2)
    raise AssertionError("the task did not stop")


@pytest.mark.exhaustive
def test_no_request_of_16_clients_fails_while_containers_are_replaced(churn: str) -> None:
    client = get_deploy_client(TARGET)
    client.create_deployment("busy", "models:/churn/1", config={**QUICK, "desired_count": "2"})

    with steady_requests("busy", clients=16) as outcomes:
        client.update_deployment("busy", "models:/churn/2")

    client.delete_deployment("busy")
    assert outcomes[""] > 100
    assert set(outcomes) == {""}, outcomes


@pytest.mark.exhaustive
def test_a_killed_stack_leaves_no_container_after_down(
    churn: str, container_stack: dict[str, str], list_containers: Callable[[], list[str]]
) -> None:
    get_deploy_client(TARGET).create_deployment("left", "models:/churn/1", config=QUICK)
    os.kill(int(container_stack["pid"]), signal.SIGKILL)
    assert list_containers()

    run("mlflow-fargate", "local", "down")

    assert list_containers() == []


@contextlib.contextmanager
def steady_requests(name: str, clients: int = 1) -> Iterator[Counter[str]]:
    """Sends requests while the block runs, from each client one after the other; yields counts of errors ('': none)."""
    client, stopping = get_deploy_client(TARGET), threading.Event()
    outcomes: Counter[str] = Counter()
    counting = threading.Lock()

    def send() -> None:
        while not stopping.wait(0.05):
            error = ""
            try:
                client.predict(name, ROWS)
            except Exception as raised:
                error = repr(raised)
            with counting:
                outcomes[error] += 1

    threads = [threading.Thread(target=send) for _ in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield outcomes
    finally:
        stopping.set()
        for thread in threads:
            thread.join()

"""A promotion on an unmodified MLflow server triggers a redeploy, and no request fails in the meantime."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import boto3
import mlflow
import pytest
import requests
from mlflow.deployments import get_deploy_client

pytestmark = [pytest.mark.exhaustive, pytest.mark.timeout(900)]

TARGET = "fargate:/local"
SIGNING = "0123456789abcdef"  # the secret with which MLflow signs its events
COMMAND = str(Path(sys.executable).parent / "mlflow-fargate")


class SteadyClient:
    """Requests predictions continuously while it is open."""

    def __init__(self, url: str) -> None:
        self._url = f"{url}/invocations"
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._ask_until_stopped, daemon=True)
        self.requests = 0
        self.failures: list[str] = []
        self.versions: list[str] = []

    def __enter__(self) -> SteadyClient:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _ask_until_stopped(self) -> None:
        with requests.Session() as session:
            while not self._stop.wait(0.05):
                self.requests += 1
                try:
                    answer = session.post(self._url, json={"dataframe_records": [{"x": 2.0}]}, timeout=30)
                    answer.raise_for_status()
                except requests.RequestException as error:
                    self.failures.append(str(error))
                    continue
                version = answer.headers["X-Model-Version"]
                if self.versions[-1:] != [version]:
                    self.versions.append(version)


@contextlib.contextmanager
def service(log: Path, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    """Runs `mlflow-fargate webhook serve`, polling every two seconds."""
    command = [COMMAND, "webhook", "serve", "--target", TARGET, "--port", "0", "--poll-seconds", "2"]
    with log.open("ab") as stream:
        process = subprocess.Popen(command, stdout=stream, stderr=stream, env={**os.environ, **environment})
    try:
        wait_until(lambda: "webhook service on" in log.read_text() or process.poll() is not None)
        yield process
    finally:
        process.terminate()
        process.wait(60)


def wait_until(is_so: Callable[[], bool], seconds: float = 300) -> None:
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline, "the expected state was not reached in time"
        time.sleep(0.5)


def is_rolled_out(version: str) -> bool:
    status = get_deploy_client(TARGET).get_deployment("churn")
    return (status["model_version"], status["state"]) == (version, "COMPLETED")


@pytest.fixture
def deployed(churn: str, request: pytest.FixtureRequest) -> Iterator[str]:
    """Returns the URL of version 1, deployed from the stage or alias that a test specifies."""
    client = mlflow.MlflowClient()
    client.set_registered_model_alias(churn, "champion", "1")
    options = {"auth": "none", "deregistration_delay_seconds": 5, "smoke_test": False}
    fargate = get_deploy_client(TARGET)
    fargate.create_deployment("churn", request.param, config=options)
    yield fargate.get_deployment("churn")["url"]
    fargate.delete_deployment("churn")


def transition(version: str) -> None:
    client = mlflow.MlflowClient()
    client.transition_model_version_stage("churn", version, "Production", archive_existing_versions=True)


def move_alias(version: str) -> None:
    mlflow.MlflowClient().set_registered_model_alias("churn", "champion", version)


@pytest.mark.parametrize(
    ("deployed", "promote"),
    [("models:/churn/Production", transition), ("models:/churn@champion", move_alias)],
    indirect=["deployed"],
    ids=["stage", "alias"],
)
def test_a_promoted_version_is_deployed_and_no_request_fails(
    deployed: str, promote: Callable[[str], None], tmp_path: Path
) -> None:
    with service(tmp_path / "log"), SteadyClient(deployed) as asker:
        wait_until(lambda: asker.versions == ["1"])
        promote("2")
        wait_until(lambda: is_rolled_out("2"))
        wait_until(lambda: asker.versions[-1:] == ["2"])
        time.sleep(2)

    print(f"{asker.requests} requests, {len(asker.failures)} failed")
    assert asker.failures == []
    assert asker.requests > 50
    assert (asker.versions[0], asker.versions[-1], set(asker.versions)) == ("1", "2", {"1", "2"})


@pytest.mark.parametrize("deployed", ["models:/churn/Production"], indirect=True)
def test_when_the_active_replica_is_killed_the_other_takes_over(
    deployed: str, local_stack: dict[str, str], tmp_path: Path
) -> None:
    lease = {"FARGATE_WEBHOOK_LEASE": "s3://mlflow/lease.json", "FARGATE_WEBHOOK_LEASE_SECONDS": "6"}
    first_log, second_log = tmp_path / "first", tmp_path / "second"
    with service(first_log, **lease) as first:
        wait_until(lambda: "this replica holds the lease" in first_log.read_text())
        with service(second_log, **lease):
            time.sleep(5)
            assert "this replica holds the lease" not in second_log.read_text()
            first.kill()
            first.wait()
            transition("2")
            wait_until(lambda: is_rolled_out("2"))

    assert "this replica holds the lease" in second_log.read_text()
    assert "Traceback" not in second_log.read_text()


@pytest.fixture
def deployed_service(local_stack: dict[str, str]) -> Iterator[str]:
    """Returns the URL of the webhook service in the local stack; it polls every two seconds and has a token."""
    secrets = boto3.client("secretsmanager")
    token = secrets.create_secret(Name="hooks-token", SecretString="let me see")
    signing = secrets.create_secret(Name="hooks-signing", SecretString=SIGNING)
    options = [
        "-C",
        "environment.FARGATE_WEBHOOK_POLL_SECONDS=2",
        "-C",
        f"secrets.FARGATE_WEBHOOK_TOKEN={token['ARN']}",
        "-C",
        f"secrets.FARGATE_WEBHOOK_SECRET={signing['ARN']}",
    ]
    command = [COMMAND, "webhook", "deploy", "-t", TARGET, *options]
    try:
        yield subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()
    finally:
        subprocess.run([COMMAND, "webhook", "undeploy", "-t", TARGET], check=True)
        for secret in (token, signing):
            secrets.delete_secret(SecretId=secret["ARN"], ForceDeleteWithoutRecovery=True)


@pytest.mark.parametrize("deployed", ["models:/churn/Production"], indirect=True)
def test_the_service_itself_runs_on_fargate_and_redeploys_promoted_versions(
    deployed: str, deployed_service: str
) -> None:
    def page(token: str) -> requests.Response:
        return requests.get(f"{deployed_service}/", auth=("anyone", token), timeout=10)

    with SteadyClient(deployed) as asker:
        wait_until(lambda: asker.versions == ["1"])
        transition("2")
        wait_until(lambda: is_rolled_out("2"))
        wait_until(lambda: asker.versions[-1:] == ["2"])
    wait_until(lambda: "version 2 is deployed" in page("let me see").text)

    print(f"{asker.requests} requests, {len(asker.failures)} failed")
    assert asker.failures == []
    assert page("another").status_code == 401
    assert [one["name"] for one in get_deploy_client(TARGET).list_deployments()] == ["churn"]
    registered = subprocess.run(
        [COMMAND, "webhook", "register", "-t", TARGET],
        check=True,
        env={**os.environ, "FARGATE_WEBHOOK_SECRET": SIGNING},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert "The service received MLflow's test event." in registered.stdout
    again = subprocess.run([COMMAND, "webhook", "deploy", "-t", TARGET], check=True, capture_output=True, text=True)
    assert "+ " not in again.stderr
    assert "~ " not in again.stderr

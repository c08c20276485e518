"""What 32 clients that send requests without pause notice of a rolling update, a new API key, and a killed task."""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import boto3
import psutil
import pytest
import requests
from mlflow.deployments import get_deploy_client

from support.deployed_services import deployed
from support.hammering import CLIENTS, ask_once, hammered, wait_until

pytestmark = [pytest.mark.end_to_end, pytest.mark.exhaustive, pytest.mark.timeout(900)]

NAME = "churn"


def kill_a_task() -> None:
    """Kills all processes of one task with SIGKILL, like the kernel when memory runs out."""
    root = find_task_processes()[0]
    for process in (root, *root.children(recursive=True)):
        with contextlib.suppress(psutil.Error):
            os.kill(process.pid, signal.SIGKILL)


def find_task_processes() -> list[psutil.Process]:
    """Returns the first process of each task."""
    of_tasks = {}
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get("PATH_PREFIX") == f"/{NAME}":
                of_tasks[process.pid] = process
    return [process for process in of_tasks.values() if process.ppid() not in of_tasks]


def count_healthy() -> int:
    """Returns the number of tasks that the load balancer sends requests to."""
    balancer = boto3.client("elbv2")
    groups = balancer.describe_target_groups()["TargetGroups"]
    (arn,) = [group["TargetGroupArn"] for group in groups if group["TargetGroupName"].startswith(f"mlf-{NAME}-")]
    targets = balancer.describe_target_health(TargetGroupArn=arn)["TargetHealthDescriptions"]
    return sum(target["TargetHealth"]["State"] == "healthy" for target in targets)


def test_a_rolling_update_fails_no_request(churn: str, capsys: pytest.CaptureFixture[str]) -> None:
    with deployed(NAME, f"models:/{churn}/1", {"desired_count": 2}) as url, hammered(url) as noticed:
        wait_until(lambda: noticed.answers["1"] > 100)
        get_deploy_client("fargate:/local").update_deployment(NAME, f"models:/{churn}/2")
        before = noticed.answers["2"]
        wait_until(lambda: noticed.answers["2"] > before + 100)

    with capsys.disabled():
        print(f"\nrolling update: {noticed}, by version {dict(noticed.answers)}")
    assert noticed.failures == []
    assert set(noticed.answers) == {"1", "2"}


def test_a_rolling_update_loses_no_record_of_a_request(churn: str, capsys: pytest.CaptureFixture[str]) -> None:
    s3 = boto3.client("s3")
    s3.create_bucket(Bucket="logs")
    options = {"desired_count": 2, "inference_log": "s3://logs/predictions"}
    with deployed(NAME, f"models:/{churn}/1", options) as url, hammered(url) as noticed:
        wait_until(lambda: noticed.answers["1"] > 100)
        get_deploy_client("fargate:/local").update_deployment(NAME, f"models:/{churn}/2")
        before = noticed.answers["2"]
        wait_until(lambda: noticed.answers["2"] > before + 100)
    # The last ones write when they stop; other stacks of this machine can have tasks of this name.
    cache = os.environ["MLFLOW_FARGATE_CACHE"]
    wait_until(lambda: cache not in [task.environ().get("MLFLOW_FARGATE_CACHE") for task in find_task_processes()])

    keys = [one["Key"] for one in s3.list_objects_v2(Bucket="logs")["Contents"]]
    files = [s3.get_object(Bucket="logs", Key=key)["Body"].read() for key in keys]
    rows = [json.loads(line) for file in files for line in gzip.decompress(file).splitlines()]
    recorded = Counter(row["databricks_request_id"] for row in rows)
    with capsys.disabled():
        print(f"\nrecord: {noticed}; {len(rows)} records in {len(files)} files")
    assert noticed.failures == []
    assert set(noticed.ids) - set(recorded) == set()
    assert [one for one, count in recorded.items() if count > 1] == []
    answered = set(noticed.ids)
    assert Counter(row["model_version"] for row in rows if row["databricks_request_id"] in answered) == noticed.answers
    assert all(key.startswith(f"predictions/endpoint=default/deployment={NAME}/date=") for key in keys)


def test_replacing_the_api_key_refuses_no_request(churn: str, capsys: pytest.CaptureFixture[str]) -> None:
    with deployed(NAME, f"models:/{churn}/1", {"desired_count": 2, "auth": "api_key"}) as url:
        [old] = read_api_keys()
        with hammered(url, old) as noticed:
            wait_until(lambda: noticed.answers["1"] > 100)
            run_key("--rotate")
            [_, new] = read_api_keys()
            noticed.key = new
            before = noticed.answers["1"]
            wait_until(lambda: noticed.answers["1"] > before + 100)
            run_key("--finish")
            after = noticed.answers["1"]
            wait_until(lambda: noticed.answers["1"] > after + 100)
        statuses = [ask_once(requests.Session(), url, key).status_code for key in (old, new, "")]

    with capsys.disabled():
        print(f"\nnew API key: {noticed}")
    assert noticed.failures == []
    assert statuses == [401, 200, 401]


def read_api_keys() -> list[str]:
    secret = f"mlflow-fargate/default/{NAME}"
    return str(boto3.client("secretsmanager").get_secret_value(SecretId=secret)["SecretString"]).split()


def run_key(step: str) -> None:
    command = [Path(sys.executable).with_name("mlflow-fargate"), "key", "-t", "fargate:/local", "--name", NAME, step]
    subprocess.run(command, check=True, capture_output=True)


def test_a_killed_task_fails_no_request_after_the_load_balancer_removes_it(
    churn: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Until then a load balancer, like AWS's, returns 502 for the refusing target; `predict` retries in that case."""
    with deployed(NAME, f"models:/{churn}/1", {"desired_count": 2}) as url, hammered(url) as noticed:
        wait_until(lambda: noticed.answers["1"] > 100)
        kill_a_task()
        killed_at = time.monotonic()
        wait_until(lambda: count_healthy() < 2, every_seconds=0.05)
        off_at = time.monotonic()
        wait_until(lambda: count_healthy() == 2)
        before = noticed.answers["1"]
        wait_until(lambda: noticed.answers["1"] > before + 100)

    in_flight = [began for began, _ in noticed.failures if began <= killed_at]
    later = [began for began, _ in noticed.failures if began > off_at]
    with capsys.disabled():
        between = len(noticed.failures) - len(in_flight) - len(later)
        print(
            f"\nkilled task: {noticed}; {len(in_flight)} in flight, {between} in the {off_at - killed_at:.1f} s until "
            f"it was off the load balancer, {len(later)} later"
        )
    assert later == []
    assert len(in_flight) <= CLIENTS

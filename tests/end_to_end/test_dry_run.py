"""A dry run shows what would be created, and creates nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import boto3
import pytest
from mlflow.deployments import get_deploy_client

pytestmark = pytest.mark.end_to_end

MLFLOW = str(Path(sys.executable).parent / "mlflow")


def test_a_dry_run_of_a_first_deployment_shows_the_plan_and_creates_nothing(doubler: str) -> None:
    target = "fargate:/local/dry"
    command = [MLFLOW, "deployments", "create", "-t", target, "--name", "doubler", "-m", doubler, "-C", "dry_run=true"]

    done = subprocess.run(command, capture_output=True, text=True, check=True)

    assert "+ create load balancer mlflow-fargate-dry" in done.stderr
    assert "+ create service doubler" in done.stderr
    assert "Dry run: nothing was changed" in done.stderr
    client = get_deploy_client(target)
    assert client.list_deployments() == []
    assert "dry" not in [endpoint["name"] for endpoint in client.list_endpoints()]
    repositories = boto3.client("ecr").describe_repositories()["repositories"]
    assert "mlflow-fargate/dry" not in [repository["repositoryName"] for repository in repositories]

"""From the templates' outputs to a model that answers, with the commands of the docs, on the local stack.

The tracking server is the stack's own: test_tracking_server.py starts that of the template.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import boto3
import pytest

from support.templates import NETWORK, TRACKING_SERVER

pytestmark = [pytest.mark.end_to_end, pytest.mark.slow, pytest.mark.exhaustive]

COMMANDS = """
set -eu
eval "$(mlflow-fargate tracking env mlflow -t fargate:/local)"
mlflow deployments create -t fargate:/local/mine --name churn -m models:/churn/Production
mlflow deployments predict -t fargate:/local/mine --name churn -I rows.json
aws_of_service
mlflow deployments delete -t fargate:/local/mine --name churn
mlflow deployments delete-endpoint -t fargate:/local/mine --endpoint mine
mlflow-fargate gc -t fargate:/local
"""


def deploy(stack: str, template: Path, parameters: dict[str, str]) -> dict[str, str]:
    client = boto3.client("cloudformation")
    given = [{"ParameterKey": name, "ParameterValue": parameters[name]} for name in parameters]
    body = template.read_text("utf-8")
    client.create_stack(StackName=stack, TemplateBody=body, Parameters=given, Capabilities=["CAPABILITY_IAM"])
    (made,) = client.describe_stacks(StackName=stack)["Stacks"]
    return {one["OutputKey"]: one["OutputValue"] for one in made["Outputs"]}


def associate(network: dict[str, str]) -> None:
    """moto creates SubnetRouteTableAssociation without effect, so the public subnets would not be public."""
    client = boto3.client("ec2")
    of_vpc = [{"Name": "vpc-id", "Values": [network["VpcId"]]}]
    (public,) = (
        table["RouteTableId"]
        for table in client.describe_route_tables(Filters=of_vpc)["RouteTables"]
        if any(route.get("GatewayId", "").startswith("igw-") for route in table["Routes"])
    )
    for subnet in network["PublicSubnetIds"].split(","):
        client.associate_route_table(RouteTableId=public, SubnetId=subnet)


def test_a_model_is_deployed_queried_and_deleted_in_the_network_of_the_templates(
    local_stack: dict[str, str], churn: str, tmp_path: Path
) -> None:
    network = deploy("network", NETWORK, {})
    associate(network)
    places = {name: network[name] for name in ("VpcId", "ServerSubnetId", "ServerZone", "TaskSubnetIds")}
    server = deploy("mlflow", TRACKING_SERVER, {**places, "ServerUrl": local_stack["MLFLOW_TRACKING_URI"]})
    (tmp_path / "rows.json").write_text('[{"x": 1.5}]')
    look = tmp_path / "aws_of_service"
    look.write_text(f"#!{sys.executable}\n{LOOK}")
    look.chmod(0o755)
    path = f"{tmp_path}{os.pathsep}{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}

    done = subprocess.run(
        ["sh", "-c", COMMANDS],
        env={**environment, "PATH": path},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert '{"predictions": [{"x": 3.0}]}' in done.stdout
    found: dict[str, Any] = dict(line.split(" ", 1) for line in done.stdout.splitlines() if " " in line)
    assert set(found["subnets"].split(",")) == set(network["TaskSubnetIds"].split(","))
    assert server["TaskSecurityGroupId"] in found["groups"].split(",")
    assert done.stdout.rstrip().endswith("nothing to clean up")


LOOK = """
import boto3
service = boto3.client("ecs").describe_services(cluster="mlflow-fargate-mine", services=["churn"])["services"][0]
network = service["networkConfiguration"]["awsvpcConfiguration"]
print("subnets", ",".join(network["subnets"]))
print("groups", ",".join(network["securityGroups"]))
"""

"""The page from an empty account to a deployed model: its commands, with the AWS CLI, on the local stack.

The tracking server is the stack's own: test_tracking_server.py starts that of the template, and runs the page's other
blocks there.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import boto3
import pytest

from support.installed import installed
from support.templates import FOLDER

pytestmark = [pytest.mark.end_to_end, pytest.mark.slow, pytest.mark.exhaustive]

AWS_CLI = "1.46.3"
PAGE = FOLDER.parent / "docs" / "from-an-empty-account.md"

# By the start of a block: what runs after it; None for a block that does not run here, with the reason.
AROUND = {
    "aws cloudformation deploy --stack-name network": "",
    "aws cloudformation deploy --stack-name mlflow": "",
    'eval "$(mlflow-fargate tracking env mlflow -t fargate:/local/mine)"': 'test -n "$FARGATE_SUBNETS"',
    'eval "$(aws cloudformation describe-stacks': None,  # a session of Systems Manager
    "mlflow deployments create": "print_network",
    "mlflow-fargate webhook deploy": None,  # moto's CloudFormation creates no secrets
    "aws secretsmanager put-secret-value": None,  # the same
    "systemctl stop mlflow": None,  # on the instance: test_tracking_server.py
    "mlflow-fargate webhook undeploy": "",
}
# The AWS CLI, but for `deploy`: moto computes no outputs for its change sets. Subnets are made public here, because its
# SubnetRouteTableAssociation has no effect.
AWS = """
import boto3, os, pathlib, sys
if sys.argv[1:3] != ["cloudformation", "deploy"]:
    os.execv(CLI, [CLI, *sys.argv[1:]])
words = sys.argv[3:]
overrides = words.index("--parameter-overrides") if "--parameter-overrides" in words else len(words)
given = dict(one.split("=", 1) for one in words[overrides + 1:])
options = dict(zip(words[:overrides:2], words[1:overrides:2], strict=True))
name, client = options.pop("--stack-name"), boto3.client("cloudformation")
body, capabilities = pathlib.Path(options.pop("--template-file")).read_text(), options.pop("--capabilities", None)
assert not options, options
found = [stack for stack in client.describe_stacks()["Stacks"] if stack["StackName"] == name]
before = {one["ParameterKey"]: one["ParameterValue"] for stack in found for one in stack["Parameters"]}
before.pop("ImageId", None)  # not a parameter of Systems Manager any more, but its value
parameters = [{"ParameterKey": key, "ParameterValue": value} for key, value in {**before, **given}.items()]
act = client.update_stack if found else client.create_stack
act(StackName=name, TemplateBody=body, Parameters=parameters, Capabilities=[capabilities] * bool(capabilities))
if name == "network":
    (stack,), ec2 = client.describe_stacks(StackName=name)["Stacks"], boto3.client("ec2")
    outputs = {one["OutputKey"]: one["OutputValue"] for one in stack["Outputs"]}
    of_vpc = [{"Name": "vpc-id", "Values": [outputs["VpcId"]]}]
    (public,) = (
        table["RouteTableId"]
        for table in ec2.describe_route_tables(Filters=of_vpc)["RouteTables"]
        if any(route.get("GatewayId", "").startswith("igw-") for route in table["Routes"])
    )
    for subnet in outputs["PublicSubnetIds"].split(","):
        ec2.associate_route_table(RouteTableId=public, SubnetId=subnet)
"""
PRINT_NETWORK = """
import boto3
service = boto3.client("ecs").describe_services(cluster="mlflow-fargate-mine", services=["churn"])["services"][0]
network = service["networkConfiguration"]["awsvpcConfiguration"]
print("subnets", ",".join(network["subnets"]))
print("groups", ",".join(network["securityGroups"]))
"""


def commands() -> str:
    """Returns the page's commands; KeyError for a block that AROUND does not know."""
    page = PAGE.read_text("utf-8").replace("fargate:/us-east-1", "fargate:/local/mine")
    page = page.replace("--endpoint default", "--endpoint mine")
    # The server that models are logged to is not the template's, and moto cannot delete a VPC with a table of routes.
    page = page.replace("=$(output network TaskSubnetIds)\n", "=$(output network TaskSubnetIds) ServerUrl=$SERVER\n")
    page = page.replace("aws cloudformation delete-stack --stack-name network\n", "")
    page = page.replace("MlflowVersion=3.17.2", "MlflowVersion=3.17.1")  # no change is an error of moto's
    script = ["set -euo pipefail"]
    for block in re.findall(r"^```bash\n(.*?)^```$", page, re.MULTILINE | re.DOTALL):
        (after,) = [AROUND[begin] for begin in AROUND if block.startswith(begin)] or [AROUND[block]]
        script += [] if after is None else [block, after]
    return "\n".join(script)


def test_the_page_deploys_queries_and_deletes_a_model_in_the_network_of_the_templates(
    local_stack: dict[str, str], churn: str, tmp_path: Path
) -> None:
    (tmp_path / "rows.json").write_text('[{"x": 1.5}]')
    (tmp_path / "infrastructure").symlink_to(FOLDER)
    cli = installed("awscli", AWS_CLI) / "aws"
    for name, code in (("aws", f"CLI = {str(cli)!r}\n{AWS}"), ("print_network", PRINT_NETWORK)):
        (tmp_path / name).write_text(f"#!{sys.executable}\n{code}")
        (tmp_path / name).chmod(0o755)
    folders = (str(tmp_path), str(Path(sys.executable).parent))
    environment = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
    environment |= {
        "PATH": os.pathsep.join((*folders, os.environ["PATH"])),
        "SERVER": local_stack["MLFLOW_TRACKING_URI"],
    }

    def run(script: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", "-c", script], env=environment, cwd=tmp_path, capture_output=True, text=True, check=False
        )

    before, create, after = commands().partition("mlflow deployments create ")
    done = run(f"{before}export -p > variables\n{create}{after}")

    assert done.returncode == 0, done.stdout + done.stderr
    assert '{"predictions": [{"x": 3.0}]}' in done.stdout
    found: dict[str, Any] = dict(line.split(" ", 1) for line in done.stdout.splitlines() if " " in line)
    network = {name: shown(tmp_path, name) for name in ("FARGATE_SUBNETS", "FARGATE_SECURITY_GROUPS")}
    assert set(found["subnets"].split(",")) == set(network["FARGATE_SUBNETS"].split(","))
    assert network["FARGATE_SECURITY_GROUPS"] in found["groups"].split(",")
    names = [stack["StackName"] for stack in boto3.client("cloudformation").describe_stacks()["Stacks"]]
    assert "network" in names and "mlflow" not in names
    assert run("mlflow-fargate gc -t fargate:/local").stdout.rstrip().endswith("nothing to clean up")
    elsewhere = run("mlflow-fargate tracking env network -t fargate:/eu-west-1")
    assert "There is no stack 'network' in eu-west-1." in elsewhere.stderr and elsewhere.stdout == ""
    other = run("mlflow-fargate tracking env network -t fargate:/us-east-1")
    assert "Stack 'network' has no output TrackingUri" in other.stderr and other.stdout == ""


def shown(folder: Path, name: str) -> str:
    """Returns a variable that `tracking env` set."""
    (value,) = re.findall(rf'^declare -x {name}="(.*)"$', (folder / "variables").read_text(), re.MULTILINE)
    return str(value)

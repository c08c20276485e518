"""A deployment's whole life on MiniStack (support/ministack.py), by the commands that users type.

The user may do what the policies in docs/iam allow, and nothing else. MiniStack evaluates that for each request, by its
own knowledge of the actions; the calls that the plugin made are compared with the policies as well, with the actions
that they imply.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import boto3
import mlflow
import pytest
from click.testing import CliRunner
from mlflow.deployments.cli import commands as mlflow_deployments

from mlflow_fargate.cli import main
from support.aws_actions import RecordedActions, recorded_actions
from support.iam_policies import allowed
from support.ministack import REGION, ROOT_KEYS, MiniStack, running_ministack
from support.mlflow_server import serve_mlflow

pytestmark = [pytest.mark.exhaustive, pytest.mark.timeout(1800)]

TARGET = f"fargate:/{REGION}"
DOUBLER = Path(__file__).parent / "support" / "doubler.py"


@pytest.fixture(scope="module")
def ministack(python_image: str, s3_endpoint_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[MiniStack]:
    with (
        running_ministack(tmp_path_factory.mktemp("ministack"), python_image, s3_endpoint_url) as running,
        pytest.MonkeyPatch.context() as patch,
    ):
        for name, value in {**running.environment, **ROOT_KEYS}.items():
            patch.setenv(name, value)
        make_account_usual(running)
        patch.setenv("MLFLOW_FARGATE_CACHE", str(tmp_path_factory.mktemp("cache")))
        artifacts = ("--default-artifact-root", "s3://models", "--no-serve-artifacts")
        with serve_mlflow(tmp_path_factory.mktemp("mlflow"), *artifacts) as uri:
            patch.setenv("MLFLOW_TRACKING_URI", uri)
            mlflow.set_tracking_uri(uri)
            for _ in range(2):
                log_version()
            for name, value in running.user("deployer", policies()).items():
                patch.setenv(name, value)
            patch.setattr(boto3, "DEFAULT_SESSION", None)
            yield running
            mlflow.set_tracking_uri(None)


@pytest.fixture(scope="module")
def recorded(ministack: MiniStack) -> Iterator[RecordedActions]:
    """The calls of every session of the plugin."""
    with recorded_actions() as recorded:
        yield recorded


def make_account_usual(ministack: MiniStack) -> None:
    """Adds what MiniStack's new accounts lack: a bucket for models, and the default VPC's route to the internet."""
    ministack.client("s3").create_bucket(Bucket="models")
    ec2 = ministack.client("ec2")
    (table,) = ec2.describe_route_tables()["RouteTables"]
    (gateway,) = ec2.describe_internet_gateways()["InternetGateways"]
    ec2.create_route(
        RouteTableId=table["RouteTableId"],
        DestinationCidrBlock="0.0.0.0/0",
        GatewayId=gateway["InternetGatewayId"],
    )


def log_version() -> None:
    requirements = [f"cloudpickle=={version('cloudpickle')}", "pandas"]
    with mlflow.start_run():
        mlflow.pyfunc.log_model(
            name="model", python_model=str(DOUBLER), pip_requirements=requirements, registered_model_name="churn"
        )


def policies() -> dict[str, str]:
    """The actions of the deployer's policies, on all resources: MiniStack knows the resource of few requests only.

    test_iam_simulation.py checks resources and conditions.
    """
    return {
        name: json.dumps(
            {
                "Version": "2012-10-17",
                "Statement": [{"Effect": "Allow", "Action": sorted(allowed(name)), "Resource": "*"}],
            }
        )
        for name in ("deployer", "deployer-options")
    }


def run(*words: str, exit_code: int = 0) -> str:
    """Runs `mlflow deployments …` or `mlflow-fargate …`; returns what it prints on stdout."""
    group = mlflow_deployments if words[0] == "deployments" else main
    where = [] if words[1] in ("run-local", "help") else ["--target", TARGET]
    name, *rest = words[1:]
    done = CliRunner().invoke(group, [name, *where, *rest])
    print(f"{' '.join(words)}\n{done.output}")
    assert done.exit_code == exit_code, (words, done.output, done.exception)
    return done.stdout


def mine(*words: str, exit_code: int = 0) -> str:
    return run("mlflow-fargate", *words, "--name", "churn", exit_code=exit_code)


def examine() -> None:
    """Runs the doctor: all is well, except that there is no HTTPS."""
    checks = json.loads(run("mlflow-fargate", "doctor", "--json", exit_code=1))

    assert [check["name"] for check in checks if check["verdict"] == "FAIL"] == ["certificate"]


def told(text: str) -> dict[str, str]:
    """The lines `key: value` that MLflow's commands print."""
    return dict(line.split(": ", 1) for line in text.splitlines() if ": " in line)


def left_over(ministack: MiniStack) -> dict[str, list[str]]:
    """Everything of this package that exists, as the root user sees it."""
    balancing, ecs, ecr = ministack.client("elbv2"), ministack.client("ecs"), ministack.client("ecr")
    found = {
        "clusters": ecs.list_clusters()["clusterArns"],
        "task definitions": ecs.list_task_definitions(status="ACTIVE")["taskDefinitionArns"],
        "load balancers": [one["LoadBalancerArn"] for one in balancing.describe_load_balancers()["LoadBalancers"]],
        "target groups": [one["TargetGroupArn"] for one in balancing.describe_target_groups()["TargetGroups"]],
        "repositories": [one["repositoryName"] for one in ecr.describe_repositories()["repositories"]],
        "roles": [one["RoleName"] for one in ministack.client("iam").list_roles()["Roles"]],
        "log groups": [one["logGroupName"] for one in ministack.client("logs").describe_log_groups()["logGroups"]],
        "secrets": [one["Name"] for one in ministack.client("secretsmanager").list_secrets()["SecretList"]],
        "security groups": [
            one["GroupName"]
            for one in ministack.client("ec2").describe_security_groups()["SecurityGroups"]
            if one["GroupName"] != "default"
        ],
    }
    found["containers"] = [f"mlf {name}" for name in ministack.list_containers()]
    ours = {kind: [name for name in names if "mlf" in name] for kind, names in found.items()}
    return {kind: names for kind, names in ours.items() if names}


def create_service_to_scale(moto_url: str) -> Any:
    """Returns moto's client for autoscaling, which scales only services that moto's own ECS has."""
    ecs = boto3.client("ecs", endpoint_url=moto_url)
    ecs.create_cluster(clusterName="mlflow-fargate-default")
    container = {"name": "model", "image": "i", "memory": 128}
    task = ecs.register_task_definition(family="churn", containerDefinitions=[container])
    arn = task["taskDefinition"]["taskDefinitionArn"]
    ecs.create_service(cluster="mlflow-fargate-default", serviceName="churn", taskDefinition=arn)
    return boto3.client("application-autoscaling", endpoint_url=moto_url)


def test_the_whole_life_of_a_deployment(
    ministack: MiniStack, recorded: RecordedActions, python_image: str, s3_endpoint_url: str, tmp_path: Path
) -> None:
    rows = tmp_path / "rows.json"
    rows.write_text(json.dumps({"dataframe_split": {"columns": ["x"], "data": [[21.0]]}}))
    quick = ("-C", f"base_image={python_image}", "-C", "smoke_test=false", "-C", "deregistration_delay_seconds=1")

    examine()
    # MLflow 3.17's create-endpoint fails before it calls a plugin; update-endpoint also creates one.
    run("deployments", "update-endpoint", "--endpoint", "default")
    assert "default" in run("deployments", "list-endpoints")
    mine("plan", "-m", "models:/churn/1", *quick, exit_code=2)
    run("deployments", "create", "--name", "churn", "-m", "models:/churn/1", *quick)

    assert told(run("deployments", "get", "--name", "churn"))["state"] == "COMPLETED"
    assert "churn" in run("deployments", "list")
    assert json.loads(mine("status", "--json"))["state"] == "COMPLETED"
    assert json.loads(mine("predict", "-I", str(rows)))["predictions"] == [{"x": 42.0}]

    run("deployments", "update", "--name", "churn", "-C", "deregistration_delay_seconds=1")
    mine("plan")  # exits with 2 if anything would be changed
    run("deployments", "update", "--name", "churn", "-m", "models:/churn/2")
    assert json.loads(mine("predict", "-I", str(rows)))["predictions"] == [{"x": 42.0}]
    mine("scale", "2")
    autoscaling = create_service_to_scale(s3_endpoint_url)
    run("deployments", "update", "--name", "churn", "-C", "min_count=2", "-C", "max_count=3")
    (target,) = autoscaling.describe_scalable_targets(ServiceNamespace="ecs")["ScalableTargets"]
    assert (target["ResourceId"], target["MaxCapacity"]) == ("service/mlflow-fargate-default/churn", 3)
    mine("history")
    mine("rollback", "--to", "1")  # MiniStack has no record of rollouts, from which the revision would be chosen
    assert told(run("deployments", "get", "--name", "churn"))["model_version"] == "1"
    mine("events")
    assert mine("logs")
    mine("key", "--rotate")
    mine("key", "--finish")
    run("mlflow-fargate", "gc")
    examine()

    run("deployments", "delete", "--name", "churn")
    run("deployments", "delete-endpoint", "--endpoint", "default")
    run("mlflow-fargate", "gc")

    assert left_over(ministack) == {}
    assert autoscaling.describe_scalable_targets(ServiceNamespace="ecs")["ScalableTargets"] == []
    assert recorded.calls > 200
    assert sorted(recorded.all() - allowed("deployer") - allowed("deployer-options")) == []

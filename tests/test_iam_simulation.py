"""docs/iam in a simulator: every call is allowed on this package's own resources, and nothing that would reach further.

The simulator knows AWS's service authorization reference; it is not AWS.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from mlflow_fargate.cli import main
from mlflow_fargate.resources import EndpointSpec, Network, execution_policy, infrastructure_policy

pytestmark = [pytest.mark.exhaustive, pytest.mark.timeout(900)]

ACCOUNT, REGION = "123456789012", "us-east-2"
SIMULATOR = "@cloud-copilot/iam-simulate@0.1.173"
SCRIPT = Path(__file__).parent / "support" / "iam_simulation.mjs"
BOUNDARY = f"arn:aws:iam::{ACCOUNT}:policy/mlflow-fargate-boundary"
READS = ("Describe", "List", "Get", "BatchGet", "BatchCheck", "Filter", "Simulate")
Policy = dict[str, Any]


@dataclass(frozen=True)
class Request:
    """An action on the resources that AWS defines for it, or on one; with its context keys and the policies."""

    action: str
    identity: Sequence[Policy]
    arns: dict[str, str]
    context: dict[str, str]
    boundary: Policy | None = None
    resource: str | None = None


@dataclass(frozen=True)
class Simulator:
    """Runs requests in one process."""

    modules: Path

    def run(self, requests: Sequence[Request]) -> list[dict[str, Any]]:
        document = json.dumps({"requests": [vars(request) for request in requests]})
        done = subprocess.run(
            ["node", str(SCRIPT), str(self.modules)], input=document, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr[-3000:]
        found: list[dict[str, Any]] = json.loads(done.stdout)
        assert len(found) == len(requests)
        return found


@pytest.fixture(scope="module")
def simulator(tmp_path_factory: pytest.TempPathFactory) -> Simulator:
    if not (shutil.which("node") and shutil.which("npm")):
        pytest.skip("node and npm are not installed, which the IAM simulator needs")
    folder = tmp_path_factory.mktemp("npm")
    command = ["npm", "install", "--prefix", str(folder), "--ignore-scripts", "--no-audit", "--no-fund", SIMULATOR]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"npm could not install {SIMULATOR}: {done.stderr[-300:]}")
    return Simulator(folder)


def printed(name: str) -> Policy:
    """Returns the policy that `mlflow-fargate iam` prints for this account."""
    arguments = ["iam", name, "--account", ACCOUNT, "--region", REGION, "--endpoint", "prod", "--artifacts", "models"]
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 0, done.output
    policy: Policy = json.loads(done.stdout)
    assert not [word for word in ("ACCOUNT", "REGION", "ENDPOINT", "ARTIFACT-BUCKET") if word in done.stdout]
    return policy


def arns(endpoint: str, prefix: str = "mlflow-fargate", bucket: str = "models") -> dict[str, str]:
    """Returns an ARN for each of AWS's resource types: those of an endpoint and one of its deployments."""
    full, place = f"{prefix}-{endpoint}", f"{REGION}:{ACCOUNT}"
    balancing = f"arn:aws:elasticloadbalancing:{place}"
    short = "mlf" if prefix == "mlflow-fargate" else "other"
    return {
        "repository": f"arn:aws:ecr:{place}:repository/{prefix}/{endpoint}",
        "cluster": f"arn:aws:ecs:{place}:cluster/{full}",
        "service": f"arn:aws:ecs:{place}:service/{full}/churn",
        "task": f"arn:aws:ecs:{place}:task/{full}/0123",
        "task-definition": f"arn:aws:ecs:{place}:task-definition/{full}_churn:3",
        "service-deployment": f"arn:aws:ecs:{place}:service-deployment/{full}/churn/1",
        "service-revision": f"arn:aws:ecs:{place}:service-revision/{full}/churn/1",
        "loadbalancer/app/": f"{balancing}:loadbalancer/app/{full}/0123456789abcdef",
        "loadbalancer": f"{balancing}:loadbalancer/app/{full}/0123456789abcdef",
        "listener/app": f"{balancing}:listener/app/{full}/0123456789abcdef/1123456789abcdef",
        "listener-rule/app": f"{balancing}:listener-rule/app/{full}/0123456789abcdef/1123456789abcdef/2123456789abcdef",
        "targetgroup": f"{balancing}:targetgroup/{short}-0123/0123456789abcdef",
        "security-group": f"arn:aws:ec2:{place}:security-group/sg-0123",
        "vpc": f"arn:aws:ec2:{place}:vpc/vpc-0123",
        "role": f"arn:aws:iam::{ACCOUNT}:role/{full}-{REGION}",
        "log-group": f"arn:aws:logs:{place}:log-group:/{prefix}/{endpoint}/churn",
        "log-stream": f"arn:aws:logs:{place}:log-group:/{prefix}/{endpoint}/churn:log-stream:x",
        "Secret": f"arn:aws:secretsmanager:{place}:secret:{prefix}/{endpoint}/churn-Ab12Cd",
        "bucket": f"arn:aws:s3:::{bucket}",
        "object": f"arn:aws:s3:::{bucket}/1/model/MLmodel",
        "container-instance": f"arn:aws:ecs:{place}:container-instance/{full}/0123",
        "ScalableTarget": f"arn:aws:application-autoscaling:{place}:scalable-target/0123",
        "alarm": f"arn:aws:cloudwatch:{place}:alarm:{full}_churn.errors",
        "alarm of autoscaling": f"arn:aws:cloudwatch:{place}:alarm:TargetTracking-service/{full}/churn-AlarmHigh",
        "role of a record": f"arn:aws:iam::{ACCOUNT}:role/{full}_log-churn",
        "parameter": f"arn:aws:ssm:{place}:parameter/{prefix}/token",
        "certificate": f"arn:aws:acm:{place}:certificate/0123",
        "hostedzone": f"arn:aws:route53:::hostedzone/{'Z0123' if prefix == 'mlflow-fargate' else 'Z4567'}",
        "topic": f"arn:aws:sns:{place}:TOPIC",
    }


def context(endpoint: str, managed_by: str = "mlflow-fargate") -> dict[str, str]:
    tags = {"managed-by": managed_by, "mlflow-fargate:endpoint": endpoint}
    return {f"aws:{kind}/{key}": value for kind in ("RequestTag", "ResourceTag") for key, value in tags.items()} | {
        "application-autoscaling:service-namespace": "ecs"
    }


OWN_CONTEXTS = {
    "iam:PassRole": {"iam:PassedToService": "ecs-tasks.amazonaws.com"},
    "ec2:CreateTags": {"ec2:CreateAction": "CreateSecurityGroup"},
    "iam:CreateRole": {"iam:PermissionsBoundary": BOUNDARY},
    "iam:PutRolePolicy": {"iam:PermissionsBoundary": BOUNDARY},
    "iam:DeleteRolePolicy": {"iam:PermissionsBoundary": BOUNDARY},
}
# It is checked for the one resource that is tagged; and of roles, only those of records are deleted by all parties.
OWN_RESOURCES = {"ecs:TagResource": "service", "ecs:UntagResource": "service"} | {
    f"iam:{action}": "role of a record" for action in ("DeleteRole", "DeleteRolePolicy", "ListRolePolicies")
}
# The simulator's data has only the load balancers of this action.
NOT_SIMULATED = {"elasticloadbalancing:AddTags"}
LINKED = f"arn:aws:iam::{ACCOUNT}:role/aws-service-role/ecs.amazonaws.com/AWSServiceRoleForECS"


def own(action: str, identity: Sequence[Policy], **more: Any) -> Request:
    """Returns the request as the package makes it, on endpoint `prod`."""
    mine = arns("prod")
    further = {**OWN_CONTEXTS.get(action, {}), "elasticloadbalancing:CreateAction": "CreateTargetGroup"}
    resource = mine[OWN_RESOURCES[action]] if action in OWN_RESOURCES else None
    if action == "iam:CreateServiceLinkedRole":
        resource, further = LINKED, {"iam:AWSServiceName": "ecs.amazonaws.com"}
    return Request(action, identity, mine, {**context("prod"), **further}, resource=resource, **more)


def actions(*policies: Policy) -> list[str]:
    return sorted(
        {action for policy in policies for one in policy["Statement"] for action in one["Action"]} - NOT_SIMULATED
    )


def endpoint() -> EndpointSpec:
    return EndpointSpec("prod", Network("vpc", ()), region=REGION, account=ACCOUNT)


PARTIES: dict[str, Callable[[], list[Policy]]] = {
    "deployer": lambda: [printed("deployer"), printed("deployer-options")],
    "webhook": lambda: [printed("webhook")],
    "webhook-task": lambda: [printed("webhook-task")],
}
# AWS defines no resource for the first, so no policy can limit it. Hosted zones are the account's, and have no names:
# docs/iam/README.md says to limit the statement to one's own.
UNLIMITED = {"ecs:DeregisterTaskDefinition", "route53:ChangeResourceRecordSets"}


@pytest.mark.parametrize("party", PARTIES)
def test_the_whole_life_of_a_deployment_is_allowed(simulator: Simulator, party: str) -> None:
    policies = PARTIES[party]()
    results = simulator.run([own(action, policies) for action in actions(*policies)])

    assert [one["action"] for one in results if not one["allowed"]] == []


@pytest.mark.parametrize("party", PARTIES)
def test_nothing_of_others_can_be_written(simulator: Simulator, party: str) -> None:
    policies = PARTIES[party]()
    writes = [action for action in actions(*policies) if not action.partition(":")[2].startswith(READS)]
    others = [(arns("prod", prefix="other", bucket="private"), context("prod", managed_by="someone"))]
    if party != "deployer":
        others.append((arns("staging"), context("staging")))
    requests = [
        Request(action, policies, *other)
        for other in others
        for action in writes
        if action not in {"ecs:CreateCluster", "iam:CreateServiceLinkedRole", "ec2:CreateSecurityGroup"}
    ]
    results = simulator.run(requests)

    reached = {one["action"] for one in results if one["reached"]} - UNLIMITED
    # Targets of autoscaling have no names; the condition limits them to ECS.
    assert {action for action in reached if not action.startswith("application-autoscaling:")} == set()


def test_autoscaling_makes_its_alarms_with_the_permissions_of_the_deployer(simulator: Simulator) -> None:
    policies, alarm = PARTIES["deployer"](), arns("prod")["alarm of autoscaling"]
    requests = [
        Request(f"cloudwatch:{action}", policies, {}, context("prod"), resource=alarm)
        for action in ("PutMetricAlarm", "DeleteAlarms")
    ]

    assert all(one["allowed"] for one in simulator.run(requests))


@pytest.mark.parametrize("party", ["webhook", "webhook-task"])
def test_the_webhook_reads_no_secrets_models_or_images_of_other_endpoints(simulator: Simulator, party: str) -> None:
    policies = PARTIES[party]()
    reads = ["secretsmanager:GetSecretValue", "secretsmanager:DescribeSecret", "logs:GetLogEvents",
             "ecr:BatchGetImage", "iam:GetRolePolicy", "s3:GetObject"]  # fmt: skip
    results = simulator.run([Request(action, policies, arns("staging", bucket="x"), {}) for action in reads])

    assert [one["action"] for one in results if one["reached"]] == []


def test_a_deployer_cannot_become_an_administrator(simulator: Simulator) -> None:
    policies = PARTIES["deployer"]()
    role, other = arns("prod")["role"], f"arn:aws:iam::{ACCOUNT}:role/admin"
    own_boundary = {"iam:PermissionsBoundary": BOUNDARY}
    to_tasks = {"iam:PassedToService": "ecs-tasks.amazonaws.com"}
    escalations: list[tuple[str, str, dict[str, str]]] = [
        *(
            (action, role, boundary)
            for action in ("iam:CreateRole", "iam:PutRolePolicy", "iam:DeleteRolePolicy")
            for boundary in (
                {},
                {"iam:PermissionsBoundary": "arn:aws:iam::aws:policy/AdministratorAccess"},
                {"iam:PermissionsBoundary": f"{BOUNDARY}-2"},
            )
        ),
        ("iam:CreateRole", other, own_boundary),
        ("iam:PutRolePolicy", other, own_boundary),
        ("iam:PassRole", other, to_tasks),
        ("iam:PassRole", role, {"iam:PassedToService": "lambda.amazonaws.com"}),
        ("iam:PassRole", role, {"iam:PassedToService": "ec2.amazonaws.com"}),
        ("iam:CreatePolicyVersion", BOUNDARY, {}),
        ("iam:DeletePolicy", BOUNDARY, {}),
        ("iam:SetDefaultPolicyVersion", BOUNDARY, {}),
        ("iam:DeleteRolePermissionsBoundary", role, own_boundary),
        ("iam:PutRolePermissionsBoundary", role, own_boundary),
        ("iam:AttachRolePolicy", role, own_boundary),
        ("iam:UpdateAssumeRolePolicy", role, {}),
        ("sts:AssumeRole", role, {}),
    ]
    requests = [Request(action, policies, {}, keys, resource=arn) for action, arn, keys in escalations]

    assert [
        (one["action"], request.resource, request.context)
        for one, request in zip(simulator.run(requests), requests, strict=True)
        if one["reached"]
    ] == []


def test_a_created_role_stays_within_the_boundary_whatever_its_policy_says(simulator: Simulator) -> None:
    everything = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": ["*"], "Resource": "*"}]}
    boundary, other = printed("boundary"), arns("prod", prefix="other", bucket="private")
    further = ["iam:CreateRole", "iam:PutRolePolicy", "iam:AttachRolePolicy", "iam:PassRole", "lambda:InvokeFunction",
               "ecs:DeleteService", "ecr:PutImage", "secretsmanager:GetSecretValue", "s3:GetObject",
               "elasticloadbalancing:DeleteTargetGroup", "logs:DeleteLogGroup", "ssm:GetParameters"]  # fmt: skip
    other["function"] = f"arn:aws:lambda:{REGION}:{ACCOUNT}:function:x"
    requests = [Request(action, [everything], other, context("prod"), boundary) for action in further]
    requests += [
        Request(action, [everything], arns("prod"), context("prod"), boundary)
        for action in ("iam:CreateRole", "iam:PutRolePolicy", "iam:UpdateAssumeRolePolicy")
    ]

    assert [one["action"] for one in simulator.run(requests) if one["reached"]] == []


@pytest.mark.parametrize("role", ["webhook-task", "execution", "infrastructure"])
def test_the_boundary_allows_what_the_created_roles_need(simulator: Simulator, role: str) -> None:
    policies: dict[str, Callable[[], Any]] = {
        "webhook-task": lambda: printed("webhook-task"),
        "execution": lambda: execution_policy(endpoint()),
        "infrastructure": lambda: infrastructure_policy(endpoint()),
    }
    policy = policies[role]()
    results = simulator.run([own(action, [policy], boundary=printed("boundary")) for action in actions(policy)])

    assert [one["action"] for one in results if not one["allowed"]] == []

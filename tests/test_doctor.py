"""The doctor: each check by facts alone, the facts by a real control plane, the whole as a user types it."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from botocore.awsrequest import AWSResponse
from click.testing import CliRunner

from mlflow_fargate.aws.reading.doctor_facts import read_permissions
from mlflow_fargate.aws.session import AwsSession
from mlflow_fargate.cli import main
from mlflow_fargate.config import DeploymentConfig, parse_config
from mlflow_fargate.deployments.deployer import Deployer
from mlflow_fargate.doctor import checks
from mlflow_fargate.doctor.examination import STATEMENTS_OF, examine_mlflow, wanted_statements
from mlflow_fargate.doctor_facts import (
    Caller,
    Certificate,
    Permissions,
    Role,
    ScanFindings,
    ServerAnswer,
    Unknown,
    VcpuQuota,
)
from mlflow_fargate.resources.network import NetworkFacts, Subnet, WayOut
from mlflow_fargate.resources.policies import PolicyStatement, documented_policy
from mlflow_fargate.target import Target, TargetEnvironment
from support.deployer import create, use_account
from support.iam_policies import allowed
from support.policy_simulator import Body, PolicySimulator
from support.tracking_uri import use_tracking_uri

NO_RIGHT = Unknown("AWS refused it (AccessDenied): no")
CALLER = Caller("123456789012", "arn:aws:iam::123456789012:user/ann", "eu-west-1")
STATEMENT = {"Effect": "Allow", "Action": ["ecs:CreateService"], "Resource": "arn:x"}
ARN = "arn:aws:acm:eu-west-1:123456789012:certificate/c"
PUBLIC = Subnet("subnet-a", "eu-west-1a", 200, "internet gateway")
OPEN = NetworkFacts("vpc-1", (PUBLIC, replace(PUBLIC, id="subnet-b", zone="eu-west-1b")), frozenset())


def with_subnets(network: NetworkFacts, **changes: Any) -> NetworkFacts:
    return replace(network, subnets=tuple(replace(subnet, **changes) for subnet in network.subnets))


def trust(service: str) -> Role:
    statement = {"Effect": "Allow", "Principal": {"Service": service}, "Action": "sts:AssumeRole"}
    return Role("arn:role", {"Statement": [statement]})


@pytest.mark.parametrize(
    ("finding", "verdict", "said"),
    [
        (checks.check_caller(CALLER), "OK", "user/ann in eu-west-1"),
        (checks.check_caller(Unknown("No AWS credentials were found.")), "FAIL", "aws sso login"),
        (checks.check_permissions(Permissions("arn:u", 90)), "OK", "all 90 actions are allowed"),
        (checks.check_permissions(Permissions("arn:u", 90, (STATEMENT,))), "FAIL", "1 of 90 actions are denied"),
        (checks.check_permissions(NO_RIGHT, 90), "SKIP", "could not check the 90 actions of docs/iam/deployer.json"),
        (checks.check_quota(VcpuQuota(6, 0)), "OK", "0 of 6 vCPU"),
        (checks.check_quota(VcpuQuota(6, 4)), "FAIL", "both versions run"),
        (checks.check_quota(VcpuQuota(0, 0)), "FAIL", "AWS Support"),
        (checks.check_quota(NO_RIGHT), "SKIP", "AccessDenied"),
        (checks.check_certificate(None, "eu-west-1", None), "SKIP", "plain HTTP"),
        (checks.check_certificate(None, "eu-west-1", None, exposes_key=True), "FAIL", "certificate_arn="),
        (checks.check_certificate(Certificate(ARN, "ISSUED"), "eu-west-1", ARN), "OK", "ISSUED"),
        (checks.check_certificate(Certificate(ARN, "EXPIRED"), "eu-west-1", ARN), "FAIL", "EXPIRED"),
        (checks.check_certificate(Certificate(ARN, "ISSUED"), "us-east-1", ARN), "FAIL", "its own region"),
        (checks.check_certificate(NO_RIGHT, "eu-west-1", ARN), "FAIL", "AccessDenied"),
        (checks.check_role(trust("ecs-tasks.amazonaws.com")), "OK", "trusts ECS tasks"),
        (checks.check_role(trust("ec2.amazonaws.com")), "FAIL", "execution-trust.json"),
        (checks.check_role(None), "SKIP", "created with the endpoint"),
        (checks.check_role(NO_RIGHT), "SKIP", "AccessDenied"),
        (checks.check_infrastructure_role(trust("ecs.amazonaws.com")), "OK", "trusts ECS"),
        (checks.check_infrastructure_role(trust("ecs-tasks.amazonaws.com")), "FAIL", "infrastructure-trust.json"),
        (checks.check_infrastructure_role(None), "SKIP", "strategy="),
        (checks.check_infrastructure_role(NO_RIGHT), "SKIP", "AccessDenied"),
        (
            checks.check_scan(ScanFindings("sha256:1", "COMPLETE", {"CRITICAL": 2, "LOW": 1})),
            "FAIL",
            "2 CRITICAL, 1 LOW",
        ),
        (checks.check_scan(ScanFindings("sha256:1", "COMPLETE", {"LOW": 1})), "OK", "1 LOW"),
        (checks.check_scan(ScanFindings("sha256:1", "IN_PROGRESS", {})), "SKIP", "IN_PROGRESS"),
        (checks.check_scan(None), "SKIP", "no scanned image"),
        (checks.check_scan(NO_RIGHT), "SKIP", "AccessDenied"),
        (checks.check_tracking_server(None), "SKIP", "MLFLOW_TRACKING_URI"),
        (checks.check_tracking_server(ServerAnswer("http://m", None, "refused")), "FAIL", "refused"),
        (checks.check_tracking_server(ServerAnswer("http://m", 401, "")), "FAIL", "MLFLOW_TRACKING_USERNAME"),
        (
            checks.check_tracking_server(ServerAnswer("http://m", 404, "nginx")),
            "FAIL",
            "check that it is an MLflow server",
        ),
        (checks.check_tracking_server(ServerAnswer("http://m", 200, "{}")), "OK", "responds"),
        (checks.check_webhooks(None), "SKIP", "could not be reached"),
        (checks.check_webhooks(ServerAnswer("http://m", 200, "{}")), "OK", "polling"),
        (checks.check_webhooks(ServerAnswer("http://m", 500, "")), "FAIL", "SECRET_ENCRYPTION_KEY"),
        (checks.check_webhooks(ServerAnswer("http://m", 404, "")), "SKIP", "polls"),
        (checks.check_webhook_url(None, []), "SKIP", "--webhook-url"),
        (checks.check_webhook_url("http://hook.example", ["8.8.8.8"]), "FAIL", "only to https"),
        (checks.check_webhook_url("https://hook.example", []), "FAIL", "does not resolve"),
        (checks.check_webhook_url("https://hook.example", ["8.8.8.8", "10.0.0.1"]), "FAIL", "at 10.0.0.1"),
        (checks.check_webhook_url("https://hook.example", ["8.8.8.8"]), "OK", "hook.example"),
    ],
)
def test_a_check_decides_from_facts_and_says_what_to_do(finding: checks.Finding, verdict: str, said: str) -> None:
    assert finding.verdict == verdict
    assert said in f"{finding.said} {finding.advice}"
    assert (finding.advice is not None) == (verdict == "FAIL")


@pytest.mark.parametrize(
    ("network", "failed"),
    [
        (OPEN, []),
        (replace(OPEN, subnets=OPEN.subnets[:1]), ["VPC and subnets"]),
        (with_subnets(OPEN, free_addresses=7), ["free addresses"]),
        (with_subnets(OPEN, way_out="NAT"), []),
        (with_subnets(OPEN, way_out="other"), []),
    ],
)
def test_a_network_needs_two_zones_and_addresses(network: NetworkFacts, failed: list[str]) -> None:
    findings = checks.check_network(network)

    assert [finding.name for finding in findings if finding.verdict == "FAIL"] == failed


@pytest.mark.parametrize(
    ("way_out", "notes", "verdict", "said"),
    [
        ("internet gateway", (), "OK", "through an internet gateway"),
        ("NAT", ("load balancer: in subnet-a",), "OK", "through NAT"),
        ("none", (), "OK", "through VPC endpoints"),
        ("none", ("warning: subnet-a must reach logs through VPC endpoints of another account",), "SKIP", "must reach"),
    ],
)
def test_what_is_uncertain_about_a_network_is_what_a_deployment_warns_of(
    way_out: WayOut, notes: tuple[str, ...], verdict: str, said: str
) -> None:
    found = checks.check_network(with_subnets(OPEN, way_out=way_out), notes=notes)[-1]

    assert (found.name, found.verdict) == ("outbound access", verdict)
    assert said in found.said


def test_without_a_network_the_check_says_how_to_name_one() -> None:
    (finding,) = checks.check_network(Unknown("The account has no default VPC in eu-west-1."))

    assert (finding.verdict, "subnets=subnet-a,subnet-b" in str(finding.advice)) == ("FAIL", True)


@cache
def iam_session() -> AwsSession:
    """A session whose calls of GetRole are answered; it is slow to make, so there is one."""
    environment = TargetEnvironment(access_key_id="local", secret_access_key="local")
    session = AwsSession(Target("fargate:/eu-west-1", "eu-west-1", environment=environment))
    session._session.events.register_first("before-send.iam.GetRole", get_role)
    return session


def read(
    simulator: PolicySimulator, caller: Caller = CALLER, config: DeploymentConfig | None = None, endpoint: str = "prod"
) -> checks.Finding:
    """The doctor's finding for a caller about whom IAM's simulator knows this."""
    wanted = wanted_statements(caller, endpoint, config or parse_config(None))
    with simulator.answering(iam_session()):
        return checks.check_permissions(read_permissions(iam_session(), caller.arn, wanted))


def get_role(request: Any, **_: Any) -> AWSResponse:
    """Answers that the role has a path, or that it must not be read."""
    if "RoleName=secret" in str(request.body):
        return AWSResponse(request.url, 403, {}, Body(b"<E><Error><Code>AccessDenied</Code></Error></E>"))
    arn = "arn:aws:iam::123456789012:role/aws-reserved/sso.amazonaws.com/admin"
    found = f"<R><GetRoleResult><Role><Arn>{arn}</Arn></Role></GetRoleResult></R>"
    return AWSResponse(request.url, 200, {}, Body(found.encode()))


def documented(name: str) -> list[PolicyStatement]:
    return documented_policy(name, account=CALLER.account, region=None, endpoint="prod", bucket="b")["Statement"]


def test_every_action_of_the_deployers_policy_is_checked() -> None:
    simulator = PolicySimulator(documented("deployer"))

    assert read(simulator).verdict == "OK"
    assert set(simulator.asked) == allowed("deployer") - {"s3:GetObject", "s3:ListBucket"}


@pytest.mark.parametrize(
    ("options", "action"),
    [
        ({"max_count": 3}, "cloudwatch:PutMetricAlarm"),
        ({"strategy": "canary"}, "ecs:ContinueServiceDeployment"),
        ({"enable_execute_command": True, "task_role_arn": "arn:aws:iam::1:role/task"}, "ecs:ExecuteCommand"),
        ({"domain": "churn.example.com"}, "acm:RequestCertificate"),
    ],
)
def test_the_actions_that_an_option_needs_are_checked_too_and_no_others(options: dict[str, Any], action: str) -> None:
    config = parse_config(options)

    finding = read(PolicySimulator(documented("deployer")), config=config)
    printed = json.loads(str(finding.advice).partition(": ")[2])

    assert action in finding.said
    assert read(PolicySimulator([*documented("deployer"), *printed]), config=config).verdict == "OK"
    others = {sid for option, sids in STATEMENTS_OF.items() if not getattr(config, option) for sid in sids}
    assert not others & {statement["Sid"] for statement in printed}


def test_every_statement_for_options_of_a_deployment_is_known() -> None:
    known = {sid for sids in STATEMENTS_OF.values() for sid in sids}

    assert {one["Sid"] for one in documented("deployer-options")} - known == {"OutputsOfStacks"}  # of `tracking env`


@pytest.mark.parametrize("number", range(len(documented("deployer"))))
def test_a_missing_statement_is_printed_as_a_whole(number: int) -> None:
    statements = documented("deployer")
    missing = statements.pop(number)
    if "s3:" in str(missing):
        return

    finding = read(PolicySimulator(statements))

    (printed,) = json.loads(str(finding.advice).partition(": ")[2])
    assert (printed["Sid"], printed["Action"]) == (missing["Sid"], missing["Action"])
    assert read(PolicySimulator([*statements, printed])).verdict == "OK"


def test_a_policy_for_one_endpoint_is_enough_for_it() -> None:
    text = json.dumps(documented("deployer")).replace("mlflow-fargate-*", "mlflow-fargate-prod*")
    statements = json.loads(text.replace("mlflow-fargate/*", "mlflow-fargate/prod*"))

    assert read(PolicySimulator(statements)).verdict == "OK"
    assert read(PolicySimulator(statements), endpoint="default").verdict == "FAIL"


@pytest.mark.parametrize(
    ("why", "said"),
    [
        ("explicitDeny", "denies it explicitly"),
        ("<OrganizationsDecisionDetail><AllowedByOrganizations>false</AllowedByOrganizations>"
         "</OrganizationsDecisionDetail>", "service control policy"),
        ("<PermissionsBoundaryDecisionDetail><AllowedByPermissionsBoundary>false</AllowedByPermissionsBoundary>"
         "</PermissionsBoundaryDecisionDetail>", "permissions boundary"),
    ],
)  # fmt: skip
def test_what_a_statement_would_not_help_against_is_named(why: str, said: str) -> None:
    finding = read(PolicySimulator(documented("deployer"), {"ecs:CreateCluster": why}))

    assert (finding.verdict, "add these statements" in str(finding.advice)) == ("FAIL", False)
    assert said in str(finding.advice) and "ecs:CreateCluster" in str(finding.advice)


@pytest.mark.parametrize(
    ("arn", "whose"),
    [
        (CALLER.arn, CALLER.arn),
        ("arn:aws:sts::123456789012:assumed-role/admin/ann", "role/aws-reserved/sso.amazonaws.com/admin"),
        ("arn:aws:sts::123456789012:assumed-role/secret/ann", "arn:aws:iam::123456789012:role/secret"),
    ],
)
def test_the_simulator_gets_the_role_of_a_session(arn: str, whose: str) -> None:
    simulator = PolicySimulator(documented("deployer"))
    read(simulator, replace(CALLER, arn=arn))

    (source,) = simulator.sources
    assert source.endswith(whose)


@pytest.fixture
def refusing_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Answers as MLflow's server does to a name that it was not told to allow."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = b"Invalid Host header - possible DNS rebinding attack detected"
            self.send_response(403)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *arguments: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"127.0.0.1:{server.server_port}"
    try:
        with use_tracking_uri(f"http://ann:s3cret@{address}"):
            yield address
    finally:
        server.shutdown()
        server.server_close()


def test_for_a_server_that_refuses_its_own_name_the_doctor_says_how_to_allow_it(refusing_server: str) -> None:
    finding = examine_mlflow(None)[0]

    assert finding.verdict == "FAIL"
    assert finding.advice == f"start it with: mlflow server --allowed-hosts {refusing_server}"
    assert "s3cret" not in str(examine_mlflow(None))


# On the local stack's AWS


@pytest.mark.slow
def test_the_doctor_tells_every_topic_and_ends_with_what_it_found(
    deployer: Deployer, monkeypatch: pytest.MonkeyPatch
) -> None:
    create(deployer)
    use_account(monkeypatch, deployer)
    monkeypatch.setattr("mlflow_fargate.model.server.mlflow.get_tracking_uri", lambda: "sqlite://")

    healthy = CliRunner().invoke(main, ["doctor", "-t", "fargate:/us-east-1", "-C", "auth=none"])
    exposed = CliRunner().invoke(main, ["doctor", "-t", "fargate:/us-east-1"])
    arn = "arn:aws:acm:eu-west-1:123456789012:certificate/c"
    sick = CliRunner().invoke(main, ["doctor", "-t", "fargate:/us-east-1", "-C", f"certificate_arn={arn}", "--json"])

    assert healthy.exit_code == 0, healthy.output
    assert "  OK   credentials: " in healthy.output
    assert "  OK   outbound access: through an internet gateway" in healthy.output
    assert "  OK   execution role: " in healthy.output
    assert exposed.exit_code == 1
    assert "FAIL certificate: without HTTPS, callers send the API key and their inputs unencrypted" in exposed.output
    findings = {item["name"]: item for item in json.loads(sick.stdout)}
    assert sick.exit_code == 1
    assert findings["certificate"]["verdict"] == "FAIL"
    assert "request or import one in us-east-1" in findings["certificate"]["advice"]
    assert [item["topic"] for item in findings.values()] == ["account"] * 3 + ["network"] * 3 + ["endpoint"] * 5 + [
        "MLflow"
    ] * 3

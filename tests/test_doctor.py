"""The doctor: each check by facts alone, the facts by a real control plane, the whole as a user types it."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from click.testing import CliRunner

from mlflow_fargate.cli import main
from mlflow_fargate.deployments.deployer import Deployer
from mlflow_fargate.doctor import checks
from mlflow_fargate.doctor.examination import examine_mlflow, policy_source, wanted_actions
from mlflow_fargate.doctor_facts import (
    Caller,
    Certificate,
    Role,
    ScanFindings,
    ServerAnswer,
    Unknown,
    VcpuQuota,
)
from mlflow_fargate.resources.network import NetworkFacts, Subnet
from support.deployer import create, use_account
from support.iam_policies import allowed
from support.tracking_uri import use_tracking_uri

NO_RIGHT = Unknown("AWS refused it (AccessDenied): no")
CALLER = Caller("123456789012", "arn:aws:iam::123456789012:user/ann", "eu-west-1")
ARN = "arn:aws:acm:eu-west-1:123456789012:certificate/c"
PUBLIC = Subnet("subnet-a", "eu-west-1a", 200, "internet gateway")
OPEN = NetworkFacts("vpc-1", (PUBLIC, replace(PUBLIC, id="subnet-b", zone="eu-west-1b")), frozenset())
ALL_SERVICES = frozenset({"ecr.api", "ecr.dkr", "s3", "logs", "secretsmanager"})


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
        (checks.check_permissions([]), "OK", "allowed"),
        (checks.check_permissions(["ecs:CreateService on x"]), "FAIL", "docs/iam/deployer.json"),
        (checks.check_permissions(NO_RIGHT), "SKIP", "AccessDenied"),
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
        (with_subnets(OPEN, way_out="none"), ["outbound access"]),
        (replace(with_subnets(OPEN, way_out="none"), endpoint_services=ALL_SERVICES), []),
        (
            replace(with_subnets(OPEN, way_out="none"), endpoint_services=ALL_SERVICES - {"s3"}),
            ["outbound access"],
        ),
    ],
)
def test_a_network_needs_two_zones_addresses_and_a_way_out(network: NetworkFacts, failed: list[str]) -> None:
    findings = checks.check_network(network)

    assert [finding.name for finding in findings if finding.verdict == "FAIL"] == failed


def test_without_a_network_the_check_says_how_to_name_one() -> None:
    (finding,) = checks.check_network(Unknown("The account has no default VPC in eu-west-1."))

    assert (finding.verdict, "subnets=subnet-a,subnet-b" in str(finding.advice)) == ("FAIL", True)


def test_the_simulator_gets_the_role_of_a_session() -> None:
    session = "arn:aws:sts::123456789012:assumed-role/deployer/ann"

    assert policy_source(session) == "arn:aws:iam::123456789012:role/deployer"
    assert policy_source(CALLER.arn) == CALLER.arn
    assert isinstance(policy_source("arn:aws:iam::123456789012:root"), Unknown)


def test_the_actions_that_are_simulated_are_those_of_the_deployers_policy() -> None:
    asked = {action for actions in wanted_actions(CALLER, "default").values() for action in actions}

    assert asked <= allowed("deployer")


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
    assert [item["topic"] for item in findings.values()] == ["account"] * 3 + ["network"] * 3 + ["endpoint"] * 4 + [
        "MLflow"
    ] * 3

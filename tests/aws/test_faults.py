"""The fault table: what AWS is known to refuse, played below boto3 at each call where it occurs.

A refusal is put in place of AWS's answer as bytes, so that botocore's parsers, retries and error classes are the real
ones. What has to follow is one of: retried, adopted, or explained with a hint.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any
from xml.sax.saxutils import escape

import pytest
import stamina
from botocore.awsrequest import AWSResponse
from botocore.httpsession import URLLib3Session

from mlflow_fargate.aws.account import Account
from mlflow_fargate.aws.error_table import _ROWS, classify
from mlflow_fargate.aws.error_table import Fault as Meaning
from mlflow_fargate.config import NamedOptions
from mlflow_fargate.deployments.deployer import Deployer
from mlflow_fargate.errors import AwsError, DeploymentExists, DeploymentNotFound, FargateError, ForeignResource
from support.deployer import QUICK, PreparingPublisher

OPTIONS = {**QUICK, "auth": "api_key", "desired_count": 0}
SERVICES = {
    "elbv2": "elastic-load-balancing-v2",
    "logs": "cloudwatch-logs",
    "secretsmanager": "secrets-manager",
    "application-autoscaling": "application-auto-scaling",
}
XML = {"elbv2", "iam", "ec2", "sts"}
INVALID = "InvalidParameterException"
BUSY_SUBNET = "Error retrieving subnet information for [subnet-abc123]: Rate exceeded (ErrorCode: Throttling)"
NO_SUBNET = (
    "Error retrieving subnet information for [subnet-x]: The subnet ID 'subnet-x' does not exist "
    "(ErrorCode: InvalidSubnetID.NotFound)"
)
NO_LINKED_ROLE = "Unable to assume the service linked role. Please verify that the ECS service linked role exists."
NO_TRUST = (
    "ECS was unable to assume the configured ECS Infrastructure Role 'arn:aws:iam::1:role/r'. Please verify that the "
    "role being passed has the proper trust relationship with Amazon ECS."
)
NO_SERVICE_ROLE = (
    "Unable to assume role and validate the specified targetGroupArn. Please verify that the ECS service role being "
    "passed has the proper permissions."
)
NO_LISTENERS = (
    "Unable to assume role and validate the listeners configured on your load balancer. Please verify that the ECS "
    "service role being passed has the proper permissions."
)
NO_TASK_TRUST = (
    "ECS was unable to assume the role 'arn:aws:iam::1:role/r' that was provided for this task. Please verify that the "
    "role being passed has the proper trust relationship and permissions and that your IAM user has permissions to "
    "pass this role."
)
MANY_REVISIONS = "Too many concurrent attempts to create a new revision of the specified family."
SECRET_GONE = "You can't perform this operation on the secret because it was deleted."
NO_SCALING_ROLE = "Unable to assume IAM role: arn:aws:iam::1:role/r"
NO_BALANCER = "The target group with targetGroupArn arn:aws:x does not have an associated load balancer."
DRAINING = "Unable to Start a service that is still Draining."
ACTIVE = "The service cannot be stopped while deployments are active."
IN_USE = "The target group 'arn:aws:x' is currently in use by a listener or a rule"
NO_SCALABLE_TARGET = "No scalable target registered for service namespace: ecs, resource ID: service/c/s"
NO_RIGHT = (
    "User: arn:aws:iam::1:user/u is not authorized to perform: iam:PassRole on resource: arn:aws:iam::1:role/r "
    "because no identity-based policy allows the iam:PassRole action"
)
NO_SIZE = "No Fargate configuration exists for given values."
NO_ROLE = "Fargate requires task definition to have execution role ARN to support ECR images."
LIMIT = "You have reached the limit"
TOO_LONG = "Actual length: '514430'. Max allowed length is '65536' bytes."

# (verb, service, operation, code, message, HTTP status)
HEALS = [
    ("create", "ecs", "CreateService", "ThrottlingException", "Rate exceeded", 400),
    ("create", "ecs", "RegisterTaskDefinition", "ThrottlingException", "Rate exceeded", 400),
    ("create", "elbv2", "CreateTargetGroup", "Throttling", "Rate exceeded", 400),
    ("create", "iam", "CreateRole", "Throttling", "Rate exceeded", 400),
    ("create", "ec2", "CreateSecurityGroup", "RequestLimitExceeded", "Request limit exceeded.", 503),
    ("create", "ecs", "CreateService", "ServerException", "Service Unavailable. Please try again later.", 500),
    ("create", "ecs", "CreateService", INVALID, BUSY_SUBNET, 400),
    ("create", "ecs", "CreateService", INVALID, DRAINING, 400),
    ("create", "ecs", "CreateService", INVALID, NO_BALANCER, 400),
    ("update", "ecs", "UpdateService", INVALID, NO_BALANCER, 400),
    ("update", "ecs", "UpdateService", INVALID, BUSY_SUBNET, 400),
    ("create", "ecs", "CreateCluster", INVALID, NO_LINKED_ROLE, 400),
    ("create", "ecs", "CreateService", INVALID, NO_LINKED_ROLE, 400),
    ("create", "ecs", "CreateService", INVALID, NO_TRUST, 400),
    ("create", "ecs", "CreateService", INVALID, NO_SERVICE_ROLE, 400),
    ("create", "ecs", "CreateService", INVALID, NO_LISTENERS, 400),
    ("create", "ecs", "RegisterTaskDefinition", "ClientException", MANY_REVISIONS, 400),
    ("create", "ecs", "RegisterTaskDefinition", "ClientException", NO_TASK_TRUST, 400),
    ("create", "secretsmanager", "CreateSecret", "InvalidRequestException", SECRET_GONE, 400),
    ("scale", "application-autoscaling", "PutScalingPolicy", "ObjectNotFoundException", NO_SCALABLE_TARGET, 400),
    ("scale", "application-autoscaling", "PutScalingPolicy", "FailedResourceAccessException", "Failed access", 400),
    ("scale", "application-autoscaling", "RegisterScalableTarget", "ValidationException", NO_SCALING_ROLE, 400),
    ("create", "elbv2", "DescribeRules", "ListenerNotFound", "One or more listeners not found", 400),
    ("create", "elbv2", "CreateRule", "PriorityInUse", "The specified priority is in use.", 400),
    ("create", "elbv2", "CreateRule", "PriorityInUseException", "Priority '100' is currently in use", 400),
    ("delete", "ecs", "DeleteService", INVALID, ACTIVE, 400),
    ("delete", "elbv2", "DeleteTargetGroup", "ResourceInUse", IN_USE, 400),
    (
        "delete_endpoint",
        "ec2",
        "DeleteSecurityGroup",
        "DependencyViolation",
        "sg-1 has a dependent",
        400,
    ),
    (
        "delete_endpoint",
        "ecs",
        "DeleteCluster",
        "ClusterContainsServicesException",
        "The cluster has more",
        400,
    ),
    ("delete_endpoint", "ecs", "DeleteCluster", "ClusterContainsTasksException", "The cluster has more", 400),
    ("delete_endpoint", "ecs", "DeleteCluster", "UpdateInProgressException", "The cluster is being updated", 400),
]
# Another client was faster: AWS created it, and refuses this call.
ADOPTED = [
    ("ecs", "CreateService", INVALID, "Creation of service was not idempotent."),
    ("elbv2", "CreateTargetGroup", "DuplicateTargetGroupName", "A target group with the same name exists"),
    ("elbv2", "CreateListener", "DuplicateListener", "A listener already exists on this port"),
    ("elbv2", "CreateLoadBalancer", "DuplicateLoadBalancerName", "A load balancer with the same name exists"),
    ("ec2", "CreateSecurityGroup", "InvalidGroup.Duplicate", "The security group 'x' already exists"),
    ("ec2", "AuthorizeSecurityGroupIngress", "InvalidPermission.Duplicate", "The specified rule already exists"),
    ("logs", "CreateLogGroup", "ResourceAlreadyExistsException", "The specified log group already exists"),
    ("ecr", "CreateRepository", "RepositoryAlreadyExistsException", "The repository already exists in the registry"),
    ("iam", "CreateRole", "EntityAlreadyExists", "Role with name x already exists."),
    ("secretsmanager", "CreateSecret", "ResourceExistsException", "The operation failed because the secret exists."),
]
# Another client deleted it first.
GONE = [
    ("delete", "ecs", "DeleteService", "ServiceNotFoundException", "Service not found."),
    ("delete", "ecs", "DeleteService", "ClusterNotFoundException", "Cluster not found."),
    ("delete", "ecs", "DeregisterTaskDefinition", "ClientException", "The specified task definition does not exist."),
    ("delete", "elbv2", "DeleteRule", "RuleNotFound", "One or more rules not found"),
    ("delete", "elbv2", "DeleteTargetGroup", "TargetGroupNotFound", "One or more target groups not found"),
    ("delete", "logs", "DeleteLogGroup", "ResourceNotFoundException", "The specified log group does not exist."),
    ("delete", "secretsmanager", "DeleteSecret", "ResourceNotFoundException", "can't find the specified secret."),
    ("delete_endpoint", "elbv2", "DeleteLoadBalancer", "LoadBalancerNotFound", "One or more not found"),
    ("delete_endpoint", "elbv2", "DeleteListener", "ListenerNotFound", "One or more listeners not found"),
    ("delete_endpoint", "ec2", "DeleteSecurityGroup", "InvalidGroup.NotFound", "The security group does not exist"),
    ("delete_endpoint", "iam", "DeleteRole", "NoSuchEntity", "The role cannot be found."),
    ("delete_endpoint", "ecr", "DeleteRepository", "RepositoryNotFoundException", "The repository does not exist"),
    ("delete_endpoint", "ecs", "DeleteCluster", "ClusterNotFoundException", "Cluster not found."),
]
# (verb, service, operation, code, message, what the hint says)
EXPLAINED = [
    ("create", "ecs", "CreateService", INVALID, NO_SUBNET, "subnets="),
    ("create", "ecs", "CreateService", INVALID, "subnets can not be empty.", "subnets="),
    ("create", "ecs", "CreateService", "AccessDeniedException", NO_RIGHT, '"Action": "iam:PassRole"'),
    ("create", "ecs", "RegisterTaskDefinition", "ClientException", NO_SIZE, "memory="),
    ("create", "ecs", "RegisterTaskDefinition", "ClientException", "Invalid 'cpu' setting for task.", "cpu="),
    ("create", "ecs", "RegisterTaskDefinition", "ClientException", TOO_LONG, "environment="),
    ("create", "ecs", "RegisterTaskDefinition", "ClientException", "Role is not valid", "task_role_arn="),
    ("create", "ecs", "RegisterTaskDefinition", "ClientException", NO_ROLE, "execution_role_arn="),
    ("update", "ecs", "UpdateService", INVALID, NO_SUBNET, "subnets="),
    ("update", "ecs", "UpdateService", "AccessDeniedException", NO_RIGHT, '"Action": "iam:PassRole"'),
    ("update", "ecs", "RegisterTaskDefinition", "ClientException", NO_SIZE, "memory="),
    ("update", "ecs", "RegisterTaskDefinition", "ClientException", TOO_LONG, "environment="),
    ("update", "ecs", "UpdateService", "ServiceNotFoundException", "Service not found.", "run the command again"),
    ("update", "ecs", "UpdateService", "ClusterNotFoundException", "Cluster not found.", "run the command again"),
    ("create", "ecs", "CreateService", "ClusterNotFoundException", "The referenced cluster was inactive.", "again"),
    ("update", "ecs", "UpdateService", "ClientException", "TaskDefinition is inactive", "run the command again"),
    ("update", "ecs", "UpdateService", INVALID, "TaskDefinition is inactive", "run the command again"),
    ("create", "ecs", "CreateService", "BlockedException", "Your account is currently blocked", "AWS Support"),
    ("create", "elbv2", "CreateRule", "TooManyRules", LIMIT, "Rules per Application"),
    ("create", "elbv2", "CreateTargetGroup", "TooManyTargetGroups", LIMIT, "Target Groups per"),
    ("create", "elbv2", "CreateRule", "TooManyUniqueTargetGroupsPerLoadBalancer", LIMIT, "endpoint"),
    ("create", "elbv2", "CreateLoadBalancer", "TooManyLoadBalancers", LIMIT, "Load Balancers per"),
    ("create", "elbv2", "CreateLoadBalancer", "InvalidSubnet", "A subnet in two zones is needed", "availability zones"),
]  # fmt: skip
VERBS = ("create", "update", "scale", "delete", "delete_endpoint")
# Older policies lack it; a status then says less, and that is all.
TOLERATED = {"ecs:ListServiceDeployments", "ec2:DescribeNetworkInterfaces"}
WITHIN_BOUNDARY = {"iam:CreateRole", "iam:PutRolePolicy"}  # denied without one, whatever the policy says


@dataclass
class Fault:
    """Refuses an operation on its first call (or always); `after` lets AWS perform it first."""

    service: str
    operation: str
    code: str
    message: str
    status: int = 400
    after: bool = False
    always: bool = False
    played: int = field(default=0)

    def watch(self, account: Account) -> None:
        event = f"before-send.{SERVICES.get(self.service, self.service)}.{self.operation}"
        account.session._session.events.register_first(event, self._answer)

    def _answer(self, request: Any, **_: Any) -> AWSResponse | None:
        if self.played and not self.always:
            return None
        self.played += 1
        if self.after:
            done = URLLib3Session().send(request)
            assert done.status_code == 200, done.text
        return AWSResponse(request.url, self.status, {"x-amzn-RequestId": "1"}, Raw(self._body()))

    def _body(self) -> bytes:
        if self.service not in XML:
            return json.dumps({"__type": self.code, "message": self.message, "Message": self.message}).encode()
        error = f"<Error><Code>{self.code}</Code><Message>{escape(self.message)}</Message></Error>"
        if self.service == "ec2":
            return f"<Response><Errors>{error}</Errors><RequestID>1</RequestID></Response>".encode()
        return f"<ErrorResponse>{error}<RequestId>1</RequestId></ErrorResponse>".encode()


class Raw:
    """The body of an answer, as urllib3 would hand it over."""

    def __init__(self, body: bytes) -> None:
        self._body = body

    def stream(self, *_: Any, **__: Any) -> Iterator[bytes]:
        yield self._body


@dataclass
class EveryCall:
    """Refuses each operation on its first call; with `one`, only the first that was not `tried` before."""

    refusal: Callable[[str, str], Fault]
    tried: set[str] = field(default_factory=set)
    one: bool = False
    refused: str | None = None  # "ecs:CreateService", with `one`
    is_done: bool = False  # the verb was, nevertheless

    def watch(self, account: Account) -> None:
        account.session._session.events.register_first("before-send", self._answer)

    def _answer(self, request: Any, event_name: str, **_: Any) -> AWSResponse | None:
        _, service, operation = event_name.split(".")
        service = next((name for name, hyphened in SERVICES.items() if hyphened == service), service)
        call = f"{service}:{operation}"
        if self.one:
            self.refused = self.refused or (call if call not in self.tried else None)
            return self.refusal(service, operation)._answer(request) if call == self.refused else None
        if call in self.tried:
            return None
        self.tried.add(call)
        return self.refusal(service, operation)._answer(request)


def throttled(service: str, operation: str) -> Fault:
    code = {"ec2": "RequestLimitExceeded"}.get(service, "Throttling" if service in XML else "ThrottlingException")
    return Fault(service, operation, code, "Rate exceeded")


def broken(service: str, operation: str) -> Fault:
    return Fault(service, operation, "ServerException", "Service Unavailable. Please try again later.", 500)


def denied(service: str, operation: str) -> Fault:
    code = {"ec2": "UnauthorizedOperation"}.get(service, "AccessDenied" if service in XML else "AccessDeniedException")
    said = f"User: arn:aws:iam::1:user/u is not authorized to perform: {service}:{operation} on resource: arn:aws:x"
    return Fault(service, operation, code, said)


def client_with(deployer: Deployer, fault: Fault | EveryCall | None = None) -> Deployer:
    account = Account(deployer.target, sleep=lambda seconds: None)
    if fault:
        fault.watch(account)
    return replace(
        deployer, account=account, make_publisher=lambda: PreparingPublisher(deployer.publisher.image, account)
    )  # type: ignore[arg-type,attr-defined]


def play(deployer: Deployer, verb: str, fault: Fault | EveryCall) -> None:
    """Everything up to the verb goes well; then the verb, with the fault."""
    prepare(deployer, verb)
    act(client_with(deployer, fault), verb)


def prepare(deployer: Deployer, verb: str) -> None:
    calm = client_with(deployer)
    if verb != "create":
        calm.create("churn", "models:/churn/1", None, NamedOptions(OPTIONS))
    if verb == "delete_endpoint":
        calm.delete("churn")


def act(client: Deployer, verb: str) -> None:
    if verb == "create":
        client.create("churn", "models:/churn/1", None, NamedOptions(OPTIONS))
    elif verb == "update":
        client.update("churn", "models:/churn/2", None, NamedOptions({"cpu": 512, "memory": 1024}))
    elif verb == "scale":
        client.update("churn", None, None, NamedOptions({"min_count": 0, "max_count": 2}))
    elif verb == "delete":
        client.delete("churn")
    else:
        client.delete_endpoint("default")


def check_done(deployer: Deployer, verb: str) -> None:
    client = client_with(deployer)
    if verb in ("create", "update", "scale"):
        wanted = "2" if verb == "update" else "1"
        assert client.get("churn").provenance.version == wanted
        assert client.update("churn", None, None, NamedOptions()) is not None
        return
    with pytest.raises(DeploymentNotFound):
        client.get("churn")


@pytest.fixture(autouse=True)
def quick_retries() -> Iterator[None]:
    with stamina.set_testing(True, attempts=4):
        yield


@pytest.fixture
def clean(deployer: Deployer) -> Iterator[Deployer]:
    yield deployer
    wipe(deployer)


def wipe(deployer: Deployer) -> None:
    client = client_with(deployer)
    client.delete("churn")
    client.delete_endpoint("default")


def called(row: tuple[Any, ...]) -> str:
    return "-".join(str(part)[:28] for part in row[:5])


def calls(rows: list[Any]) -> list[Any]:
    """The first row for make test, the others for make test-all."""
    all_but_first = [pytest.mark.slow, pytest.mark.exhaustive]
    return [
        pytest.param(row, id=called(row), marks=all_but_first if number else pytest.mark.slow)
        for number, row in enumerate(rows)
    ]


@pytest.mark.parametrize("row", calls(HEALS))
def test_transient_errors_are_retried(clean: Deployer, row: tuple[str, str, str, str, str, int]) -> None:
    verb, service, operation, code, message, status = row
    fault = Fault(service, operation, code, message, status)

    play(clean, verb, fault)

    assert fault.played == 1
    check_done(clean, verb)


@pytest.mark.parametrize("row", calls(ADOPTED))
def test_what_another_deployer_made_meanwhile_is_adopted(clean: Deployer, row: tuple[str, str, str, str]) -> None:
    fault = Fault(*row, after=True)

    play(clean, "create", fault)

    assert fault.played == 1
    check_done(clean, "create")


@pytest.mark.parametrize("row", calls(GONE))
def test_what_another_deployer_deleted_meanwhile_is_passed_by(
    clean: Deployer, row: tuple[str, str, str, str, str]
) -> None:
    verb, *refusal = row
    fault = Fault(*refusal, after=True)  # type: ignore[arg-type]

    play(clean, verb, fault)

    assert fault.played >= 1
    check_done(clean, verb)


@pytest.mark.parametrize("row", calls(EXPLAINED))
def test_what_the_user_has_to_change_is_explained(clean: Deployer, row: tuple[str, ...]) -> None:
    verb, service, operation, code, message, hint = row
    fault = Fault(service, operation, code, message, always=True)

    with pytest.raises(AwsError) as caught:
        play(clean, verb, fault)

    assert (caught.value.code, fault.played) == (code, 1)
    assert message in str(caught.value)
    assert hint in str(caught.value.hint)


@pytest.mark.slow
@pytest.mark.exhaustive
@pytest.mark.parametrize("refusal", [throttled, broken])
@pytest.mark.parametrize("verb", VERBS)
def test_every_call_may_be_refused_once_for_now(
    clean: Deployer, verb: str, refusal: Callable[[str, str], Fault], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("botocore.endpoint.time", SimpleNamespace(sleep=lambda seconds: None, time=time.time))
    fault = EveryCall(refusal)

    play(clean, verb, fault)

    print(f"{verb}: {len(fault.tried)} operations, each {refusal.__name__} once")
    assert len(fault.tried) >= 10
    check_done(clean, verb)


@pytest.mark.slow
@pytest.mark.parametrize("verb", [pytest.param(verb, marks=pytest.mark.exhaustive) for verb in VERBS])
@pytest.mark.timeout(1500)
def test_every_denied_call_names_the_statement_that_is_missing(clean: Deployer, verb: str) -> None:
    """As with a policy that is written by trying: each run goes one call further, until nothing is missing."""
    tried: set[str] = set()
    tolerated: set[str] = set()
    prepare(clean, verb)
    while (fault := deny_one_more(clean, verb, tried)).refused:
        tried.add(fault.refused)
        if fault.is_done:
            tolerated.add(fault.refused)
            wipe(clean)
            prepare(clean, verb)

    print(f"{verb}: {len(tried)} operations denied in turn, {sorted(tolerated)} can be done without")
    assert tolerated <= TOLERATED
    check_done(clean, verb)


def deny_one_more(deployer: Deployer, verb: str, tried: set[str]) -> EveryCall:
    fault = EveryCall(denied, tried, one=True)
    try:
        act(client_with(deployer, fault), verb)
        fault.is_done = True
    except DeploymentExists:  # earlier runs created everything
        fault.is_done = True
    except FargateError as error:
        assert fault.refused, error
        statement = {"Effect": "Allow", "Action": fault.refused, "Resource": "arn:aws:x"}
        named = "permissions_boundary=" if fault.refused in WITHIN_BOUNDARY else json.dumps(statement)
        assert named in str(error.hint)
    return fault


@pytest.mark.slow
def test_a_denied_call_names_the_statement_that_is_missing(clean: Deployer) -> None:
    with pytest.raises(FargateError) as caught:
        play(clean, "create", denied("ecs", "RegisterTaskDefinition"))

    assert '{"Effect": "Allow", "Action": "ecs:RegisterTaskDefinition", "Resource": "arn:aws:x"}' in caught.value.hint


@pytest.mark.slow
def test_a_log_group_that_a_stranger_made_meanwhile_is_refused(clean: Deployer) -> None:
    """Between our look and our create: without our tag it is not adopted."""
    # moto keeps the tags of what was deleted, so the name is one that no other test uses.
    client = client_with(clean)
    session = client.account.session

    def stranger(**_: Any) -> None:
        session.client("logs").create_log_group(logGroupName="/mlflow-fargate/default/unlucky")

    session._session.events.register("before-call.cloudwatch-logs.CreateLogGroup", once(stranger))
    try:
        with pytest.raises(ForeignResource, match="log group"):
            client.create("unlucky", "models:/churn/1", None, NamedOptions(OPTIONS))
    finally:
        clean.account.session.call("logs", "delete_log_group", logGroupName="/mlflow-fargate/default/unlucky")


def once(call: Any) -> Any:
    state = {"done": False}

    def wrapper(**parameters: Any) -> None:
        if not state["done"]:
            state["done"] = True
            call(**parameters)

    return wrapper


@pytest.mark.parametrize("row", [pytest.param(row, id=called(row)) for row in [*HEALS, *EXPLAINED]])
def test_every_row_has_a_meaning(row: tuple[Any, ...]) -> None:
    _, service, operation, code, message, _ = row

    fault = classify(f"{service}:{operation}", code, message)

    if row in HEALS and code != "ServerException":  # botocore's own
        assert fault.meaning in ("transient", "conflict")
    elif row in EXPLAINED:
        assert fault.meaning in ("user", "quota", "absent")
        assert fault.hint


@pytest.mark.parametrize("row", _ROWS, ids=lambda row: "-".join(filter(None, (row.operation, row.code, row.part))))
def test_every_row_can_be_reached(row: Any) -> None:
    """A refusal of which nothing is known but what the row names is also caught by any row that hides this one."""
    refusal = (row.operation, row.code, row.part)

    assert next(other for other in _ROWS if other.matches(*refusal)) is row
    assert classify(*refusal) == Meaning(row.meaning, row.hint)


def test_a_denial_without_details_names_the_action_as_iam_does() -> None:
    assert '"elasticloadbalancing:CreateRule"' in str(classify("elbv2:CreateRule", "AccessDenied", "no").hint)


def test_an_explicit_deny_is_not_reported_as_a_missing_permission() -> None:
    said = "User: u is not authorized to perform: ecs:CreateService on resource: r with an explicit deny in a policy"

    assert "change that policy" in str(classify("ecs:CreateService", "AccessDeniedException", said).hint)


def test_what_is_not_known_stays_as_aws_said_it() -> None:
    assert classify("ecs:CreateService", "SomethingNew", "never heard of").meaning == "unknown"

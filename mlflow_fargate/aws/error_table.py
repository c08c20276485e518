"""AWS's errors by operation, code and message: what each means and what to do, in one table.

    transient   the same call will succeed soon                       session.call retries for two minutes
    conflict    another client, or a killed one, created it first     Account adopts it if it is ours
    absent      what should be deleted does not exist                 session.delete ignores it
    user        a setting, a permission or a policy has to change     shown with a hint
    quota       the account has reached a limit                       shown with the quota's name

botocore's standard mode already retries throttling and 5xx. The transient rows below are errors that it does not retry
although waiting helps: mostly new roles and load balancers that other services do not see yet. The texts are AWS's.
Sources: https://docs.aws.amazon.com/AmazonECS/latest/developerguide/service-event-messages-list.html and public issues
of tools that met them.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Literal

Meaning = Literal["transient", "conflict", "absent", "user", "quota", "unknown"]


@dataclass(frozen=True)
class Fault:
    """What an error means; `hint` is what the user can do, None if there is nothing to add to AWS's message."""

    meaning: Meaning
    hint: str | None = None


@dataclass(frozen=True)
class _Row:
    """One kind of error; an empty `operation` or `code` matches any, `code` matches every code with this prefix."""

    meaning: Meaning
    code: str
    part: str = ""
    operation: str = ""
    hint: str | None = None

    def matches(self, operation: str, code: str, message: str) -> bool:
        return self.operation in ("", operation) and code.startswith(self.code) and self.part in message


_SERVICE_ROLE = "create it once: aws iam create-service-linked-role --aws-service-name ecs.amazonaws.com"
_BOUNDARY = (
    "roles can be created only within the boundary (see docs/iam): "
    "permissions_boundary=arn:aws:iam::ACCOUNT:policy/mlflow-fargate-boundary; or name one: execution_role_arn="
)
_NEW_ROLE = "the role's trust policy must name ecs-tasks.amazonaws.com (see docs/iam/execution-trust.json)"
_SIZES = "check the options cpu= and memory=; valid sizes: https://docs.aws.amazon.com/AmazonECS/latest/developerguide/fargate-tasks-services.html"
_MORE_RULES = (
    "use another endpoint (fargate:/REGION/ENDPOINT), or raise the quota 'Rules per Application Load Balancer'"
)
_MORE_GROUPS = "use another endpoint, or raise the quota 'Target Groups per Region'"
_MORE_BALANCERS = "delete an endpoint, or raise the quota 'Application Load Balancers per Region'"
_MORE_SECURITY_GROUPS = "raise the quota 'VPC security groups per Region'"
_IN_TWO_ZONES = "a load balancer needs subnets in two availability zones; check the option subnets="
_GONE = "the resource was deleted in the meantime; run the command again to recreate it"
_OTHERS_USE_IT = "a resource that mlflow-fargate did not create still uses this one; delete the other resource first"
# fmt: off
_ROWS = (
    # botocore has retried ten times within seconds; a busy account needs longer.
    _Row("transient", "Throttling"),
    _Row("transient", "RequestLimitExceeded"),
    _Row("transient", "InvalidParameterException", "(ErrorCode: Throttling)"),
    _Row("transient", "InvalidParameterException", "does not have an associated load balancer"),
    _Row("transient", "InvalidParameterException", "Unable to assume the service linked role", hint=_SERVICE_ROLE),
    _Row("transient", "InvalidParameterException", "verify that the role being passed has the proper trust", hint=_NEW_ROLE),  # noqa: E501
    _Row("transient", "InvalidParameterException", "Unable to assume role and validate the specified targetGroupArn"),
    _Row("transient", "InvalidParameterException", "Unable to Start a service that is still Draining",
         hint="run the command again once the old tasks have stopped (after deregistration_delay_seconds + "
        "stop_timeout_seconds at most)"),
    _Row("transient", "InvalidParameterException", "cannot be stopped while deployments are active"),
    _Row("transient", "ResourceInUse", "currently in use by a listener or a rule", hint=_OTHERS_USE_IT),
    _Row("transient", "DependencyViolation", hint=_OTHERS_USE_IT),
    _Row("transient", "ClusterContainsServicesException", hint=_OTHERS_USE_IT),
    _Row("transient", "ClusterContainsTasksException", hint=_OTHERS_USE_IT),
    _Row("transient", "UpdateInProgressException"),
    _Row("transient", "ConcurrentUpdateException"),
    # IAM is eventually consistent: the next call may not see a role that was just created.
    _Row("transient", "NoSuchEntity", operation="iam:PutRolePolicy"),
    # Application Auto Scaling is eventually consistent as well.
    _Row("transient", "ObjectNotFoundException", "No scalable target",
         operation="application-autoscaling:PutScalingPolicy", hint=_GONE),
    _Row("transient", "ObjectNotFoundException", "No scalable target",
         operation="application-autoscaling:PutScheduledAction", hint=_GONE),
    # Secrets Manager deletes asynchronously, for up to a minute or two.
    _Row("transient", "InvalidRequestException", "scheduled for deletion", operation="secretsmanager:CreateSecret"),
    _Row("transient", "OperationAborted", operation="logs:CreateLogGroup"),

    _Row("conflict", "InvalidParameterException", "Creation of service was not idempotent"),
    _Row("conflict", "InvalidGroup.Duplicate"),
    _Row("conflict", "InvalidPermission.Duplicate"),
    _Row("conflict", "ResourceAlreadyExistsException"),
    _Row("conflict", "RepositoryAlreadyExistsException"),
    _Row("conflict", "ResourceExistsException", operation="secretsmanager:CreateSecret"),
    _Row("conflict", "EntityAlreadyExists"),
    _Row("conflict", "DuplicateTargetGroupName"),
    _Row("conflict", "DuplicateListener"),
    _Row("conflict", "DuplicateLoadBalancerName"),
    _Row("conflict", "PriorityInUse"),

    _Row("absent", "ClientException", "The specified task definition does not exist", hint=_GONE),
    _Row("absent", "ClientException", "Unable to describe task definition", hint=_GONE),
    _Row("absent", "ServiceNotFoundException", hint=_GONE),
    _Row("absent", "ServiceNotActiveException", hint=_GONE),
    _Row("absent", "ClusterNotFoundException", hint=_GONE),
    _Row("absent", "ResourceNotFoundException", hint=_GONE),
    _Row("absent", "NoSuchEntity", hint=_GONE),
    _Row("absent", "LoadBalancerNotFound", hint=_GONE),
    _Row("absent", "ListenerNotFound", hint=_GONE),
    _Row("absent", "RuleNotFound", hint=_GONE),
    _Row("absent", "TargetGroupNotFound", hint=_GONE),
    _Row("absent", "InvalidGroup.NotFound", hint=_GONE),
    _Row("absent", "RepositoryNotFoundException", hint=_GONE),
    _Row("absent", "ObjectNotFoundException", hint=_GONE),

    _Row("user", "", "Invalid Host header", hint="start the tracking server with --allowed-hosts"),
    _Row("user", "ExpiredToken", hint="sign in again, for example with: aws sso login"),
    _Row("user", "InvalidClientTokenId", hint="these AWS credentials are not valid; see: aws sts get-caller-identity"),
    _Row("user", "UnrecognizedClientException",
         hint="these AWS credentials are not valid; see: aws sts get-caller-identity"),
    _Row("user", "InvalidParameterException", "The subnet ID", hint="check the option subnets="),
    _Row("user", "InvalidParameterException", "subnets can not be empty", hint="check the option subnets="),
    _Row("user", "InvalidSubnetID.NotFound", hint="check the option subnets="),
    _Row("user", "ClientException", "No Fargate configuration exists", hint=_SIZES),
    _Row("user", "ClientException", "Invalid 'cpu' setting", hint=_SIZES),
    _Row("user", "ClientException", "Invalid 'memory' setting", hint=_SIZES),
    _Row("user", "ClientException", "execution role ARN",
         hint="check execution_role_arn=; to have a role created, leave it empty"),
    _Row("user", "ClientException", "Max allowed length",
         hint="a task definition is limited to 64 KiB: shorten environment=, or move values to secrets="),
    _Row("user", "ClientException", "Role is not valid", hint="check task_role_arn= and execution_role_arn="),
    _Row("user", "", "TaskDefinition is inactive",
         hint="the task definition was deregistered in the meantime; run the command again to register a new revision"),
    _Row("user", "InvalidSubnet", hint=_IN_TWO_ZONES),
    _Row("user", "CertificateNotFound",
         hint="the certificate must be in the region of the endpoint; check certificate_arn="),

    _Row("quota", "BlockedException", hint="AWS blocks Fargate in some new accounts; contact AWS Support"),
    _Row("quota", "TooManyRules", hint=_MORE_RULES),
    _Row("quota", "TooManyUniqueTargetGroupsPerLoadBalancer", hint=_MORE_RULES),
    _Row("quota", "TooManyTargetGroups", hint=_MORE_GROUPS),
    _Row("quota", "TooManyLoadBalancers", hint=_MORE_BALANCERS),
    _Row("quota", "SecurityGroupLimitExceeded", hint=_MORE_SECURITY_GROUPS),
    _Row("quota", "LimitExceeded", hint="the account has reached its limit; raise the quota in Service Quotas"),
    _Row("quota", "ServiceQuotaExceededException", hint="raise the quota in Service Quotas"),
)
# fmt: on
_DENIED = re.compile(r"is not authorized to perform: (?P<action>\S+)(?: on resource: (?P<resource>\S+))?")


def classify(operation: str, code: str, message: str) -> Fault:
    """Returns what an error of `operation` ('ecs:CreateService') means."""
    if code.startswith(("AccessDenied", "UnauthorizedOperation")) or _DENIED.search(message):
        return Fault("user", _missing_permission(operation, message))
    row = next((row for row in _ROWS if row.matches(operation, code, message)), None)
    return Fault(row.meaning, row.hint) if row else Fault("unknown")


def _missing_permission(operation: str, message: str) -> str:
    """The statement that the caller's policy lacks, ready to be pasted; AWS's message names the action and resource."""
    said = _DENIED.search(message)
    action = said["action"].rstrip(".,") if said else operation.replace("elbv2:", "elasticloadbalancing:")
    if "explicit deny" in message:
        return f"a policy explicitly denies {action}, possibly a permissions boundary or an SCP; change that policy"
    resource = (said["resource"] or "*").rstrip(".,") if said else "*"
    if action in {"iam:CreateRole", "iam:PutRolePolicy"}:
        return _BOUNDARY
    statement = {"Effect": "Allow", "Action": action, "Resource": resource}
    return f"add this to the policy of the user or role that you deploy with: {json.dumps(statement)} (see docs/iam)"

"""AWS's errors by operation, code and message: what each means and what to do, in one table.

    transient   the same call will succeed soon                       session.call retries for two minutes
    conflict    another client, or a killed one, created it first     Account adopts it if it is ours
    absent      what should be deleted does not exist                 session.delete ignores it
    user        a setting, a permission or a policy has to change     shown with a hint
    quota       the account has reached a limit                       shown with the quota's name

botocore's standard mode already retries throttling and 5xx, for seconds. The transient rows below are errors that need
longer, or that it does not retry although waiting helps: mostly resources that other services do not see yet. Each
names its source: a file below internal/service in the Terraform AWS provider, which retries the same
(https://github.com/hashicorp/terraform-provider-aws, read in 2026), or a page. The texts are AWS's. Sources of the
other rows: the services' API references with their common errors, and
https://docs.aws.amazon.com/AmazonECS/latest/developerguide/service-event-messages-list.html. docs/errors.md is
generated from it.
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
    """One kind of error; an empty `operation` or `code` matches any, `code` matches every code with this prefix.

    `source`: why a transient error passes; see the module's docstring.
    """

    meaning: Meaning
    code: str
    part: str = ""
    operation: str = ""
    hint: str | None = None
    source: str = ""

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
_AGAIN = "a temporary fault of AWS (https://health.aws.amazon.com); run the command again"
_SIGN_IN = "sign in again, for example with: aws sso login"
_KEYS = "these AWS credentials are not valid; see: aws sts get-caller-identity"
_CLOCK = "signatures are valid for minutes: check this machine's clock"
_TAGS = "check tags=: at most 50 tags, in characters that AWS accepts"
_KMS = "check the KMS key: it must be enabled, and its policy must allow the caller to use it"
_IN_REGION = "the region does not offer this yet; remove the option that the message names, or deploy in another region"
_UNKNOWN = "look the code up in AWS's API reference of this call, or contact AWS Support with the request ID"
_VALUE = "AWS rejects a value: change the option that the message names; if it names none, please report the message"
_RELEASED_LATER = "AWS may release a certificate only minutes after its listener is deleted; run the command again then"
_CERTIFICATE = "the certificate must be in the region of the endpoint; check certificate_arn="
_QUOTA = "raise the quota that the message names in Service Quotas"
_LINKED_ROLE = "the service-linked role of Application Auto Scaling must exist; see docs/iam/deployer-options.json"
_OTHERS_USE_IT = "a resource that mlflow-fargate did not create still uses this one; delete the other resource first"
# What these calls need was created seconds earlier, by this command: it is not visible everywhere yet. Terraform's
# provider waits after each creation until it can be read (RetryWhenNewResourceNotFound); here, the next call waits.
_AFTER_CREATION = (
    ("ec2:AuthorizeSecurityGroupIngress", "InvalidGroup.NotFound", "ec2/vpc_security_group.go"),
    ("ecr:GetLifecyclePolicy", "RepositoryNotFoundException", "ecr/lifecycle_policy.go"),
    ("ecr:ListTagsForResource", "RepositoryNotFoundException", "ecr/repository.go"),
    ("ecr:PutLifecyclePolicy", "RepositoryNotFoundException", "ecr/repository.go"),
    ("elbv2:CreateListener", "LoadBalancerNotFound", "elbv2/load_balancer.go"),
    ("elbv2:CreateLoadBalancer", "InvalidSecurityGroup", "ec2/vpc_security_group.go"),
    ("elbv2:CreateRule", "ListenerNotFound", "elbv2/listener.go"),
    ("elbv2:CreateRule", "TargetGroupNotFound", "elbv2/target_group.go"),
    ("elbv2:DescribeRules", "ListenerNotFound", "elbv2/listener.go"),
    ("elbv2:ModifyLoadBalancerAttributes", "LoadBalancerNotFound", "elbv2/load_balancer.go"),
    ("elbv2:ModifyTargetGroupAttributes", "TargetGroupNotFound", "elbv2/target_group.go"),
    ("iam:PutRolePolicy", "NoSuchEntity", "iam/role.go"),
    ("logs:PutRetentionPolicy", "ResourceNotFoundException", "logs/group.go"),
)
_API = "https://docs.aws.amazon.com/AmazonECS/latest/APIReference"
_RETRIES = "https://docs.aws.amazon.com/sdkref/latest/guide/feature-retry-behavior.html"
_ELB = "https://docs.aws.amazon.com/elasticloadbalancing/latest/APIReference"
_EVENTS = "https://docs.aws.amazon.com/AmazonECS/latest/developerguide/service-event-messages-list.html"
# fmt: off
_ROWS = (
    # botocore has retried ten times within seconds; a busy account needs longer.
    *(_Row("transient", code, source=_RETRIES) for code in (
        "Throttl", "RequestLimitExceeded", "RequestThrottled", "SlowDown", "TooManyRequestsException", "KMSThrottling",
        "PriorRequestNotComplete")),
    *(_Row("transient", code, hint=_AGAIN, source=_RETRIES) for code in (
        "InternalError", "InternalFailure", "InternalService", "RequestAborted", "RequestTimeout", "ServerException",
        "ServiceException", "ServiceFailure", "ServiceUnavailable", "Unavailable")),
    *(_Row("transient", code, "", operation, _GONE, source) for operation, code, source in _AFTER_CREATION),
    _Row("transient", "ClusterNotFoundException", "Cluster not found", "ecs:CreateService", _GONE, "ecs/service.go"),
    _Row("transient", "ClientException", "Cluster was not ACTIVE", hint=_GONE,
         source="ecs/cluster_capacity_providers.go"),
    _Row("transient", "ClientException", "Too many concurrent attempts to create a new revision",
         source="https://github.com/hashicorp/terraform-provider-aws/issues/9777"),
    _Row("transient", "InvalidParameterException", "(ErrorCode: Throttling)", source=_EVENTS),
    _Row("transient", "InvalidParameterException", "does not have an associated load balancer", source="ecs/service.go"),  # noqa: E501
    _Row("transient", "InvalidParameterException", "Unable to assume the service linked role", "", _SERVICE_ROLE, "ecs/cluster.go"),  # noqa: E501
    # Of a task's role ClientException, of the role that shifts traffic InvalidParameterException.
    _Row("transient", "", "verify that the role being passed has the proper trust", "", _NEW_ROLE,
         "https://repost.aws/knowledge-center/ecs-unable-to-assume-role"),
    _Row("transient", "InvalidParameterException", "verify that the ECS service role being passed has the proper permissions",  # noqa: E501
         source="ecs/service.go"),
    _Row("transient", "InvalidParameterException", "Unable to Start a service that is still Draining",
         hint="run the command again once the old tasks have stopped (after deregistration_delay_seconds + "
        "stop_timeout_seconds at most)", source=f"{_API}/API_DeleteService.html"),
    _Row("transient", "InvalidParameterException", "cannot be stopped while deployments are active", source="ecs/service.go"),  # noqa: E501
    _Row("transient", "ResourceInUse", "", "acm:DeleteCertificate", _RELEASED_LATER, "acm/certificate.go"),
    _Row("transient", "ResourceInUse", hint=_OTHERS_USE_IT, source="elbv2/target_group.go"),
    _Row("transient", "DependencyViolation", hint=_OTHERS_USE_IT, source="ec2/vpc_security_group.go"),
    _Row("transient", "InvalidGroup.InUse", hint=_OTHERS_USE_IT, source="ec2/vpc_security_group.go"),
    _Row("transient", "DeleteConflict", source="iam/role.go",
         hint="the role has policies that mlflow-fargate did not attach; detach them, and run the command again"),
    _Row("transient", "MalformedPolicyDocument", "Invalid principal", hint=_VALUE, source="iam/role.go"),
    _Row("transient", "CapacityReservationPending", source=f"{_ELB}/API_SetSubnets.html"),
    _Row("transient", "HealthUnavailable", source=f"{_ELB}/API_DescribeTargetHealth.html"),
    *(_Row("transient", code, hint=_OTHERS_USE_IT, source="ecs/cluster.go") for code in (
        "ClusterContainsServicesException", "ClusterContainsTasksException")),
    _Row("transient", "UpdateInProgressException", source="ecs/cluster.go"),
    _Row("transient", "Concurrent", source="https://docs.aws.amazon.com/IAM/latest/APIReference/API_CreateRole.html"),
    _Row("transient", "ConflictException", "", "acm:DeleteCertificate", _OTHERS_USE_IT,
         "https://docs.aws.amazon.com/acm/latest/APIReference/API_DeleteCertificate.html"),
    # A certificate that was issued a moment ago; one that is named and absent is found before the first write.
    *(_Row("transient", "CertificateNotFound", "", f"elbv2:{operation}", _CERTIFICATE, "elbv2/listener.go")
      for operation in ("AddListenerCertificates", "CreateListener", "ModifyListener")),
    # Application Auto Scaling is eventually consistent as well.
    *(_Row("transient", "ObjectNotFoundException", "No scalable target", f"application-autoscaling:{operation}", _GONE, source)  # noqa: E501
      for operation, source in (("PutScalingPolicy", "appautoscaling/policy.go"),
                                ("PutScheduledAction", "appautoscaling/scheduled_action.go"))),
    *(_Row("transient", "FailedResourceAccessException", "", f"application-autoscaling:{operation}", _LINKED_ROLE,
           "appautoscaling/policy.go") for operation in ("PutScalingPolicy", "DeleteScalingPolicy")),
    *(_Row("transient", "ValidationException", part, "application-autoscaling:RegisterScalableTarget", _GONE,
           "appautoscaling/target.go") for part in ("ECS service doesn't exist", "Unable to assume IAM role")),
    # Secrets Manager deletes asynchronously, for up to a minute or two.
    *(_Row("transient", "InvalidRequestException", part, "secretsmanager:CreateSecret",
           source="secretsmanager/secret.go") for part in ("scheduled for deletion", "was deleted")),
    _Row("transient", "OperationAborted", source="logs/group.go"),

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
    _Row("absent", "ResourceNotFound", hint=_GONE),
    _Row("absent", "NoSuchEntity", hint=_GONE),
    _Row("absent", "LoadBalancerNotFound", hint=_GONE),
    _Row("absent", "ListenerNotFound", hint=_GONE),
    _Row("absent", "RuleNotFound", hint=_GONE),
    _Row("absent", "TargetGroupNotFound", hint=_GONE),
    _Row("absent", "InvalidGroup.NotFound", hint=_GONE),
    _Row("absent", "RepositoryNotFoundException", hint=_GONE),
    _Row("absent", "ObjectNotFoundException", hint=_GONE),
    _Row("absent", "ImageNotFoundException", hint=_GONE),
    _Row("absent", "LifecyclePolicyNotFoundException", hint=_GONE),
    _Row("absent", "ScanNotFoundException", hint=_GONE),
    _Row("absent", "ServiceDeploymentNotFoundException", hint=_GONE),
    _Row("absent", "InvalidPermission.NotFound", hint=_GONE),
    _Row("absent", "NoSuchHostedZone", hint=_GONE),
    _Row("absent", "ValidationError", "does not exist", "cloudformation:DescribeStacks", _GONE),

    _Row("user", "", "Invalid Host header", hint="start the tracking server with --allowed-hosts"),
    *(_Row("user", "", part, hint=_CLOCK) for part in ("Signature expired", "Signature not yet current")),
    *(_Row("user", code, hint=_CLOCK) for code in ("RequestTimeTooSkewed", "RequestExpired")),
    _Row("user", "ExpiredToken", hint=_SIGN_IN),
    *(_Row("user", code, hint=_KEYS) for code in (
        "AuthFailure", "IncompleteSignature", "InvalidAccessKeyId", "InvalidClientTokenId", "InvalidSignature",
        "MissingAuthenticationToken", "SignatureDoesNotMatch", "UnrecognizedClientException")),
    *(_Row("user", code, hint="the account is not ready for this service: complete its sign-up, or contact AWS Support")
      for code in ("OptInRequired", "PendingVerification", "SubscriptionRequiredException")),
    _Row("user", "OperationNotPermitted", "does not support creating load balancers",
         hint="AWS does not let some new accounts create load balancers; contact AWS Support"),
    _Row("user", "OperationNotPermitted", "deletion protection",
         hint="turn off the load balancer's deletion protection, and run the command again"),
    _Row("user", "TargetNotConnectedException",
         hint="ECS Exec's agent is not connected: it needs the role in docs/iam/task.json, and a route to ssmmessages"),
    _Row("user", "FailedResourceAccessException", hint=_LINKED_ROLE),
    *(_Row("user", code, hint=_TAGS) for code in (
        "TooManyTags", "InvalidTagParameter", "DuplicateTagKeys", "TagPolicyException")),
    *(_Row("user", code, hint=_KMS) for code in ("KMS", "KmsException", "DecryptionFailure", "EncryptionFailure")),
    *(_Row("user", code, hint=_IN_REGION) for code in (
        "PlatformTaskDefinitionIncompatibilityException", "PlatformUnknownException", "UnsupportedFeatureException",
        "UnknownOperationException", "InvalidAction", "NoSuchResourceException")),
    *(_Row("user", code, hint="a list changed while it was read; run the command again") for code in (
        "InvalidNextToken", "PaginationTokenExpiredException")),
    *(_Row("user", code, hint=_OTHERS_USE_IT) for code in (
        "ClusterContainsCapacityProviderException", "ClusterContainsContainerInstancesException",
        "RepositoryNotEmptyException", "ResourceConflict", "UnmodifiableEntity")),
    *(_Row("user", code, hint="check subnets=") for code in (
        "SubnetNotFound", "InvalidSubnetID", "AvailabilityZoneNotSupported")),
    *(_Row("user", code, hint=_CERTIFICATE) for code in ("CertificateNotFound", "InvalidArnException")),
    _Row("user", "InvalidParameterException", "The subnet ID", hint="check the option subnets="),
    _Row("user", "InvalidParameterException", "subnets can not be empty", hint="check the option subnets="),
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

    _Row("quota", "BlockedException", hint="AWS blocks Fargate in some new accounts; contact AWS Support"),
    _Row("quota", "TooManyRules", hint=_MORE_RULES),
    _Row("quota", "TooManyUniqueTargetGroupsPerLoadBalancer", hint=_MORE_RULES),
    _Row("quota", "TooManyTargetGroups", hint=_MORE_GROUPS),
    _Row("quota", "TooManyLoadBalancers", hint=_MORE_BALANCERS),
    _Row("quota", "SecurityGroupLimitExceeded", hint=_MORE_SECURITY_GROUPS),
    *(_Row("quota", code, hint=_QUOTA) for code in (
        "LimitExceeded", "ServiceQuotaExceededException", "RulesPerSecurityGroupLimitExceeded", "VpcLimitExceeded",
        "TargetGroupAssociationLimit", "TooMany")),

    # Last, because they are prefixes of codes above.
    *(_Row("user", code, hint=_VALUE) for code in (
        "Invalid", "Validation", "Malformed", "Missing", "ParameterValue", "IllegalArgument", "ClientException",
        "Unsupported", "Incompatible", "OperationNotPermitted", "PolicyEvaluation", "NamespaceNotFound",
        "PreconditionNotMet", "ResourceExists", "RequestEntityTooLarge", "ALPNPolicyNotFound", "AllocationIdNotFound",
        "SSLPolicyNotFound", "TrustStore", "EncryptionTypeMismatch", "NoSuch", "NotFound",
        "EndpointDisabled", "PlatformApplicationDisabled", "DelegationSetNotReusable")),
)
# fmt: on
_DENIALS = ("AccessDenied", "UnauthorizedOperation", "AuthorizationError", "NotAuthorized")
_DENIED = re.compile(r"is not authorized to perform: (?P<action>\S+)(?: on resource: (?P<resource>\S+))?")


def classify(operation: str, code: str, message: str) -> Fault:
    """Returns what an error of `operation` ('ecs:CreateService') means."""
    if code.startswith(_DENIALS) or _DENIED.search(message):
        return Fault("user", _missing_permission(operation, message))
    row = next((row for row in _ROWS if row.matches(operation, code, message)), None)
    return Fault(row.meaning, row.hint) if row else Fault("unknown", _UNKNOWN)


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

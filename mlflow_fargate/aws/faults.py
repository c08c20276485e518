"""What AWS's refusals mean, by code and message: which heal by themselves, and what to do about the others.

botocore's standard mode already retries throttling and 5xx. The table below holds the refusals that it takes for final
though waiting helps: mostly new roles and load balancers that other services do not see yet. The texts are AWS's own;
https://docs.aws.amazon.com/AmazonECS/latest/developerguide/service-event-messages-list.html and the public issue
threads of tools that met them are the sources.
"""

from __future__ import annotations

_HEALS_BY_WAITING = (
    ("InvalidParameterException", "(ErrorCode: Throttling)"),
    ("InvalidParameterException", "does not have an associated load balancer"),
    ("InvalidParameterException", "Unable to assume the service linked role"),
    ("InvalidParameterException", "verify that the role being passed has the proper trust relationship"),
    ("InvalidParameterException", "Unable to assume role and validate the specified targetGroupArn"),
    ("InvalidParameterException", "Unable to Start a service that is still Draining"),
    ("InvalidParameterException", "cannot be stopped while deployments are active"),
    ("ResourceInUse", "currently in use by a listener or a rule"),
    ("DependencyViolation", ""),
    ("ClusterContainsServicesException", ""),
    ("ClusterContainsTasksException", ""),
    ("UpdateInProgressException", ""),
)

_HINTS = (
    ("", "is not authorized to perform", "allow this action in the policy of the user or role you deploy with"),
    ("", "Invalid Host header", "start the tracking server with --allowed-hosts"),
    ("ExpiredToken", "", "sign in again, for example with: aws sso login"),
    ("InvalidClientTokenId", "", "these AWS credentials are not valid; see: aws sts get-caller-identity"),
    ("InvalidParameterException", "The subnet ID", "check the option subnets="),
    ("BlockedException", "", "new accounts start blocked for Fargate; ask AWS Support to lift it"),
    ("TooManyRules", "", "a load balancer takes 100 rules; use another endpoint: fargate:/REGION/ENDPOINT"),
    ("TooManyTargetGroups", "", "a quota of the account; use another endpoint or raise the quota"),
    ("InvalidSubnet", "", "a load balancer needs subnets in two availability zones; check the option subnets="),
    ("CertificateNotFound", "", "the certificate must be in the region of the endpoint; check certificate_arn="),
)


def is_transient(code: str, message: str) -> bool:
    """True when the same call will succeed soon without anybody's doing."""
    return any(code == known and part in message for known, part in _HEALS_BY_WAITING)


def hint_for(action: str, code: str, message: str) -> str | None:
    """What the user can do about a refusal of `action` ('ecs:CreateService'); None: we know nothing better than AWS."""
    if code.startswith(("AccessDenied", "UnauthorizedOperation")):
        return f"allow {action} in the policy of the user or role you deploy with"
    return next((hint for known, part, hint in _HINTS if code.startswith(known) and part in message), None)

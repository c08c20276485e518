"""Checks that ECS makes on services that shift traffic, with its messages.

Source: https://docs.aws.amazon.com/AmazonECS/latest/developerguide/troubleshooting-blue-green.html; where no
message was found, the wording follows similar ones.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from botocore.exceptions import ClientError

from mlflow_fargate.local.api.protocol import Refusal
from mlflow_fargate.local.engine.shift.state import PAUSE_STAGES
from mlflow_fargate.local.moto_client import MotoClient

_STRATEGIES = ("ROLLING", "BLUE_GREEN", "CANARY", "LINEAR")
# fmt: off
_RANGES = {  # API reference: CanaryConfiguration, LinearConfiguration, DeploymentConfiguration
    ("canaryConfiguration", "canaryPercent"): (0.1, 100.0),
    ("canaryConfiguration", "canaryBakeTimeInMinutes"): (0, 1440),
    ("linearConfiguration", "stepPercent"): (3.0, 100.0),
    ("linearConfiguration", "stepBakeTimeInMinutes"): (0, 1440),
}
# fmt: on


def check_strategy(aws: MotoClient, settings: Mapping[str, Any]) -> None:
    """Checks the numbers of the deployment strategy, and that the load balancers support it."""
    configuration = settings.get("deploymentConfiguration") or {}
    strategy = configuration.get("strategy", "ROLLING")
    if strategy not in _STRATEGIES:
        raise _invalid(f"Invalid deployment strategy {strategy}.")
    for problem in (*_wrong_numbers(configuration), *_wrong_hooks(configuration, strategy)):
        raise _invalid(problem)
    if strategy == "ROLLING":
        return
    balancers = settings.get("loadBalancers") or ()
    if not balancers:
        raise Refusal("UnsupportedFeatureException", "The local stack only shifts traffic with load balancers.")
    for balancer in balancers:
        _check_advanced(aws, balancer.get("advancedConfiguration") or {})


def check_change_of_strategy(before: Mapping[str, Any], after: Mapping[str, Any]) -> None:
    """Refuses a change back to ROLLING: which target group ECS then uses has not been observed."""
    was, becomes = (
        (settings.get("deploymentConfiguration") or {}).get("strategy", "ROLLING") for settings in (before, after)
    )
    if was != "ROLLING" and becomes == "ROLLING":
        raise Refusal("UnsupportedFeatureException", f"The local stack cannot change {was} back to ROLLING.")


def _wrong_numbers(configuration: Mapping[str, Any]) -> Iterator[str]:
    for (part, key), (low, high) in _RANGES.items():
        value = (configuration.get(part) or {}).get(key)
        if value is not None and not low <= value <= high:
            yield f"{key} must be between {low} and {high}. Got: {value}"
    if not 0 <= (configuration.get("bakeTimeInMinutes") or 0) <= 1440:
        yield "bakeTimeInMinutes must be between 0 and 1440."


def _wrong_hooks(configuration: Mapping[str, Any], strategy: str) -> Iterator[str]:
    for hook in configuration.get("lifecycleHooks") or ():
        if hook.get("targetType", "AWS_LAMBDA") != "PAUSE" or strategy == "ROLLING":
            raise Refusal(
                "UnsupportedFeatureException",
                "The local stack only supports PAUSE lifecycle hooks, for strategies that shift traffic.",
            )
        for stage in hook.get("lifecycleStages") or ():
            if stage not in PAUSE_STAGES:
                yield f"PAUSE lifecycle hooks are not supported for lifecycle stage {stage}."


def _check_advanced(aws: MotoClient, advanced: Mapping[str, Any]) -> None:
    if not advanced:
        raise _invalid(
            "advancedConfiguration field is required for all loadBalancers when using a non-ROLLING deployment strategy"
        )
    for key in ("productionListenerRule", "testListenerRule"):
        arn = advanced.get(key)
        if (arn or key == "productionListenerRule") and ":listener-rule/" not in str(arn):
            raise _invalid(
                f"{key} has an invalid ARN format. Must be RuleArn for ALB or ListenerArn for NLB. Got: {arn}"
            )
    if not advanced.get("alternateTargetGroupArn"):
        raise _invalid("alternateTargetGroupArn is required when using a non-ROLLING deployment strategy")
    role = str(advanced.get("roleArn"))
    if not _can_be_assumed(aws, role):
        raise _invalid(
            f"ECS was unable to assume the configured ECS Infrastructure Role '{role}'. Please verify that the role "
            "being passed has the proper trust relationship with Amazon ECS."
        )


def _can_be_assumed(aws: MotoClient, role: str) -> bool:
    try:
        trust = aws.client("iam").get_role(RoleName=role.rpartition("/")[2])["Role"]["AssumeRolePolicyDocument"]
    except ClientError:
        return False
    return any("ecs.amazonaws.com" in str(statement.get("Principal")) for statement in trust.get("Statement", ()))


def _invalid(message: str) -> Refusal:
    return Refusal("InvalidParameterException", message)

"""Sets the weights with which listener rules split requests between blue's and green's target groups.

They are written to moto, as ECS writes them to AWS with its infrastructure role.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from botocore.exceptions import ClientError

from mlflow_fargate.local.engine.shift import stage_transitions
from mlflow_fargate.local.engine.state import Binding, Service
from mlflow_fargate.local.moto_client import MotoClient


def move(aws: MotoClient, service: Service, production_percent: float, test_percent: float) -> None:
    """Gives green these shares of the production rules' and test rules' requests; ClientError if a rule is gone."""
    shift = service.deployments[0].shift
    green = next(rollout for rollout in service.rollouts if shift and rollout.id == shift.green_id)
    for binding in service.bindings:
        (green_group,) = [arn for arn in binding.groups if arn in green.revision.group_arns]
        for rule, percent in ((binding.production_rule_arn, production_percent), (binding.test_rule_arn, test_percent)):
            if rule:
                _weigh(aws, rule, binding, green_group, percent)


def find_problem(aws: MotoClient, service: Service) -> str | None:
    """Returns why traffic cannot be shifted, in ECS's words; None if it can."""
    for binding in service.bindings:
        named: set[str] = set()
        for rule in filter(None, (binding.production_rule_arn, binding.test_rule_arn)):
            try:
                found = aws.client("elbv2").describe_rules(RuleArns=[rule])["Rules"]
            except ClientError:
                return stage_transitions.NO_RULES
            named |= {arn for action in found[0]["Actions"] for arn in groups_of(action)}
        if not named >= {*binding.groups}:
            return stage_transitions.NOT_ASSOCIATED
    return None


def groups_of(action: Mapping[str, Any]) -> dict[str, int]:
    """Returns target group → weight of a forward action; empty for other actions."""
    if action.get("Type") != "forward":
        return {}
    groups = (action.get("ForwardConfig") or {}).get("TargetGroups") or ()
    if not groups and action.get("TargetGroupArn"):
        return {action["TargetGroupArn"]: 1}
    return {group["TargetGroupArn"]: int(group.get("Weight", 1)) for group in groups}


def _weigh(aws: MotoClient, rule: str, binding: Binding, green_group: str, percent: float) -> None:
    # Weights are integers up to 999; a share can have one decimal place.
    total = 100 if percent == int(percent) else 999
    green = round(percent * total / 100)
    weights = {arn: green if arn == green_group else total - green for arn in binding.groups}
    groups = [{"TargetGroupArn": arn, "Weight": weight} for arn, weight in weights.items()]
    action = {"Type": "forward", "ForwardConfig": {"TargetGroups": groups}}
    aws.client("elbv2").modify_rule(RuleArn=rule, Actions=[action])

"""Autoscaling of a deployment: turned on, changed, turned off, deleted; against the local stack's AWS."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from mlflow_fargate.config import NamedOptions
from mlflow_fargate.deployments import operations
from mlflow_fargate.deployments.deployer import Deployer
from mlflow_fargate.errors import InvalidOption
from support.deployer import count_writes, create

NIGHT = {"schedule.night": "cron(0 20 * * ? *) 0", "schedule.morning": "cron(0 7 * * ? *) normal"}
SERVICE = {"ServiceNamespace": "ecs", "ResourceId": "service/mlflow-fargate-default/churn"}


def scaling(deployer: Deployer) -> dict[str, Any]:
    """What Application Auto Scaling knows of the service: bounds, target values, schedule."""
    call = deployer.account.session.call
    service = SERVICE["ResourceId"]
    targets = call(
        "application-autoscaling", "describe_scalable_targets", ServiceNamespace="ecs", ResourceIds=[service]
    )
    policies = call("application-autoscaling", "describe_scaling_policies", **SERVICE)["ScalingPolicies"]
    actions = call("application-autoscaling", "describe_scheduled_actions", **SERVICE)["ScheduledActions"]
    configurations = [policy["TargetTrackingScalingPolicyConfiguration"] for policy in policies]
    return {
        "bounds": [(target["MinCapacity"], target["MaxCapacity"]) for target in targets["ScalableTargets"]],
        "values": {
            item["PredefinedMetricSpecification"]["PredefinedMetricType"]: item["TargetValue"]
            for item in configurations
        },
        "labels": [item["PredefinedMetricSpecification"].get("ResourceLabel") for item in configurations],
        "schedule": {
            action["ScheduledActionName"]: (action["Schedule"], *action["ScalableTargetAction"].values())
            for action in actions
        },
    }


@pytest.mark.slow
def test_a_scaled_deployment_has_bounds_targets_and_a_schedule(deployer: Deployer) -> None:
    create(deployer, min_count=2, max_count=4, target_cpu_percent=70, target_requests_per_minute=600, **NIGHT)

    found = scaling(deployer)

    assert deployer.get("churn").running_count == 2
    assert found["bounds"] == [(2, 4)]
    assert found["values"] == {"ECSServiceAverageCPUUtilization": 70.0, "ALBRequestCountPerTarget": 600.0}
    assert any(label and label.startswith("app/mlflow-fargate-default/") for label in found["labels"])
    assert found["schedule"] == {
        "mlflow-fargate-morning": ("cron(0 7 * * ? *)", 2, 4),
        "mlflow-fargate-night": ("cron(0 20 * * ? *)", 0, 0),
    }


@pytest.mark.slow
def test_nobody_sends_a_count_that_autoscaling_owns(deployer: Deployer) -> None:
    create(deployer, max_count=4, wait=False)
    session = deployer.account.session
    session.call("ecs", "update_service", cluster="mlflow-fargate-default", service="churn", desiredCount=2)

    nothing = count_writes(
        deployer, lambda it: it.update("churn", "models:/churn/Production", None, NamedOptions({"wait": False}))
    )
    deployer.update("churn", "models:/churn/2", None, NamedOptions({"wait": False}))

    assert nothing == Counter()
    assert deployer.get("churn").desired_count == 2
    with pytest.raises(InvalidOption, match=r"Autoscaling controls the number of tasks of 'churn' \(1 to 4\)"):
        operations.scale(deployer, "churn", 3)


@pytest.mark.exhaustive
def test_bounds_that_the_schedule_set_are_left_alone(deployer: Deployer) -> None:
    create(deployer, max_count=4, wait=False, **NIGHT)
    night = {"MinCapacity": 0, "MaxCapacity": 0, "ScalableDimension": "ecs:service:DesiredCount"}
    deployer.account.session.call("application-autoscaling", "register_scalable_target", **SERVICE, **night)

    writes = count_writes(deployer, lambda it: it.update("churn", None, None, NamedOptions({"wait": False})))

    assert writes == Counter()
    assert scaling(deployer)["bounds"] == [(0, 0)]


@pytest.mark.exhaustive
def test_an_update_changes_what_differs_and_deletes_what_is_no_longer_named(deployer: Deployer) -> None:
    create(deployer, max_count=4, target_cpu_percent=70, wait=False, **NIGHT)
    create_again = {
        "target_cpu_percent": "",
        "target_memory_percent": 80,
        "schedule": "",
        "max_count": 3,
        "wait": False,
    }

    deployer.update("churn", None, None, NamedOptions(create_again))

    assert scaling(deployer) == {
        "bounds": [(1, 3)],
        "values": {"ECSServiceAverageMemoryUtilization": 80.0},
        "labels": [None],
        "schedule": {},
    }


@pytest.mark.exhaustive
def test_autoscaling_is_turned_off_and_desired_count_applies_again(deployer: Deployer) -> None:
    create(deployer, desired_count=1, max_count=4, wait=False)

    deployer.update("churn", None, None, NamedOptions({"max_count": "", "desired_count": 2, "wait": False}))

    assert scaling(deployer) == {"bounds": [], "values": {}, "labels": [], "schedule": {}}
    assert deployer.get("churn").desired_count == 2


@pytest.mark.exhaustive
def test_a_count_outside_of_new_bounds_is_brought_inside_before_they_hold(deployer: Deployer) -> None:
    create(deployer, desired_count=1, wait=False)

    deployer.update("churn", None, None, NamedOptions({"min_count": 2, "max_count": 4, "wait": False}))

    assert deployer.get("churn").desired_count == 2


@pytest.mark.exhaustive
def test_foreign_autoscaling_is_not_changed(deployer: Deployer) -> None:
    create(deployer, wait=False)
    call, of = deployer.account.session.call, {**SERVICE, "ScalableDimension": "ecs:service:DesiredCount"}
    call("application-autoscaling", "register_scalable_target", MinCapacity=1, MaxCapacity=9, **of)
    action = {"ScheduledActionName": "theirs", "Schedule": "rate(1 day)", "ScalableTargetAction": {"MinCapacity": 1}}
    call("application-autoscaling", "put_scheduled_action", **action, **of)

    deployer.update("churn", "models:/churn/2", None, NamedOptions({"wait": False}))

    assert scaling(deployer)["bounds"] == [(1, 9)]
    call("application-autoscaling", "delete_scheduled_action", ScheduledActionName="theirs", **of)


@pytest.mark.exhaustive
def test_a_deleted_deployment_leaves_no_scaling(deployer: Deployer) -> None:
    create(deployer, max_count=4, target_memory_percent=80, wait=False, **NIGHT)

    deployer.delete("churn")

    assert scaling(deployer) == {"bounds": [], "values": {}, "labels": [], "schedule": {}}

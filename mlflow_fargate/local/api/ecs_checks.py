"""Checks that ECS makes before it creates or updates a service, with its messages; moto accepts everything.

Source: messages from AWS's documentation and users' reports; otherwise the wording follows similar messages.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from botocore.exceptions import ClientError

from mlflow_fargate.local.api.protocol import Refusal
from mlflow_fargate.local.api.shift_checks import check_strategy
from mlflow_fargate.local.engine.state import alarm_names_of
from mlflow_fargate.local.engine.traffic import groups_of
from mlflow_fargate.local.moto_client import MotoClient
from mlflow_fargate.local.task_definition import TaskDefinition

_NAME = re.compile(r"[a-zA-Z0-9_-]{1,255}")


def check_name(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise _invalid("Invalid service name." if name else "Service name can not be empty.")


def find_cluster(aws: MotoClient, cluster: str | None) -> str:
    """Returns the ARN of the cluster; Refusal if it is not ACTIVE."""
    found = aws.client("ecs").describe_clusters(clusters=[cluster or "default"])["clusters"]
    if not found:
        raise Refusal("ClusterNotFoundException", "Cluster not found.")
    if found[0]["status"] != "ACTIVE":
        raise Refusal("ClusterNotFoundException", "The referenced cluster was inactive.")
    arn: str = found[0]["clusterArn"]
    return arn


def find_task_definition(aws: MotoClient, name: str | None) -> TaskDefinition:
    """Returns the task definition; Refusal if it cannot be deployed."""
    if not name:
        raise _invalid("TaskDefinition can not be blank.")
    try:
        definition = aws.task_definition(name)
    except ClientError as error:
        raise Refusal("ClientException", "TaskDefinition not found.") from error
    if definition.status != "ACTIVE":
        raise Refusal("ClientException", "TaskDefinition is inactive")
    return definition


def check_settings(aws: MotoClient, settings: Mapping[str, Any], definition: TaskDefinition) -> None:
    """Checks the service's settings against its task definition and the resources they refer to."""
    if (settings.get("deploymentController") or {}).get("type", "ECS") != "ECS":
        raise Refusal("UnsupportedFeatureException", "The local stack only supports the deployment controller ECS.")
    check_strategy(aws, settings)
    _check_alarms(aws, settings)
    if settings.get("enableExecuteCommand") and not definition.task_role_arn:
        raise _invalid(
            "The service couldn't be created because a valid taskRoleArn is not being used. Specify a valid task role "
            "in your task definition and try again."
        )
    _check_network(aws, settings.get("networkConfiguration"), definition)
    for load_balancer in settings.get("loadBalancers") or ():
        _check_load_balancer(aws, load_balancer, definition)
    if settings.get("healthCheckGracePeriodSeconds") and not settings.get("loadBalancers"):
        raise _invalid("Health check grace period is only valid for services configured to use load balancers")


def _check_alarms(aws: MotoClient, settings: Mapping[str, Any]) -> None:
    names = alarm_names_of(settings)
    found = aws.client("cloudwatch").describe_alarms(AlarmNames=names)["MetricAlarms"] if names else []
    if missing := sorted({*names} - {alarm["AlarmName"] for alarm in found}):
        raise _invalid(f"The following CloudWatch alarms do not exist: {', '.join(missing)}.")


def _check_network(aws: MotoClient, configuration: Mapping[str, Any] | None, definition: TaskDefinition) -> None:
    if definition.network_mode != "awsvpc":
        return
    network = (configuration or {}).get("awsvpcConfiguration")
    if not network:
        raise _invalid("Network Configuration must be provided when networkMode 'awsvpc' is specified.")
    if not network.get("subnets"):
        raise _invalid("subnets can not be empty.")
    ec2 = aws.client("ec2")
    for subnet in network["subnets"]:
        _check_exists(lambda subnet=subnet: ec2.describe_subnets(SubnetIds=[subnet]), "subnet", subnet)
    for group in network.get("securityGroups") or ():
        _check_exists(lambda group=group: ec2.describe_security_groups(GroupIds=[group]), "security group", group)


def _check_exists(look: Any, kind: str, name: str) -> None:
    try:
        look()
    except ClientError as error:
        code = error.response["Error"]["Code"]
        label = "subnet ID" if kind == "subnet" else kind
        raise _invalid(
            f"Error retrieving {kind} information for [{name}]: The {label} '{name}' does not exist (ErrorCode: {code})"
        ) from error


def _check_load_balancer(aws: MotoClient, load_balancer: Mapping[str, Any], definition: TaskDefinition) -> None:
    arn = load_balancer.get("targetGroupArn")
    if not arn:
        raise _invalid("The local stack requires a targetGroupArn for each load balancer of a service.")
    name, port = load_balancer.get("containerName"), load_balancer.get("containerPort")
    container = next((container for container in definition.containers if container.name == name), None)
    if container is None:
        raise _invalid(f"The container {name} does not exist in the task definition.")
    if container is not definition.main:
        raise _invalid(f"The local stack routes requests only to the container {definition.main.name}.")
    if port not in container.ports:
        raise _invalid(f"The container {name} did not have a container port {port} defined.")
    try:
        group = aws.client("elbv2").describe_target_groups(TargetGroupArns=[arn])["TargetGroups"][0]
    except ClientError as error:
        raise _invalid(f"The target group with targetGroupArn {arn} does not exist.") from error
    kind = group.get("TargetType")
    if definition.network_mode == "awsvpc" and kind != "ip":
        raise _invalid(
            f"The provided target group {arn} has target type {kind}, which is incompatible with the awsvpc network "
            "mode specified in the task definition."
        )
    if not group.get("LoadBalancerArns") and not _is_named_by_a_rule(aws.client("elbv2"), arn):
        raise _invalid(f"The target group with targetGroupArn {arn} does not have an associated load balancer.")


def _is_named_by_a_rule(elbv2: Any, target_group_arn: str) -> bool:
    """Returns whether a rule forwards to the group; moto records this for new rules, but not for modified ones."""
    for load_balancer in elbv2.get_paginator("describe_load_balancers").paginate().search("LoadBalancers[]"):
        for listener in elbv2.describe_listeners(LoadBalancerArn=load_balancer["LoadBalancerArn"])["Listeners"]:
            pages = elbv2.get_paginator("describe_rules").paginate(ListenerArn=listener["ListenerArn"])
            if any(target_group_arn in groups_of(action) for action in pages.search("Rules[].Actions[]")):
                return True
    return False


def _invalid(message: str) -> Refusal:
    return Refusal("InvalidParameterException", message)

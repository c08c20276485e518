"""ELBv2: the target group of a deployment. The rules that route requests to it are in listener_rules.py."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from mlflow_fargate.aws import tags
from mlflow_fargate.aws.resource_types.load_balancer import tags_of
from mlflow_fargate.aws.resource_types.resource_type import Ids, ResourceType
from mlflow_fargate.plan import Found, Properties, Resource
from mlflow_fargate.resources.properties import TargetGroupProperties


class TargetGroupType(ResourceType[TargetGroupProperties]):
    """Where ECS registers the tasks of a deployment, and how their health is checked."""

    def observe(self, resource: Resource[TargetGroupProperties], ids: Ids) -> Found[TargetGroupProperties] | None:
        group = next((group for group in self._groups() if group["TargetGroupName"] == resource.name), None)
        return self._found(group) if group else None

    def find_all(self, wanted_tags: Mapping[str, str]) -> list[dict[str, Any]]:
        """Returns every target group with the tags. Its name depends on the port, which may have changed."""
        groups = {group["TargetGroupArn"]: group for group in self._groups()}
        their_tags = tags_of(self._session, list(groups))
        return [group for arn, group in groups.items() if wanted_tags.items() <= their_tags[arn].items()]

    def _groups(self) -> Iterator[dict[str, Any]]:
        """This package's groups, by their names: one call for all, and the same one for each observed group."""
        for group in self._session.pages("elbv2", "describe_target_groups", "TargetGroups"):
            if group["TargetGroupName"].startswith("mlf-"):
                yield group

    def create(self, resource: Resource[TargetGroupProperties], ids: Ids) -> str:
        answer = self._session.call(
            "elbv2",
            "create_target_group",
            Name=resource.name,
            Protocol="HTTP",
            Port=resource.properties.port,
            VpcId=ids["vpc"],
            TargetType="ip",
            Tags=tags.capital(resource.tags),
            **_health_check(resource.properties),
        )
        arn = str(answer["TargetGroups"][0]["TargetGroupArn"])
        self._set_delay(arn, resource.properties.deregistration_delay_seconds)
        return arn

    def change(self, resource: Resource[TargetGroupProperties], found: Found[TargetGroupProperties], ids: Ids) -> str:
        arn = found.identifier
        self._session.call("elbv2", "modify_target_group", TargetGroupArn=arn, **_health_check(resource.properties))
        self._set_delay(arn, resource.properties.deregistration_delay_seconds)
        return arn

    def delete(self, found: Found[Properties]) -> None:
        self._session.delete("elbv2", "delete_target_group", TargetGroupArn=found.identifier)

    def healthy_addresses(self, arn: str) -> list[str]:
        """Returns the address of each registered target that is healthy."""
        health = self._session.call("elbv2", "describe_target_health", TargetGroupArn=arn)["TargetHealthDescriptions"]
        return [target["Target"]["Id"] for target in health if target["TargetHealth"]["State"] == "healthy"]

    def _set_delay(self, arn: str, seconds: int) -> None:
        attributes = [{"Key": "deregistration_delay.timeout_seconds", "Value": str(seconds)}]
        self._session.call("elbv2", "modify_target_group_attributes", TargetGroupArn=arn, Attributes=attributes)

    def _found(self, group: Mapping[str, Any]) -> Found[TargetGroupProperties]:
        arn = group["TargetGroupArn"]
        answer = self._session.call("elbv2", "describe_target_group_attributes", TargetGroupArn=arn)
        attributes = {item["Key"]: item.get("Value") for item in answer["Attributes"]}
        properties = TargetGroupProperties(
            port=group["Port"],
            health_check_path=group["HealthCheckPath"],
            health_check_interval_seconds=group["HealthCheckIntervalSeconds"],
            health_check_timeout_seconds=group["HealthCheckTimeoutSeconds"],
            healthy_threshold=group["HealthyThresholdCount"],
            unhealthy_threshold=group["UnhealthyThresholdCount"],
            deregistration_delay_seconds=int(attributes["deregistration_delay.timeout_seconds"]),
        )
        return Found(arn, properties, tags.are_ours(tags_of(self._session, [arn])[arn]))


def _health_check(wanted: TargetGroupProperties) -> dict[str, Any]:
    return {
        "HealthCheckProtocol": "HTTP",
        "HealthCheckPath": wanted.health_check_path,
        "HealthCheckIntervalSeconds": wanted.health_check_interval_seconds,
        "HealthCheckTimeoutSeconds": wanted.health_check_timeout_seconds,
        "HealthyThresholdCount": wanted.healthy_threshold,
        "UnhealthyThresholdCount": wanted.unhealthy_threshold,
        "Matcher": {"HttpCode": "200"},
    }

"""ECS: the service of a deployment."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from mlflow_fargate.aws import service_deployments, tags
from mlflow_fargate.aws.ecs_service import (
    describe_service,
    forget_change,
    primary_deployment,
    remember_change,
    remember_deletion,
)
from mlflow_fargate.aws.resource_types.resource_type import Ids, ResourceType
from mlflow_fargate.aws.resource_types.strategy import (
    LIMITS_TAG,
    REFUSAL_TAG,
    ROLLING,
    WANTED_TAG,
    deployment_configuration,
    is_unknown,
    read_alarm_names,
    read_limits,
    read_strategy,
    refusal_of,
    refusal_tags,
    write_pairs,
)
from mlflow_fargate.aws.resource_types.task_definition import TaskDefinitionType, properties_of
from mlflow_fargate.aws.session import AwsSession
from mlflow_fargate.errors import AwsError, RolloutTimeout
from mlflow_fargate.plan import Found, Properties, Resource
from mlflow_fargate.resources import CONTAINER
from mlflow_fargate.resources.properties import Capacity, ServiceProperties

FOLLOW_TAG = "mlflow-fargate:follow"
_DELETION_SECONDS = 900


class ServiceType(ResourceType[ServiceProperties]):
    """The service that runs a deployment's tasks and registers them in its target group."""

    def __init__(
        self,
        session: AwsSession,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        super().__init__(session)
        self._clock = clock
        self._sleep = sleep
        self.tell: Callable[[str], None] = lambda text: None  # shows what is awaited

    def observe(self, resource: Resource[ServiceProperties], ids: Ids) -> Found[ServiceProperties] | None:
        cluster = ids.get("cluster")
        service = describe_service(self._session, cluster, resource.name) if cluster else None
        if service is None or service["status"] != "ACTIVE":
            return None
        service_tags = tags.read(service.get("tags"))
        properties = self._properties(service, service_tags, ids)
        wanted = resource.properties
        if wanted.desired_count is None:  # autoscaling or another command sets it
            properties = replace(properties, desired_count=None)
        refusal = refusal_of(service) or ""
        if refusal:  # it has everything the desired strategy requires, except for the strategy
            group, role = wanted.alternate_target_group, wanted.infrastructure_role_arn
            properties = replace(properties, alternate_target_group=group, infrastructure_role_arn=role)
        return Found(service["serviceArn"], properties, tags.are_ours(service_tags), refusal)

    def create(self, resource: Resource[ServiceProperties], ids: Ids) -> str:
        self._wait_until_drained(ids["cluster"], resource.name)
        try:
            service = self._create(resource, ids, {})
        except AwsError as error:
            if not _may_roll_instead(resource, error):
                raise
            return str(self._create(_rolling(resource), ids, _refused(resource, error.message))["serviceArn"])
        arn = str(service["serviceArn"])
        if resource.properties.strategy["strategy"] != "rolling" and read_strategy(service)["strategy"] == "rolling":
            self._tag(arn, _refused(resource, "it created a service with the rolling strategy"))
        return arn

    def _create(self, resource: Resource[ServiceProperties], ids: Ids, more_tags: Mapping[str, str]) -> dict[str, Any]:
        answer = self._session.call(
            "ecs",
            "create_service",
            serviceName=resource.name,
            schedulingStrategy="REPLICA",
            propagateTags="SERVICE",
            enableECSManagedTags=True,
            tags=tags.small({**resource.tags, **_recorded(resource.properties), **more_tags}),
            **_capacity(resource.properties.capacity),
            **{"desiredCount": resource.properties.first_count, **_request(resource, ids)},
        )
        service: dict[str, Any] = answer["service"]
        remember_change(self._session, ids["cluster"], service, service["desiredCount"])
        return service

    def change(self, resource: Resource[ServiceProperties], found: Found[ServiceProperties], ids: Ids) -> str:
        before, wanted = found.properties, resource.properties
        forget_change(self._session, ids["cluster"], resource.name)
        # An empty tag of former limits remains: an interrupted command can have left their alarms.
        kept = {LIMITS_TAG: ""} if before.alarm_limits else {}
        recorded_tags = {**wanted.tags, **kept, **_recorded(wanted)}
        self._change_tags(found.identifier, {**before.tags, **_recorded(before)}, recorded_tags)
        recorded = replace(before, follow=wanted.follow, tags=wanted.tags, alarm_limits=wanted.alarm_limits)
        if recorded != wanted:
            again = {"forceNewDeployment": True} if before.rollout != wanted.rollout else {}
            if before.capacity != wanted.capacity:
                # ECS requires it with another capacity strategy; otherwise running tasks are not replaced.
                again = {"forceNewDeployment": True, **_capacity(wanted.capacity)}
            self._update(resource, found, ids, again)
        return found.identifier

    def _update(
        self,
        resource: Resource[ServiceProperties],
        found: Found[ServiceProperties],
        ids: Ids,
        again: Mapping[str, Any],
    ) -> None:
        try:
            request = _request(resource, ids, None if found.note else found.properties)
            self._request_update(resource.name, **request, **again)
        except AwsError as error:
            if not _may_roll_instead(resource, error):
                raise
            request = _request(_rolling(resource), ids)
            self._tag(found.identifier, _refused(resource, error.message))
            self._request_update(resource.name, **request, **again)
            return
        if found.note:
            keys = [WANTED_TAG, REFUSAL_TAG]
            self._session.call("ecs", "untag_resource", resourceArn=found.identifier, tagKeys=keys)

    def _request_update(self, name: str, **request: Any) -> None:
        service = self._session.call("ecs", "update_service", service=name, **request)["service"]
        remember_change(self._session, request["cluster"], service, request.get("desiredCount"))

    def _tag(self, arn: str, wanted: Mapping[str, str]) -> None:
        self._session.call("ecs", "tag_resource", resourceArn=arn, tags=tags.small(wanted))

    def _change_tags(self, arn: str, before: Mapping[str, str], wanted: Mapping[str, str]) -> None:
        changed = {key: value for key, value in wanted.items() if before.get(key) != value}
        if changed:
            self._tag(arn, changed)
        if gone := sorted(before.keys() - wanted.keys()):
            self._session.call("ecs", "untag_resource", resourceArn=arn, tagKeys=gone)

    def delete(self, found: Found[Properties]) -> None:
        """Deletes the service and waits until its tasks are gone, so that what it used can be deleted."""
        cluster, _, name = found.identifier.rpartition(":")[2].removeprefix("service/").partition("/")
        forget_change(self._session, cluster, name)
        if answer := self._session.delete("ecs", "delete_service", cluster=cluster, service=name, force=True):
            remember_deletion(self._session, cluster, answer["service"])
        self._wait_until_drained(cluster, name)

    def names(self, cluster: str) -> Iterator[str]:
        """Yields the names of the services in a cluster."""
        most = {"PageSize": 100}
        for arn in self._session.pages("ecs", "list_services", "serviceArns", cluster=cluster, PaginationConfig=most):
            yield arn.rpartition("/")[2]

    def _wait_until_drained(self, cluster: str, name: str) -> None:
        """Waits until the name is free: ListServices omits a draining service, DescribeServices does not."""
        deadline = self._clock() + _DELETION_SECONDS
        while (service := describe_service(self._session, cluster, name)) and service["status"] == "DRAINING":
            left = f"{service['runningCount']} task(s) of '{name}' that are stopping"
            if self._clock() > deadline:
                raise RolloutTimeout(
                    f"After {_DELETION_SECONDS // 60} minutes, ECS still has {left}.",
                    hint="run the same command again later; it continues",
                )
            self.tell(f"waiting for {left}, for up to {_DELETION_SECONDS // 60} minutes; Ctrl-C is safe")
            self._sleep(2)

    def _properties(self, service: Mapping[str, Any], service_tags: Mapping[str, str], ids: Ids) -> ServiceProperties:
        task_definition = TaskDefinitionType(self._session).find(service["taskDefinition"])
        network = service["networkConfiguration"]["awsvpcConfiguration"]
        balancer = (service.get("loadBalancers") or [{}])[0]
        advanced = balancer.get("advancedConfiguration") or {}
        role = advanced.get("roleArn")
        is_current = advanced.get("productionListenerRule") in (None, ids.get("listener rule"))
        alternate = _group_name(advanced.get("alternateTargetGroupArn"), ids.get("alternate target group"))
        return ServiceProperties(
            task_definition=properties_of(task_definition, ids).digest if task_definition else "deleted",
            desired_count=service["desiredCount"],
            first_count=None,
            target_group=_group_name(balancer.get("targetGroupArn"), ids.get("target group")),
            alternate_target_group=alternate or None,
            strategy=read_strategy(service),
            infrastructure_role_arn=None if role == ids.get("infrastructure role") else role,
            container_port=balancer.get("containerPort"),
            subnets=tuple(sorted(network["subnets"])),
            security_groups=tuple(sorted(set(network.get("securityGroups", [])) - {ids.get("task security group")})),
            assign_public_ip=network.get("assignPublicIp") == "ENABLED",
            health_check_grace_seconds=service.get("healthCheckGracePeriodSeconds"),
            capacity=_read_capacity(service),
            execute_command=service.get("enableExecuteCommand", False),
            follow=service_tags.get(FOLLOW_TAG),
            tags={key: value for key, value in service_tags.items() if not tags.is_own_key(key)},
            alarms=read_alarm_names(service),
            alarm_limits=read_limits(service_tags),
            rollout="failed" if rollout_state(self._session, service) == "FAILED" else "not failed",
            traffic_rule="the listener's" if is_current else "another listener's",
            current_count=service["desiredCount"],
        )


def rollout_state(session: AwsSession, service: Mapping[str, Any]) -> str:
    """Returns the state of a described service's newest rollout, whose record is read if it decides; see `state_of`."""
    needs_record = read_strategy(service)["strategy"] != "rolling" and not refusal_of(service)
    place = service["clusterArn"], service["serviceName"]
    return state_of(service, service_deployments.newest(session, *place) if needs_record else None)


def state_of(service: Mapping[str, Any], record: Mapping[str, Any] | None) -> str:
    """Returns the state of a described service's newest rollout: COMPLETED, FAILED or IN_PROGRESS.

    Without a record (older than 90 days, or the caller lacks the permission) its tasks decide.
    """
    if read_strategy(service)["strategy"] == "rolling" or refusal_of(service):
        return str(primary_deployment(service).get("rolloutState", "IN_PROGRESS"))
    if record is None:
        return "COMPLETED" if is_settled(service) else "IN_PROGRESS"
    return service_deployments.state_of(record)


def is_settled(service: Mapping[str, Any]) -> bool:
    """Returns whether a described service has all the tasks of its newest rollout, and no other rollout."""
    deployments = service.get("deployments", ())
    return len(deployments) == 1 and deployments[0]["runningCount"] == deployments[0]["desiredCount"]


def _recorded(wanted: ServiceProperties) -> dict[str, str]:
    """What is recorded in tags of the service."""
    limits = {LIMITS_TAG: write_pairs(wanted.alarm_limits)} if wanted.alarm_limits else {}
    return {FOLLOW_TAG: wanted.follow or "", **limits}


def _group_name(arn: str | None, current: str | None) -> str:
    """The name in a target group's ARN; the ARN itself if the group of that name is another one by now."""
    name = (arn or "//").split("/")[1]
    return arn if arn and current and arn != current and current.split("/")[1] == name else name


def _capacity(wanted: Capacity) -> dict[str, Any]:
    """A capacity provider strategy, because a launch type cannot be changed later."""
    if not wanted.spot:
        return {"capacityProviderStrategy": [{"capacityProvider": "FARGATE", "weight": 1}]}
    base = {"capacityProvider": "FARGATE", "weight": 0, "base": wanted.on_demand_base}
    spot = {"capacityProvider": "FARGATE_SPOT", "weight": 1}
    return {"capacityProviderStrategy": [base, spot] if wanted.on_demand_base else [spot]}


def _read_capacity(service: Mapping[str, Any]) -> Capacity:
    strategy = {item["capacityProvider"]: item for item in service.get("capacityProviderStrategy") or ()}
    spot = "FARGATE_SPOT" in strategy
    return Capacity(spot, strategy.get("FARGATE", {}).get("base", 0) if spot else 0)


def _may_roll_instead(resource: Resource[ServiceProperties], error: AwsError) -> bool:
    return resource.properties.strategy["strategy"] != "rolling" and is_unknown(error)


def _rolling(resource: Resource[ServiceProperties]) -> Resource[ServiceProperties]:
    return replace(resource, properties=replace(resource.properties, strategy=ROLLING))


def _refused(resource: Resource[ServiceProperties], said: str) -> dict[str, str]:
    return refusal_tags(resource.properties.strategy, said)


def _advanced(resource: Resource[ServiceProperties], ids: Ids) -> dict[str, Any]:
    """The target groups, rules and role for traffic shifting."""
    wanted = resource.properties
    if wanted.strategy["strategy"] == "rolling":
        return {}
    advanced = {
        "alternateTargetGroupArn": ids["alternate target group"],
        "productionListenerRule": ids["listener rule"],
        "testListenerRule": ids["test rule"],
        "roleArn": wanted.infrastructure_role_arn or ids["infrastructure role"],
    }
    return {"advancedConfiguration": advanced}


def _request(
    resource: Resource[ServiceProperties], ids: Ids, before: ServiceProperties | None = None
) -> dict[str, Any]:
    """The parameters that CreateService and UpdateService share; `before`: the existing service."""
    wanted = resource.properties
    balancer = {
        "targetGroupArn": ids["target group"],
        "containerName": CONTAINER,
        "containerPort": wanted.container_port,
        **_advanced(resource, ids),
    }
    # ECS alternates between the two groups that it has, so they are not sent again.
    shifts = wanted.alternate_target_group is not None
    stays = before is not None and shifts and _place(before) == _place(wanted)
    own_group = [ids["task security group"]] if "task security group" in ids else []
    network = {
        "subnets": wanted.subnets,
        "securityGroups": [*own_group, *wanted.security_groups],
        "assignPublicIp": "ENABLED" if wanted.assign_public_ip else "DISABLED",
    }
    count = {} if wanted.desired_count is None else {"desiredCount": wanted.desired_count}
    return {
        "cluster": ids["cluster"],
        "taskDefinition": ids["task definition"],
        **count,
        "deploymentConfiguration": deployment_configuration(wanted.strategy, wanted.alarms),
        **({} if stays else {"loadBalancers": [balancer]}),
        "networkConfiguration": {"awsvpcConfiguration": network},
        "healthCheckGracePeriodSeconds": wanted.health_check_grace_seconds,
        "enableExecuteCommand": wanted.execute_command,
    }


def _place(service: ServiceProperties) -> tuple[str | int | None, ...]:
    """Where its tasks are registered, with which role, and which rule ECS changes."""
    role, rule = service.infrastructure_role_arn, service.traffic_rule
    return service.target_group, service.alternate_target_group, role, service.container_port, rule

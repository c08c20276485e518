"""ECS's operations on services, backed by the engine's store: create, update, delete, describe, list, tag.

Only what moto's other services read is mirrored to moto: for Application Auto Scaling, that the service exists; for the
tagging API, its tags.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from botocore.exceptions import ClientError

from mlflow_fargate.local.api.ecs_checks import check_name, check_settings, find_cluster, find_task_definition
from mlflow_fargate.local.api.ecs_shapes import show_service, show_tags
from mlflow_fargate.local.api.protocol import Refusal
from mlflow_fargate.local.api.shift_checks import check_change_of_strategy
from mlflow_fargate.local.engine import transitions
from mlflow_fargate.local.engine.state import Service
from mlflow_fargate.local.engine.store import EcsStore
from mlflow_fargate.local.moto_client import MotoClient, tags_to_pairs

logger = logging.getLogger(__name__)

Parameters = Mapping[str, Any]

_NOT_SETTINGS = {"cluster", "service", "serviceName", "desiredCount", "taskDefinition", "tags", "forceNewDeployment"}
# Changing any of these starts a rollout; deploymentConfiguration and similar fields only affect the next one.
_NEW_REVISION = (
    "networkConfiguration",
    "loadBalancers",
    "serviceRegistries",
    "platformVersion",
    "capacityProviderStrategy",
    "serviceConnectConfiguration",
    "volumeConfigurations",
    "enableExecuteCommand",
)
_DEFAULT_CONFIGURATION = {
    "deploymentCircuitBreaker": {"enable": False, "rollback": False},
    "maximumPercent": 200,
    "minimumHealthyPercent": 100,
    "strategy": "ROLLING",
    "bakeTimeInMinutes": 0,
}
_DEFAULTS = {
    "schedulingStrategy": "REPLICA",
    "deploymentController": {"type": "ECS"},
    "platformVersion": "LATEST",
    "propagateTags": "NONE",
    "enableECSManagedTags": False,
    "enableExecuteCommand": False,
    "availabilityZoneRebalancing": "DISABLED",
    "loadBalancers": [],
    "serviceRegistries": [],
    "placementConstraints": [],
    "placementStrategy": [],
}


class ServiceOperations:
    """Each public method is an ECS operation: takes the parameters, returns the response's JSON or raises Refusal."""

    def __init__(self, store: EcsStore, aws: MotoClient, clock: Callable[[], float] = time.time) -> None:
        self._store = store
        self._aws = aws
        self._clock = clock

    def create_service(self, parameters: Parameters) -> dict[str, Any]:
        cluster_arn = find_cluster(self._aws, parameters.get("cluster"))
        name = str(parameters.get("serviceName", ""))
        check_name(name)
        arn = f"{cluster_arn.replace(':cluster/', ':service/', 1)}/{name}"
        repeated = self._refuse_taken(arn, parameters)
        if repeated is not None:
            return self._show(repeated)
        definition = find_task_definition(self._aws, parameters.get("taskDefinition"))
        settings = _settings(_DEFAULTS, parameters)
        check_settings(self._aws, settings, definition)
        now = self._clock()
        service = Service(
            arn=arn,
            name=name,
            cluster_arn=cluster_arn,
            status="ACTIVE",
            desired_count=int(parameters.get("desiredCount") or 0),
            created_at=now,
            settings=settings,
            tags=tags_to_pairs(parameters.get("tags") or ()),
        )
        service = transitions.begin_rollout(service, definition.arn, now)
        if not self._store.put_service(service):
            raise _invalid("Creation of service was not idempotent.")
        self._mirror_creation(service, definition.arn)
        return self._show(service)

    def update_service(self, parameters: Parameters) -> dict[str, Any]:
        service = self._existing(parameters.get("cluster"), str(parameters.get("service", "")))
        if service.status != "ACTIVE":
            raise Refusal("ServiceNotActiveException", "Service was not ACTIVE.")
        primary = service.primary
        wanted = parameters.get("taskDefinition") or (primary.revision.task_definition_arn if primary else None)
        # A service can be scaled while its revision is already INACTIVE; naming that revision again is refused.
        definition = (
            find_task_definition(self._aws, wanted)
            if parameters.get("taskDefinition")
            else self._aws.task_definition(str(wanted))
        )
        settings = _settings(service.settings, parameters)
        check_settings(self._aws, settings, definition)
        check_change_of_strategy(service.settings, settings)
        update = partial(
            _update,
            settings=settings,
            desired_count=parameters.get("desiredCount"),
            task_definition_arn=definition.arn,
            is_forced=bool(parameters.get("forceNewDeployment")),
            now=self._clock(),
        )
        return self._show(self._store.change_service(service.arn, update))

    def delete_service(self, parameters: Parameters) -> dict[str, Any]:
        service = self._existing(parameters.get("cluster"), str(parameters.get("service", "")))
        if not parameters.get("force"):
            if service.desired_count > 0:
                raise _invalid("The service cannot be stopped while it is scaled above 0.")
            if any(task.is_wanted for task in self._store.tasks(service.arn)):
                raise _invalid("The service cannot be stopped while deployments are active.")
        if service.status == "ACTIVE":
            self._mirror_deletion(service)
            begin_deletion = partial(transitions.begin_deletion, now=self._clock())
            service = self._store.change_service(service.arn, begin_deletion)
        return self._show(service)

    def describe_services(self, parameters: Parameters) -> dict[str, Any]:
        cluster_arn = find_cluster(self._aws, parameters.get("cluster"))
        with_tags = "TAGS" in (parameters.get("include") or ())
        found, failures = [], []
        for name in parameters.get("services") or ():
            arn = _service_arn(cluster_arn, name)
            service = self._store.service(arn)
            if service is None:
                failures.append({"arn": arn, "reason": "MISSING"})
            else:
                found.append(show_service(service, self._store.tasks(arn), with_tags=with_tags))
        return {"services": found, "failures": failures}

    def list_services(self, parameters: Parameters) -> dict[str, Any]:
        cluster_arn = find_cluster(self._aws, parameters.get("cluster"))
        arns = [
            service.arn
            for service in self._store.services()
            if service.cluster_arn == cluster_arn and service.status == "ACTIVE" and _has(service, parameters)
        ]
        return page("serviceArns", sorted(arns), parameters, default_size=10)

    # Tags of services; moto keeps those of clusters and task definitions.

    def tag_resource(self, parameters: Parameters) -> dict[str, Any]:
        service = self._tagged(parameters)
        added = dict(tags_to_pairs(parameters.get("tags") or ()))
        self._store.change_service(
            service.arn, lambda now: replace(now, tags=tuple({**dict(now.tags), **added}.items()))
        )
        self._mirror("tag_resource", resourceArn=service.arn, tags=parameters.get("tags") or [])
        return {}

    def untag_resource(self, parameters: Parameters) -> dict[str, Any]:
        service = self._tagged(parameters)
        gone = set(parameters.get("tagKeys") or ())
        self._store.change_service(
            service.arn, lambda now: replace(now, tags=tuple(pair for pair in now.tags if pair[0] not in gone))
        )
        self._mirror("untag_resource", resourceArn=service.arn, tagKeys=sorted(gone))
        return {}

    def list_tags_for_resource(self, parameters: Parameters) -> dict[str, Any]:
        return {"tags": show_tags(self._tagged(parameters).tags)}

    def _tagged(self, parameters: Parameters) -> Service:
        service = self._store.service(str(parameters.get("resourceArn")))
        if service is None or service.status == "INACTIVE":
            raise _invalid("The specified service was not found.")
        return service

    def _refuse_taken(self, arn: str, parameters: Parameters) -> Service | None:
        """Returns the service that the same request (by client token) created earlier; None if the name is free."""
        present = self._store.service(arn)
        if present is None or present.status == "INACTIVE":
            return None
        if present.status == "DRAINING":
            raise _invalid("Unable to Start a service that is still Draining.")
        token = parameters.get("clientToken")
        if token and token == present.settings.get("clientToken"):
            return present
        raise _invalid("Creation of service was not idempotent.")

    def _existing(self, cluster: str | None, name: str) -> Service:
        service = self._store.service(_service_arn(find_cluster(self._aws, cluster), name))
        if service is None or service.status == "INACTIVE":
            raise Refusal("ServiceNotFoundException", "Service not found.")
        return service

    def _show(self, service: Service) -> dict[str, Any]:
        return {"service": show_service(service, self._store.tasks(service.arn), with_tags=True)}

    def _mirror_creation(self, service: Service, task_definition_arn: str) -> None:
        network = (service.settings.get("networkConfiguration") or {}).get("awsvpcConfiguration") or {}
        self._mirror(
            "create_service",
            cluster=service.cluster_arn,
            serviceName=service.name,
            taskDefinition=task_definition_arn,
            desiredCount=0,
            launchType="FARGATE",
            tags=show_tags(service.tags),
            # moto fails with a KeyError where securityGroups is missing.
            networkConfiguration={"awsvpcConfiguration": {"securityGroups": [], "subnets": [], **network}},
        )

    def _mirror_deletion(self, service: Service) -> None:
        # moto's tagging API would keep showing it.
        self._mirror("untag_resource", resourceArn=service.arn, tagKeys=[key for key, _ in service.tags])
        self._mirror("delete_service", cluster=service.cluster_arn, service=service.name, force=True)

    def _mirror(self, operation: str, **parameters: Any) -> None:
        try:
            getattr(self._aws.client("ecs"), operation)(**parameters)
        except ClientError as error:
            logger.warning("moto did not accept %s: %s", operation, error)


def page(key: str, items: list[Any], parameters: Parameters, *, default_size: int) -> dict[str, Any]:
    """Returns one page of `items` under `key`; nextToken is where the next page starts."""
    try:
        start = int(parameters.get("nextToken") or 0)
    except ValueError as error:
        raise _invalid("Invalid token provided.") from error
    size = int(parameters.get("maxResults") or default_size)
    response: dict[str, Any] = {key: items[start : start + size]}
    if start + size < len(items):
        response["nextToken"] = str(start + size)
    return response


def _update(
    service: Service,
    *,
    settings: Mapping[str, Any],
    desired_count: int | None,
    task_definition_arn: str,
    is_forced: bool,
    now: float,
) -> Service:
    primary = service.primary
    before = service.settings
    brings_something = (
        is_forced
        or primary is None
        or primary.revision.task_definition_arn != task_definition_arn
        or any(settings.get(key) != before.get(key) for key in _NEW_REVISION)
    )
    wanted = service.desired_count if desired_count is None else int(desired_count)
    service = replace(service, settings=settings, desired_count=wanted)
    return transitions.begin_rollout(service, task_definition_arn, now) if brings_something else service


def _settings(before: Mapping[str, Any], parameters: Parameters) -> dict[str, Any]:
    given = {key: value for key, value in parameters.items() if key not in _NOT_SETTINGS and value is not None}
    known = before.get("deploymentConfiguration") or _DEFAULT_CONFIGURATION
    configuration = {**known, **(given.get("deploymentConfiguration") or {})}
    return {**before, **given, "deploymentConfiguration": configuration}


def _has(service: Service, parameters: Parameters) -> bool:
    filters = ("launchType", "schedulingStrategy")
    return all(not parameters.get(key) or service.settings.get(key) == parameters[key] for key in filters)


def _service_arn(cluster_arn: str, name: str) -> str:
    return name if name.startswith("arn:") else f"{cluster_arn.replace(':cluster/', ':service/', 1)}/{name}"


def _invalid(message: str) -> Refusal:
    return Refusal("InvalidParameterException", message)

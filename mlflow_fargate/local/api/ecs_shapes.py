"""The local ECS's values in the shape of AWS's JSON (API reference: Service, Deployment, Task, ServiceDeployment …).

Pure functions; values that are None are omitted, as in AWS's responses.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mlflow_fargate.local.engine.shift.state import Hook
from mlflow_fargate.local.engine.state import (
    ContainerStatus,
    Event,
    Rollout,
    Service,
    ServiceDeployment,
    ServiceRevision,
    Task,
    alarm_names_of,
)

_SERVICE_ROLE = "aws-service-role/ecs.amazonaws.com/AWSServiceRoleForECS"
_PENDING = {"PROVISIONING", "PENDING", "ACTIVATING"}
_ROLLOUT_ECHOED = ("launchType", "capacityProviderStrategy", "platformVersion", "networkConfiguration")
# Echoed on a service and on its deployments and revisions, as requested.
_ECHOED = (
    "loadBalancers",
    "serviceRegistries",
    "launchType",
    "capacityProviderStrategy",
    "platformVersion",
    "deploymentConfiguration",
    "networkConfiguration",
    "healthCheckGracePeriodSeconds",
    "schedulingStrategy",
    "deploymentController",
    "placementConstraints",
    "placementStrategy",
    "enableECSManagedTags",
    "propagateTags",
    "enableExecuteCommand",
    "availabilityZoneRebalancing",
)
_REVISION_ECHOED = ("loadBalancers", *_ROLLOUT_ECHOED)


def show_service(service: Service, tasks: Sequence[Task], *, with_tags: bool) -> dict[str, Any]:
    primary = service.primary
    shown: dict[str, Any] = {
        "serviceArn": service.arn,
        "serviceName": service.name,
        "clusterArn": service.cluster_arn,
        "status": service.status,
        "desiredCount": service.desired_count,
        "runningCount": _running(tasks),
        "pendingCount": _pending(tasks),
        "taskDefinition": _task_definition(service),
        "deployments": [_show_rollout(rollout, service, tasks) for rollout in service.rollouts],
        "events": [_show_event(event) for event in service.events],
        "createdAt": service.created_at,
        "roleArn": f"arn:aws:iam::{service.arn.split(':')[4]}:role/{_SERVICE_ROLE}",
        "resourceManagementType": "CUSTOMER",
        **{key: service.settings[key] for key in _ECHOED if key in service.settings},
    }
    if service.deployments and primary is not None:
        shown["currentServiceDeployment"] = service.deployments[0].arn
        shown["currentServiceRevisions"] = [
            _show_counts(rollout.revision, service, tasks) for rollout in service.rollouts
        ]
    if with_tags:
        shown["tags"] = show_tags(service.tags)
    return shown


def show_task(task: Task, *, tags: Iterable[tuple[str, str]] | None) -> dict[str, Any]:
    shown = {
        "taskArn": task.arn,
        "clusterArn": task.cluster_arn,
        "taskDefinitionArn": task.task_definition_arn,
        "group": f"service:{task.service_arn.rsplit('/', 1)[-1]}",
        "startedBy": task.rollout_id,
        "lastStatus": task.last_status,
        "desiredStatus": task.desired_status,
        "healthStatus": task.health,
        "launchType": "FARGATE",
        "platformVersion": "1.4.0",
        "platformFamily": "Linux",
        "cpu": task.cpu,
        "memory": task.memory,
        "enableExecuteCommand": task.runs_commands,
        "connectivity": "CONNECTED",
        "createdAt": task.created_at,
        "connectivityAt": task.created_at,
        "pullStartedAt": task.pull_started_at,
        "pullStoppedAt": task.pull_stopped_at,
        "startedAt": task.started_at,
        "stoppingAt": task.stopping_at,
        "stoppedAt": task.stopped_at,
        "executionStoppedAt": task.stopped_at,
        "stoppedReason": task.stopped_reason,
        "stopCode": task.stop_code,
        "attachments": [_show_interface(task)],
        "containers": [show_container(task, container) for container in task.containers],
        "overrides": {"containerOverrides": [{"name": container.name} for container in task.containers]},
        "tags": None if tags is None else show_tags(tags),
        "version": 1,
    }
    return _without_nones(shown)


def show_service_deployment(deployment: ServiceDeployment, service: Service, tasks: Sequence[Task]) -> dict[str, Any]:
    target = {**_show_counts(deployment.target, service, tasks), **_show_shares(deployment, of_green=True)}
    sources = [revision for revision in service.revisions if revision.arn in deployment.source_arns]
    rollback, shift = deployment.rollback, deployment.shift
    shown = {
        **_show_deployment_head(deployment, service),
        "updatedAt": deployment.updated_at,
        "stoppedAt": deployment.finished_at if deployment.status == "STOPPED" else None,
        "sourceServiceRevisions": [
            {**_show_counts(revision, service, tasks), **_show_shares(deployment, of_green=False)}
            for revision in sources
        ],
        "targetServiceRevision": target,
        "lifecycleStage": shift.stage if shift else None,
        "lifecycleHookDetails": [_show_hook(hook) for hook in shift.hooks] if shift and shift.hooks else None,
        "deploymentConfiguration": deployment.target.settings.get("deploymentConfiguration"),
        "rollback": rollback
        and {
            "reason": rollback.reason,
            "startedAt": rollback.started_at,
            "serviceRevisionArn": rollback.revision_arn,
        },
        "deploymentCircuitBreaker": {
            "status": deployment.breaker_status,
            "failureCount": deployment.failure_count,
            "threshold": deployment.threshold,
        },
        "alarms": _show_alarms(deployment),
    }
    return _without_nones(shown)


def show_service_deployment_briefly(deployment: ServiceDeployment, service: Service) -> dict[str, Any]:
    shown = {**_show_deployment_head(deployment, service), "targetServiceRevisionArn": deployment.target.arn}
    return _without_nones(shown)


def show_revision(revision: ServiceRevision, service: Service, images: Iterable[Mapping[str, str]]) -> dict[str, Any]:
    return {
        "serviceRevisionArn": revision.arn,
        "serviceArn": service.arn,
        "clusterArn": service.cluster_arn,
        "taskDefinition": revision.task_definition_arn,
        "containerImages": list(images),
        "createdAt": revision.created_at,
        "resolvedConfiguration": {"loadBalancers": [{"targetGroupArn": arn} for arn in revision.group_arns]},
        **{key: revision.settings[key] for key in _REVISION_ECHOED if key in revision.settings},
    }


def show_tags(tags: Iterable[tuple[str, str]]) -> list[dict[str, str]]:
    return [{"key": key, "value": value} for key, value in tags]


def _show_deployment_head(deployment: ServiceDeployment, service: Service) -> dict[str, Any]:
    return {
        "serviceDeploymentArn": deployment.arn,
        "serviceArn": service.arn,
        "clusterArn": service.cluster_arn,
        "status": deployment.status,
        "statusReason": deployment.reason,
        "createdAt": deployment.created_at,
        "startedAt": deployment.created_at,
        "finishedAt": deployment.finished_at,
    }


def _show_rollout(rollout: Rollout, service: Service, tasks: Sequence[Task]) -> dict[str, Any]:
    own = [task for task in tasks if task.rollout_id == rollout.id]
    settings = rollout.revision.settings
    # "Only returned for services that use the rolling update" (API reference, rolloutState).
    states = {} if service.shift_rules.shifts else {"rolloutState": rollout.state, "rolloutStateReason": rollout.reason}
    return {
        "id": rollout.id,
        "status": rollout.status,
        "taskDefinition": rollout.revision.task_definition_arn,
        "desiredCount": service.desired_count if rollout.is_primary else sum(task.is_wanted for task in own),
        "runningCount": _running(own),
        "pendingCount": _pending(own),
        "failedTasks": rollout.failed_tasks,
        **states,
        "createdAt": rollout.created_at,
        "updatedAt": rollout.updated_at,
        **{key: settings[key] for key in _ROLLOUT_ECHOED if key in settings},
    }


def _show_counts(revision: ServiceRevision, service: Service, tasks: Sequence[Task]) -> dict[str, Any]:
    rollouts = [rollout for rollout in service.rollouts if rollout.revision.arn == revision.arn]
    ids = {rollout.id for rollout in rollouts}
    own = [task for task in tasks if task.rollout_id in ids]
    blue = service.shift.blue_id if service.shift else None
    wanted = service.desired_count if any(item.is_primary or item.id == blue for item in rollouts) else 0
    return {
        "arn": revision.arn,
        "requestedTaskCount": wanted,
        "runningTaskCount": _running(own),
        "pendingTaskCount": _pending(own),
    }


def _show_shares(deployment: ServiceDeployment, *, of_green: bool) -> dict[str, float]:
    """Returns the percentages of production and test traffic; empty if no traffic is shifted."""
    shift = deployment.shift
    if shift is None:
        return {}
    shares = (shift.production_percent, shift.test_percent)
    production, test = shares if of_green else (100 - shares[0], 100 - shares[1])
    return {"requestedProductionTrafficWeight": production, "requestedTestTrafficWeight": test}


def _show_alarms(deployment: ServiceDeployment) -> dict[str, Any]:
    names, triggered = alarm_names_of(deployment.target.settings), list(deployment.triggered_alarms)
    watching = "MONITORING_COMPLETE" if deployment.is_over else "MONITORING"
    status = "TRIGGERED" if triggered else watching if names else "DISABLED"
    return {"status": status, "alarmNames": list(names), "triggeredAlarmNames": triggered}


def _show_hook(hook: Hook) -> dict[str, Any]:
    return {
        "hookId": hook.id,
        "targetType": "PAUSE",
        "status": hook.status,
        "expiresAt": hook.expires_at,
        "timeoutAction": hook.timeout_action,
    }


def _show_interface(task: Task) -> dict[str, Any]:
    """Returns a made-up network interface; target groups identify the task by its address."""
    number = hashlib.sha256(task.arn.encode()).hexdigest()
    details = {
        "subnetId": task.subnet_id,
        "networkInterfaceId": f"eni-{number[:17]}",
        "macAddress": ":".join(["0a", *(number[at : at + 2] for at in range(0, 10, 2))]),
        "privateDnsName": f"ip-{task.ip.replace('.', '-')}.ec2.internal",
        "privateIPv4Address": task.ip,
    }
    return {
        "id": f"{number[:8]}-{number[8:12]}-{number[12:16]}-{number[16:20]}-{number[20:32]}",
        "type": "ElasticNetworkInterface",
        "status": "DELETED" if task.is_stopped else "ATTACHED",
        "details": [{"name": name, "value": value} for name, value in details.items()],
    }


def show_container(task: Task, container: ContainerStatus) -> dict[str, Any]:
    number = hashlib.sha256(f"{task.arn}/{container.name}".encode()).hexdigest()[:32]
    shown = {
        "containerArn": f"{task.arn.replace(':task/', ':container/', 1)}/{number}",
        "taskArn": task.arn,
        "name": container.name,
        "image": container.image,
        "imageDigest": container.image_digest,
        "runtimeId": f"{task.id}-{container.pid or 0}",
        "lastStatus": "STOPPED" if task.is_stopped else container.last_status,
        "exitCode": container.exit_code,
        "reason": container.reason or (task.stopped_reason if task.stop_code == "TaskFailedToStart" else None),
        "healthStatus": container.health,
        "managedAgents": [_show_agent(task)] if task.runs_commands else None,
        "networkBindings": [],
        "networkInterfaces": [{"privateIpv4Address": task.ip}],
        "cpu": "0",
    }
    return _without_nones(shown)


def _show_agent(task: Task) -> dict[str, Any]:
    """Returns the status of ECS Exec's agent, which does not exist here: commands work while the task runs."""
    status = "RUNNING" if task.last_status == "RUNNING" else "STOPPED" if task.is_stopped else "PENDING"
    return _without_nones(
        {"name": "ExecuteCommandAgent", "lastStatus": status, "lastStartedAt": task.started_at, "reason": None}
    )


def _show_event(event: Event) -> dict[str, Any]:
    return {"id": event.id, "createdAt": event.created_at, "message": event.message}


def _task_definition(service: Service) -> str:
    if service.primary is not None:
        return service.primary.revision.task_definition_arn
    return service.revisions[0].task_definition_arn if service.revisions else ""


def _running(tasks: Iterable[Task]) -> int:
    return sum(task.last_status == "RUNNING" for task in tasks)


def _pending(tasks: Iterable[Task]) -> int:
    return sum(task.last_status in _PENDING and task.desired_status == "RUNNING" for task in tasks)


def _without_nones(shown: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in shown.items() if value is not None}

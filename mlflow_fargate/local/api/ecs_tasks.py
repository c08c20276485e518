"""ECS's operations on tasks and on service deployments, backed by the engine's store."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

from mlflow_fargate.local.api.ecs_checks import find_cluster
from mlflow_fargate.local.api.ecs_services import page
from mlflow_fargate.local.api.ecs_shapes import (
    show_container,
    show_revision,
    show_service_deployment,
    show_service_deployment_briefly,
    show_task,
)
from mlflow_fargate.local.api.protocol import Refusal
from mlflow_fargate.local.container.launch import ExecSpec, TaskFailedToStart
from mlflow_fargate.local.engine import transitions
from mlflow_fargate.local.engine.engine import Engine
from mlflow_fargate.local.engine.shift import stage_transitions
from mlflow_fargate.local.engine.state import Service, ServiceDeployment, ServiceRevision, Task
from mlflow_fargate.local.engine.store import EcsStore
from mlflow_fargate.local.moto_client import MotoClient

Parameters = Mapping[str, Any]

_NO_AGENT = (
    "The execute command failed because execute command was not enabled when the task was run or the execute command "
    "agent isn’t running. Wait and try again or run a new task with execute command enabled and try again."
)


class TaskOperations:
    """Each public method is an ECS operation: takes the parameters, returns the response's JSON or raises Refusal."""

    def __init__(self, engine: Engine, aws: MotoClient, clock: Callable[[], float] = time.time) -> None:
        self._engine = engine
        self._store: EcsStore = engine.store
        self._aws = aws
        self._clock = clock

    def list_tasks(self, parameters: Parameters) -> dict[str, Any]:
        cluster_arn = find_cluster(self._aws, parameters.get("cluster"))
        service_name = parameters.get("serviceName")
        service_arn = self._service(cluster_arn, service_name).arn if service_name else None
        status = parameters.get("desiredStatus") or "RUNNING"
        family = parameters.get("family")
        arns = [
            task.arn
            for task in self._store.tasks(service_arn)
            if task.cluster_arn == cluster_arn and task.desired_status == status and family in (None, task.family)
        ]
        return page("taskArns", arns, parameters, default_size=100)

    def describe_tasks(self, parameters: Parameters) -> dict[str, Any]:
        cluster_arn = find_cluster(self._aws, parameters.get("cluster"))
        with_tags = "TAGS" in (parameters.get("include") or ())
        found, failures = [], []
        for name in parameters.get("tasks") or ():
            arn = _task_arn(cluster_arn, name)
            task = self._store.task(arn)
            if task is None:
                failures.append({"arn": arn, "reason": "MISSING"})
            else:
                found.append(show_task(task, tags=self._tags(task) if with_tags else None))
        return {"tasks": found, "failures": failures}

    def stop_task(self, parameters: Parameters) -> dict[str, Any]:
        arn = _task_arn(find_cluster(self._aws, parameters.get("cluster")), str(parameters.get("task", "")))
        if self._store.task(arn) is None:
            raise Refusal("InvalidParameterException", "The referenced task was not found.")
        reason = parameters.get("reason") or "Task stopped by user"
        return {"task": show_task(self._engine.stop_task(arn, reason, "UserInitiated"), tags=None)}

    def execute_command(self, parameters: Parameters) -> tuple[dict[str, Any], ExecSpec]:
        """Returns the response without its session, and what to run; the caller opens the session."""
        arn = _task_arn(find_cluster(self._aws, parameters.get("cluster")), str(parameters.get("task", "")))
        task = self._store.task(arn)
        if task is None or task.is_stopped:
            raise Refusal("InvalidParameterException", "The specified task was not found or is not running.")
        if not parameters.get("interactive"):
            raise Refusal("InvalidParameterException", "Interactive is the only mode supported currently.")
        name = parameters.get("container") or task.containers[0].name
        container = next((container for container in task.containers if container.name == name), None)
        if container is None:
            raise Refusal("InvalidParameterException", f"The container {name} was not found in the task.")
        if not task.runs_commands or task.last_status != "RUNNING":
            raise Refusal("InvalidParameterException", _NO_AGENT)
        try:
            spec = self._engine.exec_spec(task, name, str(parameters.get("command", "")))
        except TaskFailedToStart as error:
            raise Refusal("InvalidParameterException", f"The command is not valid: {error.message}") from error
        if spec is None or not spec.command:
            raise Refusal("TargetNotConnectedException", "The task is not reachable, or the command is empty.")
        told = {"containerArn": show_container(task, container)["containerArn"], "containerName": name}
        return {"clusterArn": task.cluster_arn, "taskArn": arn, "interactive": True, **told}, spec

    def list_service_deployments(self, parameters: Parameters) -> dict[str, Any]:
        cluster_arn = find_cluster(self._aws, parameters.get("cluster"))
        service = self._service(cluster_arn, str(parameters.get("service", "")))
        statuses = parameters.get("status") or ()
        created = parameters.get("createdAt") or {}
        shown = [
            show_service_deployment_briefly(deployment, service)
            for deployment in service.deployments
            if (not statuses or deployment.status in statuses)
            and deployment.created_at >= float(created.get("after") or 0)
            and deployment.created_at <= float(created.get("before") or "inf")
        ]
        return page("serviceDeployments", shown, parameters, default_size=20)

    def describe_service_deployments(self, parameters: Parameters) -> dict[str, Any]:
        found, failures = [], []
        for arn in parameters.get("serviceDeploymentArns") or ():
            pair = self._deployment(arn)
            if pair is None:
                failures.append({"arn": arn, "reason": "MISSING"})
                continue
            service, deployment = pair
            found.append(show_service_deployment(deployment, service, self._store.tasks(service.arn)))
        return {"serviceDeployments": found, "failures": failures}

    def describe_service_revisions(self, parameters: Parameters) -> dict[str, Any]:
        known = {
            revision.arn: (service, revision) for service in self._store.services() for revision in service.revisions
        }
        found, failures = [], []
        for arn in parameters.get("serviceRevisionArns") or ():
            if arn not in known:
                failures.append({"arn": arn, "reason": "MISSING"})
                continue
            service, revision = known[arn]
            found.append(show_revision(revision, service, self._images(service, revision)))
        return {"serviceRevisions": found, "failures": failures}

    def stop_service_deployment(self, parameters: Parameters) -> dict[str, Any]:
        arn = str(parameters.get("serviceDeploymentArn", ""))
        pair = self._deployment(arn)
        if pair is None:
            raise Refusal("ServiceDeploymentNotFoundException", "The service deployment was not found.")
        if parameters.get("stopType", "ROLLBACK") != "ROLLBACK":
            raise Refusal("InvalidParameterException", "The stopType must be ROLLBACK.")
        service, deployment = pair
        if deployment.status not in ("PENDING", "IN_PROGRESS"):
            raise Refusal("ConflictException", f"The service deployment is {deployment.status} and cannot be stopped.")
        if service.last_completed is None:
            raise Refusal("ConflictException", "There is no completed service revision to roll back to.")
        self._store.change_service(service.arn, partial(transitions.request_rollback, now=self._clock()))
        return {"serviceDeploymentArn": arn}

    def continue_service_deployment(self, parameters: Parameters) -> dict[str, Any]:
        arn = str(parameters.get("serviceDeploymentArn", ""))
        pair = self._deployment(arn)
        if pair is None:
            raise Refusal("ServiceDeploymentNotFoundException", "The service deployment was not found.")
        service, deployment = pair
        hook = deployment.shift.waiting_hook if deployment.shift and not deployment.is_over else None
        if hook is None or hook.id != parameters.get("hookId"):
            raise Refusal("InvalidParameterException", "The lifecycle hook is not in the AWAITING_ACTION status.")
        action = parameters.get("action") or "CONTINUE"
        response = partial(stage_transitions.answer_hook, hook_id=hook.id, action=action, now=self._clock())
        self._store.change_service(service.arn, response)
        return {"serviceDeploymentArn": arn}

    def _service(self, cluster_arn: str, name: str) -> Service:
        arn = name if name.startswith("arn:") else f"{cluster_arn.replace(':cluster/', ':service/', 1)}/{name}"
        service = self._store.service(arn)
        if service is None:
            raise Refusal("ServiceNotFoundException", "Service not found.")
        return service

    def _deployment(self, arn: str) -> tuple[Service, ServiceDeployment] | None:
        pairs: Iterator[tuple[Service, ServiceDeployment]] = (
            (service, deployment) for service in self._store.services() for deployment in service.deployments
        )
        return next((pair for pair in pairs if pair[1].arn == arn), None)

    def _images(self, service: Service, revision: ServiceRevision) -> list[dict[str, str]]:
        """Returns the images with their digests once a task of the revision has pulled them."""
        for task in self._store.tasks(service.arn):
            if task.task_definition_arn == revision.task_definition_arn and task.pull_stopped_at:
                return [
                    {"containerName": one.name, "image": one.image, "imageDigest": one.image_digest}
                    for one in task.containers
                    if one.image_digest
                ]
        return []

    def _tags(self, task: Task) -> tuple[tuple[str, str], ...]:
        service = self._store.service(task.service_arn)
        if service is None or service.settings.get("propagateTags") != "SERVICE":
            return ()
        return service.tags


def _task_arn(cluster_arn: str, name: str) -> str:
    return name if name.startswith("arn:") else f"{cluster_arn.replace(':cluster/', ':task/', 1)}/{name}"

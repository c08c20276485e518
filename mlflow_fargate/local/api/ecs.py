"""ECS as the gateway serves it: services, tasks and deployments from the engine, the rest from moto.

The rest is clusters (with the engine's counts added), task definitions and their tags.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from typing import Any

from mlflow_fargate.local.api.ecs_checks import find_cluster
from mlflow_fargate.local.api.ecs_services import ServiceOperations
from mlflow_fargate.local.api.ecs_tasks import TaskOperations
from mlflow_fargate.local.api.exec_sessions import ExecSessions
from mlflow_fargate.local.api.protocol import AwsRequest, Forward, Refusal, Response, json_response
from mlflow_fargate.local.engine.engine import Engine
from mlflow_fargate.local.moto_client import MotoClient

_Operation = Callable[[Mapping[str, Any]], dict[str, Any]]

_TAG_OPERATIONS = {"TagResource", "UntagResource", "ListTagsForResource"}
# moto would only pretend: its tasks and services are just counters.
_NOT_PLAYED = {
    "RunTask",
    "StartTask",
    "CreateTaskSet",
    "UpdateTaskSet",
    "DeleteTaskSet",
    "DescribeTaskSets",
    "UpdateServicePrimaryTaskSet",
    "CreateExpressGatewayService",
    "UpdateTaskProtection",
    "GetTaskProtection",
    "ListServicesByNamespace",
}


class EcsApi:
    """Responds to requests to ECS."""

    def __init__(self, engine: Engine, aws: MotoClient, forward: Forward, sessions: ExecSessions) -> None:
        self._engine = engine
        self._aws = aws
        self._forward = forward
        self._sessions = sessions
        self._registered: dict[str, dict[str, Any]] = {}  # task definition ARN → fields that moto drops
        services = ServiceOperations(engine.store, aws)
        tasks = TaskOperations(engine, aws)
        self._execute_command = tasks.execute_command
        self._operations: dict[str, _Operation] = {
            "CreateService": services.create_service,
            "UpdateService": services.update_service,
            "DeleteService": services.delete_service,
            "DescribeServices": services.describe_services,
            "ListServices": services.list_services,
            "TagResource": services.tag_resource,
            "UntagResource": services.untag_resource,
            "ListTagsForResource": services.list_tags_for_resource,
            "ListTasks": tasks.list_tasks,
            "DescribeTasks": tasks.describe_tasks,
            "StopTask": tasks.stop_task,
            "ListServiceDeployments": tasks.list_service_deployments,
            "DescribeServiceDeployments": tasks.describe_service_deployments,
            "DescribeServiceRevisions": tasks.describe_service_revisions,
            "StopServiceDeployment": tasks.stop_service_deployment,
            "ContinueServiceDeployment": tasks.continue_service_deployment,
        }

    def __call__(self, request: AwsRequest) -> Response:
        if request.region != self._aws.region:
            said = f"The local stack is in {self._aws.region}; ECS is not available in {request.region}."
            raise Refusal("InvalidParameterException", said)
        if request.operation in _NOT_PLAYED:
            said = f"The local stack does not support {request.operation}: it only runs services."
            raise Refusal("UnsupportedFeatureException", said)
        if request.operation in self._operations and self._is_ours(request):
            return json_response(self._operations[request.operation](request.parameters))
        if request.operation == "ExecuteCommand":
            response, spec = self._execute_command(request.parameters)
            return json_response({**response, "session": self._sessions.open(spec, request.environ["HTTP_HOST"])})
        if request.operation == "CreateCluster":
            return self._create_cluster(request)
        if request.operation == "DescribeClusters":
            return self._describe_clusters(request)
        if request.operation in {"RegisterTaskDefinition", "DescribeTaskDefinition"}:
            return self._with_registration(request)
        if request.operation == "DeleteCluster":
            self._refuse_busy_cluster(request)
        return self._forward(request)

    def _is_ours(self, request: AwsRequest) -> bool:
        is_tagging = request.operation in _TAG_OPERATIONS
        return not is_tagging or ":service/" in str(request.parameters.get("resourceArn"))

    def _create_cluster(self, request: AwsRequest) -> Response:
        """Creates a cluster; an existing one is returned unchanged, as on AWS (moto would drop its tags)."""
        name = request.parameters.get("clusterName") or "default"
        present = self._aws.client("ecs").describe_clusters(clusters=[name], include=["TAGS", "SETTINGS"])["clusters"]
        if present and present[0]["status"] == "ACTIVE":
            return json_response({"cluster": self._with_counts(present[0])})
        return self._forward(request)

    def _with_registration(self, request: AwsRequest) -> Response:
        """Returns the response with the registration time and the caller who registered the task definition."""
        response = self._forward(request)
        if response.is_error:
            return response
        data = response.json()
        arn = data["taskDefinition"]["taskDefinitionArn"]
        if request.operation == "RegisterTaskDefinition":
            caller = self._aws.client("sts").get_caller_identity()["Arn"]
            self._registered[arn] = {"registeredAt": time.time(), "registeredBy": caller}
        data["taskDefinition"].update(self._registered.get(arn, {}))
        return response.with_body(json.dumps(data).encode())

    def _describe_clusters(self, request: AwsRequest) -> Response:
        response = self._forward(request)
        if response.is_error:
            return response
        data = response.json()
        data["clusters"] = [self._with_counts(cluster) for cluster in data.get("clusters") or ()]
        return response.with_body(json.dumps(data).encode())

    def _with_counts(self, cluster: Mapping[str, Any]) -> dict[str, Any]:
        arn, store = cluster["clusterArn"], self._engine.store
        tasks = [task for task in store.tasks() if task.cluster_arn == arn and not task.is_stopped]
        running = sum(task.last_status == "RUNNING" for task in tasks)
        services = [service for service in store.services() if service.cluster_arn == arn]
        return {
            **cluster,
            "runningTasksCount": running,
            "pendingTasksCount": sum(task.is_wanted for task in tasks)
            - sum(task.is_wanted and task.last_status == "RUNNING" for task in tasks),
            "activeServicesCount": sum(service.status == "ACTIVE" for service in services),
        }

    def _refuse_busy_cluster(self, request: AwsRequest) -> None:
        arn, store = find_cluster(self._aws, request.parameters.get("cluster")), self._engine.store
        if any(service.cluster_arn == arn and service.status == "ACTIVE" for service in store.services()):
            raise Refusal(
                "ClusterContainsServicesException", "The Cluster cannot be deleted while Services are active."
            )
        if any(task.cluster_arn == arn and not task.is_stopped for task in store.tasks()):
            raise Refusal("ClusterContainsTasksException", "The Cluster cannot be deleted while Tasks are active.")

"""ECS: the task definition. What `request_for` writes, `properties_of` reads back: a round trip, tested as such.

What is deployed stands here, in one docker label of the container (see resources.DeploymentSpec.label).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

from mlflow_fargate.aws import tags
from mlflow_fargate.aws.resource_types.resource_type import Ids, ResourceType
from mlflow_fargate.config.task_options import FileSystem
from mlflow_fargate.plan import Found, Properties, Resource
from mlflow_fargate.resolved_model import Provenance
from mlflow_fargate.resources import CONTAINER
from mlflow_fargate.resources.properties import TaskProperties

LABEL = "mlflow-fargate"
DIGEST_TAG = "mlflow-fargate:digest"
API_KEY_VARIABLE = "API_KEY"
USER = "65532"
_LOOK_BACK = 10  # one read each, of the 20 a second that ECS allows


@dataclass(frozen=True)
class Label:
    """What a task definition says of itself."""

    provenance: Provenance
    settings: Mapping[str, Any]


class TaskDefinitionType(ResourceType[TaskProperties]):
    """A family of revisions; its newest revision with the wanted content is used again."""

    def observe(self, resource: Resource[TaskProperties], ids: Ids) -> Found[TaskProperties] | None:
        """The revision that the service runs, or without a service the family's newest."""
        arn = ids.get("running task definition") or next(self.revisions(resource.name), None)
        if arn is None:
            return None
        described = self.describe(arn)
        return Found(arn, properties_of(described, ids.get("task role")), tags.are_ours(tags.read(described["tags"])))

    def observe_inactive(self, family: str) -> Found[Properties] | None:
        """One of the revisions that a client deregistered, and died before it deleted them."""
        arn = next(self.revisions(family, "INACTIVE"), None)
        return Found(arn, Properties(), self._is_ours(arn)) if arn else None

    def create(self, resource: Resource[TaskProperties], ids: Ids) -> str:
        existing = self._revision_with(resource.name, resource.properties.digest)
        return existing or self._register(resource, ids)

    def change(self, resource: Resource[TaskProperties], found: Found[TaskProperties], ids: Ids) -> str:
        return self.create(resource, ids)

    def delete(self, found: Found[Properties]) -> None:
        """Takes away what is ours of the family: revisions are deregistered, then deleted, 10 a call as ECS allows."""
        family = found.identifier.rpartition("/")[2].rpartition(":")[0]
        for arn in list(self.revisions(family)):
            if self._is_ours(arn):
                self._session.delete("ecs", "deregister_task_definition", taskDefinition=arn)
        inactive = [arn for arn in self.revisions(family, "INACTIVE") if self._is_ours(arn)]
        for start in range(0, len(inactive), 10):
            batch = inactive[start : start + 10]
            self._session.delete("ecs", "delete_task_definitions", taskDefinitions=batch)

    def describe(self, arn: str) -> dict[str, Any]:
        """A revision, with its tags under `tags`."""
        answer = self._session.call("ecs", "describe_task_definition", taskDefinition=arn, include=["TAGS"])
        return {**answer["taskDefinition"], "tags": answer.get("tags", [])}

    def revisions(self, family: str, status: str = "ACTIVE") -> Iterator[str]:
        """ARNs of the family's revisions, newest first."""
        # familyPrefix matches longer names too (churn and churn-2), so look at the name itself.
        pages = self._session.pages(
            "ecs", "list_task_definitions", "taskDefinitionArns", familyPrefix=family, status=status
        )
        ours = [arn for arn in pages if arn.rpartition("/")[2].rpartition(":")[0] == family]
        yield from sorted(ours, key=lambda arn: -int(arn.rpartition(":")[2]))

    def _is_ours(self, arn: str) -> bool:
        return tags.are_ours(tags.read(self.describe(arn)["tags"]))

    def _revision_with(self, family: str, digest: str) -> str | None:
        """A killed client registered it already, or it is gone back to; only the newest few are worth a look."""
        for arn in islice(self.revisions(family), _LOOK_BACK):
            if tags.read(self.describe(arn)["tags"]).get(DIGEST_TAG) == digest:
                return arn
        return None

    def _register(self, resource: Resource[TaskProperties], ids: Ids) -> str:
        digest = {DIGEST_TAG: resource.properties.digest}
        request = request_for(resource, ids)
        answer = self._session.call(
            "ecs", "register_task_definition", **request, tags=tags.small({**resource.tags, **digest})
        )
        return str(answer["taskDefinition"]["taskDefinitionArn"])


def read_label(described: Mapping[str, Any]) -> Label | None:
    """What the revision says of itself; None when it is no deployment of ours."""
    label = label_table(described)
    return Label(Provenance(**label["provenance"]), label["settings"]) if "provenance" in label else None


def label_table(described: Mapping[str, Any]) -> dict[str, Any]:
    """All that a label holds; empty where there is none."""
    text = _container(described).get("dockerLabels", {}).get(LABEL)
    label: dict[str, Any] = json.loads(text) if text else {}
    return label


def request_for(resource: Resource[TaskProperties], ids: Ids) -> dict[str, Any]:
    """The parameters of RegisterTaskDefinition.

    The container runs as a user that is nobody, on a root that it cannot write to; /tmp is a volume of the task's own
    (Fargate has no tmpfs).
    """
    wanted = resource.properties
    request: dict[str, Any] = {
        "family": resource.name,
        "networkMode": "awsvpc",
        "requiresCompatibilities": ["FARGATE"],
        "cpu": str(wanted.cpu),
        "memory": str(wanted.memory_mib),
        "runtimePlatform": {"cpuArchitecture": wanted.architecture, "operatingSystemFamily": "LINUX"},
        "executionRoleArn": wanted.execution_role_arn or ids["execution role"],
        "volumes": [{"name": "tmp"}, *_efs_volumes(wanted)],
        "containerDefinitions": [_container_request(wanted, ids)],
    }
    if task_role := wanted.task_role_arn or ids.get("task role"):
        request["taskRoleArn"] = task_role
    if wanted.ephemeral_storage_gib:
        request["ephemeralStorage"] = {"sizeInGiB": wanted.ephemeral_storage_gib}
    return request


def properties_of(described: Mapping[str, Any], made_task_role: str | None = None) -> TaskProperties:
    """The properties that a revision was registered with; roles that were made here are left out, as they are there."""
    container = _container(described)
    secrets = {item["name"]: item["valueFrom"] for item in container.get("secrets", [])}
    options = container.get("logConfiguration", {}).get("options", {})
    role = str(described.get("executionRoleArn", ""))
    task_role = described.get("taskRoleArn")
    return TaskProperties(
        image=container["image"],
        cpu=int(described.get("cpu", 0)),
        memory_mib=int(described.get("memory", 0)),
        architecture=described.get("runtimePlatform", {}).get("cpuArchitecture"),
        port=container["portMappings"][0]["containerPort"],
        environment={item["name"]: item["value"] for item in container.get("environment", [])},
        secrets={name: value for name, value in secrets.items() if name != API_KEY_VARIABLE},
        has_api_key=API_KEY_VARIABLE in secrets,
        log_group=options.get("awslogs-group"),
        region=options.get("awslogs-region"),
        stop_timeout_seconds=container.get("stopTimeout"),
        ephemeral_storage_gib=described.get("ephemeralStorage", {}).get("sizeInGiB"),
        efs=_file_systems(described, container),
        health_check=container.get("healthCheck"),
        execution_role_arn=None if role.rpartition("/")[2].startswith("mlflow-fargate-") else role,
        task_role_arn=None if task_role == made_task_role else task_role,
        execute_command=container.get("linuxParameters", {}).get("initProcessEnabled", False),
        label=container.get("dockerLabels", {}).get(LABEL),
        status=described.get("status", "ACTIVE"),
    )


def api_key_secret(described: Mapping[str, Any]) -> str | None:
    """ARN of the secret that holds the API key; None when the deployment has none."""
    secrets = {item["name"]: item["valueFrom"] for item in _container(described).get("secrets", [])}
    return secrets.get(API_KEY_VARIABLE)


def _container_request(wanted: TaskProperties, ids: Ids) -> dict[str, Any]:
    secrets = dict(wanted.secrets)
    if wanted.has_api_key:
        secrets[API_KEY_VARIABLE] = ids["API key"]
    health_check = {"healthCheck": wanted.health_check} if wanted.health_check else {}
    mounts = [
        {"sourceVolume": _volume_name(path), "containerPath": path, "readOnly": system.is_read_only}
        for path, system in wanted.efs.items()
    ]
    return {
        **health_check,
        "name": CONTAINER,
        "image": wanted.image,
        "essential": True,
        "portMappings": [{"containerPort": wanted.port, "protocol": "tcp"}],
        "environment": [{"name": name, "value": value} for name, value in sorted(wanted.environment.items())],
        "secrets": [{"name": name, "valueFrom": value} for name, value in sorted(secrets.items())],
        "mountPoints": [{"sourceVolume": "tmp", "containerPath": "/tmp", "readOnly": False}, *mounts],  # noqa: S108
        "user": USER,
        **_hardening(wanted),
        "stopTimeout": wanted.stop_timeout_seconds,
        "dockerLabels": {LABEL: wanted.label},
        "logConfiguration": {
            "logDriver": "awslogs",
            "options": {
                "awslogs-group": wanted.log_group,
                "awslogs-region": wanted.region,
                "awslogs-stream-prefix": "task",
            },
        },
    }


def _hardening(wanted: TaskProperties) -> dict[str, Any]:
    """A root that cannot be written to, but with ECS Exec: its agent wants to write there, and an init that reaps.

    Source: https://docs.aws.amazon.com/AmazonECS/latest/developerguide/ecs-exec.html, considerations.
    """
    if wanted.execute_command:
        return {"readonlyRootFilesystem": False, "linuxParameters": {"initProcessEnabled": True}}
    return {"readonlyRootFilesystem": True}


def _efs_volumes(wanted: TaskProperties) -> list[dict[str, Any]]:
    """Always encrypted on the way, which access points and IAM ask for as well.

    Source: https://docs.aws.amazon.com/AmazonECS/latest/APIReference/API_EFSVolumeConfiguration.html
    """
    volumes = []
    for path, system in wanted.efs.items():
        configuration: dict[str, Any] = {"fileSystemId": system.id, "transitEncryption": "ENABLED"}
        if system.folder:
            configuration["rootDirectory"] = system.folder
        if system.access_point:
            iam = "ENABLED" if wanted.task_role_arn else "DISABLED"
            configuration["authorizationConfig"] = {"accessPointId": system.access_point, "iam": iam}
        volumes.append({"name": _volume_name(path), "efsVolumeConfiguration": configuration})
    return volumes


def _file_systems(described: Mapping[str, Any], container: Mapping[str, Any]) -> dict[str, FileSystem]:
    configurations = {item["name"]: item.get("efsVolumeConfiguration") for item in described.get("volumes", [])}
    found = {}
    for mount in container.get("mountPoints", []):
        if configuration := configurations.get(mount["sourceVolume"]):
            access_point = configuration.get("authorizationConfig", {}).get("accessPointId")
            folder = None if access_point else configuration.get("rootDirectory")
            is_read_only = mount.get("readOnly", False)
            system = FileSystem(configuration["fileSystemId"], access_point, folder, is_read_only)
            found[mount["containerPath"]] = system
    return dict(sorted(found.items()))


def _volume_name(path: str) -> str:
    """A name for what is mounted there: letters, digits, hyphens and underscores."""
    return f"efs{''.join(letter if letter.isalnum() else '-' for letter in path)}"


def _container(described: Mapping[str, Any]) -> Mapping[str, Any]:
    containers: list[Mapping[str, Any]] = described["containerDefinitions"]
    return next((item for item in containers if item["name"] == CONTAINER), containers[0])

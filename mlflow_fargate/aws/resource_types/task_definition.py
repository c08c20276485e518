"""ECS: the task definition. `properties_of` reads back what `request_for` writes; the round trip is tested.

What is deployed is recorded in one Docker label of the container (see resources.DeploymentSpec.label).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, fields
from itertools import islice
from typing import Any

from mlflow_fargate.aws import tags
from mlflow_fargate.aws.resource_types.resource_type import Ids, ResourceType
from mlflow_fargate.config.task_options import FileSystem
from mlflow_fargate.plan import Found, Properties, Resource
from mlflow_fargate.resolved_model import Provenance
from mlflow_fargate.resources import CONTAINER, read_label_text
from mlflow_fargate.resources.properties import TaskProperties

LABEL = "mlflow-fargate"
DIGEST_TAG = "mlflow-fargate:digest"
API_KEY_VARIABLE = "API_KEY"
USER = "65532:65532"  # a number alone would leave the group to the container runtime, which uses root's
_LOOK_BACK = 10  # one read each; ECS allows 20 per second


@dataclass(frozen=True)
class Label:
    """What a task definition records: the model and the options."""

    provenance: Provenance
    settings: Mapping[str, Any]


LOST = Label(Provenance("", "", "", ""), {})


class TaskDefinitionType(ResourceType[TaskProperties]):
    """A family of revisions; the newest revision with the desired content is reused."""

    def observe(self, resource: Resource[TaskProperties], ids: Ids) -> Found[TaskProperties] | None:
        """Returns the revision that the service runs, or without a service the family's newest."""
        running = ids.get("running task definition")
        described = self.find(running) if running else None
        if described is None:
            newest = next(self.revisions(resource.name), None)
            described = self.describe(newest) if newest else None
        if described is None:
            return None
        is_ours = tags.are_ours(tags.read(described["tags"]))
        return Found(described["taskDefinitionArn"], properties_of(described, ids), is_ours)

    def observe_inactive(self, family: str) -> Found[Properties] | None:
        """Returns one of the revisions that a killed client deregistered but did not delete."""
        arn = next(self.revisions(family, "INACTIVE"), None)
        return Found(arn, Properties(), self._is_ours(arn)) if arn else None

    def create(self, resource: Resource[TaskProperties], ids: Ids) -> str:
        existing = self._revision_with(resource, ids)
        return existing or self._register(resource, ids)

    def change(self, resource: Resource[TaskProperties], found: Found[TaskProperties], ids: Ids) -> str:
        return self.create(resource, ids)

    def delete(self, found: Found[Properties]) -> None:
        """Deletes the family's revisions that this package created, also those that were only deregistered."""
        family = found.identifier.rpartition("/")[2].rpartition(":")[0]
        active = [arn for arn in self.revisions(family) if self._is_ours(arn)]
        self.delete_revisions(active)
        others = set(self.revisions(family, "INACTIVE")).difference(active)
        self._delete([arn for arn in sorted(others) if self._is_ours(arn)])

    def delete_revisions(self, arns: Collection[str]) -> None:
        """Deregisters and deletes revisions."""
        for arn in arns:
            self._session.delete("ecs", "deregister_task_definition", taskDefinition=arn)
        self._delete(arns)

    def _delete(self, arns: Collection[str]) -> None:
        for start in range(0, len(arns), 10):
            batch = list(arns)[start : start + 10]
            self._session.delete("ecs", "delete_task_definitions", taskDefinitions=batch)

    def describe(self, arn: str) -> dict[str, Any]:
        """Returns a revision, with its tags under `tags`."""
        return _with_tags(self._session.call("ecs", "describe_task_definition", taskDefinition=arn, include=["TAGS"]))

    def find(self, arn: str) -> dict[str, Any] | None:
        """Returns a revision as `describe` does; None if it was deleted."""
        answer = self._session.find("ecs", "describe_task_definition", taskDefinition=arn, include=["TAGS"])
        return _with_tags(answer) if answer else None

    def revisions(self, family: str, status: str = "ACTIVE") -> Iterator[str]:
        """Yields the ARNs of the family's revisions, newest first."""
        # familyPrefix matches longer names too (churn and churn-2), so compare the whole name.
        pages = self._session.pages(
            "ecs", "list_task_definitions", "taskDefinitionArns", familyPrefix=family, status=status
        )
        ours = [arn for arn in pages if arn.rpartition("/")[2].rpartition(":")[0] == family]
        yield from sorted(ours, key=lambda arn: -int(arn.rpartition(":")[2]))

    def _is_ours(self, arn: str) -> bool:
        return tags.are_ours(tags.read(self.describe(arn)["tags"]))

    def _revision_with(self, resource: Resource[TaskProperties], ids: Ids) -> str | None:
        """A revision that a killed client registered, or that a rollback returns to; checks only the newest few."""
        digest = resource.properties.digest
        for arn in islice(self.revisions(resource.name), _LOOK_BACK):
            described = self.describe(arn)
            is_same = tags.read(described["tags"]).get(DIGEST_TAG) == digest
            if is_same and properties_of(described, ids).digest == digest:  # with the secret and roles of today
                return arn
        return None

    def _register(self, resource: Resource[TaskProperties], ids: Ids) -> str:
        digest = {DIGEST_TAG: resource.properties.digest}
        request = request_for(resource, ids)
        answer = self._session.call(
            "ecs", "register_task_definition", **request, tags=tags.small({**resource.tags, **digest})
        )
        return str(answer["taskDefinition"]["taskDefinitionArn"])


def _with_tags(answer: Mapping[str, Any]) -> dict[str, Any]:
    return {**answer["taskDefinition"], "tags": answer.get("tags", [])}


def read_label(described: Mapping[str, Any]) -> Label | None:
    """Returns what the revision records, without fields that only a later release knows.

    None if it is not a deployment of this package; `LOST` if the label was damaged by hand.
    """
    label = label_table(described)
    if "provenance" not in label:
        return None if label or LABEL not in _container(described).get("dockerLabels", {}) else LOST
    known = {item.name for item in fields(Provenance)}
    try:
        provenance = Provenance(**{key: value for key, value in label["provenance"].items() if key in known})
        int(provenance.registered_ms or 0)
    except (TypeError, ValueError):  # incomplete, or not a number
        return LOST
    return Label(provenance, label.get("settings", {}))


def label_table(described: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the content of the label; empty if there is none, or it cannot be read."""
    return read_label_text(_container(described).get("dockerLabels", {}).get(LABEL))


def request_for(resource: Resource[TaskProperties], ids: Ids) -> dict[str, Any]:
    """Returns the parameters of RegisterTaskDefinition.

    The container runs as an unprivileged user, with a read-only root file system; /tmp is a volume (Fargate does not
    support tmpfs).
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
    if task_role := wanted.task_role_arn or _generated_role(ids):
        request["taskRoleArn"] = task_role
    if wanted.ephemeral_storage_gib:
        request["ephemeralStorage"] = {"sizeInGiB": wanted.ephemeral_storage_gib}
    return request


def properties_of(described: Mapping[str, Any], ids: Ids) -> TaskProperties:
    """Returns the properties of a revision. Desired properties do not name generated roles and secrets; neither do
    these, if they are the ones in `ids`."""
    container = _container(described)
    secrets = {item["name"]: item["valueFrom"] for item in container.get("secrets", [])}
    options = container.get("logConfiguration", {}).get("options", {})
    key = secrets.pop(API_KEY_VARIABLE, None)
    role, task_role = described.get("executionRoleArn", ""), described.get("taskRoleArn") or None
    return TaskProperties(
        image=container["image"],
        cpu=int(described.get("cpu", 0)),
        memory_mib=int(described.get("memory", 0)),
        architecture=described.get("runtimePlatform", {}).get("cpuArchitecture"),
        port=(container.get("portMappings") or [{}])[0].get("containerPort", 0),
        environment={item["name"]: item["value"] for item in container.get("environment", [])},
        secrets=secrets,
        has_api_key=None if key and key != ids.get("API key") else key is not None,
        log_group=options.get("awslogs-group"),
        region=options.get("awslogs-region"),
        stop_timeout_seconds=container.get("stopTimeout"),
        ephemeral_storage_gib=described.get("ephemeralStorage", {}).get("sizeInGiB"),
        efs=_file_systems(described, container),
        health_check=container.get("healthCheck"),
        execution_role_arn=None if role == ids.get("execution role") else role,
        task_role_arn=None if task_role == _generated_role(ids) else task_role,
        execute_command=container.get("linuxParameters", {}).get("initProcessEnabled", False),
        label=container.get("dockerLabels", {}).get(LABEL),
        is_confined=_is_confined(container),
        status=described.get("status", "ACTIVE"),
    )


def _generated_role(ids: Ids) -> str | None:
    """The role of the tasks of the webhook service, or of a deployment with a record of predictions."""
    return ids.get("task role") or ids.get("inference log role")


def api_key_secret(described: Mapping[str, Any]) -> str | None:
    """Returns the ARN of the secret with the API key; None if the deployment has none."""
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
    """A read-only root file system and no Linux capabilities, except with ECS Exec.

    Its agent writes to the root file system, needs an init process, and runs as root; which capabilities it needs is
    not documented, so it keeps the default ones.
    Source: https://docs.aws.amazon.com/AmazonECS/latest/developerguide/ecs-exec.html, considerations;
    https://docs.aws.amazon.com/AmazonECS/latest/APIReference/API_KernelCapabilities.html
    """
    if wanted.execute_command:
        return {"readonlyRootFilesystem": False, "linuxParameters": {"initProcessEnabled": True}}
    return {"readonlyRootFilesystem": True, "linuxParameters": {"capabilities": {"drop": ["ALL"]}}}


def _is_confined(container: Mapping[str, Any]) -> bool:
    linux = container.get("linuxParameters", {})
    drops_all = linux.get("capabilities", {}).get("drop") == ["ALL"]
    return container.get("user") == USER and (drops_all or bool(linux.get("initProcessEnabled")))


def _efs_volumes(wanted: TaskProperties) -> list[dict[str, Any]]:
    """Always with encryption in transit, which access points and IAM require.

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
    """A name for a mounted volume: letters, digits, hyphens and underscores."""
    return f"efs{''.join(letter if letter.isalnum() else '-' for letter in path)}"


def _container(described: Mapping[str, Any]) -> Mapping[str, Any]:
    containers: list[Mapping[str, Any]] = described["containerDefinitions"]
    return next((item for item in containers if item["name"] == CONTAINER), containers[0])

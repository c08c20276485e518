"""The parts of a task definition needed to run a task, parsed once from DescribeTaskDefinition's response."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

DEFAULT_STOP_TIMEOUT_SECONDS = 30


@dataclass(frozen=True)
class LogSettings:
    """Settings of the awslogs driver: streams are named `prefix/container/taskid`."""

    group: str
    prefix: str


@dataclass(frozen=True)
class Limits:
    """What a container engine enforces of a container definition; processes have no such limits."""

    user: str | None = None  # None: the image's
    has_read_only_root: bool = False
    mounts: tuple[tuple[str, str, bool], ...] = ()  # volume of the task, path, whether it is read-only
    memory_mib: int | None = None  # of this container; a task has a limit too
    ulimits: tuple[tuple[str, int, int], ...] = ()  # name, soft limit, hard limit
    dropped_capabilities: tuple[str, ...] = ()

    @classmethod
    def of_json(cls, data: Mapping[str, Any]) -> Limits:
        capabilities = (data.get("linuxParameters") or {}).get("capabilities") or {}
        return cls(
            user=data.get("user"),
            has_read_only_root=bool(data.get("readonlyRootFilesystem")),
            mounts=tuple(
                (mount["sourceVolume"], mount["containerPath"], bool(mount.get("readOnly")))
                for mount in data.get("mountPoints") or ()
            ),
            memory_mib=int(data["memory"]) if data.get("memory") else None,
            ulimits=tuple((u["name"], int(u["softLimit"]), int(u["hardLimit"])) for u in data.get("ulimits") or ()),
            dropped_capabilities=tuple(capabilities.get("drop") or ()),
        )


@dataclass(frozen=True)
class HealthCheck:
    """A command in the container; its exit code says whether the container is healthy."""

    command: tuple[str, ...]
    interval_seconds: float = 30.0
    timeout_seconds: float = 5.0
    retries: int = 3
    start_period_seconds: float = 0.0  # failures before this do not count

    @classmethod
    def of_json(cls, data: Mapping[str, Any] | None) -> HealthCheck | None:
        """Parses `healthCheck`: the first word says how to run the others."""
        kind, *words = (data or {}).get("command") or ("NONE",)
        if data is None or kind == "NONE":
            return None
        return cls(
            command=("/bin/sh", "-c", *words)
            if kind == "CMD-SHELL"
            else tuple(words if kind == "CMD" else (kind, *words)),
            interval_seconds=float(data.get("interval") or cls.interval_seconds),
            timeout_seconds=float(data.get("timeout") or cls.timeout_seconds),
            retries=int(data.get("retries") or cls.retries),
            start_period_seconds=float(data.get("startPeriod") or 0),
        )


@dataclass(frozen=True)
class Container:
    """One container definition; None for entry point, command or working directory means the image's."""

    name: str
    image: str
    ports: tuple[int, ...]
    environment: tuple[tuple[str, str], ...]
    secrets: tuple[tuple[str, str], ...]  # name → valueFrom
    entry_point: tuple[str, ...] | None
    command: tuple[str, ...] | None
    working_directory: str | None
    stop_timeout_seconds: int
    logs: LogSettings | None
    limits: Limits = Limits()
    is_essential: bool = True  # the task ends with it
    depends_on: tuple[tuple[str, str], ...] = ()  # container → START, HEALTHY, COMPLETE or SUCCESS
    start_timeout_seconds: float | None = None  # for containers that depend on it
    health_check: HealthCheck | None = None

    @classmethod
    def of_json(cls, data: Mapping[str, Any]) -> Container:
        entry_point, command = data.get("entryPoint"), data.get("command")
        return cls(
            name=data["name"],
            image=data["image"],
            ports=tuple(int(mapping["containerPort"]) for mapping in data.get("portMappings") or ()),
            environment=tuple((pair["name"], pair.get("value", "")) for pair in data.get("environment") or ()),
            secrets=tuple((pair["name"], pair["valueFrom"]) for pair in data.get("secrets") or ()),
            entry_point=tuple(entry_point) if entry_point else None,
            command=tuple(command) if command else None,
            working_directory=data.get("workingDirectory"),
            stop_timeout_seconds=int(data.get("stopTimeout") or DEFAULT_STOP_TIMEOUT_SECONDS),
            logs=_log_settings(data.get("logConfiguration") or {}),
            limits=Limits.of_json(data),
            is_essential=bool(data.get("essential", True)),
            depends_on=tuple((item["containerName"], item["condition"]) for item in data.get("dependsOn") or ()),
            start_timeout_seconds=float(data["startTimeout"]) if data.get("startTimeout") else None,
            health_check=HealthCheck.of_json(data.get("healthCheck")),
        )


@dataclass(frozen=True)
class TaskDefinition:
    arn: str
    family: str
    status: str  # ACTIVE or INACTIVE
    network_mode: str
    cpu: str
    memory: str
    task_role_arn: str | None
    containers: tuple[Container, ...]
    has_role: bool = False  # its containers can call AWS

    @classmethod
    def of_json(cls, data: Mapping[str, Any]) -> TaskDefinition:
        return cls(
            arn=data["taskDefinitionArn"],
            family=data["family"],
            status=data.get("status", "ACTIVE"),
            network_mode=data.get("networkMode", ""),
            cpu=str(data.get("cpu", "")),
            memory=str(data.get("memory", "")),
            task_role_arn=data.get("taskRoleArn"),
            containers=tuple(Container.of_json(container) for container in data["containerDefinitions"]),
            has_role=bool(data.get("taskRoleArn")),
        )

    @property
    def cpu_units(self) -> int:
        """1024 for each virtual CPU; 0 means no limit."""
        return _amount(self.cpu, "vcpu")

    @property
    def memory_mib(self) -> int:
        """The memory of all its containers; 0 means no limit."""
        return _amount(self.memory, "gb")

    @property
    def main(self) -> Container:
        """The container that load balancers and users reach: the first one with a port, or else the first."""
        return next((container for container in self.containers if container.ports), self.containers[0])


def _amount(text: str, unit: str) -> int:
    """Returns '512', or 1024 times the number of '0.5 GB' or '.5 vCPU', as RegisterTaskDefinition accepts them."""
    number, in_units, _ = text.lower().partition(unit)
    return int(float(number) * (1024 if in_units else 1)) if number.strip() else 0


def _log_settings(configuration: Mapping[str, Any]) -> LogSettings | None:
    options = configuration.get("options") or {}
    if configuration.get("logDriver") != "awslogs" or "awslogs-group" not in options:
        return None
    return LogSettings(options["awslogs-group"], options.get("awslogs-stream-prefix", "ecs"))

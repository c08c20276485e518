"""The task: size, environment, storage, roles."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal, NamedTuple

from pydantic import model_validator
from typing_extensions import Self

from mlflow_fargate.config.option import Arn, OptionGroup, Table, option

# CPU units → memory sizes in MiB that Fargate offers.
# https://docs.aws.amazon.com/AmazonECS/latest/developerguide/fargate-tasks-services.html#fargate-tasks-size
FARGATE_SIZES: Mapping[int, tuple[int, ...]] = {
    256: (512, 1024, 2048),
    512: tuple(range(1024, 4096 + 1, 1024)),
    1024: tuple(range(2048, 8192 + 1, 1024)),
    2048: tuple(range(4096, 16384 + 1, 1024)),
    4096: tuple(range(8192, 30720 + 1, 1024)),
    8192: tuple(range(16384, 61440 + 1, 4096)),
    16384: tuple(range(32768, 122880 + 1, 8192)),
}
_MOUNT_PATH = re.compile(r"/[\w.-]+(/[\w.-]+)*")
_FILE_SYSTEM = re.compile(
    r"(?P<id>fs-[0-9a-f]{8,40})(?::(?:(?P<point>fsap-[0-9a-f]{8,40})|(?P<folder>/[^:]*)))?(?P<ro>:ro)?"
)
_OF_THE_CONTAINER = ("/tmp", "/opt", "/usr", "/bin", "/lib", "/etc", "/proc", "/dev", "/sys")  # noqa: S108
_SECRET_ENDINGS = ("password", "passwd", "secret", "token", "api_key", "apikey", "access_key", "private_key")


class FileSystem(NamedTuple):
    """An EFS file system to mount."""

    id: str
    access_point: str | None
    folder: str | None
    is_read_only: bool


class TaskOptions(OptionGroup):
    """Options of the task definition."""

    cpu: int = option(
        1024,
        "CPU of a task; 1024 units are one vCPU",
        unit="CPU units",
        maps_to="ECS task definition: cpu",
        examples=["2048"],
        allowed=", ".join(map(str, FARGATE_SIZES)),
    )
    memory_mib: int = option(
        2048,
        "memory of a task",
        key="memory",
        unit="MiB",
        maps_to="ECS task definition: memory",
        examples=["4096"],
        allowed="512 to 122880, depending on cpu",
    )
    architecture: Literal["X86_64", "ARM64"] = option(
        "X86_64",
        "CPU architecture of the tasks; ARM64 costs about 20% less",
        maps_to="ECS task definition: runtimePlatform.cpuArchitecture",
        examples=["ARM64"],
    )
    port: int = option(
        3000,
        "port that the container listens on",
        ge=1024,
        le=65535,
        maps_to="ECS task definition: containerPort; ELB target group: Port",
        examples=["5000"],
        unit="port number",
    )
    environment: Table = option(
        dict,
        "environment variables of the container",
        maps_to="ECS task definition: environment",
        examples=['environment.OMP_NUM_THREADS=1 or environment={"A": "1"}'],
        allowed="names and values; not for secrets",
    )
    secrets: Table = option(
        dict,
        "environment variables that ECS reads from Secrets Manager or SSM, by ARN",
        maps_to="ECS task definition: secrets.valueFrom",
        examples=["secrets.DB_PASSWORD=arn:aws:secretsmanager:…"],
        allowed="names and ARNs",
    )
    ephemeral_storage_gib: int | None = option(
        None,
        "disk space of a task, if the image and model need more than the included 20 GiB",
        unit="GiB",
        ge=21,
        le=200,
        maps_to="ECS task definition: ephemeralStorage.sizeInGiB",
        examples=["50"],
    )
    efs: Table = option(
        dict,
        "EFS file systems to mount: each key is a mount path; its value is FILE_SYSTEM, FILE_SYSTEM:ACCESS_POINT or "
        "FILE_SYSTEM:/FOLDER, plus :ro for read-only",
        allowed="paths and file systems",
        maps_to="ECS task definition: efsVolumeConfiguration",
        examples=["efs./mnt/data=fs-0a1b2c3d:fsap-0123456789abcdef0:ro"],
    )
    container_health_check: str | None = option(
        None,
        "shell command that checks the container's health; by default, only the load balancer checks it",
        allowed="a command for the image's shell",
        maps_to="ECS task definition: healthCheck",
        examples=["python -c 'import os; os.stat(\"/tmp/alive\")'"],
    )
    execution_role_arn: Arn = option(
        None,
        "role that ECS uses to pull the image, write logs and read secrets; by default, one is created",
        maps_to="ECS task definition: executionRoleArn",
        allowed="ARN of a role",
        examples=["arn:aws:iam::123456789012:role/execution"],
    )
    task_role_arn: Arn = option(
        None,
        "role that the model's code runs with; by default, none: the code has no access to AWS",
        maps_to="ECS task definition: taskRoleArn",
        allowed="ARN of a role",
        examples=["arn:aws:iam::123456789012:role/churn"],
    )
    enable_execute_command: bool = option(
        False,
        "allow `mlflow-fargate exec` to run commands in the tasks, as root and with a writable root file system; "
        "requires task_role_arn (see docs/iam/task.json)",
        maps_to="ECS service: enableExecuteCommand; ECS task definition: initProcessEnabled",
        examples=["true"],
    )
    stop_timeout_seconds: int = option(
        30,
        "time between SIGTERM and SIGKILL when a task stops",
        unit="seconds",
        ge=2,
        le=120,
        maps_to="ECS task definition: stopTimeout",
        examples=["60"],
    )

    @model_validator(mode="after")
    def _check_size(self) -> Self:
        if self.cpu not in FARGATE_SIZES:
            known = ", ".join(map(str, FARGATE_SIZES))
            raise ValueError(f"cpu: Fargate does not offer {self.cpu} CPU units; use one of {known}")
        if self.memory_mib not in FARGATE_SIZES[self.cpu]:
            listed = memory_sizes(self.cpu)
            raise ValueError(f"memory={self.memory_mib}: with cpu={self.cpu} Fargate offers {listed} (MiB)")
        return self

    @property
    def file_systems(self) -> dict[str, FileSystem]:
        """The file systems to mount, by path in the container."""
        return {path: _read_file_system(path, text) for path, text in self.efs.items()}

    @model_validator(mode="after")
    def _check_efs(self) -> Self:
        _ = self.file_systems  # raises if one is invalid
        return self

    @model_validator(mode="after")
    def _check_execute_command(self) -> Self:
        if self.enable_execute_command and not self.task_role_arn:
            raise ValueError(
                "enable_execute_command requires task_role_arn: a role allowed to open ssmmessages channels "
                "(docs/iam/task.json), which ECS Exec's agent uses"
            )
        return self

    @model_validator(mode="after")
    def _check_environment(self) -> Self:
        for name in self.environment:
            if name.lower().endswith(_SECRET_ENDINGS):
                raise ValueError(
                    f"environment.{name} looks like a secret, but task definitions do not protect secrets; use "
                    f"secrets.{name}=ARN"
                )
        return self


def _read_file_system(path: str, text: str) -> FileSystem:
    if not _MOUNT_PATH.fullmatch(path) or ".." in path or path.startswith(_OF_THE_CONTAINER):
        raise ValueError(f"efs: '{path}' is not a valid mount path; use a new absolute path, such as /mnt/data")
    found = _FILE_SYSTEM.fullmatch(text)
    if found is None:
        raise ValueError(
            f"efs.{path}={text!r} must be FILE_SYSTEM[:ACCESS_POINT or :/FOLDER][:ro], such as fs-0a1b2c3d:ro"
        )
    return FileSystem(found["id"], found["point"], found["folder"], bool(found["ro"]))


def memory_sizes(cpu: int) -> str:
    """Returns the sizes in MiB for `cpu`: '512, 1024, 2048' or '4096 to 16384 in steps of 1024'."""
    sizes = FARGATE_SIZES[cpu]
    if len(sizes) <= 8:
        return ", ".join(map(str, sizes))
    return f"{sizes[0]} to {sizes[-1]} in steps of {sizes[1] - sizes[0]}"

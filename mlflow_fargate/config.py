"""Words: every option of a deployment, described once.

`DeploymentConfig` is what `-C key=value` (strings) and `config={…}` (real types) become; its fields write the help
text. `named` keeps which options the user gave, because an update keeps the others as they are.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from mlflow_fargate.errors import InvalidOption

# CPU units → memory in MiB that Fargate runs with it.
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
# https://docs.aws.amazon.com/AmazonCloudWatchLogs/latest/APIReference/API_PutRetentionPolicy.html
LOG_RETENTION_DAYS = (
    1,
    3,
    5,
    7,
    14,
    30,
    60,
    90,
    120,
    150,
    180,
    365,
    400,
    545,
    731,
    1096,
    1827,
    2192,
    2557,
    2922,
    3288,
    3653,
)
_SECRET_ENDINGS = ("password", "passwd", "secret", "token", "api_key", "apikey", "access_key", "private_key")


def _split_commas(value: object) -> object:
    return [item.strip() for item in value.split(",") if item.strip()] if isinstance(value, str) else value


def _read_json(value: object) -> object:
    return json.loads(value) if isinstance(value, str) and value.startswith("{") else value


Names = Annotated[tuple[str, ...], BeforeValidator(_split_commas)]
Table = Annotated[dict[str, str], BeforeValidator(_read_json)]


class DeploymentConfig(BaseModel):
    """The options of one deployment; unknown keys and impossible values are InvalidOption (see `parse_config`)."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    cpu: int = Field(1024, description="CPU of a task in units; 1024 is one vCPU", examples=["2048"])
    memory_mib: int = Field(2048, alias="memory", description="memory of a task in MiB", examples=["4096"])
    desired_count: int = Field(1, ge=0, le=5000, description="how many tasks run", examples=["2"])
    architecture: Literal["X86_64", "ARM64"] = Field(
        "X86_64", description="CPU architecture of the tasks; ARM64 costs about 20 % less", examples=["ARM64"]
    )
    port: int = Field(3000, ge=1024, le=65535, description="port the container listens on", examples=["5000"])
    auth: Literal["api_key", "none"] = Field(
        "api_key", description="who may call: holders of the API key, or everyone (none)", examples=["none"]
    )
    follow: str | None = Field(
        None,
        description="what the webhook service follows: a stage, an @alias, or pinned; by default what the URI says",
        examples=["Production", "@champion", "pinned"],
    )
    labels: str | None = Field(
        None, description="name of the labels file of an image classifier, beside the model or at its run's root"
    )
    environment: Table = Field(
        default_factory=dict,
        description="environment variables of the container; not for secrets",
        examples=['environment.OMP_NUM_THREADS=1 or environment={"A": "1"}'],
    )
    secrets: Table = Field(
        default_factory=dict,
        description="environment variables filled by ECS from Secrets Manager or SSM, by ARN",
        examples=["secrets.DB_PASSWORD=arn:aws:secretsmanager:…"],
    )
    base_image: str | None = Field(
        None,
        description="image to build on; by default python:3.X-slim of the model's Python",
        examples=["python:3.11-slim"],
    )
    compression: Literal["zstd", "gzip"] = Field("zstd", description="compression of the layers built here")
    requirements: Names = Field(
        (), description="further Python packages, or other versions of the model's own", examples=["xgboost-cpu==3.0"]
    )
    vpc: str | None = Field(None, description="VPC of a new endpoint; by default the account's default VPC")
    subnets: Names = Field(
        (), description="subnets of a new endpoint's load balancer and of the tasks", examples=["subnet-a,subnet-b"]
    )
    assign_public_ip: bool = Field(
        True, description="tasks get a public address; needed in subnets without NAT or VPC endpoints"
    )
    certificate_arn: str | None = Field(None, description="ACM certificate of a new endpoint; it then answers on HTTPS")
    execution_role_arn: str | None = Field(
        None, description="role with which ECS pulls the image, writes logs, reads secrets; by default one is made"
    )
    task_role_arn: str | None = Field(
        None, description="role of the model's own code; by default none: it may do nothing in AWS"
    )
    log_retention_days: int = Field(30, description="how long CloudWatch keeps the task's output")
    health_check_grace_seconds: int = Field(
        300, ge=0, le=2**31 - 1, description="how long a new task may take to load the model before health checks count"
    )
    deregistration_delay_seconds: int = Field(
        30, ge=0, le=3600, description="how long an old task finishes requests; more than the slowest prediction takes"
    )
    stop_timeout_seconds: int = Field(30, ge=2, le=120, description="seconds from SIGTERM to SIGKILL")
    wait: bool = Field(True, description="return when the deployment answers; false: when AWS has accepted it")
    timeout_seconds: int = Field(1800, ge=1, description="how long to wait for the rollout")
    dry_run: bool = Field(False, description="print the plan and change nothing")

    @model_validator(mode="after")
    def _check_together(self) -> DeploymentConfig:
        _check_size(self.cpu, self.memory_mib)
        if self.log_retention_days not in LOG_RETENTION_DAYS:
            raise ValueError(
                f"log_retention_days: CloudWatch keeps logs for one of {', '.join(map(str, LOG_RETENTION_DAYS))} days"
            )
        for name in self.environment:
            if name.lower().endswith(_SECRET_ENDINGS):
                raise ValueError(
                    f"environment.{name} looks like a secret, which a task definition shows; use secrets.{name}=ARN"
                )
        return self

    @property
    def named(self) -> dict[str, Any]:
        """The options that were given, as JSON-able values by their `-C` keys."""
        return self.model_dump(mode="json", by_alias=True, exclude_unset=True)


# These say how one call behaves, not what the deployment is: they are not kept for the next update.
OF_THE_CALL = frozenset({"wait", "timeout_seconds", "dry_run"})
# These stand on the service alone: changing one of them needs no new revision and starts no rollout.
OF_THE_SERVICE = frozenset({"desired_count", "follow"})


def parse_config(options: Mapping[str, Any] | None, kept: Mapping[str, Any] | None = None) -> DeploymentConfig:
    """The options of a call over those `kept` from an earlier one; InvalidOption names the key that cannot be meant."""
    given = _merge(kept or {}, options or {})
    try:
        return DeploymentConfig.model_validate(given)
    except ValidationError as error:
        raise InvalidOption(*_explain(error)) from error


def describe_options() -> str:
    """One paragraph an option, for `mlflow deployments help -t fargate`."""
    lines = []
    for name, field in DeploymentConfig.model_fields.items():
        default = field.get_default(call_default_factory=True)
        shown = (
            ""
            if default in (None, {}, ())
            else f" (default: {str(default).lower() if isinstance(default, bool) else default})"
        )
        example = f" e.g. {field.examples[0]}" if field.examples else ""
        lines.append(f"  {field.alias or name}: {field.description}{shown}{example}")
    return "\n".join(lines)


def _merge(kept: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """`options` over `kept`; `environment.A=1` sets one variable and leaves the table's others alone."""
    merged = dict(kept)
    for key, value in options.items():
        table, dot, name = key.partition(".")
        if not dot:
            merged[key] = value
        elif not isinstance(inner := merged.get(table, {}), Mapping):
            raise InvalidOption(f"Option {key}={value!r}: '{table}' was given as a whole as well.")
        else:
            merged[table] = {**inner, name: value}
    return merged


def _check_size(cpu: int, memory_mib: int) -> None:
    if cpu not in FARGATE_SIZES:
        raise ValueError(f"cpu: Fargate has no tasks of {cpu} CPU units, only of {', '.join(map(str, FARGATE_SIZES))}")
    sizes = FARGATE_SIZES[cpu]
    if memory_mib not in sizes:
        listed = (
            ", ".join(map(str, sizes))
            if len(sizes) <= 8
            else f"{sizes[0]} to {sizes[-1]} in steps of {sizes[1] - sizes[0]}"
        )
        raise ValueError(f"memory: with cpu={cpu} Fargate runs {listed} MiB, not {memory_mib}")


def _explain(error: ValidationError) -> tuple[str]:
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        known = [field.alias or name for name, field in DeploymentConfig.model_fields.items()]
        close = difflib.get_close_matches(key, known, n=1)
        return (f"Unknown option '{key}'." + (f" Did you mean '{close[0]}'?" if close else ""),)
    message = first["msg"].removeprefix("Value error, ")
    return (f"Option {key}={first['input']!r}: {message}." if key else f"{message}.",)

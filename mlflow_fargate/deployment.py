"""What AWS shows of a deployment: status, revisions, tasks, logs; and valid names. Frozen data.

aws/reading/ creates it. Times are ISO 8601 strings in UTC.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, get_args
from urllib.parse import urlsplit

from mlflow_fargate.config import DeploymentConfig
from mlflow_fargate.resolved_model import Provenance

Stage = Literal["Staging", "Production", "Archived"]
STAGES: tuple[Stage, ...] = get_args(Stage)
PLAIN_HTTP = (
    "WARNING: callers send the API key and their inputs over plain HTTP, where others can read them. For HTTPS, "
    "use your domain: mlflow deployments update-endpoint … -C domain=churn.example.com"
)
# Requests with this header and a variant's name get its answer, and each of its answers has it.
VARIANT_HEADER = "X-Model-Variant"
# Used as a path, as the name of a service, and in image tags.
DEPLOYMENT_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,62}")
NAME_HINT = "use 1 to 63 letters, digits, '-' and '_', starting with a letter"


@dataclass(frozen=True)
class DeploymentStatus:
    """A deployment as AWS shows it now."""

    name: str
    endpoint: str
    url: str  # for callers
    load_balancer_url: str  # with the load balancer's own name, which certificates do not cover
    state: str  # IN_PROGRESS, COMPLETED or FAILED: of the newest rollout
    state_reason: str
    desired_count: int
    running_count: int
    image: str  # empty if the record of model and options is lost: its task definition was deleted or damaged by hand
    provenance: Provenance
    settings: DeploymentConfig = field(hash=False)  # options that were set
    follow: str  # 'Production', '@champion' or 'pinned'
    task_definition: str  # ARN of the revision that is deployed, or being rolled out
    created_at: str  # ISO 8601
    updated_at: str
    api_key_secret: str | None = None  # ARN of the secret with the key; None: open to everyone
    last_failed_version: str | None = None  # model version of the newest rollout, if that failed
    last_failed_registered_ms: int | None = None  # when that version was registered
    strategy: str = "rolling"  # the requested strategy
    strategy_refused: str | None = None  # why the service uses rolling updates instead
    traffic_shares: Mapping[str, float] = field(default_factory=dict, hash=False)  # of each version during a shift
    subnets: tuple[str, ...] = ()  # of the tasks
    assigns_public_ip: bool = False

    @property
    def variant(self) -> str | None:
        """Its name among the variants of a deployment: 'challenger' for 'churn-challenger'; None: it is not one."""
        return variant_name(self.name, self.settings.variant_of)

    @property
    def headers(self) -> dict[str, str]:
        """What a request needs so that this deployment answers it, and not another variant."""
        return {VARIANT_HEADER: self.variant} if self.variant else {}

    @property
    def exposes_key(self) -> bool:
        """Whether callers send the API key unencrypted over a network."""
        parts = urlsplit(self.url)
        return bool(self.api_key_secret) and parts.scheme == "http" and parts.hostname not in {"127.0.0.1", "localhost"}


def variant_name(name: str, variant_of: str | None) -> str | None:
    """Returns the part of a variant's `name` after that of its deployment; None without `variant_of`."""
    return name.removeprefix(f"{variant_of}-") if variant_of else None


def as_dict(status: DeploymentStatus) -> dict[str, Any]:
    """Returns plain values in a stable order, `name` first, because MLflow prints them. Unknown values are empty."""
    provenance = status.provenance
    told = {
        "name": status.name,
        "flavor": provenance.flavor,
        "url": status.url,
        "state": status.state,
        "state_reason": status.state_reason,
        "endpoint": status.endpoint,
        "model_uri": provenance.requested_uri,
        "resolved_model_uri": provenance.resolved_uri,
        "model_name": provenance.name,
        "model_version": provenance.version,
        "model_registered_ms": provenance.registered_ms,
        "run_id": provenance.run_id,
        "fingerprint": provenance.fingerprint,
        "follow": status.follow,
        "strategy": f"rolling: {status.strategy_refused}" if status.strategy_refused else status.strategy,
        "traffic_shares": ", ".join(f"{share:g}% on {version}" for version, share in status.traffic_shares.items()),
        "last_failed_version": status.last_failed_version,
        "desired_count": status.desired_count,
        "running_count": status.running_count,
        "image": status.image,
        "task_definition": status.task_definition,
        "created_at": status.created_at,
        "updated_at": status.updated_at,
    }
    if status.settings.inference_log:
        told["inference_log"] = status.settings.inference_log
    if status.settings.variant_of:
        told["variant_of"] = status.settings.variant_of
    if status.last_failed_registered_ms is not None:
        told["last_failed_registered_ms"] = status.last_failed_registered_ms
    return {key: "" if value is None else value for key, value in told.items()}


@dataclass(frozen=True)
class WebhookStatus:
    """The webhook service of an endpoint as AWS shows it now."""

    endpoint: str
    url: str
    state: str  # IN_PROGRESS, COMPLETED or FAILED: of the newest rollout
    state_reason: str
    running_count: int
    image: str
    settings: DeploymentConfig = field(hash=False)  # options that were set
    artifact_buckets: tuple[str, ...]
    task_role: str  # ARN
    task_definition: str  # ARN of the revision that is deployed, or being rolled out
    log_group: str
    updated_at: str
    subnets: tuple[str, ...] = ()  # of the tasks
    assigns_public_ip: bool = False


@dataclass(frozen=True)
class Revision:
    """One revision of a deployment's task definition: deployed now, earlier, or never successfully."""

    number: int
    task_definition: str  # ARN
    state: str  # COMPLETED: rolled out at least once; IN_PROGRESS, FAILED; UNKNOWN: no rollout on record
    is_current: bool  # deployed, or being rolled out
    image: str
    provenance: Provenance
    settings: DeploymentConfig = field(hash=False)  # options that were set
    registered_at: str
    registered_by: str  # ARN of a user or role, recorded by AWS
    rolled_out_at: str | None = None  # start of its newest rollout
    completed_at: str | None = None  # start of its newest rollout that completed
    was_left: bool = False  # ECS or `rollback` went back from its newest rollout
    unfinished_rollback_to: int | None = None  # the revision to which an interrupted `rollback` goes back from it


@dataclass(frozen=True)
class RequestedRollout:
    """The rollout that ECS returned to the call that requested it."""

    id: str
    task_definition: str  # ARN
    began: datetime  # by ECS's clock


@dataclass(frozen=True)
class TaskStatus:
    """One task of a deployment, running or stopped within about the last hour."""

    id: str
    state: str  # PROVISIONING … RUNNING … STOPPED
    revision: int
    started_at: str | None = None
    stopped_at: str | None = None
    stopped_reason: str | None = None
    exit_code: int | None = None  # of the model's container


@dataclass(frozen=True)
class ServiceEvent:
    """An ECS service event."""

    id: str
    at: str
    message: str


@dataclass(frozen=True)
class LogLine:
    """One line of a task's output."""

    id: str
    at_milliseconds: int  # since 1970
    task: str
    message: str


@dataclass(frozen=True)
class Alarm:
    """A CloudWatch alarm as it is now."""

    name: str
    state: str  # OK, ALARM or INSUFFICIENT_DATA
    reason: str

    def __str__(self) -> str:
        return f"alarm {self.name} is in {self.state}: {self.reason}"


@dataclass(frozen=True)
class Orphan:
    """What is left of a deployment without a service, of an endpoint without a cluster, or of killed updates."""

    endpoint: str
    name: str | None  # None: the endpoint itself
    resources: tuple[str, ...]  # ARNs; for images repository:tag
    is_deployed: bool = False  # then the resources are revisions that were never rolled out


@dataclass(frozen=True)
class Traffic:
    """Some minutes of a deployment's load balancer metrics."""

    at: str  # ISO 8601, start of the minutes
    minutes: int
    requests: int
    errors: int  # 5xx responses of the model
    p50_seconds: float | None  # median of the response time; None: no requests
    p99_seconds: float | None  # 99th percentile

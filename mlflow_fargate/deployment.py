"""Words: what a deployment may be called and follow, and what AWS shows of it: status, revisions, tasks. Frozen data.

aws/reading/ makes it. Moments are ISO 8601 texts in UTC.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Literal, get_args

from mlflow_fargate.config import DeploymentConfig
from mlflow_fargate.resolved_model import Provenance

Stage = Literal["Staging", "Production", "Archived"]
STAGES: tuple[Stage, ...] = get_args(Stage)
# It becomes a path, a service and part of an image tag.
DEPLOYMENT_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,62}")
NAME_HINT = "1 to 63 letters, digits, '-' and '_', beginning with a letter"


@dataclass(frozen=True)
class DeploymentStatus:
    """A deployment as AWS shows it now."""

    name: str
    endpoint: str
    url: str  # for callers
    load_balancer_url: str  # the same by the load balancer's own name, for which no certificate stands
    state: str  # IN_PROGRESS, COMPLETED or FAILED: of the newest rollout
    state_reason: str
    desired_count: int
    running_count: int
    image: str
    provenance: Provenance
    settings: DeploymentConfig = field(hash=False)  # options that were named
    follow: str  # 'Production', '@champion' or 'pinned'
    task_definition: str  # ARN of the revision that serves (or is rolled out)
    created_at: str  # ISO 8601
    updated_at: str
    api_key_secret: str | None = None  # ARN of the secret that holds the key; None: open to everyone
    last_failed_version: str | None = None  # model version of the newest rollout, where ECS gave that up
    strategy: str = "rolling"  # how new tasks take over, as it is wanted
    strategy_refused: str | None = None  # why the service rolls all the same


@dataclass(frozen=True)
class WebhookStatus:
    """The webhook service of an endpoint as AWS shows it now."""

    endpoint: str
    url: str
    state: str  # IN_PROGRESS, COMPLETED or FAILED: of the newest rollout
    state_reason: str
    running_count: int
    image: str
    settings: DeploymentConfig = field(hash=False)  # options that were named
    artifact_buckets: tuple[str, ...]
    task_role: str  # ARN
    task_definition: str  # ARN of the revision that runs (or is rolled out)
    log_group: str
    updated_at: str


@dataclass(frozen=True)
class Revision:
    """One revision of a deployment's task definition: what was served, is served, or failed to be."""

    number: int
    task_definition: str  # ARN
    state: str  # COMPLETED: it was rolled out once; IN_PROGRESS, FAILED; UNKNOWN: ECS has no record of a rollout
    is_current: bool  # the service runs it, or is about to
    image: str
    provenance: Provenance
    settings: DeploymentConfig = field(hash=False)  # options that were named
    registered_at: str
    registered_by: str  # ARN of a user or role, as AWS noted it
    rolled_out_at: str | None = None  # beginning of its newest rollout


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
    """What ECS told of a service, in its own words."""

    id: str
    at: str
    message: str


@dataclass(frozen=True)
class LogLine:
    """One line that a task wrote."""

    id: str
    at_milliseconds: int  # since 1970
    task: str
    message: str


@dataclass(frozen=True)
class Orphan:
    """What is left of a deployment that has no service, or of an endpoint that has no cluster any more."""

    endpoint: str
    name: str | None  # None: of the endpoint itself
    resources: tuple[str, ...]  # ARNs, and repository:tag of images


@dataclass(frozen=True)
class Traffic:
    """Five minutes of what a deployment's load balancer counted."""

    at: str  # ISO 8601: when they began
    requests: int
    errors: int  # 5xx answers of the model
    p95_seconds: float | None  # 95 of 100 answers were faster; None: there was none

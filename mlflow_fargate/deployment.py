"""Words: what is asked for and what is seen. Frozen data without behaviour that reaches outside.

A URI becomes a `ResolvedModel` (model/), that and the options become a `DeploymentSpec` (deployer.py), and what AWS
shows of it is a `DeploymentStatus`, its tasks, events, log lines and revisions (aws/). Moments are ISO 8601
texts in UTC.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

DEFAULT_FLAVOR = "python_function"
EXPLAINER_FLAVOR = "shap"
_USER_IN_URL = re.compile(r"(?<=://)[^/\s'\"]*@")


def without_credentials(text: str) -> str:
    """`text` with `user:password@` taken out of every URL in it: tracking URIs carry them, and MLflow repeats them."""
    return _USER_IN_URL.sub("", text)


def web_url(url: str | None) -> str | None:
    """`url` without credentials and slashes at its end, if it is one that a browser may be sent to: it names a host."""
    if url is None or not url.startswith(("http://", "https://")):
        return None
    bare = without_credentials(url).rstrip("/")
    return bare if "://" in bare else None


@dataclass(frozen=True)
class ModelFile:
    """One file of a model: `path` relative to the model's root, POSIX, never absolute and never through `..`."""

    path: str
    size_bytes: int
    etag: str | None = None  # None: the store tells none (the tracking server's proxy, a local path)


@dataclass(frozen=True)
class ResolvedModel:
    """A model URI, resolved once: which version it is, and where each of its files lies."""

    requested_uri: str  # as the user wrote it, credentials taken out
    resolved_uri: str  # models:/NAME/VERSION where registered, else models:/m-…, runs:/… or the storage URI
    artifact_uri: str  # the model's root: s3://…, mlflow-artifacts:/… or a local path
    files: tuple[ModelFile, ...]  # sorted by path
    metadata: Mapping[str, Any] = field(hash=False)  # the parsed MLmodel file
    requirements: tuple[str, ...] = ()  # lines of the model's requirements.txt
    python_version: str | None = None  # '3.11.7', from python_env.yaml; None: the model does not say
    name: str | None = None  # registered model
    version: str | None = None
    run_id: str | None = None
    labels_uri: str | None = None  # full URI of the labels file found beside the model or at its run's root
    labels_etag: str | None = None

    @property
    def flavors(self) -> Mapping[str, Any]:
        flavors: Mapping[str, Any] = self.metadata.get("flavors", {})
        return flavors

    @property
    def size_bytes(self) -> int:
        return sum(file.size_bytes for file in self.files)

    @property
    def fingerprint(self) -> str:
        """32 hex digits that change when any file of the model does: its place, names, sizes and ETags.

        ETags say "unchanged", not "same content" (multipart and KMS make them differ for equal bytes), so two copies
        of one model have two fingerprints.
        """
        digest = hashlib.sha256(self.artifact_uri.encode())
        for file in self.files:
            digest.update(f"\n{file.path}\0{file.size_bytes}\0{file.etag or ''}".encode())
        digest.update(f"\nlabels\0{self.labels_uri or ''}\0{self.labels_etag or ''}".encode())
        return digest.hexdigest()[:32]


@dataclass(frozen=True)
class Provenance:
    """Where what is deployed came from; stands on the task definition, so that a rollback by ECS takes it back too."""

    requested_uri: str
    resolved_uri: str
    fingerprint: str
    flavor: str
    name: str | None = None
    version: str | None = None
    run_id: str | None = None
    runtime: str | None = None  # what computes, and why; None: the model's own library, and nothing else was asked for


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
    settings: Mapping[str, Any] = field(hash=False)  # options that were named, as they were parsed
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
    settings: Mapping[str, Any] = field(hash=False)  # options that were named, as they were parsed
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
    settings: Mapping[str, Any] = field(hash=False)  # options that were named, as they were parsed
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

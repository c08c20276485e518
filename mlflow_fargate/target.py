"""Where to deploy: the target URI, parsed once, and settings that are read from the environment only here.

    fargate                          the AWS session's region, endpoint `default`
    fargate:/us-east-2               another region
    fargate:/us-east-2/prod          another endpoint; fargate://eu-west-1/prod and fargate:eu-west-1/prod mean the same
    fargate:/us-east-2?profile=ml    credentials of a named AWS profile
    fargate:/local                   the local stack (`mlflow-fargate local up`)

This is the only place outside `local/` that knows `fargate:/local`: to all other code it is another AWS endpoint URL.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from platformdirs import user_cache_path

from mlflow_fargate.errors import InvalidOption, LocalStackError, did_you_mean

LOCAL_REGION = "local"
# Where new deployments run unless their options say so; `mlflow-fargate tracking env` prints them.
NETWORK_VARIABLES = {"FARGATE_VPC": "vpc", "FARGATE_SUBNETS": "subnets", "FARGATE_SECURITY_GROUPS": "security_groups"}
_REGION = re.compile(r"[a-z]{2}(-[a-z]+)+-\d")
_ENDPOINT = re.compile(r"[a-z][a-z0-9-]{0,15}")
# Only for suggestions: any region that AWS has can be used.
_REGIONS = re.findall(
    r"\S+",
    "af-south-1 ap-east-1 ap-northeast-1 ap-northeast-2 ap-northeast-3 ap-south-1 ap-south-2 ap-southeast-1 "
    "ap-southeast-2 ap-southeast-3 ap-southeast-4 ca-central-1 ca-west-1 eu-central-1 eu-central-2 eu-north-1 "
    "eu-south-1 eu-south-2 eu-west-1 eu-west-2 eu-west-3 il-central-1 me-central-1 me-south-1 sa-east-1 us-east-1 "
    "us-east-2 us-gov-east-1 us-gov-west-1 us-west-1 us-west-2 cn-north-1 cn-northwest-1 local",
)


@dataclass(frozen=True)
class ArtifactSettings:
    """MLflow's settings for the S3 store of its artifacts.

    Source: mlflow/store/artifact/s3_artifact_repo.py
    """

    endpoint_url: str | None = None  # another store than AWS
    verifies_tls: bool = True
    addressing_style: str | None = None  # path, virtual or auto
    signature_version: str | None = None
    bucket_owner: str | None = None  # the account; requests to a bucket of another one fail

    @classmethod
    def parse(cls, environ: Mapping[str, str]) -> ArtifactSettings:
        """Returns the settings in `environ`; raises InvalidOption for a value that is neither true nor false."""
        ignores_tls = environ.get("MLFLOW_S3_IGNORE_TLS", "false").lower()
        if ignores_tls not in {"true", "false", "1", "0"}:
            raise InvalidOption(f"MLFLOW_S3_IGNORE_TLS={ignores_tls!r} must be true or false.")
        return cls(
            environ.get("MLFLOW_S3_ENDPOINT_URL"),
            ignores_tls in {"false", "0"},
            environ.get("MLFLOW_BOTO_CLIENT_ADDRESSING_STYLE"),
            environ.get("MLFLOW_EXPERIMENTAL_S3_SIGNATURE_VERSION"),
            environ.get("MLFLOW_S3_EXPECTED_BUCKET_OWNER"),
        )


MLFLOWS_DEFAULTS = ArtifactSettings()


@dataclass(frozen=True)
class TargetEnvironment:
    """Other addresses of AWS and the public registries, for the local stack, and programs to use."""

    aws_endpoint_url: str | None = None
    access_key_id: str | None = None
    secret_access_key: str | None = field(default=None, repr=False)
    registry_mirrors: Mapping[str, str] = field(default_factory=dict, hash=False)
    session_manager_plugin: tuple[str, ...] = ("session-manager-plugin",)  # for ECS Exec's sessions
    artifacts: ArtifactSettings = MLFLOWS_DEFAULTS
    network: Mapping[str, str] = field(default_factory=dict, hash=False)  # options of new deployments


@dataclass(frozen=True)
class Target:
    """A parsed target URI."""

    uri: str
    region: str | None = None  # None: the AWS session's region
    endpoint: str = "default"
    profile: str | None = None
    environment: TargetEnvironment = TargetEnvironment()


def uri_for_tasks(target: Target, region: str) -> str:
    """Returns the URI of the target for a task in `region`: without a profile, because the task has a role."""
    return f"fargate:/{region if target.environment.aws_endpoint_url is None else LOCAL_REGION}/{target.endpoint}"


def cache_directory(environ: Mapping[str, str] = os.environ) -> Path:
    """Returns the folder for downloaded models, built layers and the local stack's state."""
    override = environ.get("MLFLOW_FARGATE_CACHE")
    return Path(override) if override else user_cache_path("mlflow-fargate", appauthor=False)


def local_state_file(cache: Path) -> Path:
    """Returns the file to which a running local stack writes its addresses."""
    return cache / "local" / "stack.json"


def parse_target(uri: str, environ: Mapping[str, str] = os.environ) -> Target:
    """Parses a target URI; raises InvalidOption, or LocalStackError if the local stack is not running."""
    try:
        parts = urlsplit(uri if ":" in uri else f"{uri}:")
    except ValueError as error:
        raise InvalidOption(f"'{uri}' is not a URI: {error}.", hint="use fargate:/REGION or fargate:/local") from error
    if parts.scheme.lower() != "fargate":
        raise InvalidOption(f"'{uri}' is not a target of this plugin.", hint="use fargate:/REGION or fargate:/local")
    names = [name for name in f"{parts.netloc}/{parts.path}".split("/") if name]
    if len(names) > 2:
        raise InvalidOption(
            f"Target '{uri}' has more than a region and an endpoint.", hint="use fargate:/REGION/ENDPOINT"
        )
    region = names[0] if names else None
    endpoint = check_endpoint_name(names[1]) if len(names) == 2 else "default"
    query = parse_qs(parts.query, keep_blank_values=True)
    if unknown := sorted(set(query) - {"profile"}):
        raise InvalidOption(
            f"Target '{uri}' has an unknown parameter '{unknown[0]}'.", hint="only ?profile=NAME is supported"
        )
    profile = query["profile"][0] if "profile" in query else None
    if region == LOCAL_REGION:
        return _local_target(uri, endpoint, environ)
    if region is not None and not _REGION.fullmatch(region):
        raise InvalidOption(
            f"'{region}' in target '{uri}' is not an AWS region.",
            hint=did_you_mean(region, _REGIONS) or "for example fargate:/us-east-2, or fargate:/local",
        )
    environment = TargetEnvironment(artifacts=ArtifactSettings.parse(environ), network=_network(environ))
    return Target(uri=uri, region=region, endpoint=endpoint, profile=profile, environment=environment)


def check_endpoint_name(name: str) -> str:
    """Returns `name`; InvalidOption if it is not a valid endpoint name. AWS names of 32 characters contain it."""
    if _ENDPOINT.fullmatch(name):
        return name
    raise InvalidOption(
        f"'{name}' is not a valid endpoint name.",
        hint="use 1 to 16 lowercase letters, digits and '-', starting with a letter",
    )


def read_local_state(cache: Path) -> dict[str, Any] | None:
    """Returns the state of the running local stack; None if it is not running."""
    try:
        state: dict[str, Any] = json.loads(local_state_file(cache).read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        return None
    return state if _is_running(state.get("pid"), state.get("process_start")) else None


def process_start(pid: int) -> int | None:
    """Returns when the process started, in clock ticks after the system; None if it does not exist.

    With the PID, which is reused, it identifies a process. Source: proc_pid_stat(5), field 22.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    # Field 2, the name, can contain anything, also parentheses.
    return int(stat.rpartition(")")[2].split()[19])


def _is_running(pid: object, started: object) -> bool:
    found = process_start(pid) if isinstance(pid, int) else None
    # A task's copy of the file has no start: it names the first process of its container.
    return found is not None and started in (None, found)


def _network(environ: Mapping[str, str]) -> dict[str, str]:
    return {option: environ[name] for name, option in NETWORK_VARIABLES.items() if environ.get(name)}


def _local_target(uri: str, endpoint: str, environ: Mapping[str, str]) -> Target:
    state = read_local_state(cache_directory(environ))
    if state is None:
        raise LocalStackError("The local stack is not running.", hint="start it with: mlflow-fargate local up --detach")
    environment = TargetEnvironment(
        aws_endpoint_url=str(state["aws_endpoint_url"]),
        access_key_id=str(state["access_key_id"]),
        secret_access_key=str(state["secret_access_key"]),
        registry_mirrors=state["registry_mirrors"],
        session_manager_plugin=tuple(state["session_manager_plugin"]),
        artifacts=ArtifactSettings.parse(environ),
        network=_network(environ),
    )
    return Target(uri=uri, region=str(state["region"]), endpoint=endpoint, environment=environment)

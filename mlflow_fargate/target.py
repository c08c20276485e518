"""Where to deploy: the target URI, parsed once, and the environment variables, which are read only here.

    fargate                          the AWS session's region, endpoint `default`
    fargate:/us-east-2               another region
    fargate:/us-east-2/prod          another endpoint; fargate://eu-west-1/prod and fargate:eu-west-1/prod mean the same
    fargate:/us-east-2?profile=ml    credentials of a named AWS profile
    fargate:/local                   the local stack on this machine (`mlflow-fargate local up`)

This is the only module outside `local/` that knows `fargate:/local`: for the rest, it is just another AWS endpoint
URL.
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

from mlflow_fargate.errors import InvalidOption, LocalStackError

LOCAL_REGION = "local"
_REGION = re.compile(r"[a-z]{2}(-[a-z]+)+-\d")
_ENDPOINT = re.compile(r"[a-z][a-z0-9-]{0,15}")


@dataclass(frozen=True)
class TargetEnvironment:
    """Endpoints of AWS and of public registries if they are not the default ones, and external programs."""

    aws_endpoint_url: str | None = None
    access_key_id: str | None = None
    secret_access_key: str | None = field(default=None, repr=False)
    registry_mirrors: Mapping[str, str] = field(default_factory=dict, hash=False)
    session_manager_plugin: tuple[str, ...] = ("session-manager-plugin",)  # runs ECS Exec sessions
    s3_endpoint_url: str | None = None  # MLFLOW_S3_ENDPOINT_URL: where MLflow's artifacts are, if not at AWS's S3


@dataclass(frozen=True)
class Target:
    """A parsed target URI."""

    uri: str
    region: str | None = None  # None: the AWS session's own
    endpoint: str = "default"
    profile: str | None = None
    environment: TargetEnvironment = TargetEnvironment()


def uri_for_tasks(target: Target, region: str) -> str:
    """Returns the target URI for a task running in `region`: without a profile, because it has a role."""
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
        raise InvalidOption(f"Target '{uri}' has more than a region and an endpoint.", hint="fargate:/REGION/ENDPOINT")
    region = names[0] if names else None
    endpoint = check_endpoint_name(names[1]) if len(names) == 2 else "default"
    query = parse_qs(parts.query, keep_blank_values=True)
    if unknown := sorted(set(query) - {"profile"}):
        raise InvalidOption(
            f"Target '{uri}' has an unknown parameter '{unknown[0]}'.", hint="only ?profile=NAME is read"
        )
    profile = query["profile"][0] if "profile" in query else None
    if region == LOCAL_REGION:
        return _local_target(uri, endpoint, environ)
    if region is not None and not _REGION.fullmatch(region):
        raise InvalidOption(
            f"'{region}' in target '{uri}' is not an AWS region.",
            hint="for example fargate:/us-east-2, or fargate:/local",
        )
    environment = TargetEnvironment(s3_endpoint_url=environ.get("MLFLOW_S3_ENDPOINT_URL"))
    return Target(uri=uri, region=region, endpoint=endpoint, profile=profile, environment=environment)


def check_endpoint_name(name: str) -> str:
    """Returns `name` if it is a valid endpoint name; it becomes part of AWS names of at most 32 characters."""
    if _ENDPOINT.fullmatch(name):
        return name
    raise InvalidOption(
        f"'{name}' is not a valid endpoint name.",
        hint="use 1 to 16 characters: lowercase letters, digits and '-', starting with a letter",
    )


def read_local_state(cache: Path) -> dict[str, Any] | None:
    """Returns the running local stack's state file, or None if it is not running."""
    try:
        state: dict[str, Any] = json.loads(local_state_file(cache).read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        return None
    return state if _is_running(state.get("pid")) else None


def _is_running(pid: object) -> bool:
    if not isinstance(pid, int):
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


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
        s3_endpoint_url=environ.get("MLFLOW_S3_ENDPOINT_URL"),
    )
    return Target(uri=uri, region=str(state["region"]), endpoint=endpoint, environment=environment)

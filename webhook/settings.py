"""The webhook service's settings, read from the environment once.

MLFLOW_TRACKING_URI               the tracking server whose model registry is followed (or MLFLOW_REGISTRY_URI)
FARGATE_TARGET                    where the deployments are: fargate:/us-east-2/prod (or MLFLOW_DEPLOYMENTS_TARGET)
FARGATE_WEBHOOK_SECRET            secret that signs events; without it, events are refused and only polling is left
FARGATE_WEBHOOK_SECRET_PREVIOUS   still valid while a new secret is being rolled out
FARGATE_WEBHOOK_RULES             file with rules (rules.py), read at each poll; without rules, nothing is created
FARGATE_WEBHOOK_MODELS            the same inline: {churn: {stage: Production}}
FARGATE_WEBHOOK_RULES_IN_TAGS     true: without rules, the tags of registered models are the rules; default false
FARGATE_WEBHOOK_POLL_SECONDS      seconds between polls; 30
FARGATE_WEBHOOK_RETRY_SECONDS     delay before retrying a failed change (unless ECS rolled back), doubled each time; 60
FARGATE_WEBHOOK_TOKEN             token for the page, /status, /metrics and retry
FARGATE_WEBHOOK_PUBLIC            true: these are readable without the token; retry still requires it
FARGATE_WEBHOOK_ALLOWED_CIDRS     who can use anything but the health checks: 10.0.0.0/8,192.0.2.7; default: everyone
FARGATE_WEBHOOK_BEHIND_PROXY      true: a client's address is the last in X-Forwarded-For; only behind a load balancer
FARGATE_WEBHOOK_MLFLOW_URL        MLflow's address for links on the page; by default the tracking server's address
FARGATE_WEBHOOK_LOG               json or text; by default text on a terminal and json elsewhere
FARGATE_WEBHOOK_NOTIFY_URL        a Slack-compatible URL that receives a message per rollout; a secret
FARGATE_WEBHOOK_NOTIFY_TOPIC_ARN  an SNS topic that receives the same message
FARGATE_WEBHOOK_LEASE             s3://BUCKET/KEY: only the replica that holds it acts; without it, all replicas act
FARGATE_WEBHOOK_LEASE_SECONDS     lifetime of the lease: after this, a standby replaces a dead holder; 30
FARGATE_WEBHOOK_HOST, _PORT       address and port to listen on; 127.0.0.1 and 8080
FARGATE_WEBHOOK_PREFIX            path prefix that a load balancer does not strip: /_webhook; by default none
FARGATE_WEBHOOK_STOP_SECONDS      how long a shutdown waits for running rollouts; 20
"""

from __future__ import annotations

import ipaddress
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from mlflow_fargate.errors import InvalidOption
from mlflow_fargate.resolved_model import web_url
from mlflow_fargate.webhook.http.access import Networks

_BOOLEANS = {"true": True, "false": False}


@dataclass(frozen=True)
class Settings:
    """The settings of `serve`."""

    tracking_uri: str = field(repr=False)  # can contain a password
    target: str = "fargate"
    registry_uri: str | None = field(default=None, repr=False)  # None: the tracking server's own
    secrets: tuple[str, ...] = field(default=(), repr=False)
    rules_file: Path | None = None
    models: str | None = None  # rules as text, if there is no file
    rules_in_tags: bool = False
    poll_seconds: float = 30
    retry_seconds: float = 60
    token: str | None = field(default=None, repr=False)
    is_public: bool = False
    allowed_cidrs: Networks = ()  # empty: everyone
    is_behind_proxy: bool = False
    mlflow_url: str | None = None  # for people, without credentials; None: MLflow has no web address
    logs_as_json: bool | None = None  # None: unless stderr is a terminal
    notify_url: str | None = field(default=None, repr=False)
    notify_topic_arn: str | None = None
    lease: str | None = None  # s3://BUCKET/KEY
    lease_seconds: float = 30
    host: str = "127.0.0.1"
    port: int = 8080  # 0: any free port
    prefix: str = ""  # of all paths, if the load balancer does not strip it
    stop_seconds: float = 20


def parse_settings(environ: Mapping[str, str]) -> Settings:
    """Returns the settings in an environment; InvalidOption if one is missing or invalid."""
    tracking_uri = environ.get("MLFLOW_TRACKING_URI", "")
    if not tracking_uri:
        raise InvalidOption("MLFLOW_TRACKING_URI is not set.", hint="set it to the tracking server to follow: http://…")
    rules_file = environ.get("FARGATE_WEBHOOK_RULES")
    if rules_file and environ.get("FARGATE_WEBHOOK_MODELS"):
        raise InvalidOption(
            "FARGATE_WEBHOOK_RULES and FARGATE_WEBHOOK_MODELS are both set.", hint="put all rules in the file"
        )
    secrets = (environ.get("FARGATE_WEBHOOK_SECRET"), environ.get("FARGATE_WEBHOOK_SECRET_PREVIOUS"))
    return Settings(
        tracking_uri=tracking_uri,
        target=environ.get("FARGATE_TARGET") or environ.get("MLFLOW_DEPLOYMENTS_TARGET") or "fargate",
        registry_uri=environ.get("MLFLOW_REGISTRY_URI") or None,
        secrets=tuple(secret for secret in secrets if secret),
        rules_file=Path(rules_file) if rules_file else None,
        models=environ.get("FARGATE_WEBHOOK_MODELS") or None,
        rules_in_tags=_choice(environ, "FARGATE_WEBHOOK_RULES_IN_TAGS", _BOOLEANS) or False,
        poll_seconds=_number(environ, "FARGATE_WEBHOOK_POLL_SECONDS", default=30, least=1, most=86_400),
        retry_seconds=_number(environ, "FARGATE_WEBHOOK_RETRY_SECONDS", default=60, least=1, most=3600),
        token=environ.get("FARGATE_WEBHOOK_TOKEN") or None,
        is_public=_choice(environ, "FARGATE_WEBHOOK_PUBLIC", _BOOLEANS) or False,
        allowed_cidrs=_networks(environ, "FARGATE_WEBHOOK_ALLOWED_CIDRS"),
        is_behind_proxy=_choice(environ, "FARGATE_WEBHOOK_BEHIND_PROXY", _BOOLEANS) or False,
        mlflow_url=web_url(environ.get("FARGATE_WEBHOOK_MLFLOW_URL") or tracking_uri),
        logs_as_json=_choice(environ, "FARGATE_WEBHOOK_LOG", {"json": True, "text": False}),
        notify_url=_matching(environ, "FARGATE_WEBHOOK_NOTIFY_URL", r"https?://\S+", "https://…"),
        notify_topic_arn=_matching(
            environ, "FARGATE_WEBHOOK_NOTIFY_TOPIC_ARN", r"arn:[\w-]+:sns:[\w-]+:\d+:[\w.-]+", "arn:aws:sns:…"
        ),
        lease=_matching(environ, "FARGATE_WEBHOOK_LEASE", r"s3://[a-z0-9.-]+/\S+", "s3://BUCKET/KEY"),
        lease_seconds=_number(environ, "FARGATE_WEBHOOK_LEASE_SECONDS", default=30, least=1, most=600),
        host=environ.get("FARGATE_WEBHOOK_HOST") or "127.0.0.1",
        port=int(_number(environ, "FARGATE_WEBHOOK_PORT", default=8080, least=0, most=65_535)),
        prefix=_matching(environ, "FARGATE_WEBHOOK_PREFIX", r"(/[\w.-]+)+", "/PATH") or "",
        stop_seconds=_number(environ, "FARGATE_WEBHOOK_STOP_SECONDS", default=20, least=0, most=3600),
    )


def _number(environ: Mapping[str, str], name: str, *, default: float, least: float, most: float) -> float:
    text = environ.get(name, "")
    if not text:
        return default
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not least <= number <= most:
        raise InvalidOption(f"{name}={text} is not a number from {least:g} to {most:g}.")
    return number


def _networks(environ: Mapping[str, str], name: str) -> Networks:
    parts = [part.strip() for part in environ.get(name, "").split(",") if part.strip()]
    try:
        return tuple(map(ipaddress.ip_network, parts))
    except ValueError as error:
        raise InvalidOption(f"{name}: {error}.", hint="list networks: 10.0.0.0/8,192.0.2.7") from error


def _matching(environ: Mapping[str, str], name: str, pattern: str, shape: str) -> str | None:
    text = environ.get(name, "").strip()
    if text and not re.fullmatch(pattern, text):
        raise InvalidOption(f"{name} is not of the form {shape}.")  # without the value: it can be a secret
    return text or None


def _choice(environ: Mapping[str, str], name: str, meanings: Mapping[str, bool]) -> bool | None:
    text = environ.get(name, "").lower()
    if text and text not in meanings:
        raise InvalidOption(f"{name}={environ[name]} is not {' or '.join(meanings)}.")
    return meanings.get(text)

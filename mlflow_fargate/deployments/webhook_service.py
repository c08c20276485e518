"""The story of the webhook service on Fargate: from this package to a URL that takes events; and its end.

    check the options → publish its image (publisher/) → plan → apply → watch the rollout → answer (roll_out.py)

It is not a model: no list of deployments shows it. Functions over a `Deployer`; what runs is read from AWS, so that the
same call again writes nothing, and one with another option changes that alone.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from urllib.parse import urlsplit

from mlflow_fargate.config import OF_THE_CALL, DeploymentConfig, NamedOptions, parse_config
from mlflow_fargate.config.endpoint_options import EndpointOptions
from mlflow_fargate.config.task_options import TaskOptions
from mlflow_fargate.deployment import WebhookStatus
from mlflow_fargate.deployments.deployer import Deployer
from mlflow_fargate.deployments.roll_out import EVERY_KIND
from mlflow_fargate.errors import DeploymentNotFound, InvalidOption
from mlflow_fargate.publisher import WebhookPublisher
from mlflow_fargate.resources import WEBHOOK, WebhookSpec
from mlflow_fargate.target import uri_for_tasks

TRACKING_URI = "environment.MLFLOW_TRACKING_URI"
RULES = "environment.FARGATE_WEBHOOK_MODELS"
# The others are about a model: how it is served, who may call it, what it follows, how its tasks are counted.
_OPTIONS = frozenset(
    {
        *(
            field.alias or name
            for group in (TaskOptions, EndpointOptions)
            for name, field in group.model_fields.items()
        ),
        *OF_THE_CALL,
        *("spot", "tags", "host", "log_retention_days", "health_check_grace_seconds", "deregistration_delay_seconds"),
        *("requirements", "index_url", "extra_index_urls", "base_image", "system_packages", "missing_libraries"),
        "compression",
    }
)
# It has tokens of its own, and its requests take no time.
_FIRST_OPTIONS = parse_config({"auth": "none", "deregistration_delay_seconds": 5})
# ECS takes 64 KiB of a task definition, in which the rules stand twice: for the service, and among its options.
_RULES_LIMIT_BYTES = 24 * 1024


def deploy(
    deployer: Deployer, options: NamedOptions, artifact_buckets: Sequence[str] | None = None
) -> WebhookStatus | None:
    """The webhook service on the target's endpoint, answering (or accepted, with wait=false); None after a dry run.

    Options as for a deployment; `artifact_buckets`: what its role may read models from. What is not named stays as it
    is. When nothing differs, nothing is written.
    """
    spec = _spec(deployer, options, artifact_buckets)
    if deployer.rollouts.roll_out(spec) is None:
        return None
    status = get(deployer)
    deployer.rollouts.tell_done("the webhook service", status.url, waited=spec.config.wait)
    _tell_what_is_missing(deployer, status)
    return status


def get(deployer: Deployer) -> WebhookStatus:
    """The webhook service as AWS shows it; DeploymentNotFound when the endpoint has none."""
    found = deployer.endpoint.webhook_status()
    if found is None:
        raise DeploymentNotFound(
            f"There is no webhook service on endpoint '{deployer.target.endpoint}' in {deployer.account.region}.",
            hint=f"put it there with: mlflow-fargate webhook deploy -t '{deployer.target.uri}' …",
        )
    return found


def delete(deployer: Deployer) -> None:
    """Takes the webhook service away with all that was made for it; when it is not there, nothing happens."""
    endpoint, config = deployer.endpoint.standing_spec(), parse_config({**EVERY_KIND, "auth": "none"})
    deployer.rollouts.delete(WebhookSpec(WEBHOOK, endpoint, config, "none", ""))


def _spec(deployer: Deployer, options: NamedOptions, artifact_buckets: Sequence[str] | None) -> WebhookSpec:
    before = deployer.endpoint.webhook_status()
    buckets = before.artifact_buckets if before and artifact_buckets is None else tuple(artifact_buckets or ())
    config = options.over(before.settings if before else _FIRST_OPTIONS)
    _check(config, is_on_aws=deployer.target.environment.aws_endpoint_url is None)
    endpoint = deployer.endpoint.spec(config)
    publisher = WebhookPublisher(deployer.target, deployer.account, deployer.publisher.cache, deployer.progress)
    image = publisher.find(config) or "(an image that is to be built)" if config.dry_run else publisher.publish(config)
    target = uri_for_tasks(deployer.target, deployer.account.region)
    return WebhookSpec(WEBHOOK, endpoint, config, image, target, tuple(sorted(buckets)))


def _check(config: DeploymentConfig, *, is_on_aws: bool) -> None:
    """InvalidOption for what would only show after minutes, in a task that does not start."""
    of_models = config.named.keys() - _OPTIONS - ({"auth"} if config.auth == "none" else set())
    if wrong := sorted(of_models):
        raise InvalidOption(
            f"Option {wrong[0]} is for models: the webhook service has none.",
            hint="its own settings are environment.NAME=… and secrets.NAME=ARN; see docs/webhook.md",
        )
    _check_tracking_uri(config.environment.get("MLFLOW_TRACKING_URI"), is_on_aws=is_on_aws)
    if len(config.environment.get("FARGATE_WEBHOOK_MODELS", "").encode()) > _RULES_LIMIT_BYTES:
        raise InvalidOption(
            f"The rules are longer than {_RULES_LIMIT_BYTES // 1024} KiB, more than a task definition takes.",
            hint="use patterns, or tag the models instead (fargate.deploy=ENDPOINT)",
        )


def _check_tracking_uri(uri: str | None, *, is_on_aws: bool) -> None:
    if not uri:
        raise InvalidOption(
            "Nothing says which tracking server the service should follow.", hint="--tracking-uri https://…"
        )
    parts = urlsplit(uri)
    if parts.scheme not in {"http", "https"} and not uri.startswith("databricks"):
        raise InvalidOption(
            f"The tracking URI begins with '{parts.scheme or uri[:10]}', and a task reaches servers only.",
            hint="--tracking-uri https://…",
        )
    if "@" in parts.netloc:
        raise InvalidOption(
            "The tracking URI holds a password, which a task definition would show.",
            hint="-C environment.MLFLOW_TRACKING_USERNAME=… -C secrets.MLFLOW_TRACKING_PASSWORD=ARN",
        )
    if is_on_aws and _is_this_machine(parts.hostname):
        raise InvalidOption(
            f"The tracking server at {parts.hostname} is on this machine, which a task on Fargate does not reach.",
            hint="name it by an address in the endpoint's VPC, or a public one",
        )


def _is_this_machine(host: str | None) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host or "").is_loopback
    except ValueError:
        return False


def _tell_what_is_missing(deployer: Deployer, status: WebhookStatus) -> None:
    secrets, environment = status.settings.secrets, status.settings.environment
    if "FARGATE_WEBHOOK_SECRET" not in secrets:
        deployer.progress.note("no secrets.FARGATE_WEBHOOK_SECRET: it takes no events, and finds changes by looking")
    if "FARGATE_WEBHOOK_TOKEN" not in secrets and environment.get("FARGATE_WEBHOOK_PUBLIC") != "true":
        deployer.progress.note("no secrets.FARGATE_WEBHOOK_TOKEN: its page and its metrics are shown to nobody")
    if status.url.startswith("http://"):
        deployer.progress.note("plain HTTP: MLflow sends its events to https only; the endpoint needs a certificate")

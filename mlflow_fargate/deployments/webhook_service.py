"""Deploys, reads and deletes the webhook service on Fargate.

    check the options → publish its image (publisher/) → plan → apply → wait for the rollout (roll_out.py)

It is not listed among the deployments. Functions on a `Deployer`; what runs is read from AWS, so repeating a call
writes nothing, and a call with another option changes only that.
"""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Sequence
from urllib.parse import urlsplit

from mlflow_fargate.config import OF_THE_CALL, DeploymentConfig, NamedOptions, parse_config
from mlflow_fargate.config.endpoint_options import EndpointOptions
from mlflow_fargate.config.task_options import TaskOptions
from mlflow_fargate.deployment import WebhookStatus
from mlflow_fargate.deployments.deployer import Deployer
from mlflow_fargate.deployments.desired import LONG_SECONDS
from mlflow_fargate.deployments.roll_out import EVERY_KIND
from mlflow_fargate.errors import DeploymentNotFound, InvalidOption
from mlflow_fargate.resources import WEBHOOK, WebhookSpec
from mlflow_fargate.target import uri_for_tasks

TRACKING_URI = "environment.MLFLOW_TRACKING_URI"
RULES = "environment.FARGATE_WEBHOOK_MODELS"
RULES_IN_TAGS = "environment.FARGATE_WEBHOOK_RULES_IN_TAGS"
# The other options apply to models: serving, access, what is followed, the number of tasks.
_OPTIONS = frozenset(
    {
        *(
            field.alias or name
            for group in (TaskOptions, EndpointOptions)
            for name, field in group.model_fields.items()
        ),
        *OF_THE_CALL,
        *("spot", "tags", "host", "log_retention_days", "health_check_grace_seconds", "deregistration_delay_seconds"),
        *("requirements", "index_url", "extra_index_urls", "find_links", "base_image", "system_packages"),
        "missing_libraries",
        "compression",
    }
)
# It checks its own tokens, and its requests are short.
_FIRST_OPTIONS = parse_config({"auth": "none", "deregistration_delay_seconds": 5})
# A task definition is limited to 64 KiB and contains the rules twice: in the environment and among the options.
_RULES_LIMIT_BYTES = 24 * 1024


def deploy(
    deployer: Deployer, options: NamedOptions, artifact_buckets: Sequence[str] | None = None
) -> WebhookStatus | None:
    """Deploys the webhook service and waits until it answers (unless wait=false); returns None after a dry run.

    Takes the options of a deployment; `artifact_buckets` are the buckets from which its role can read models. What is
    not named is kept. If nothing differs, nothing is written.
    """
    spec = _spec(deployer, options, artifact_buckets)
    if deployer.rollouts.roll_out(spec) is None:
        return None
    status = get(deployer)
    is_ready = spec.config.wait
    deployer.progress.step(
        f"The webhook service is at {status.url}"
        if is_ready
        else "Webhook service: rollout started (not waiting for it)"
    )
    _note_what_is_missing(deployer, status)
    return status


def get(deployer: Deployer) -> WebhookStatus:
    """Returns the webhook service as AWS shows it; DeploymentNotFound if the endpoint has none."""
    found = deployer.endpoint.webhook_status()
    if found is None:
        raise DeploymentNotFound(
            f"There is no webhook service on endpoint '{deployer.target.endpoint}' in {deployer.account.region}.",
            hint=f"deploy it with: mlflow-fargate webhook deploy -t '{deployer.target.uri}' …",
        )
    return found


def delete(deployer: Deployer) -> None:
    """Deletes the webhook service and all its resources; does nothing if it does not exist."""
    with deployer.account.session.observation():
        endpoint, config = deployer.endpoint.standing_spec(is_kept=True), parse_config({**EVERY_KIND, "auth": "none"})
        deployer.rollouts.delete(WebhookSpec(WEBHOOK, endpoint, config, "none", ""))


def _spec(deployer: Deployer, options: NamedOptions, artifact_buckets: Sequence[str] | None) -> WebhookSpec:
    before = deployer.endpoint.webhook_status()
    options = options if before else options.below(deployer.target.environment.network)
    buckets = before.artifact_buckets if before and artifact_buckets is None else tuple(artifact_buckets or ())
    config = options.over(before.settings if before and before.settings.named else _FIRST_OPTIONS)
    _check(config, is_on_aws=deployer.target.environment.aws_endpoint_url is None)
    endpoint = deployer.endpoint.spec(config, before, options.names)
    from mlflow_fargate.publisher import WebhookPublisher  # noqa: PLC0415  # most commands build no images

    publisher = WebhookPublisher(deployer.target, deployer.account, deployer.publisher.cache, deployer.progress)
    began = time.monotonic()
    image = publisher.find(config) or "(to be built)" if config.dry_run else publisher.publish(config)
    if time.monotonic() - began > LONG_SECONDS:  # meanwhile, the endpoint may have got a certificate
        endpoint = deployer.endpoint.spec(config, before, options.names)
    target = uri_for_tasks(deployer.target, deployer.account.region)
    return WebhookSpec(WEBHOOK, endpoint, config, image, target, tuple(sorted(buckets)))


def _check(config: DeploymentConfig, *, is_on_aws: bool) -> None:
    """Raises InvalidOption for mistakes that would only show after minutes, in a task that does not start."""
    of_models = config.named.keys() - _OPTIONS - ({"auth"} if config.auth == "none" else set())
    if wrong := sorted(of_models):
        raise InvalidOption(
            f"Option {wrong[0]} applies to model deployments, not to the webhook service.",
            hint="set the service's own settings with environment.NAME=… and secrets.NAME=ARN; see docs/webhook.md",
        )
    _check_tracking_uri(config.environment.get("MLFLOW_TRACKING_URI"), is_on_aws=is_on_aws)
    if len(config.environment.get("FARGATE_WEBHOOK_MODELS", "").encode()) > _RULES_LIMIT_BYTES:
        raise InvalidOption(
            f"The rules are larger than {_RULES_LIMIT_BYTES // 1024} KiB, and would not fit in a task definition.",
            hint="use patterns, or set tags on the models instead (fargate.deploy=ENDPOINT, --rules-in-tags)",
        )


def _check_tracking_uri(uri: str | None, *, is_on_aws: bool) -> None:
    if not uri:
        raise InvalidOption("No tracking server is set for the webhook service.", hint="--tracking-uri https://…")
    parts = urlsplit(uri)
    if parts.scheme not in {"http", "https"} and not uri.startswith("databricks"):
        raise InvalidOption(
            f"The tracking URI must be http(s), not '{parts.scheme or uri[:10]}': "
            "a task on Fargate cannot read local files.",
            hint="--tracking-uri https://…",
        )
    if "@" in parts.netloc:
        raise InvalidOption(
            "The tracking URI contains a password, which would be visible in the task definition.",
            hint="-C environment.MLFLOW_TRACKING_USERNAME=… -C secrets.MLFLOW_TRACKING_PASSWORD=ARN",
        )
    if is_on_aws and _is_this_machine(parts.hostname):
        raise InvalidOption(
            f"The tracking server at {parts.hostname} is on this machine, which a task on Fargate cannot reach.",
            hint="use an address in the endpoint's VPC, or a public one",
        )


def _is_this_machine(host: str | None) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host or "").is_loopback
    except ValueError:
        return False


def _note_what_is_missing(deployer: Deployer, status: WebhookStatus) -> None:
    secrets, environment = status.settings.secrets, status.settings.environment
    if "FARGATE_WEBHOOK_SECRET" not in secrets:
        deployer.progress.note("no secrets.FARGATE_WEBHOOK_SECRET: events are refused; changes are found by polling")
    if "FARGATE_WEBHOOK_TOKEN" not in secrets and environment.get("FARGATE_WEBHOOK_PUBLIC") != "true":
        deployer.progress.note("no secrets.FARGATE_WEBHOOK_TOKEN: the page and the metrics return 403")
    if status.url.startswith("http://"):
        deployer.progress.note(
            "plain HTTP: MLflow sends events only to https URLs; the endpoint needs a certificate (certificate_arn=)"
        )

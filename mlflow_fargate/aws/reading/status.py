"""What is deployed, read from AWS alone: the state from the service, the model and options from its task definition."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

from mlflow_fargate.aws import service_deployments, tags
from mlflow_fargate.aws.ecs_service import describe_service, describe_services, primary_deployment
from mlflow_fargate.aws.existing_load_balancer import find_existing_load_balancer
from mlflow_fargate.aws.resource_types.load_balancer import find_load_balancer, listener_certificate
from mlflow_fargate.aws.resource_types.service import FOLLOW_TAG, ServiceType, state_of
from mlflow_fargate.aws.resource_types.strategy import read_alarm_names, read_limits, read_strategy, refusal_of
from mlflow_fargate.aws.resource_types.task_definition import (
    LOST,
    TaskDefinitionType,
    api_key_secret,
    label_table,
    read_label,
)
from mlflow_fargate.aws.rollouts.watch import last_failed_task_definition
from mlflow_fargate.aws.session import AwsSession
from mlflow_fargate.aws.timestamps import iso
from mlflow_fargate.config import DeploymentConfig, read_config
from mlflow_fargate.deployment import DeploymentStatus, WebhookStatus
from mlflow_fargate.errors import AwsError, InvalidOption
from mlflow_fargate.resolved_model import Provenance
from mlflow_fargate.resources import ENDPOINT_TAG, WEBHOOK, cluster_name, log_group_name

# The task definition, the newest service deployment in brief, and the model of that if ECS went back from it.
_Records = tuple[dict[str, Any] | None, dict[str, Any] | None, Provenance | None]
_Read = Callable[[AwsSession, Mapping[str, Any]], _Records]
_NO_BALANCER = "http://(no load balancer yet)"


def read(session: AwsSession, endpoint: str, name: str) -> DeploymentStatus | None:
    """Returns the deployment `name`; None if there is no such service, or this package did not create it."""
    service = describe_service(session, cluster_name(endpoint), name)
    return _status(session, endpoint, service, _records) if service else None


def _status(session: AwsSession, endpoint: str, service: Mapping[str, Any], read: _Read) -> DeploymentStatus | None:
    if service["status"] != "ACTIVE" or not tags.are_ours(tags.read(service.get("tags"))):
        return None
    definition, newest, failed = read(session, service)
    label = read_label(definition) if definition else LOST
    if label is None:
        return None
    definition = None if label is LOST else definition
    primary, name = primary_deployment(service), service["serviceName"]
    strategy = read_strategy(service)
    shifting = {} if strategy["strategy"] == "rolling" else dict(strategy)
    watched = {**read_limits(tags.read(service.get("tags"))), **_own_alarms(service, endpoint)}
    settings = read_config({**label.settings, "desired_count": service["desiredCount"], **shifting, **watched})
    address = _url(session, service, settings, endpoint)
    shift_state, shares = _shift(session, newest, label.provenance)
    return DeploymentStatus(
        name=name,
        endpoint=endpoint,
        url=_certified(address, settings.own_host),
        load_balancer_url=address,
        state=state_of(service, newest) if definition else "FAILED",
        state_reason=primary.get("rolloutStateReason", "") or shift_state,
        desired_count=service["desiredCount"],
        running_count=service["runningCount"],
        image=definition["containerDefinitions"][0]["image"] if definition else "",
        provenance=label.provenance,
        settings=settings,
        follow=tags.read(service.get("tags")).get(FOLLOW_TAG, "pinned"),
        task_definition=service["taskDefinition"],
        created_at=iso(service["createdAt"]),
        updated_at=iso(primary.get("updatedAt", service["createdAt"])),
        api_key_secret=api_key_secret(definition) if definition else None,
        last_failed_version=failed.version if failed else None,
        last_failed_registered_ms=failed.registered_ms if failed else None,
        strategy=strategy["strategy"],
        strategy_refused=refusal_of(service),
        traffic_shares=shares,
        **_network(service),
    )


def read_all(session: AwsSession, endpoint: str) -> Iterator[DeploymentStatus]:
    """Yields every deployment on the endpoint that this package created, by name; none if there is no such endpoint.

    Repeated in a session, it reads the task definition and history only of what has changed.
    """
    with session.observation():
        services = describe_services(session, cluster_name(endpoint), names(session, endpoint))
        found = [_status(session, endpoint, service, _kept_records) for service in services]
    return iter([status for status in found if status])


def _records(session: AwsSession, service: Mapping[str, Any]) -> _Records:
    """What ECS recorded of a described service: its task definition, its newest rollout, and the model that failed."""
    newest = service_deployments.newest(session, service["clusterArn"], service["serviceName"])
    return TaskDefinitionType(session).find(service["taskDefinition"]), newest, _last_failed(session, newest)


def _kept_records(session: AwsSession, service: Mapping[str, Any]) -> _Records:
    """The same; read once, and again when ECS shows another rollout: the records of one that has ended never change."""
    telling = ("id", "status", "rolloutState", "updatedAt")
    rollouts = [[item.get(key) for key in telling] for item in service.get("deployments", ())]
    shown = (service["taskDefinition"], service["createdAt"], rollouts)
    seen, kept = session.kept.get(service["serviceArn"], (None, None))
    records: _Records = kept if seen == shown else _records(session, service)
    if seen != shown:
        began = primary_deployment(service).get("createdAt", service["createdAt"])
        if records[0] and service_deployments.has_ended(records[1], began):
            session.kept[service["serviceArn"]] = (shown, records)
    return records


def names(session: AwsSession, endpoint: str) -> list[str]:
    """Returns the names of the services on the endpoint, sorted, without the webhook service."""
    try:
        return sorted(set(ServiceType(session).names(cluster_name(endpoint))) - {WEBHOOK})
    except AwsError as error:
        if error.code == "ClusterNotFoundException":
            return []
        raise


def read_webhook(session: AwsSession, endpoint: str) -> WebhookStatus | None:
    """Returns the webhook service on the endpoint; None if there is none."""
    service = describe_service(session, cluster_name(endpoint), WEBHOOK)
    if service is None or service["status"] != "ACTIVE" or not tags.are_ours(tags.read(service.get("tags"))):
        return None
    definition = TaskDefinitionType(session).find(service["taskDefinition"])
    label, primary = label_table(definition) if definition else {}, primary_deployment(service)
    settings = read_config(label.get("settings", {}))
    return WebhookStatus(
        endpoint=endpoint,
        url=_url(session, service, settings, endpoint),
        state=primary.get("rolloutState", "IN_PROGRESS") if label else "FAILED",
        state_reason=primary.get("rolloutStateReason", ""),
        running_count=service["runningCount"],
        image=definition["containerDefinitions"][0]["image"] if definition else "",
        settings=settings,
        artifact_buckets=tuple(label.get("artifact_buckets", ())),
        task_role=definition.get("taskRoleArn", "") if definition else "",
        task_definition=service["taskDefinition"],
        log_group=log_group_name(endpoint, WEBHOOK),
        updated_at=iso(primary.get("updatedAt", service["createdAt"])),
        **_network(service),
    )


def read_endpoints(session: AwsSession) -> Iterator[dict[str, str]]:
    """Yields `name`, `url` and `cluster` of each endpoint in the region that this package created."""
    arns = list(session.pages("ecs", "list_clusters", "clusterArns"))
    for start in range(0, len(arns), 100):
        answer = session.call("ecs", "describe_clusters", clusters=arns[start : start + 100], include=["TAGS"])
        for cluster in answer["clusters"]:
            their_tags = tags.read(cluster.get("tags"))
            if cluster["status"] == "ACTIVE" and tags.are_ours(their_tags) and ENDPOINT_TAG in their_tags:
                name = their_tags[ENDPOINT_TAG]
                yield {"name": name, "url": _base_url(session, name), "cluster": cluster["clusterArn"]}


def _own_alarms(service: Mapping[str, Any], endpoint: str) -> dict[str, list[str]]:
    """The option `alarms` of a described service: without the alarms that this package created for it."""
    created = f"{cluster_name(endpoint)}_{service['serviceName']}."
    named = [name for name in read_alarm_names(service) if not name.startswith(created)]
    return {"alarms": named} if named else {}


def _network(service: Mapping[str, Any]) -> dict[str, Any]:
    network = service["networkConfiguration"]["awsvpcConfiguration"]
    return {"subnets": tuple(network["subnets"]), "assigns_public_ip": network.get("assignPublicIp") == "ENABLED"}


def _url(session: AwsSession, service: Mapping[str, Any], settings: DeploymentConfig, endpoint: str) -> str:
    """A path at the endpoint or at an existing load balancer; the root, for an existing target group."""
    path = "" if settings.target_group_arn else f"/{settings.variant_of or service['serviceName']}"
    try:
        existing = find_existing_load_balancer(session, settings)
    except (InvalidOption, AwsError):  # its owner deleted it; the deployment can still be read and deleted
        return _NO_BALANCER
    return f"{existing.url if existing else _base_url(session, endpoint)}{path}"


def _certified(url: str, host: str | None) -> str:
    """Uses the deployment's own host name with HTTPS: certificates cover that name, never an ALB's."""
    parts = urlsplit(url)
    if parts.scheme != "https" or host is None or not host.isascii() or set(host) & set("*?"):
        return url
    port = f":{parts.port}" if parts.port else ""
    return parts._replace(netloc=f"{host}{port}").geturl()


def _base_url(session: AwsSession, endpoint: str) -> str:
    balancer = find_load_balancer(session, cluster_name(endpoint))
    if balancer is None:
        return _NO_BALANCER
    protocol = "https" if listener_certificate(session, balancer["LoadBalancerArn"]) else "http"
    return f"{protocol}://{balancer['DNSName']}"


def _shift(session: AwsSession, brief: Mapping[str, Any] | None, new: Provenance) -> tuple[str, dict[str, float]]:
    """The state of a traffic shift, or how it ended; and the percentage of each version while traffic is shifted."""
    if brief is None:
        return "", {}
    if brief["status"] not in ("PENDING", "IN_PROGRESS"):
        return str(brief.get("statusReason") or ""), {}
    deployment = service_deployments.describe(session, brief["serviceDeploymentArn"])
    shares = service_deployments.traffic_shares(deployment)
    return service_deployments.stage_of(deployment), _by_version(session, shares, new)


def _by_version(session: AwsSession, shares: Mapping[str, float], new: Provenance) -> dict[str, float]:
    """The shares, the new revision's last, by model version; of two revisions of the same version, by their tasks."""
    *old, _ = shares or [""]
    definitions = [service_deployments.task_definition_of(session, arn) for arn in old]
    models = [*(_provenance_of(session, found) if found else None for found in definitions), new]
    versions = [f"version {model.version}" if model and model.version else "" for model in models]
    if not all(versions) or len(set(versions)) < len(versions):
        versions = [*(f"revision {(found or '').rpartition(':')[2] or 'before'}" for found in definitions), "new tasks"]
    return dict(zip(versions, shares.values(), strict=False))


def _provenance_of(session: AwsSession, task_definition: str) -> Provenance | None:
    definition = TaskDefinitionType(session).find(task_definition)
    label = read_label(definition) if definition else None
    return label.provenance if label else None


def _last_failed(session: AwsSession, newest: Mapping[str, Any] | None) -> Provenance | None:
    """The model of the newest rollout, if ECS gave up on it and rolled back."""
    failed = last_failed_task_definition(session, newest)
    return _provenance_of(session, failed) if failed else None

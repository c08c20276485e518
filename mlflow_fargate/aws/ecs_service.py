"""ECS: reads a service, but never as it was before this process's own last change of it.

DescribeServices is eventually consistent: for seconds after CreateService or UpdateService it may show what was before.
So the session remembers what these two returned, and a read that is older is repeated. A read is as new as the change
if it contains the deployment that the change returned, or anything that ECS dated after it (a replacement, a rollback).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

import stamina

from mlflow_fargate.aws import tags
from mlflow_fargate.aws.session import AwsSession
from mlflow_fargate.deployment import RequestedRollout
from mlflow_fargate.errors import RolloutTimeout

# Reads lag by seconds. ECS allows 20 reads per second and account.
_LAG_SECONDS = 60
_RETRY = stamina.RetryingCaller(
    timeout=_LAG_SECONDS, attempts=None, wait_initial=0.2, wait_max=2.0, wait_jitter=0.1, wait_exp_base=1.5
)


class _Outdated(Exception):
    """`service` is what ECS shows; `misses_rollout`: without the deployment that this process requested."""

    def __init__(self, service: dict[str, Any] | None, *, misses_rollout: bool) -> None:
        super().__init__("DescribeServices does not show this process's own change yet")
        self.service = service
        self.misses_rollout = misses_rollout


def describe_service(session: AwsSession, cluster: str, name: str) -> dict[str, Any] | None:
    """Returns the service as ECS describes it, even if draining; None if it or its cluster does not exist.

    Raises RolloutTimeout if ECS does not show a change that this process made within a minute.
    """
    try:
        return _RETRY(_Outdated, _read, session, cluster, name)
    except _Outdated as outdated:
        if outdated.misses_rollout:
            raise RolloutTimeout(
                f"ECS still shows service '{name}' as it was before this command changed it, {_LAG_SECONDS} s ago.",
                hint="the change continues in ECS; check again with: mlflow-fargate status",
            ) from outdated
        forget_change(session, cluster, name)  # another client scaled or deleted it
        return outdated.service


def describe_services(session: AwsSession, cluster: str, names: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Yields those of the services that exist, in this order, ten per call; one that was changed here as above."""
    for start in range(0, len(names), 10):
        some = list(names[start : start + 10])
        answer = session.call("ecs", "describe_services", cluster=cluster, services=some, include=["TAGS"])
        found = {service["serviceName"]: service for service in answer["services"]}
        for name in some:
            is_changed = _key(cluster, name) in session.own_changes
            if service := describe_service(session, cluster, name) if is_changed else found.get(name):
                yield service


def is_deployed(session: AwsSession, cluster: str, name: str) -> bool:
    """Returns whether there is an active service of this name that this package created."""
    service = describe_service(session, cluster, name)
    return service is not None and service["status"] == "ACTIVE" and tags.are_ours(tags.read(service.get("tags")))


def remember_change(session: AwsSession, cluster: str, answer: Mapping[str, Any], count: int | None) -> None:
    """Remembers what CreateService or UpdateService returned; `count` if the call named the number of tasks."""
    primary = primary_deployment(answer)
    if {"id", "createdAt"} <= primary.keys():
        session.own_changes[_key(cluster, answer["serviceName"])] = {**answer, "desiredCount": count}


def remember_deletion(session: AwsSession, cluster: str, answer: Mapping[str, Any]) -> None:
    """Remembers which service DeleteService deleted: for seconds, reads may show it as active."""
    if "createdAt" in answer:
        deleted = {"createdAt": answer["createdAt"], "is_deleted": True}
        session.own_changes[_key(cluster, answer["serviceName"])] = deleted


def forget_change(session: AwsSession, cluster: str, name: str) -> None:
    """Forgets this process's last change of a service, before the next one."""
    session.own_changes.pop(_key(cluster, name), None)


def requested_rollout(session: AwsSession, cluster: str, name: str) -> RequestedRollout | None:
    """Returns the rollout that this process's last change returned; None if it made none."""
    change = session.own_changes.get(_key(cluster, name))
    if change is None or "is_deleted" in change:
        return None
    primary = primary_deployment(change)
    return RequestedRollout(primary["id"], primary["taskDefinition"], primary["createdAt"])


def primary_deployment(service: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the newest rollout; empty if there is none."""
    deployments: list[dict[str, Any]] = service.get("deployments", [])
    return next((item for item in deployments if item["status"] == "PRIMARY"), {})


def _read(session: AwsSession, cluster: str, name: str) -> dict[str, Any] | None:
    cluster = cluster.rpartition("/")[2]
    answer = session.find("ecs", "describe_services", cluster=cluster, services=[name], include=["TAGS"])
    if answer is None:
        return None
    service: dict[str, Any] | None = next(iter(answer["services"]), None)
    change = session.own_changes.get(_key(cluster, name))
    if change is not None:
        try:
            _check(service, change)
        except _Outdated:
            session.end_observation()  # otherwise the repeated read would return the same
            raise
    return service


def _check(service: dict[str, Any] | None, change: Mapping[str, Any]) -> None:
    """Raises _Outdated if a described service is older than `change`."""
    if "is_deleted" in change:
        if service and service["status"] == "ACTIVE" and service["createdAt"] <= change["createdAt"]:
            raise _Outdated(service, misses_rollout=False)
        return
    if service is None:
        raise _Outdated(None, misses_rollout=False)
    own, since = primary_deployment(change), change.get("createdAt", service["createdAt"])
    if service["createdAt"] > since:  # deleted and created again
        return
    if service["createdAt"] < since:  # a deleted service of this name
        raise _Outdated(service, misses_rollout=True)
    if service["status"] != "ACTIVE" or max(_dates(service), default=since) > max(_dates(change)):
        return
    if own["id"] != primary_deployment(service).get("id"):
        raise _Outdated(service, misses_rollout=True)
    if change["desiredCount"] not in (None, service["desiredCount"]):
        raise _Outdated(service, misses_rollout=False)


def _dates(service: Mapping[str, Any]) -> Iterator[datetime]:
    for deployment in service.get("deployments", ()):
        yield from (deployment[key] for key in ("createdAt", "updatedAt") if key in deployment)
    yield from (event["createdAt"] for event in service.get("events", ()))


def _key(cluster: str, name: str) -> tuple[str, str]:
    return cluster.rpartition("/")[2], name

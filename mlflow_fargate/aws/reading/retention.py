"""Marks by a tag what a deletion retained, so that `gc` does not delete it.

For logs, the log group carries the tag. Images cannot, so their repository carries one for each deployment. The next
deletion that does not retain them deletes both.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from mlflow_fargate.aws import tags
from mlflow_fargate.aws.ecr import Repository
from mlflow_fargate.aws.resource_types.monitoring.logs import LogGroupType
from mlflow_fargate.aws.session import AwsSession
from mlflow_fargate.plan import Resource
from mlflow_fargate.resources import log_group_name
from mlflow_fargate.resources.properties import LogGroupProperties

_TAG = "mlflow-fargate:retained"


def has_retained_logs(group_tags: Mapping[str, str]) -> bool:
    """Returns True for a log group that was retained."""
    return _TAG in group_tags


def with_retained_images(session: AwsSession, repository_arn: str) -> set[str]:
    """Returns the deployments whose images in a repository were retained."""
    answer = session.call("ecr", "list_tags_for_resource", resourceArn=repository_arn)
    return {key.removeprefix(f"{_TAG}:") for key in tags.read(answer["tags"]) if key.startswith(f"{_TAG}:")}


def read_retained(session: AwsSession, endpoint: str, name: str) -> frozenset[str]:
    """Returns what was retained of a deployment: images, logs."""
    found = set()
    group = _group(session, endpoint, name)
    if group and has_retained_logs(session.call("logs", "list_tags_for_resource", resourceArn=group)["tags"]):
        found.add("logs")
    repository = Repository(session, endpoint, {}).observe()
    if repository and name in with_retained_images(session, repository["repositoryArn"]):
        found.add("images")
    return frozenset(found)


def mark_retained(session: AwsSession, endpoint: str, name: str, what: Iterable[str]) -> None:
    """Marks what will be retained, before anything is deleted; what is not named loses its mark."""
    group = _group(session, endpoint, name)
    if group and "logs" in what:
        session.call("logs", "tag_resource", resourceArn=group, tags={_TAG: "true"})
    repository = Repository(session, endpoint, {})
    described = repository.observe()
    if described is None or not repository.is_ours(described):
        return
    arn = described["repositoryArn"]
    if "images" in what:
        session.call("ecr", "tag_resource", resourceArn=arn, tags=tags.capital({f"{_TAG}:{name}": "images"}))
    elif name in with_retained_images(session, arn):
        session.call("ecr", "untag_resource", resourceArn=arn, tagKeys=[f"{_TAG}:{name}"])


def _group(session: AwsSession, endpoint: str, name: str) -> str | None:
    """The ARN of the deployment's log group, if this package created one."""
    wanted = Resource("log group", log_group_name(endpoint, name), LogGroupProperties(None))
    found = LogGroupType(session).observe(wanted, {})
    return found.identifier if found and found.is_ours else None

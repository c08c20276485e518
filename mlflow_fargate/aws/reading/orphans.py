"""Finds what killed clients left behind: resources of deployments without a service, of endpoints without a cluster.

A deployment's log group is created first and deleted last, like an endpoint's cluster. So if a resource without tags is
left (a policy, a listener), one with tags is left as well. Images are the exception; their tags start with the
deployment's name. What a deletion retained is not an orphan. Of a deployment with a service, revisions can be left.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timezone
from itertools import chain

from mlflow_fargate.aws import tags
from mlflow_fargate.aws.ecr import Repository
from mlflow_fargate.aws.ecs_service import describe_service
from mlflow_fargate.aws.reading.history import never_rolled_out
from mlflow_fargate.aws.reading.retention import has_retained_logs, with_retained_images
from mlflow_fargate.aws.session import AwsSession
from mlflow_fargate.deployment import Orphan
from mlflow_fargate.resources import DEPLOYMENT_TAG, ENDPOINT_TAG, MANAGED_BY, cluster_name

# ECS lists these for a while after they are deleted; and if they exist, nothing is an orphan.
_NEVER_LEFT = (":cluster/", ":service/")


def find_orphans(session: AwsSession) -> Iterator[Orphan]:
    """Yields the orphans of every endpoint in the region, deployments before their endpoint.

    A deployment that is being created looks like an orphan until its service or cluster exists.
    """
    found: dict[tuple[str, str], set[str]] = {}
    for whose, what in chain(_tagged(session), _images(session)):
        found.setdefault(whose, set()).add(what)
    for endpoint, name in sorted(found, key=lambda whose: (whose[0], whose[1] == "", whose[1])):
        is_there = _has_service(session, endpoint, name) if name else _has_cluster(session, endpoint)
        if not is_there:
            yield Orphan(endpoint, name or None, tuple(sorted(found[endpoint, name])))
        elif left := name and never_rolled_out(session, cluster_name(endpoint), name, datetime.now(timezone.utc)):
            yield Orphan(endpoint, name, tuple(left), is_deployed=True)


def _tagged(session: AwsSession) -> Iterator[tuple[tuple[str, str], str]]:
    """((endpoint, deployment or ''), ARN) of every resource with this package's tags."""
    wanted = [{"Key": key, "Values": [value]} for key, value in MANAGED_BY.items()]
    pages = session.pages("resourcegroupstaggingapi", "get_resources", "ResourceTagMappingList", TagFilters=wanted)
    for item in pages:
        their_tags, arn = tags.read(item["Tags"]), item["ResourceARN"]
        is_left = not has_retained_logs(their_tags) and not any(part in arn for part in _NEVER_LEFT)
        if ENDPOINT_TAG in their_tags and is_left:
            yield (their_tags[ENDPOINT_TAG], their_tags.get(DEPLOYMENT_TAG, "")), arn


def _images(session: AwsSession) -> Iterator[tuple[tuple[str, str], str]]:
    """((endpoint, ''), ARN) of each repository, ((endpoint, deployment), repository:tag) of its images."""
    for found in session.pages("ecr", "describe_repositories", "repositories"):
        prefix, _, endpoint = found["repositoryName"].partition("/")
        repository = Repository(session, endpoint, {})
        if prefix != "mlflow-fargate" or not repository.is_ours(found):
            continue
        yield (endpoint, ""), found["repositoryArn"]
        retained = with_retained_images(session, found["repositoryArn"])
        for tag in repository.image_tags():
            if (name := tag.partition(".")[0]) not in retained:
                yield (endpoint, name), f"{repository.name}:{tag}"


def _has_service(session: AwsSession, endpoint: str, name: str) -> bool:
    service = describe_service(session, cluster_name(endpoint), name)
    return service is not None and service["status"] != "INACTIVE"


def _has_cluster(session: AwsSession, endpoint: str) -> bool:
    answer = session.call("ecs", "describe_clusters", clusters=[cluster_name(endpoint)])
    return any(cluster["status"] == "ACTIVE" for cluster in answer["clusters"])

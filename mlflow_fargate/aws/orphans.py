"""What carries a deployment's tags while the deployment has no service: left by a client that was killed for good."""

from __future__ import annotations

from collections.abc import Iterator

from mlflow_fargate.aws import tags
from mlflow_fargate.aws.ecs import describe_service
from mlflow_fargate.aws.session import AwsSession
from mlflow_fargate.deployment import Orphan
from mlflow_fargate.resources import DEPLOYMENT_TAG, ENDPOINT_TAG, MANAGED_BY


def find_orphans(session: AwsSession) -> Iterator[Orphan]:
    """Those of every endpoint in the region; a deployment that is being made, before its service, looks the same."""
    wanted = [{"Key": key, "Values": [value]} for key, value in MANAGED_BY.items()]
    found: dict[tuple[str, str], list[str]] = {}
    pages = session.pages("resourcegroupstaggingapi", "get_resources", "ResourceTagMappingList", TagFilters=wanted)
    for item in pages:
        their_tags = tags.read(item["Tags"])
        if ENDPOINT_TAG in their_tags and DEPLOYMENT_TAG in their_tags:
            whose = their_tags[ENDPOINT_TAG], their_tags[DEPLOYMENT_TAG]
            found.setdefault(whose, []).append(item["ResourceARN"])
    for (endpoint, name), arns in sorted(found.items()):
        service = describe_service(session, f"mlflow-fargate-{endpoint}", name)
        if service is None or service["status"] == "INACTIVE":
            yield Orphan(endpoint, name, tuple(sorted(arns)))

"""The IAM actions that AWS checks for the calls of aws/: those in the sources, and those that are made."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from mlflow_fargate.aws.session import AwsSession
from mlflow_fargate.target import Target
from support.error_page import operations
from support.implied_actions import with_implied

IAM_NAMES = {
    "resourcegroupstaggingapi": "tag",
    "tagging": "tag",
    "service-quotas": "servicequotas",
    "monitoring": "cloudwatch",
    "elbv2": "elasticloadbalancing",
    "elastic-load-balancing-v2": "elasticloadbalancing",
    "api.ecr": "ecr",
}
# Calls that IAM knows under another name; the first needs no permission at all.
OTHER_ACTIONS = {
    "sts:GetCallerIdentity": None,
    "s3:ListObjectsV2": "s3:ListBucket",
    "s3:HeadBucket": "s3:ListBucket",
    "s3:HeadObject": "s3:GetObject",
}
# What AWS asks for when a call carries tags.
TAGGING = {
    "acm": "acm:AddTagsToCertificate",
    "application-autoscaling": "application-autoscaling:TagResource",
    "cloudwatch": "cloudwatch:TagResource",
    "ecs": "ecs:TagResource",
    "ecr": "ecr:TagResource",
    "ec2": "ec2:CreateTags",
    "elasticloadbalancing": "elasticloadbalancing:AddTags",
    "iam": "iam:TagRole",
    "logs": "logs:TagResource",
    "secretsmanager": "secretsmanager:TagResource",
}
# The registry is called by its own protocol, not through boto3; ECR requires these permissions from its clients.
# https://docs.aws.amazon.com/AmazonECR/latest/userguide/image-push-iam.html
OF_THE_REGISTRY = {
    "ecr:BatchCheckLayerAvailability",
    "ecr:BatchGetImage",
    "ecr:CompleteLayerUpload",
    "ecr:GetDownloadUrlForLayer",
    "ecr:InitiateLayerUpload",
    "ecr:PutImage",
    "ecr:UploadLayerPart",
}
# Calls of boto3 itself, in aws/s3.py.
OF_S3 = {"s3:GetObject", "s3:ListBucket"}
# Only the webhook service calls these, with the options for them.
OF_THE_WEBHOOKS_OPTIONS = {"sns:Publish", "s3:GetObject", "s3:PutObject"}


def calls_in_the_sources() -> set[str]:
    """Returns every action that aws/ can call."""
    return {action for call in operations() if (action := action_of(*call))}


def action_of(service: str, operation: str) -> str | None:
    """Returns the action of an operation; None if it needs no permission."""
    action = f"{IAM_NAMES.get(service, service)}:{operation}"
    return OTHER_ACTIONS.get(action, action)


class RecordedActions:
    """The actions of the calls that were noted."""

    def __init__(self) -> None:
        self._seen: set[str] = set()
        self.calls = 0

    def all(self) -> set[str]:
        """Returns the actions of the calls, and those that they imply."""
        return with_implied(self._seen)

    def note(self, params: dict[str, Any], model: Any, **_: Any) -> None:
        """Takes botocore's event `provide-client-params`."""
        self.calls += 1
        service = model.service_model.endpoint_prefix
        action = action_of(service, model.name)
        if action:
            self._seen.add(action)
        if params.get("tags") or params.get("Tags") or params.get("TagSpecifications"):
            self._seen.add(TAGGING[IAM_NAMES.get(service, service)])
        if params.get("executionRoleArn"):
            self._seen.add("iam:PassRole")


@contextmanager
def recorded_actions() -> Iterator[RecordedActions]:
    """Notes the calls of every session that aws/ opens meanwhile."""
    recorded, made = RecordedActions(), AwsSession.__init__

    def listen(session: AwsSession, target: Target) -> None:
        made(session, target)
        session._session.events.register("provide-client-params", recorded.note)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(AwsSession, "__init__", listen)
        yield recorded

"""Secrets Manager: the key that callers of a deployment show.

The key is made here, once, and read by ECS (`valueFrom`) and by `predict`; it is never printed, tagged or put into an
image.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping

from mlflow_fargate.aws import tags
from mlflow_fargate.aws.session import AwsSession
from mlflow_fargate.errors import AwsError
from mlflow_fargate.plan import Found, Resource


class ApiKey:
    """A random key of 256 bits, kept over updates."""

    def __init__(self, session: AwsSession) -> None:
        self._session = session

    def observe(self, resource: Resource, made: Mapping[str, str]) -> Found | None:
        try:
            secret = self._session.call("secretsmanager", "describe_secret", SecretId=resource.name)
        except AwsError as error:
            if error.code == "ResourceNotFoundException":
                return None
            raise
        return Found(secret["ARN"], {}, tags.are_ours(tags.read(secret.get("Tags"))))

    def create(self, resource: Resource, made: Mapping[str, str]) -> str:
        secret = self._session.call(
            "secretsmanager",
            "create_secret",
            Name=resource.name,
            Description="mlflow-fargate: API key of a deployment",
            SecretString=secrets.token_urlsafe(32),
            Tags=tags.capital(resource.tags),
        )
        return str(secret["ARN"])

    def change(self, resource: Resource, found: Found, made: Mapping[str, str]) -> str:
        return found.identifier

    def delete(self, found: Found) -> None:
        # Without a recovery window: a deployment of the same name would find its key's name taken for a week.
        self._session.delete(
            "secretsmanager", "delete_secret", SecretId=found.identifier, ForceDeleteWithoutRecovery=True
        )

    def read(self, arn: str) -> str:
        """The key itself."""
        return str(self._session.call("secretsmanager", "get_secret_value", SecretId=arn)["SecretString"])

"""Secrets Manager: the API key that callers of a deployment send; while it is replaced, the old key and the new one.

The key is generated once, and read by ECS (`valueFrom`) and by `predict`. It is never printed, written to a tag or
included in an image.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from datetime import datetime

from mlflow_fargate.aws import tags
from mlflow_fargate.aws.resource_types.resource_type import Ids, ResourceType
from mlflow_fargate.plan import Found, Properties, Resource
from mlflow_fargate.resources.properties import ApiKeyProperties


class ApiKeyType(ResourceType[ApiKeyProperties]):
    """A random key of 256 bits, kept across updates; restored if it was scheduled for deletion."""

    def observe(self, resource: Resource[ApiKeyProperties], ids: Ids) -> Found[ApiKeyProperties] | None:
        secret = self._session.find("secretsmanager", "describe_secret", SecretId=resource.name)
        if secret is None:
            return None
        properties = ApiKeyProperties(is_scheduled_for_deletion="DeletedDate" in secret)
        return Found(secret["ARN"], properties, tags.are_ours(tags.read(secret.get("Tags"))))

    def create(self, resource: Resource[ApiKeyProperties], ids: Ids) -> str:
        secret = self._session.call(
            "secretsmanager",
            "create_secret",
            Name=resource.name,
            Description="mlflow-fargate: API key of a deployment",
            SecretString=secrets.token_urlsafe(32),
            Tags=tags.capital(resource.tags),
        )
        return str(secret["ARN"])

    def change(self, resource: Resource[ApiKeyProperties], found: Found[ApiKeyProperties], ids: Ids) -> str:
        if self._session.find("secretsmanager", "restore_secret", SecretId=found.identifier) is None:
            return self.create(resource, ids)  # a deletion without a recovery window has just finished
        return found.identifier

    def delete(self, found: Found[Properties]) -> None:
        # Without a recovery window, which would keep the secret's name taken for a week.
        self._session.delete(
            "secretsmanager", "delete_secret", SecretId=found.identifier, ForceDeleteWithoutRecovery=True
        )

    def read(self, arn: str) -> tuple[list[str], datetime]:
        """Returns the valid keys, the one to send first, and when they were written."""
        found = self._session.call("secretsmanager", "get_secret_value", SecretId=arn)
        return str(found["SecretString"]).split(), found["CreatedDate"]

    def write(self, arn: str, keys: Sequence[str]) -> None:
        """Sets the valid keys; tasks that start from then on accept them."""
        self._session.call("secretsmanager", "put_secret_value", SecretId=arn, SecretString=" ".join(keys))

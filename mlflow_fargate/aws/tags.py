"""Tags in the formats of the services, and who owns a resource.

Only resources with this package's tags are changed or deleted. ECS uses {"key": …, "value": …}, older services
{"Key": …, "Value": …}, and CloudWatch Logs a plain mapping.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from mlflow_fargate.errors import ForeignResource
from mlflow_fargate.plan import Properties, Resource
from mlflow_fargate.resources import MANAGED_BY


def capital(tags: Mapping[str, str]) -> list[dict[str, str]]:
    """Returns tags for EC2, ELB, IAM, ECR and Secrets Manager."""
    return [{"Key": key, "Value": value} for key, value in tags.items()]


def small(tags: Mapping[str, str]) -> list[dict[str, str]]:
    """Returns tags for ECS."""
    return [{"key": key, "value": value} for key, value in tags.items()]


def read(tags: Iterable[Mapping[str, str]] | None) -> dict[str, str]:
    """Returns tags in either format as a mapping."""
    return {tag.get("key", tag.get("Key", "")): tag.get("value", tag.get("Value", "")) for tag in tags or ()}


def is_own_key(key: str) -> bool:
    """Returns True for reserved keys: those of this package and of AWS."""
    return key in MANAGED_BY or key.startswith(("mlflow-fargate:", "aws:"))


def are_ours(tags: Mapping[str, str]) -> bool:
    """Returns True for the tags of a resource that this package created."""
    return MANAGED_BY.items() <= tags.items()


def refuse_foreign(resource: Resource[Properties], identifier: str) -> ForeignResource:
    """Returns the error for a name that is taken by a resource that this package did not create."""
    article = "an" if resource.resource_type[0] in "aA" else "a"
    what = f"{article} {resource.resource_type} '{resource.name}'"
    return ForeignResource(
        f"There is already {what} ({identifier}) that mlflow-fargate did not create.",
        hint="rename or delete it, or deploy under another name or endpoint",
    )

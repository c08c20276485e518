"""Tags in the forms the services take, and whose a resource is.

Only what carries our tags is ever changed or deleted. ECS and ECS-like services write {"key": …, "value": …}, the older
ones {"Key": …, "Value": …}, and CloudWatch Logs a plain mapping.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from mlflow_fargate.errors import ForeignResource
from mlflow_fargate.plan import Properties, Resource
from mlflow_fargate.resources import MANAGED_BY


def capital(tags: Mapping[str, str]) -> list[dict[str, str]]:
    """For EC2, ELB, IAM, ECR, Secrets Manager."""
    return [{"Key": key, "Value": value} for key, value in tags.items()]


def small(tags: Mapping[str, str]) -> list[dict[str, str]]:
    """For ECS."""
    return [{"key": key, "value": value} for key, value in tags.items()]


def read(tags: Iterable[Mapping[str, str]] | None) -> dict[str, str]:
    """Either form as a mapping."""
    return {tag.get("key", tag.get("Key", "")): tag.get("value", tag.get("Value", "")) for tag in tags or ()}


def is_own_key(key: str) -> bool:
    """True for the keys of our own tags, which no user sets, and for AWS's."""
    return key in MANAGED_BY or key.startswith(("mlflow-fargate:", "aws:"))


def are_ours(tags: Mapping[str, str]) -> bool:
    return MANAGED_BY.items() <= tags.items()


def refuse_foreign(resource: Resource[Properties], identifier: str) -> ForeignResource:
    """The error for a name that is taken by something we did not make."""
    what = f"{resource.resource_type} '{resource.name}'"
    return ForeignResource(
        f"There is already a {what} ({identifier}) that mlflow-fargate did not make.",
        hint="rename or delete it, or deploy under another name or endpoint",
    )

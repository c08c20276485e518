"""The interface of a resource type; the other modules have one class for each type."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Generic, Literal, TypeVar

from mlflow_fargate.aws.session import AwsSession
from mlflow_fargate.plan import Found, Properties, Resource, TypeName

P = TypeVar("P", bound=Properties)
IdName = TypeName | Literal["vpc", "running task definition"]
# The ARNs or IDs of the resources that were found or created so far.
Ids = Mapping[IdName, str]


class ResourceType(ABC, Generic[P]):
    """One type of resource in one account."""

    def __init__(self, session: AwsSession) -> None:
        self._session = session

    @abstractmethod
    def observe(self, resource: Resource[P], ids: Ids) -> Found[P] | None:
        """Returns the existing resource of this name; None if there is none."""

    @abstractmethod
    def create(self, resource: Resource[P], ids: Ids) -> str:
        """Creates it and returns its identifier."""

    def change(self, resource: Resource[P], found: Found[P], ids: Ids) -> str:
        """Changes what was `found` to what is desired and returns its identifier."""
        return found.identifier

    @abstractmethod
    def delete(self, found: Found[Properties]) -> None:
        """Deletes it; does nothing if it is already gone."""

"""The endpoint's ECR repository, as publishing sees it: which images exist, and where a new one goes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from mlflow_fargate.aws.account import Account
from mlflow_fargate.image import Destination, Reference, Registry


@dataclass(frozen=True)
class ImageRepository:
    """The images of one endpoint."""

    account: Account
    endpoint: str

    def ensure(self) -> str:
        """Returns its address; creates the repository if it is missing."""
        return self.account.endpoint(self.endpoint).repository.ensure()

    def address(self) -> str | None:
        """Returns its address, or None if the repository does not exist yet."""
        found = self.account.endpoint(self.endpoint).repository.observe()
        return str(found["repositoryUri"]) if found else None

    def find(self, tagged: Reference) -> Reference | None:
        """Returns the image with this tag, by digest, or None if the tag does not exist."""
        digest = self.registry.manifest_digest(tagged.repository, str(tagged.tag))
        return tagged.with_digest(digest) if digest else None

    def destination(self, tagged: Reference) -> Destination:
        """Returns where to push an image; its layers are compared with those of the newest one."""
        newest = self.account.endpoint(self.endpoint).repository.newest_image()
        return Destination(self.registry, tagged, tagged.with_digest(newest) if newest else None)

    @cached_property
    def registry(self) -> Registry:
        address, user, password = self.account.registry_login()
        return Registry(address, credentials=lambda: (user, password))

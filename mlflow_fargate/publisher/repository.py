"""The endpoint's repository in ECR, as publishing sees it: is the image there, and where would it go."""

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
        """Its address; the repository is created if absent."""
        return self.account.endpoint(self.endpoint).repository.ensure()

    def address(self) -> str | None:
        """Its address; None when there is no such repository yet."""
        found = self.account.endpoint(self.endpoint).repository.observe()
        return str(found["repositoryUri"]) if found else None

    def find(self, tagged: Reference) -> Reference | None:
        """The image under a tag, by digest; None when there is no such tag."""
        digest = self.registry.manifest_digest(tagged.repository, str(tagged.tag))
        return tagged.with_digest(digest) if digest else None

    def destination(self, tagged: Reference) -> Destination:
        """For an image that is to be pushed; its layers are compared with those of the newest one."""
        newest = self.account.endpoint(self.endpoint).repository.newest_image()
        return Destination(self.registry, tagged, tagged.with_digest(newest) if newest else None)

    @cached_property
    def registry(self) -> Registry:
        address, user, password = self.account.registry_login()
        return Registry(address, credentials=lambda: (user, password))

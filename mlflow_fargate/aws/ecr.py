"""ECR: an endpoint's repository, the login for it, and deleting images.

One repository per endpoint, so that a second model uploads only its own layer, without mounts across repositories.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from mlflow_fargate.aws import tags
from mlflow_fargate.aws.session import AwsSession
from mlflow_fargate.errors import AwsError, ForeignResource

# Tags of records kept next to the images (image/packages/lock_record.py); no deployment's tag starts like this.
_RECORD_PREFIX = "_lock-"
# Killed pushes leave untagged manifests behind; images in task definitions are always tagged. Records are only read in
# the month in which they were written.
_LIFECYCLE = {
    "rules": [
        {
            "rulePriority": 1,
            "description": "left by interrupted pushes",
            "selection": {
                "tagStatus": "untagged",
                "countType": "sinceImagePushed",
                "countUnit": "days",
                "countNumber": 14,
            },
            "action": {"type": "expire"},
        },
        {
            "rulePriority": 2,
            "description": "locks of past months",
            "selection": {
                "tagStatus": "tagged",
                "tagPrefixList": [_RECORD_PREFIX],
                "countType": "sinceImagePushed",
                "countUnit": "days",
                "countNumber": 32,
            },
            "action": {"type": "expire"},
        },
    ]
}
# The policies of earlier releases. Any other policy was set by a user and is kept.
_FORMER_LIFECYCLES: tuple[dict[str, Any], ...] = ({"rules": _LIFECYCLE["rules"][:1]},)


class Repository:
    """The repository `mlflow-fargate/ENDPOINT`."""

    def __init__(self, session: AwsSession, endpoint: str, wanted_tags: dict[str, str]) -> None:
        self._session = session
        self.name = f"mlflow-fargate/{endpoint}"
        self._tags = wanted_tags

    def observe(self) -> dict[str, Any] | None:
        """Returns the repository as ECR describes it; None if it does not exist."""
        answer = self._session.find("ecr", "describe_repositories", repositoryNames=[self.name])
        found: dict[str, Any] | None = answer["repositories"][0] if answer else None
        return found

    def ensure(self) -> str:
        """Returns the repository's address (`…/mlflow-fargate/ENDPOINT`); creates it if needed.

        With immutable tags and scan on push. Raises ForeignResource if a repository of this name exists that
        this package did not create.
        """
        found = self.observe() or self._create_or_find()
        self._refuse_foreign(found)
        if self._lifecycle_policy() in (None, *_FORMER_LIFECYCLES):
            policy = json.dumps(_LIFECYCLE)
            self._session.call("ecr", "put_lifecycle_policy", repositoryName=self.name, lifecyclePolicyText=policy)
        return str(found["repositoryUri"])

    def delete(self) -> None:
        """Deletes the repository with all images, if it exists; ForeignResource if this package did not create it."""
        found = self.observe()
        if found is None:
            return
        self._refuse_foreign(found)
        self._session.delete("ecr", "delete_repository", repositoryName=self.name, force=True)

    def newest_image(self) -> str | None:
        """Returns the digest of the last image pushed, which is most likely to share layers with the next."""
        selected = {"tagStatus": "TAGGED"}
        images = self._session.pages(
            "ecr", "describe_images", "imageDetails", repositoryName=self.name, filter=selected
        )
        deployable = (image for image in images if not image["imageTags"][0].startswith(_RECORD_PREFIX))
        newest = max(deployable, key=lambda image: image["imagePushedAt"], default=None)
        return str(newest["imageDigest"]) if newest else None

    def image_tags(self, deployment: str | None = None) -> list[str]:
        """Returns the tags (NAME.KEY, see publisher/) of a deployment's images, or of all deployments'."""
        selected = {"tagStatus": "TAGGED"}
        images = self._session.pages("ecr", "list_images", "imageIds", repositoryName=self.name, filter=selected)
        beginning = f"{deployment}." if deployment else ""
        try:
            found = [image["imageTag"] for image in images]
        except AwsError as error:
            if error.code != "RepositoryNotFoundException":
                raise
            return []
        return sorted(tag for tag in found if tag.startswith(beginning) and not tag.startswith(_RECORD_PREFIX))

    def delete_images(self, image_tags: Sequence[str]) -> None:
        """Deletes tags, 100 per call. An image is deleted with its last tag, so an image of two deployments is kept."""
        for start in range(0, len(image_tags), 100):
            batch = [{"imageTag": tag} for tag in image_tags[start : start + 100]]
            self._session.delete("ecr", "batch_delete_image", repositoryName=self.name, imageIds=batch)

    def _create_or_find(self) -> dict[str, Any]:
        try:
            created: dict[str, Any] = self._session.call(
                "ecr",
                "create_repository",
                repositoryName=self.name,
                imageTagMutability="IMMUTABLE",
                imageScanningConfiguration={"scanOnPush": True},
                tags=tags.capital(self._tags),
            )["repository"]
        except AwsError as error:
            found = self.observe() if error.meaning == "conflict" else None
            if found is None:
                raise
            return found
        return created

    def is_ours(self, found: Mapping[str, Any]) -> bool:
        """Returns True if a repository, as ECR describes it, carries this package's tags."""
        answer = self._session.call("ecr", "list_tags_for_resource", resourceArn=found["repositoryArn"])
        return tags.are_ours(tags.read(answer["tags"]))

    def _refuse_foreign(self, found: Mapping[str, Any]) -> None:
        if not self.is_ours(found):
            raise ForeignResource(f"Repository '{self.name}' was not created by mlflow-fargate, so it is not changed.")

    def _lifecycle_policy(self) -> dict[str, Any] | None:
        answer = self._session.find("ecr", "get_lifecycle_policy", repositoryName=self.name)
        policy: dict[str, Any] | None = json.loads(answer["lifecyclePolicyText"]) if answer else None
        return policy


def login(session: AwsSession) -> tuple[str, str, str]:
    """Returns (registry address, user, password) of the account's registry; the password is valid for twelve hours."""
    data = session.call("ecr", "get_authorization_token")["authorizationData"][0]
    user, _, password = base64.b64decode(data["authorizationToken"]).decode().partition(":")
    return urlsplit(data["proxyEndpoint"]).netloc, user, password

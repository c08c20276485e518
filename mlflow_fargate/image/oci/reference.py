"""An image reference, parsed once: registry, repository, and tag or digest.

Source: the grammar of distribution/reference, with Docker's short forms (`python:3.11-slim` is
`docker.io/library/python:3.11-slim`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from mlflow_fargate.errors import InvalidOption

DOCKER_HUB = "docker.io"

_HOST = re.compile(
    r"(?:\[[0-9a-fA-F:.]+\]|[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?(?:\.[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?)*)"
    r"(?::[0-9]+)?"
)
_COMPONENT = r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*"
_REPOSITORY = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128}")
_MAX_NAME_LENGTH = 255
_FORM = "use [REGISTRY/]REPOSITORY[:TAG][@DIGEST], such as ghcr.io/NAME/IMAGE:1.0"


@dataclass(frozen=True)
class Reference:
    """A repository in a registry, and optionally one image in it; `str()` is the full form."""

    registry: str
    repository: str
    tag: str | None = None
    digest: str | None = None

    def __post_init__(self) -> None:
        checks = (
            (_HOST, self.registry, "registry"),
            (_REPOSITORY, self.repository, "repository"),
            (_TAG, self.tag, "tag"),
            (_DIGEST, self.digest, "digest"),
        )
        for pattern, value, part in checks:
            if value is not None and not pattern.fullmatch(value):
                raise InvalidOption(f"{value!r} is not a valid {part} in the image reference {self}.", hint=_FORM)
        if len(self.name) > _MAX_NAME_LENGTH:
            raise InvalidOption(f"The image name {self.name!r} is longer than {_MAX_NAME_LENGTH} characters.")

    @classmethod
    def parse(cls, text: str) -> Reference:
        """Parses a reference as Docker does; short names refer to Docker Hub."""
        rest, at, digest = text.partition("@")
        name, tag = _split_tag(rest)
        registry, repository = _split_registry(name)
        if not repository:
            raise InvalidOption(
                f"{text!r} is not an image reference.",
                hint=_FORM,
            )
        return cls(registry, repository, tag, digest if at else None)

    def __str__(self) -> str:
        return f"{self.name}{f':{self.tag}' if self.tag else ''}{f'@{self.digest}' if self.digest else ''}"

    @property
    def name(self) -> str:
        """Registry and repository, without tag or digest."""
        return f"{self.registry}/{self.repository}"

    @property
    def identifier(self) -> str:
        """What to request from the registry: the digest, else the tag, else `latest`, as in Docker."""
        return self.digest or self.tag or "latest"

    def with_digest(self, digest: str) -> Reference:
        return replace(self, tag=None, digest=digest)


def _split_tag(text: str) -> tuple[str, str | None]:
    name, colon, tag = text.rpartition(":")
    # A colon before the last slash belongs to the registry's port.
    if not colon or "/" in tag:
        return text, None
    return name, tag


def _split_registry(name: str) -> tuple[str, str]:
    first, slash, rest = name.partition("/")
    # Docker's rule: the first part is a host when it could not be the name of a user on Docker Hub.
    if slash and (first == "localhost" or any(sign in first for sign in ".:[") or first != first.lower()):
        registry, repository = first, rest
    else:
        registry, repository = DOCKER_HUB, name
    if registry in {DOCKER_HUB, f"index.{DOCKER_HUB}"}:
        return DOCKER_HUB, repository if "/" in repository or not repository else f"library/{repository}"
    return registry, repository

"""What an image is built on when nothing else is named, and where that is read."""

from __future__ import annotations

from collections.abc import Callable

from mlflow_fargate.image import Platform, Reference, Registry
from mlflow_fargate.target import Target

# Docker's official Python images, from the copy that AWS keeps: no login, no rate limit worth the name.
_BASE_IMAGE = "public.ecr.aws/docker/library/python:{minor}-slim"
_PLATFORMS = {"X86_64": "linux/amd64", "ARM64": "linux/arm64"}


def default_base_image(python_minor: str) -> str:
    """The base image with this Python ('3.11')."""
    return _BASE_IMAGE.format(minor=python_minor)


def platform_of(architecture: str) -> Platform:
    """OCI's word for what ECS calls X86_64 or ARM64."""
    return Platform.parse(_PLATFORMS[architecture])


def registry_of_base(base: Reference, target: Target, login: Callable[[], tuple[str, str, str]]) -> Registry:
    """Where a base image is read: its own registry, or the mirror of that at the target.

    `login` gives (address, user, password) of the account's own registry; only a mirror at that address gets them.
    """
    mirrors = target.environment.registry_mirrors
    host = mirrors.get(base.registry, base.registry)
    if host not in mirrors.values():
        return Registry(host)

    def credentials() -> tuple[str, str] | None:
        address, user, password = login()
        return (user, password) if address == host else None

    return Registry(host, credentials=credentials)

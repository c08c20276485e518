"""The default base image, and the registry that an image is pulled from."""

from __future__ import annotations

from collections.abc import Callable

from mlflow_fargate.image import Platform, Reference, Registry
from mlflow_fargate.target import Target

# Docker's official Python images, from AWS's mirror: no login, and a rate limit that is high enough.
_BASE_IMAGE = "public.ecr.aws/docker/library/python:{minor}-slim"
_PLATFORMS = {"X86_64": "linux/amd64", "ARM64": "linux/arm64"}


def default_base_image(python_minor: str) -> str:
    """Returns the default base image for this Python version ('3.11')."""
    return _BASE_IMAGE.format(minor=python_minor)


def platform_of(architecture: str) -> Platform:
    """Returns the OCI platform for ECS's X86_64 or ARM64."""
    return Platform.parse(_PLATFORMS[architecture])


def registry_of_base(base: Reference, target: Target, login: Callable[[], tuple[str, str, str]]) -> Registry:
    """Returns the registry to pull a base image from: its own, or the target's mirror of it."""
    return registry_at(target.environment.registry_mirrors.get(base.registry, base.registry), target, login)


def registry_at(host: str, target: Target, login: Callable[[], tuple[str, str, str]]) -> Registry:
    """Returns the registry to pull from.

    `login` returns (address, user, password) for the account's registry; only a registry at that address receives them.
    """
    if ".dkr.ecr." not in host and host not in target.environment.registry_mirrors.values():
        return Registry(host)

    def credentials() -> tuple[str, str] | None:
        address, user, password = login()
        return (user, password) if address == host else None

    return Registry(host, credentials=credentials)

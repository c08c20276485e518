"""Reads uv's errors: which packages have no wheels, and what the user can do about a lock that failed."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence

from mlflow_fargate.errors import ImageError
from mlflow_fargate.image.oci.platforms import Platform

_NO_WHEELS = re.compile(
    r"(?:all versions of )?([A-Za-z0-9][\w.-]*)(?:[=<>!~]+\S+)? (?:has|have) no "
    r"(?:usable wheels|wheels with a matching)"
)
_BUILD_FAILED = re.compile(r"Failed to build|build backend|Failed to (?:prepare|generate)", re.IGNORECASE)
# PyTorch's builds, which MLflow records as installed: torch==2.13.0+cpu.
_LOCAL_BUILD = re.compile(r"there is no version of ([\w.-]+==[\w.!]+\+[\w.]+)")
_UNAUTHORIZED = re.compile(r"\b40[13] (Unauthorized|Forbidden)|Missing credentials", re.IGNORECASE)


def packages_without_wheels(error: str) -> set[str]:
    return set(_NO_WHEELS.findall(error))


def is_failed_build(error: str) -> bool:
    return _BUILD_FAILED.search(error) is not None


def lock_error(
    error: str, sdists: Sequence[str], why_nothing_is_built: str | None, minor: str, platform: Platform
) -> ImageError:
    """Returns the error of a lock that failed; `sdists` are the packages that uv tried to build."""
    output = textwrap.indent(error.strip(), "    ")
    if _UNAUTHORIZED.search(error):
        return ImageError(
            f"A package index rejected the credentials, or needs credentials. Output of uv:\n{output}",
            hint="put the user name and password in the index URL: index_url=https://${USER}:${PASSWORD}@… reads them "
            "from the environment, and they are not stored",
        )
    if is_failed_build(error):
        return ImageError(
            f"No wheel for {', '.join(sdists)}, and building one failed. Output of uv:\n{output}",
            hint="install what the build needs on this machine, or publish a wheel to your own index",
        )
    if names := sorted(packages_without_wheels(error)):
        return no_wheel_error(names, why_nothing_is_built or f"output of uv:\n{output}", minor, platform)
    return ImageError(
        f"The requirements cannot be satisfied for Python {minor} on {platform}. Output of uv:\n{output}",
        hint=_way_out(error),
    )


def no_wheel_error(names: Sequence[str], reason: str, minor: str, platform: Platform) -> ImageError:
    return ImageError(
        f"No wheel for {', '.join(names)} (Python {minor}, {platform}), and none can be built here: {reason}",
        hint=f"require a version that has a wheel, deploy with build_sdists=true from {platform} with Python {minor}, "
        "or publish a wheel to your own index",
    )


def _way_out(error: str) -> str:
    if build := _LOCAL_BUILD.search(" ".join(error.split())):
        return (
            f"{build[1]} is not on PyPI: add the index that has it; for PyTorch without CUDA: "
            "extra_index_urls=https://download.pytorch.org/whl/cpu"
        )
    return (
        "change the model's requirements (pip_requirements= in log_model) so that they do not conflict; for a package "
        "that was replaced (xgboost-cpu, opencv-python-headless, …), choose a version: requirements=NAME==VERSION"
    )

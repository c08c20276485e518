"""The platform of an image, in the notations of OCI, wheels and uv."""

from __future__ import annotations

from dataclasses import dataclass

from mlflow_fargate.errors import InvalidOption

_MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}


@dataclass(frozen=True)
class Platform:
    """Operating system and architecture, as an image index names them."""

    os: str = "linux"
    architecture: str = "amd64"

    def __post_init__(self) -> None:
        if self.os != "linux" or self.architecture not in _MACHINES:
            raise InvalidOption(f"Platform {self} is not supported; use linux/amd64 or linux/arm64.")

    @classmethod
    def parse(cls, text: str) -> Platform:
        """Parses `linux/amd64`, `linux/arm64` or `linux/arm64/v8`."""
        os, _, rest = text.partition("/")
        architecture, _, variant = rest.partition("/")
        if variant not in {"", "v8"}:
            raise InvalidOption(f"Platform {text!r} is not supported.", hint="use linux/amd64 or linux/arm64")
        return cls(os, architecture)

    def __str__(self) -> str:
        return f"{self.os}/{self.architecture}"

    @property
    def machine(self) -> str:
        """The value of `platform.machine()` there: x86_64 or aarch64."""
        return _MACHINES[self.architecture]

    @property
    def wheel_platform(self) -> str:
        """uv's name for the newest compatible wheels; every supported Debian has at least glibc 2.28."""
        return f"{self.machine}-manylinux_2_28"


LINUX_AMD64 = Platform("linux", "amd64")
LINUX_ARM64 = Platform("linux", "arm64")

"""The platform an image is for, in the words of OCI, of wheels and of uv."""

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
            raise InvalidOption(f"Images are made for linux/amd64 and linux/arm64, not for {self}.")

    @classmethod
    def parse(cls, text: str) -> Platform:
        """From `linux/amd64`, `linux/arm64` or `linux/arm64/v8`."""
        os, _, rest = text.partition("/")
        architecture, _, variant = rest.partition("/")
        if variant not in {"", "v8"}:
            raise InvalidOption(f"{text!r} is not a platform we make images for.", hint="linux/amd64 or linux/arm64")
        return cls(os, architecture)

    def __str__(self) -> str:
        return f"{self.os}/{self.architecture}"

    @property
    def machine(self) -> str:
        """What `platform.machine()` says there: x86_64 or aarch64."""
        return _MACHINES[self.architecture]

    @property
    def wheel_platform(self) -> str:
        """uv's name of the newest wheels that run there; glibc 2.28 is older than that of any supported Debian."""
        return f"{self.machine}-manylinux_2_28"


LINUX_AMD64 = Platform("linux", "amd64")
LINUX_ARM64 = Platform("linux", "arm64")

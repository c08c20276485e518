"""What became of an image: for each layer where it came from and what it cost to send."""

from __future__ import annotations

from dataclasses import dataclass

from mlflow_fargate.image.oci.reference import Reference


@dataclass(frozen=True)
class LayerReport:
    """What became of one part of the image."""

    name: str
    size_bytes: int  # compressed, as the registry stores it
    origin: str  # 'base', 'built' now, or 'cached' (in the registry or on this machine)
    sent_bytes: int


@dataclass(frozen=True)
class BuildReport:
    """What became of the image's parts, in the order of its layers."""

    layers: tuple[LayerReport, ...]

    @property
    def size_bytes(self) -> int:
        return sum(layer.size_bytes for layer in self.layers)

    @property
    def sent_bytes(self) -> int:
        return sum(layer.sent_bytes for layer in self.layers)


@dataclass(frozen=True)
class PushedImage:
    """An image in its registry, by digest."""

    reference: Reference
    report: BuildReport

"""The result of a build: where each layer came from, and how many bytes were uploaded for it."""

from __future__ import annotations

from dataclasses import dataclass

from mlflow_fargate.image.oci.reference import Reference


@dataclass(frozen=True)
class LayerReport:
    """The result for one part of the image."""

    name: str
    size_bytes: int  # compressed, as the registry stores it
    origin: str  # 'base', 'built' now, or 'cached' (in the registry or on this machine)
    sent_bytes: int


@dataclass(frozen=True)
class BuildReport:
    """The results for the image's parts, in the order of its layers."""

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

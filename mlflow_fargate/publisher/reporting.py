"""Progress messages about an image build."""

from __future__ import annotations

import errno
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mlflow_fargate.errors import DiskFull
from mlflow_fargate.image import BuildReport
from mlflow_fargate.progress import Progress, format_bytes


def report_layers(report: BuildReport, progress: Progress) -> None:
    """Reports the size of each layer, what was uploaded, and the totals."""
    for layer in report.layers:
        name = "base image" if layer.origin == "base" else f"{layer.origin} layer {layer.name}"
        sent = f"{format_bytes(layer.sent_bytes)} sent" if layer.sent_bytes else "already in the repository"
        progress.note(f"{name}: {format_bytes(layer.size_bytes)}, {sent}")
    progress.note(f"image of {format_bytes(report.size_bytes)}, {format_bytes(report.sent_bytes)} sent")


@contextmanager
def explaining_full_disk(cache: Path) -> Iterator[None]:
    """Raises DiskFull, with a hint, if the code in this context runs out of disk space."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise DiskFull(
            f"This machine's disk is full ({error.filename or tempfile.gettempdir()}).",
            hint=f"free some space; the cache is {cache} (MLFLOW_FARGATE_CACHE moves it, TMPDIR moves temporary files)",
        ) from error

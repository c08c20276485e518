"""What people are told of the making of an image."""

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
    """What became of each layer, and of all of them."""
    for layer in report.layers:
        sent = f"{format_bytes(layer.sent_bytes)} sent" if layer.sent_bytes else "already there"
        progress.note(f"{layer.name}: {format_bytes(layer.size_bytes)}, {layer.origin}, {sent}")
    progress.note(f"image of {format_bytes(report.size_bytes)}, {format_bytes(report.sent_bytes)} sent")


@contextmanager
def explaining_full_disk(cache: Path) -> Iterator[None]:
    """Around what writes to this machine's disk; DiskFull says what to do when there is no space left."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise DiskFull(
            f"The disk of this machine is full ({error.filename or tempfile.gettempdir()}).",
            hint=f"free some space; the cache is {cache} (MLFLOW_FARGATE_CACHE moves it, TMPDIR what is temporary)",
        ) from error

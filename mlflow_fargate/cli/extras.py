"""The error of a command whose extra is not installed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from mlflow_fargate.errors import FargateError


@contextmanager
def needed(extra: str) -> Iterator[None]:
    """Wraps imports: FargateError if a package is missing; `extra` as in `pip install 'mlflow-fargate[extra]'`."""
    try:
        yield
    except ImportError as error:
        raise FargateError(
            f"This command requires the package '{error.name}'.", hint=f"pip install 'mlflow-fargate[{extra}]'"
        ) from error

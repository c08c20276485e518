"""What a command says when the extra it needs is not installed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from mlflow_fargate.errors import FargateError


@contextmanager
def needed(extra: str) -> Iterator[None]:
    """Around imports: FargateError where a package is missing; `extra` as in `pip install 'mlflow-fargate[extra]'`."""
    try:
        yield
    except ImportError as error:
        raise FargateError(
            f"This command needs the package '{error.name}'.", hint=f"pip install 'mlflow-fargate[{extra}]'"
        ) from error

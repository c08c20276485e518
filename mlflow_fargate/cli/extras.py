"""What a command says when the extra it needs is not installed."""

from __future__ import annotations

from mlflow_fargate.errors import FargateError


def extra_is_missing(extra: str, error: ImportError) -> FargateError:
    """The error for the user; `extra` as in `pip install 'mlflow-fargate[extra]'`."""
    return FargateError(
        f"This command needs the package '{error.name}'.", hint=f"pip install 'mlflow-fargate[{extra}]'"
    )

"""Makes errors `MlflowException` where MLflow or training code calls: callers there catch it and read its error code.

Elsewhere they are not, because importing MLflow takes longer than most commands of `mlflow-fargate`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from functools import cache, wraps
from typing import Any, TypeVar

from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import ErrorCode

from mlflow_fargate.errors import FargateError

F = TypeVar("F", bound=Callable[..., Any])
C = TypeVar("C", bound=type)


def raises_mlflow_errors(function: F) -> F:
    """Returns `function`, whose FargateErrors are also MlflowExceptions; it is called one frame deeper."""
    if inspect.isgeneratorfunction(function):

        @wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
            with _mlflow_errors():
                return (yield from function(*args, **kwargs))
    else:

        @wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            with _mlflow_errors():
                return function(*args, **kwargs)

    return wrapper  # type: ignore[return-value]


def methods_raise_mlflow_errors(kind: C) -> C:
    """Returns the class, with `raises_mlflow_errors` for its public methods."""
    for name, member in list(vars(kind).items()):
        if inspect.isfunction(member) and not name.startswith("_"):
            setattr(kind, name, raises_mlflow_errors(member))
    return kind


@contextmanager
def _mlflow_errors() -> Iterator[None]:
    try:
        yield
    except FargateError as error:
        if not isinstance(error, MlflowException):
            message, code = error.message, error.error_code
            error.__class__ = _as_mlflow(type(error))  # type: ignore[arg-type]  # mypy: classes have no hash
            MlflowException.__init__(error, message, error_code=ErrorCode.Value(code))
        raise


@cache
def _as_mlflow(kind: type[FargateError]) -> type[FargateError]:
    """Returns a class with the same name that is also an MlflowException."""

    def reduce(error: FargateError) -> Any:  # for pickle, which looks classes up by their names
        return _restore, (kind, error.args), error.__dict__

    return type(kind.__name__, (kind, MlflowException), {"__module__": kind.__module__, "__reduce__": reduce})


def _restore(kind: type[FargateError], args: tuple[Any, ...]) -> FargateError:
    other = _as_mlflow(kind)  # type: ignore[arg-type]  # mypy: classes have no hash
    return other.__new__(other, *args)

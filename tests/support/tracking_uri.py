"""Sets MLflow's tracking URI for a test and restores it afterwards."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import mlflow
from mlflow.tracking._tracking_service.utils import is_tracking_uri_set


@contextmanager
def use_tracking_uri(uri: str | None = None) -> Iterator[None]:
    """Sets MLflow's tracking URI to `uri`, if given; afterwards it is as before: set to the same value, or not set.

    `set_tracking_uri` also sets MLFLOW_TRACKING_URI, which the processes of later tests would inherit.
    """
    before = mlflow.get_tracking_uri() if is_tracking_uri_set() else None
    variable = os.environ.get("MLFLOW_TRACKING_URI")
    try:
        if uri is not None:
            mlflow.set_tracking_uri(uri)
        yield
    finally:
        mlflow.set_tracking_uri(before)
        os.environ.pop("MLFLOW_TRACKING_URI", None)
        if variable is not None:
            os.environ["MLFLOW_TRACKING_URI"] = variable

"""Turns MLflow's traces off where nothing receives them."""

from __future__ import annotations

import importlib
import sys
from contextlib import suppress


def turn_off_tracing(*, are_exported: bool) -> None:
    """Turns traces off if MLflow is imported, and they neither have a tracking server nor are exported.

    By default MLflow writes them to a database in the working directory, which is read-only in a task: each traced
    prediction would try that for a minute. Set MLFLOW_TRACKING_URI, or call mlflow.set_tracking_uri, to keep them.
    """
    mlflow = sys.modules.get("mlflow")
    if mlflow is None or are_exported or mlflow.tracking.is_tracking_uri_set():
        return
    with suppress(ImportError):  # before MLflow 2.14
        importlib.import_module("mlflow.tracing").disable()

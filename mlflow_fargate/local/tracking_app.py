"""MLflow's server behind the local stack's guard: `mlflow server --app-name fargate-local` loads it."""

from __future__ import annotations

from mlflow_fargate.local.guard import AsgiApp, guarded_asgi


def make_app() -> AsgiApp:
    """Returns the application for MLflow's worker process."""
    # Not at the top: MLflow's parent process imports this module too, and does not need the application.
    from mlflow.server.fastapi_app import app  # noqa: PLC0415

    return guarded_asgi(app)

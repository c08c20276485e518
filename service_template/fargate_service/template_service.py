"""The BentoML service that answers for one MLflow model by one of the templates.

models/loading   template → a warm model      http/routes   the requests      batching/   several, one prediction
"""

from __future__ import annotations

from pathlib import Path
from typing import cast

import bentoml

from fargate_service.guarded_service import GuardedService
from fargate_service.http.routes import Routes
from fargate_service.models.loading import load_model
from fargate_service.settings import ServiceDescription, Settings


def make_template_service(description: ServiceDescription, settings: Settings, source: Path) -> GuardedService:
    """The service; `source` is the folder of service.json."""
    routes = Routes(description, settings)

    # One process: TensorFlow and NumPy use all CPUs by themselves, and a second one would load the model a second time.
    @bentoml.service(
        name="mlflow_model",
        workers=1,
        # Ours answers first, in the shape of our errors; this one is for what does not come from our routes.
        traffic={"timeout": settings.timeout_seconds + 5},
        service_class=GuardedService,
    )
    @bentoml.asgi_app(routes.app, path="/")
    class Service:
        """One MLflow model. Made when the server starts; no request is answered, /readyz included, before it stands."""

        def __init__(self) -> None:
            routes.serve(load_model(description, settings, source))

        @bentoml.on_shutdown  # type: ignore[untyped-decorator]
        def close(self) -> None:
            routes.close()

    # The decorator has made a bentoml.Service of the class, which the type checker cannot know.
    service = cast("GuardedService", Service)
    service.guard(description, settings, routes.paths)
    return service

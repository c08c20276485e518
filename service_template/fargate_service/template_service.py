"""The BentoML service that serves one MLflow model with one of the templates.

models/loading   template → a warm model      http/routes   the requests      batching/   shared predictions
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import cast

import bentoml

from fargate_service.guarded_service import GuardedService
from fargate_service.http.routes import Routes
from fargate_service.memory.budget import MemoryBudget
from fargate_service.memory.measured import return_freed_memory
from fargate_service.memory.opening import open_budget
from fargate_service.models.loading import load_model
from fargate_service.settings import ServiceDescription, Settings

# Threads that build and answer large tables let the event loop, and so health checks, continue after this time. It has
# to wait for each piece of a body; with Python's 5 ms, bodies of 20 MB from many clients delayed it by seconds.
_SWITCH_SECONDS = 0.0005


def make_template_service(description: ServiceDescription, settings: Settings, source: Path) -> GuardedService:
    """Returns the service; `source` is the folder of service.json."""
    budget = MemoryBudget(wait_seconds=settings.timeout_seconds / 2)
    routes = Routes(description, settings)

    # One process: TensorFlow and NumPy use all CPUs anyway, and a second process would load the model again.
    @bentoml.service(
        name="mlflow_model",
        workers=1,
        # `Admission` times out first, with an error in our format; this timeout covers everything outside our routes.
        traffic={"timeout": settings.timeout_seconds + 5},
        service_class=GuardedService,
    )
    @bentoml.asgi_app(routes.app, path="/")
    class Service:
        """One MLflow model, loaded when the server starts; no request is answered before that, not even /readyz."""

        def __init__(self) -> None:
            return_freed_memory()
            sys.setswitchinterval(_SWITCH_SECONDS)
            model = load_model(description, settings, source)
            open_budget(budget, model.keep_room, settings)
            routes.serve(model)

        @bentoml.on_shutdown  # type: ignore[untyped-decorator]
        def close(self) -> None:
            routes.close()

    # The decorator turns the class into a bentoml.Service, which the type checker cannot know.
    service = cast("GuardedService", Service)
    service.guard(description, settings, routes.paths, budget, routes.direct)
    return service

"""Serves the user's service.py, an ordinary BentoML service, with the same guards as the templates.

It is in the folder `custom` of the image's source, with its other files, and finds its models through `deployed`.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

import bentoml
from _bentoml_impl import serde  # type: ignore[import-untyped]
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from fargate_service.guarded_service import GuardedService
from fargate_service.http.swagger_page import make_swagger_page
from fargate_service.memory.budget import MemoryBudget
from fargate_service.settings import ServiceDescription, Settings, set_library_threads

CUSTOM_FOLDER = "custom"


def is_custom(description: ServiceDescription) -> bool:
    """Returns whether a custom service is served rather than a template."""
    return description.template == CUSTOM_FOLDER


def make_custom_service(description: ServiceDescription, settings: Settings, source: Path) -> GuardedService:
    """Returns the service in `source`/custom, guarded; raises ValueError if the file defines none, or several."""
    if not settings.accept_file_urls:
        _refuse_file_urls()
    set_library_threads(os.environ, settings.cpus)
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    theirs = _import_service(source / CUSTOM_FOLDER / str(description.options["file"]))
    _set_variables(theirs)
    # The user chooses BentoML's settings; these apply where the service sets none.
    traffic = {"timeout": settings.timeout_seconds, "max_concurrency": settings.max_concurrent_requests}
    config = {"workers": 1, **theirs.config, "traffic": {**traffic, **theirs.config.get("traffic", {})}}
    ours = GuardedService(name=theirs.name, config=config, inner=theirs.inner, description=theirs.description)
    for app, path, name in theirs.mount_apps:
        ours.mount_asgi_app(app, path=path, name=name)
    ours.mount_asgi_app(_make_face(description), path="/", name="face")
    for middleware, arguments in theirs.middlewares:
        ours.add_asgi_middleware(middleware, **arguments)
    budget = MemoryBudget(wait_seconds=settings.timeout_seconds / 2)
    if settings.memory_bytes is not None:
        # What the user's code needs is unknown, so bodies can have a quarter of the task's memory, half of the budgets
        # of all processes.
        budget.open(settings.memory_bytes // 2 // _processes(config["workers"], settings))
    ours.guard(description, settings, _paths(ours), budget)
    return ours


def _processes(workers: int | str | None, settings: Settings) -> int:
    """Returns how many processes read bodies, by BentoML's setting, which can be "cpu_count"."""
    return workers if isinstance(workers, int) else settings.cpus if workers else 1


def _refuse_file_urls() -> None:
    """Makes BentoML refuse URLs that are sent in place of files, instead of fetching them.

    It would fetch any size, and its check that an address is public is one attribute of the event loop that concurrent
    requests set and restore: under load, requests reach inner addresses. Both places that fetch enter this check first.
    """
    if not hasattr(serde, "make_safe_connect"):
        raise RuntimeError("this BentoML cannot refuse URLs in place of files; use an earlier one, or ACCEPT_FILE_URLS")

    def refuse() -> None:
        raise bentoml.exceptions.InvalidArgument("A URL is not accepted in place of a file; send the file itself.")

    serde.make_safe_connect = refuse


def _import_service(file: Path) -> bentoml.Service:
    # At the end: a user's module must not shadow one of the template's.
    sys.path.append(str(file.parent))
    name = f"custom_{file.stem}"
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise ValueError(f"{file.name} is not a Python file")
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    services = [one for one in vars(module).values() if isinstance(one, bentoml.Service)]
    used = {dependency.on for one in services for dependency in one.dependencies.values()}
    entries = [one for one in services if one not in used]
    if len(entries) != 1:
        names = ", ".join(sorted(one.name for one in entries)) or "none"
        wanted = "exactly one @bentoml.service that no other service depends on"
        raise ValueError(f"{file.name} must define {wanted}; it defines {names}")
    return entries[0]


def _set_variables(service: bentoml.Service) -> None:
    """Sets the variables in the service's `envs` that the deployment does not set."""
    for variable in service.envs:
        if variable.stage == "build" or variable.name in os.environ:
            continue
        if not variable.value:
            raise ValueError(
                f"the service requires the variable {variable.name}: deploy with environment.{variable.name}="
            )
        os.environ[variable.name] = variable.value


def _make_face(description: ServiceDescription) -> Starlette:
    """Returns the page without BentoML's tracker, and the health routes that MLflow clients expect."""

    async def page(_: Request) -> Response:
        return make_swagger_page(description.title)

    async def ping(_: Request) -> Response:
        return Response("\n", media_type="application/json")

    return Starlette(routes=[Route("/", page), Route("/ping", ping), Route("/health", ping)])


def _paths(service: GuardedService) -> frozenset[str] | None:
    """Returns the paths that the service handles; None if a mounted app does not list its routes."""
    if any(not isinstance(app, Starlette) for app, _, _ in service.mount_apps):
        return None
    tasks = [api.route for api in service.apis.values() if api.is_task]
    of_tasks = {f"{route}/{verb}" for route in tasks for verb in ("submit", "status", "get", "cancel", "retry")}
    paths = {*service.schema()["paths"], *of_tasks, "/docs.json", "/schema.json"}
    return None if any("{" in path for path in paths) else frozenset(paths)

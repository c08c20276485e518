"""The BentoML service that answers for one MLflow model: `bentoml serve service:Service`.

Lies at the top of the image's source folder with its siblings, service.json and, for image classifiers, labels.json;
the model itself is a folder of its own (MODEL_DIR). Imports nothing heavy before the model is loaded, because BentoML
imports this module on the machine that builds the Bento and in its supervisor process too.

    serving_settings   what the model is, how it is served         model_loading   template → a warm model
    http_middleware    id, version, prefix, known paths, API key, body limit    http_routes     the requests themselves
    request_limits     how many requests, for how long; the end    batching        several requests, one prediction
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import cast

import bentoml
from http_middleware import ApiKeyGate, App, BodyLimit, KnownPaths, ModelVersion, PathPrefix, RequestId
from http_routes import Routes
from model_loading import load_model
from request_limits import Draining
from serving_settings import read_description, read_settings

SOURCE = Path(__file__).parent
description = read_description(SOURCE)
settings = read_settings(os.environ)
draining = Draining(settings.drain_seconds)
routes = Routes(description, settings, draining)


class PrefixedService(bentoml.Service):  # type: ignore[misc]  # bentoml's types are not followed
    """BentoML's service behind a path prefix.

    `add_asgi_middleware` would be the usual way, but puts it inside BentoML's own logging and measuring, which then
    count the load balancer's health checks as requests because of the prefix.
    """

    def to_asgi(self, is_main: bool = True) -> App:
        app = super().to_asgi(is_main=is_main)
        app.router.redirect_slashes = False  # it would redirect out of the prefix
        version = description.model_version or description.run_id or description.model_uri
        return RequestId(ModelVersion(PathPrefix(KnownPaths(app, routes.paths), settings.path_prefix), version))


# One process: TensorFlow and NumPy use all CPUs by themselves, and a second one would load the model a second time.
@bentoml.service(
    name="mlflow_model",
    workers=1,
    # Ours answers first, in the shape of our errors; this one is for what does not come from our routes.
    traffic={"timeout": settings.timeout_seconds + 5},
    service_class=PrefixedService,
)
@bentoml.asgi_app(routes.app, path="/")
class Service:
    """One MLflow model. Made when the server starts; no request is answered, /readyz included, before it stands."""

    def __init__(self) -> None:
        routes.serve(load_model(description, settings, SOURCE))
        draining.on_sigterm()

    def __is_ready__(self) -> bool:
        return not draining.has_begun

    @bentoml.on_shutdown  # type: ignore[untyped-decorator]
    def close(self) -> None:
        routes.close()


# The decorator has made a bentoml.Service of the class, which the type checker cannot know.
bento_service = cast("PrefixedService", Service)
bento_service.add_asgi_middleware(BodyLimit, max_body_bytes=settings.max_body_bytes)
if settings.api_key is not None:
    bento_service.add_asgi_middleware(ApiKeyGate, api_key=settings.api_key)

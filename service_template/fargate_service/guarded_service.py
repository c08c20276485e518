"""A BentoML service behind a path prefix, an API key and limits: what templates and custom services have in common.

http/response_headers, http/middleware   ID and version; prefix, known paths, API key, body limit
http/request_limits                      shutdown of a task
"""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Mapping
from typing import Any

import bentoml
import uvicorn.config
from bentoml._internal.server.http.access import AccessLogMiddleware
from bentoml._internal.server.http.instruments import RunnerTrafficMetricsMiddleware
from starlette.middleware import Middleware

from fargate_service.http import middleware
from fargate_service.http.direct_routes import DirectRecord, DirectRoutes, Handler
from fargate_service.http.header_limit import make_bounded_protocol
from fargate_service.http.request_limits import Draining, DrainingGate
from fargate_service.http.response_headers import ResponseHeaders
from fargate_service.http.swagger_page import ASSETS
from fargate_service.memory.budget import MemoryBudget
from fargate_service.models.tracing import turn_off_tracing
from fargate_service.settings import ServiceDescription, Settings

# Paths that BentoML handles itself.
BENTOML_PATHS = frozenset(
    ["/livez", "/readyz", "/healthz", "/metrics", *(f"/static_content/{name}" for name in ASSETS)]
)
# For the last records, before SIGKILL.
RECORD_SECONDS = 5

# Where there are none, the order of these and the others does not matter.
_AROUND_DIRECT_ROUTES = (
    RunnerTrafficMetricsMiddleware,
    AccessLogMiddleware,
    middleware.BodyLimit,
    middleware.ApiKeyGate,
    DirectRoutes,
)


class GuardedService(bentoml.Service):  # type: ignore[misc]  # bentoml's types are not followed
    """BentoML's service with additional middleware outside of BentoML's own.

    `add_asgi_middleware` is the usual way, but it places middleware inside BentoML's logging and metrics, which would
    then count the load balancer's health checks as requests because of the prefix.
    """

    def guard(
        self,
        description: ServiceDescription,
        settings: Settings,
        paths: frozenset[str] | None,
        budget: MemoryBudget,
        direct: Mapping[str, Handler] | None = None,
    ) -> None:
        """Installs the guards; `paths` are those that the service handles, None if they are unknown.

        `direct` answers POST requests to its paths, before BentoML's router but inside the guards.
        """
        # Stored in __dict__ because bentoml.Service is an attrs class with fixed fields.
        self.__dict__["_outside"] = (description, settings, paths)
        self.add_asgi_middleware(
            middleware.BodyLimit,
            max_body_bytes=settings.max_body_bytes,
            budget=budget,
            send_seconds=settings.timeout_seconds,
        )
        if settings.api_key is not None:
            self.add_asgi_middleware(middleware.ApiKeyGate, api_key=settings.api_key)
        self.__dict__["_direct"] = frozenset(direct or ())
        if direct:
            self.add_asgi_middleware(DirectRoutes, handlers=direct)

    def __call__(self) -> Any:
        """Returns an instance of the user's or the template's class; SIGTERM does not wait for a model that loads."""
        before = signal.signal(signal.SIGTERM, _exit_now)
        try:
            instance = super().__call__()
        finally:
            signal.signal(signal.SIGTERM, before)
        _, settings, _ = self.__dict__["_outside"]
        turn_off_tracing(are_exported=settings.exports_traces)  # of a custom service
        return instance

    def to_asgi(self, is_main: bool = True) -> middleware.App:
        description, settings, paths = self.__dict__["_outside"]
        # Here, because BentoML's worker gives uvicorn no protocol. It can be a class instead of a class's name.
        uvicorn.config.HTTP_PROTOCOLS["auto"] = make_bounded_protocol(settings.max_header_bytes)  # type: ignore[assignment]
        app = super().to_asgi(is_main=is_main)
        has_direct = any(one.cls is DirectRoutes for one in app.user_middleware)
        if has_direct and not settings.exports_traces:
            # The other middleware costs as much as a prediction, and does nothing for direct routes without traces.
            app.user_middleware.sort(key=lambda one: one.cls not in _AROUND_DIRECT_ROUTES)
            if [one.cls for one in app.user_middleware[:2]] == list(_AROUND_DIRECT_ROUTES[:2]):
                app.user_middleware.insert(0, Middleware(DirectRecord, paths=self.__dict__["_direct"]))
        app.router.redirect_slashes = False  # a redirect would drop the prefix
        known: middleware.App = app if paths is None else middleware.KnownPaths(app, paths | BENTOML_PATHS)
        draining = Draining(settings.drain_seconds, settings.stop_seconds, RECORD_SECONDS if settings.record else 0)
        gate: middleware.App = DrainingGate(known, draining)
        if settings.record is not None:
            from fargate_service.record.recorder import Recorder  # noqa: PLC0415  # most deployments have no record

            predicting = self.__dict__["_direct"] or paths
            recorder = Recorder(gate, settings.record, description, predicting, BENTOML_PATHS, draining.seconds_left)
            gate, draining.at_exit = recorder, recorder.close
        gate = middleware.PathPrefix(gate, settings.path_prefix)
        version = description.model_version or description.run_id or description.model_uri
        return ResponseHeaders(gate, version, draining, settings.variant)


def _exit_now(*_: object) -> None:
    logging.shutdown()
    os._exit(0)

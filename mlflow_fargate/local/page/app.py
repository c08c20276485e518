"""A WSGI application with two pages: the overview, and the last log lines of a service's tasks.

Names, reasons and log lines come from deployments: the templates escape them, and the Content-Security-Policy allows
only the script that refreshes the page. Its server is behind the guard (guard.py), so that websites cannot read it
through a browser.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from jinja2 import Environment, PackageLoader, select_autoescape
from werkzeug.exceptions import HTTPException, NotFound
from werkzeug.routing import Map, Rule
from werkzeug.wrappers import Response

from mlflow_fargate.local.engine.snapshot import ServiceSnapshot
from mlflow_fargate.local.page.rows import Tags, last_lines, make_cards
from mlflow_fargate.page_files import POLICY, page_files

REFRESH_SECONDS = 3
_HEADERS = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer"}
_ROUTES = Map([Rule("/", endpoint="page"), Rule("/logs/<cluster>/<name>", endpoint="logs")])


class PageApp:
    """Renders what `services` currently returns; `addresses` are the stack's, `logs` is a CloudWatch Logs client,
    `tags` reads those of a task definition."""

    def __init__(
        self,
        services: Callable[[], tuple[ServiceSnapshot, ...]],
        addresses: Callable[[], Mapping[str, str]],
        logs: Callable[[], Any],
        clock: Callable[[], float] = time.time,
        tags: Tags = lambda _: {},
    ) -> None:
        self._services = services
        self._addresses = addresses
        self._logs = logs
        self._clock = clock
        self._tags = tags
        loader = PackageLoader("mlflow_fargate.local.page")
        self._templates = Environment(
            loader=loader, autoescape=select_autoescape(), trim_blocks=True, lstrip_blocks=True
        )

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        try:
            endpoint, arguments = _ROUTES.bind_to_environ(environ).match()
            answer = self._page() if endpoint == "page" else self._log_page(**arguments)
        except HTTPException as error:
            return error(environ, start_response)
        return answer(environ, start_response)

    def _page(self) -> Response:
        cards = make_cards(self._services(), self._addresses(), self._clock(), self._tags)
        return self._render("stack.html", cards=cards, addresses=self._addresses(), refresh_seconds=REFRESH_SECONDS)

    def _log_page(self, cluster: str, name: str) -> Response:
        known = {(service.cluster, service.name) for service in self._services()}
        if (cluster, name) not in known:
            raise NotFound(f"Cluster '{cluster}' has no service '{name}'.")
        lines = last_lines(self._logs(), cluster, name)
        return self._render("logs.html", name=name, lines=lines, refresh_seconds=REFRESH_SECONDS)

    def _render(self, template: str, **shown: Any) -> Response:
        nonce = secrets.token_urlsafe(16)
        text = self._templates.get_template(template).render(nonce=nonce, **page_files(), **shown)
        headers = {**_HEADERS, "Content-Security-Policy": POLICY.format(nonce=nonce)}
        return Response(text, mimetype="text/html", headers=headers)

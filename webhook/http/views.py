"""The routes of the service: only Flask, no decisions.

POST /events       MLflow's and Databricks' webhooks: responds 202 at once, before anything is done
GET  /healthz      the process is alive       GET  /readyz   it can read AWS and the model registry
GET  /             the page for people        GET  /status   the same as JSON        GET  /metrics   for Prometheus
POST /retry/NAME   retries a blocked deployment

Page, status and metrics require the token: as a bearer token or, for browsers, as the password of any user. Retry only
accepts a bearer token, because browsers send a remembered password with requests from any page (CSRF).
"""

from __future__ import annotations

import logging
import secrets as random_secrets
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from flask import Blueprint, Response, jsonify, render_template, request
from flask.typing import ResponseReturnValue

from mlflow_fargate.page_files import POLICY, page_files
from mlflow_fargate.webhook.control_loop.worker import Worker
from mlflow_fargate.webhook.http.access import Access
from mlflow_fargate.webhook.http.events import EventRefused, parse_event
from mlflow_fargate.webhook.http.metrics import CONTENT_TYPE, Metrics
from mlflow_fargate.webhook.http.page import format_seconds, make_moment, make_rows
from mlflow_fargate.webhook.http.seen_deliveries import SeenDeliveries
from mlflow_fargate.webhook.http.status import status_of

MAX_BODY_BYTES = 64 * 1024  # events have a few hundred bytes; a version's description can be long
_REFRESH_SECONDS = 10
_PAGE_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PageLinks:
    """The target and links shown on the page."""

    target: str = ""
    mlflow_url: str | None = None  # MLflow's address for browsers; None: no links


def make_views(
    worker: Worker, secrets: tuple[str, ...], metrics: Metrics, clock: Callable[[], float] = time.time
) -> Blueprint:
    """Returns the routes for senders of events and for health checks."""
    views = Blueprint("webhook", __name__)
    deliveries = SeenDeliveries()

    @views.post("/events")
    def take_event() -> ResponseReturnValue:
        body = request.get_data(cache=False)
        hint = parse_event(dict(request.headers), body, secrets=secrets, now=clock())
        if hint is None:
            metrics.count_event("unwatched")
            return jsonify(accepted=True, watched=False), 202
        facts = {"delivery_id": hint.delivery_id, "model": hint.model_name}
        if not deliveries.is_new(hint.delivery_id):
            metrics.count_event("duplicate")
            logger.info("event for '%s' ignored: it was already received", hint.model_name, extra=facts)
            return jsonify(accepted=True, duplicate=True), 202
        is_watched = worker.hint(hint.model_name)
        metrics.count_event("accepted" if is_watched else "unwatched")
        logger.info("event for '%s'%s", hint.model_name, "" if is_watched else ": not watched", extra=facts)
        return jsonify(accepted=True, watched=is_watched), 202

    @views.errorhandler(EventRefused)
    def refuse(error: EventRefused) -> ResponseReturnValue:
        metrics.count_event("refused")
        facts = {"status": error.status, "delivery_id": request.headers.get("X-MLflow-Delivery-Id", "")[:200]}
        logger.warning("event refused (%d): %s", error.status, error.message, extra=facts)
        return jsonify(error=error.message), error.status

    @views.get("/healthz")
    def show_health() -> ResponseReturnValue:
        return jsonify(ok=worker.is_alive), 200 if worker.is_alive else 503

    @views.get("/readyz")
    def show_readiness() -> ResponseReturnValue:
        return jsonify(ok=worker.is_ready), 200 if worker.is_ready else 503

    return views


def make_guarded_views(
    worker: Worker,
    access: Access,
    links: PageLinks,
    metrics: Metrics,
    clock: Callable[[], float] = time.time,
) -> Blueprint:
    """Returns the routes that require the token."""
    views = Blueprint("guarded", __name__, template_folder="templates")

    views.before_request(lambda: _refusal(access))

    @views.get("/")
    def show() -> ResponseReturnValue:
        return _page(worker, links, clock())

    @views.get("/status")
    def show_status() -> ResponseReturnValue:
        return jsonify(status_of(worker))

    @views.get("/metrics")
    def show_metrics() -> ResponseReturnValue:
        return Response(metrics.exposition(), content_type=CONTENT_TYPE)

    @views.post("/retry/<path:key>")
    def retry(key: str) -> ResponseReturnValue:
        if not worker.retry(key):
            return jsonify(error="this deployment is not watched"), 404
        return jsonify(accepted=True), 202

    return views


def _page(worker: Worker, links: PageLinks, now: float) -> ResponseReturnValue:
    nonce = random_secrets.token_urlsafe(16)
    rows = make_rows(worker.seen().values(), links.mlflow_url, now)
    page = render_template(
        "page.html",
        nonce=nonce,
        **page_files(),
        target=links.target,
        mlflow_url=links.mlflow_url,
        refresh_seconds=_REFRESH_SECONDS,
        rows=rows,
        counts=Counter((row.state, row.tone) for row in rows).items(),
        attention=sum(row.tone in {"bad", "warn"} for row in rows),
        problems=[problem for problem in (worker.error, worker.rules_error) if problem],
        looked_at=make_moment(worker.looked_at, now) if worker.looked_at else None,
        next_look=format_seconds(max(0.0, worker.next_look_at - now)) if worker.next_look_at else None,
    )
    return page, {"Content-Security-Policy": POLICY.format(nonce=nonce), **_PAGE_HEADERS}


def refusal_of_address(access: Access) -> ResponseReturnValue | None:
    """Returns the refusal of a client whose address is not allowed; health checks are open to all."""
    if request.path in {"/healthz", "/readyz"} or access.may_connect(request.remote_addr):
        return None
    return jsonify(error="this address is not in FARGATE_WEBHOOK_ALLOWED_CIDRS"), 403


def _refusal(access: Access) -> ResponseReturnValue | None:
    given = request.authorization
    bearer = given.token if given is not None and given.type == "bearer" else None
    if request.method == "POST":
        return None if access.may_act(bearer) else _unauthorized("Bearer")
    password = given.password if given is not None and given.type == "basic" else None
    if access.may_look(bearer or password):
        return None
    if access.token is None:
        return jsonify(error="no token is set: set FARGATE_WEBHOOK_TOKEN, or FARGATE_WEBHOOK_PUBLIC=true"), 403
    return _unauthorized('Basic realm="mlflow-fargate: any user, the token as password", charset="UTF-8"')


def _unauthorized(scheme: str) -> ResponseReturnValue:
    return jsonify(error="a token is required"), 401, {"WWW-Authenticate": scheme}

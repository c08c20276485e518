"""The service's edge: Flask and nothing that decides.

POST /events    MLflow's and Databricks' webhooks: 202 at once, whatever comes of it
GET  /healthz   the process lives          GET  /readyz   it sees AWS and the model registry
GET  /status    what was seen and decided
POST /retry/NAME   lets what is blocked be tried once more
"""

from __future__ import annotations

import hmac
import logging
import time
from collections.abc import Callable

from flask import Blueprint, jsonify, request
from flask.typing import ResponseReturnValue

from .deliveries import Deliveries
from .events import EventRefused, parse_event
from .worker import Worker

MAX_BODY_BYTES = 64 * 1024  # events are some hundred bytes; a version's description may be long

logger = logging.getLogger(__name__)


def make_views(
    worker: Worker, secrets: tuple[str, ...], token: str | None, clock: Callable[[], float] = time.time
) -> Blueprint:
    """The routes, over a worker that is told of hints."""
    views = Blueprint("webhook", __name__)
    deliveries = Deliveries()

    @views.post("/events")
    def take_event() -> ResponseReturnValue:
        body = request.get_data(cache=False)
        hint = parse_event(dict(request.headers), body, secrets=secrets, now=clock())
        if hint is None:
            return jsonify(accepted=True, watched=False), 202
        if not deliveries.is_new(hint.delivery_id):
            return jsonify(accepted=True, duplicate=True), 202
        return jsonify(accepted=True, watched=worker.hint(hint.model_name)), 202

    @views.errorhandler(EventRefused)
    def refuse(error: EventRefused) -> ResponseReturnValue:
        logger.warning("event refused (%d): %s", error.status, error.message)
        return jsonify(error=error.message), error.status

    @views.get("/healthz")
    def tell_health() -> ResponseReturnValue:
        told = {"ok": worker.is_alive, "rules_error": worker.rules_error}
        return jsonify(told), 200 if worker.is_alive else 503

    @views.get("/readyz")
    def tell_readiness() -> ResponseReturnValue:
        return _yes_or_no(worker.is_ready)

    @views.get("/status")
    def tell_status() -> ResponseReturnValue:
        if token is not None and not _shows(token):
            return _unauthorized()
        return jsonify(worker.status())

    @views.post("/retry/<path:key>")
    def retry(key: str) -> ResponseReturnValue:
        if token is None or not _shows(token):
            return _unauthorized()
        if not worker.retry(key):
            return jsonify(error="no such deployment is watched"), 404
        return jsonify(accepted=True), 202

    return views


def _shows(token: str) -> bool:
    told = request.headers.get("Authorization", "").removeprefix("Bearer ")
    return hmac.compare_digest(told.encode("utf-8", "replace"), token.encode())


def _unauthorized() -> ResponseReturnValue:
    return jsonify(error="a token is needed"), 401, {"WWW-Authenticate": "Bearer"}


def _yes_or_no(is_so: bool) -> ResponseReturnValue:
    return jsonify(ok=is_so), 200 if is_so else 503

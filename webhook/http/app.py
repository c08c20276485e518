"""The Flask application that waitress serves: the views for a worker."""

from __future__ import annotations

from flask import Flask

from mlflow_fargate.webhook.control_loop.worker import Worker
from mlflow_fargate.webhook.http.access import Access
from mlflow_fargate.webhook.http.metrics import Metrics
from mlflow_fargate.webhook.http.views import (
    MAX_BODY_BYTES,
    PageLinks,
    make_guarded_views,
    make_views,
    refusal_of_address,
)


def create_app(
    worker: Worker,
    secrets: tuple[str, ...],
    access: Access | None = None,
    links: PageLinks | None = None,
    metrics: Metrics | None = None,
) -> Flask:
    """Returns the Flask application for a worker; events must be signed with one of `secrets`.

    `access` controls the page, status, metrics and retry; without it, all of them are closed.
    """
    metrics, access = metrics or Metrics(), access or Access()
    metrics.watch(worker)
    # No static folder: nothing is served from disk.
    app = Flask(__name__, static_folder=None)
    # Flask checks this before it reads a body.
    app.config["MAX_CONTENT_LENGTH"] = MAX_BODY_BYTES
    app.before_request(lambda: refusal_of_address(access))
    app.register_blueprint(make_views(worker, secrets, metrics))
    app.register_blueprint(make_guarded_views(worker, access, links or PageLinks(), metrics))
    return app

"""The application that waitress serves: the views over a worker."""

from __future__ import annotations

from flask import Flask

from mlflow_fargate.webhook.control_loop.worker import Worker
from mlflow_fargate.webhook.http.access import Access
from mlflow_fargate.webhook.http.metrics import Metrics
from mlflow_fargate.webhook.http.views import MAX_BODY_BYTES, PageLinks, make_guarded_views, make_views


def create_app(
    worker: Worker,
    secrets: tuple[str, ...],
    access: Access | None = None,
    links: PageLinks | None = None,
    metrics: Metrics | None = None,
) -> Flask:
    """The Flask application over a worker; events must be signed with one of `secrets`.

    `access` says who sees the page, status and metrics and may say retry; without it nobody.
    """
    metrics = metrics or Metrics()
    metrics.watch(worker)
    # Not Flask's own folder of static files: there is nothing to serve from disk.
    app = Flask(__name__, static_folder=None)
    # Checked by Flask before a body is read.
    app.config["MAX_CONTENT_LENGTH"] = MAX_BODY_BYTES
    app.register_blueprint(make_views(worker, secrets, metrics))
    app.register_blueprint(make_guarded_views(worker, access or Access(), links or PageLinks(), metrics))
    return app

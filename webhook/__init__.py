"""A service that keeps deployments at the versions the model registry names: stages and aliases move, it follows.

    events.py  who says so ─► worker.py  look, decide, act ─► mlflow.deployments
                                 │    ├─ observe.py  the look            rules.py, watch.py  at what
                                 │    ├─ reconcile.py  the decision          actor.py  the deed
                                 └─ model_registry.py  what the registry says

settings.py reads the environment, views.py is the edge (access.py: who may see; page.py, status.py, metrics.py: what),
notify.py tells people, lease.py which of several replicas acts, serve.py runs it all. No model code runs here.
"""

from __future__ import annotations

from flask import Flask

from .access import Access
from .metrics import Metrics
from .views import MAX_BODY_BYTES, PageLinks, make_guarded_views, make_views
from .worker import Worker


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

"""A service that keeps deployments at the versions the model registry names: stages and aliases move, it follows.

    events.py  who says so ─► worker.py  look, decide, act ─► mlflow.deployments
                                 │    ├─ rules.py, watch.py  what to look after
                                 │    ├─ reconcile.py  the decision          actor.py  the deed
                                 └─ model_registry.py  what the registry says

settings.py reads the environment, views.py is the edge, serve.py runs it all. No model code runs in this process.
"""

from __future__ import annotations

from flask import Flask

from .views import MAX_BODY_BYTES, make_views
from .worker import Worker


def create_app(worker: Worker, secrets: tuple[str, ...], token: str | None = None) -> Flask:
    """The Flask application over a worker; events must be signed with one of `secrets`.

    `token` opens /status and retry; without one, /status is open and nobody can say retry.
    """
    app = Flask(__name__)
    # Checked by Flask before a body is read.
    app.config["MAX_CONTENT_LENGTH"] = MAX_BODY_BYTES
    app.register_blueprint(make_views(worker, secrets, token))
    return app

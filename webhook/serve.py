"""Runs the service: a worker, the Flask application over it, waitress in front, until SIGTERM or Ctrl-C."""

from __future__ import annotations

import functools
import signal
import sys
import threading
from types import FrameType

import mlflow
import waitress
from mlflow.deployments import get_deploy_client

from mlflow_fargate.errors import InvalidOption
from mlflow_fargate.progress import PlainProgress, Progress

from . import create_app
from .model_registry import MlflowModelRegistry
from .rules import RuleBook
from .settings import Settings
from .views import MAX_BODY_BYTES
from .worker import Worker


def serve(settings: Settings, progress: Progress | None = None) -> None:
    """Serves until it is told to stop; rollouts under way then get `settings.stop_seconds` to finish."""
    progress = progress or PlainProgress()
    # The deployments' client resolves models with MLflow's own settings.
    mlflow.set_tracking_uri(settings.tracking_uri)
    if settings.registry_uri:
        mlflow.set_registry_uri(settings.registry_uri)
    worker = Worker(
        connect=functools.cache(lambda: get_deploy_client(settings.target)),
        registry=MlflowModelRegistry(settings.tracking_uri, settings.registry_uri),
        rules=_rules(settings),
        poll_seconds=settings.poll_seconds,
        retry_seconds=settings.retry_seconds,
    )
    app = create_app(worker, settings.secrets, settings.token)
    try:
        server = waitress.create_server(
            app, host=settings.host, port=settings.port, max_request_body_size=MAX_BODY_BYTES, ident=None
        )
    except (OSError, ValueError) as error:  # waitress says ValueError of a host that is no address
        raise InvalidOption(
            f"The webhook service cannot listen on {settings.host}:{settings.port}: {error}.",
            hint="choose another --port (0 for a free one), or end what listens there: ss -ltnp",
        ) from error
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _stop)
    worker.start()
    progress.step(f"webhook service on http://{server.effective_host}:{server.effective_port} for {settings.target}")
    if not settings.secrets:
        progress.note("no secret is set: events are refused, changes are found by looking")
    try:
        server.run()  # returns after SystemExit and KeyboardInterrupt
    finally:
        progress.step("stopping")
        if not worker.stop(settings.stop_seconds):
            progress.note("a rollout is not finished; ECS goes on with it, and the next start looks at it again")
        server.close()


def _rules(settings: Settings) -> RuleBook:
    """InvalidOption when they are wrong from the start: then there are no good ones to keep."""
    if settings.rules_file:
        return RuleBook(functools.partial(settings.rules_file.read_text, encoding="utf-8"), str(settings.rules_file))
    if settings.models:
        return RuleBook(lambda: f"models: {settings.models}", "FARGATE_WEBHOOK_MODELS")
    return RuleBook(None, "the models' tags")


def _stop(number: int, frame: FrameType | None) -> None:
    sys.exit(0)

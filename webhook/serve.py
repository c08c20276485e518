"""Runs the service: a worker and its Flask application, served by waitress, until SIGTERM or Ctrl-C."""

from __future__ import annotations

import functools
import logging
import signal
import socket
import sys
import threading
import uuid
from collections.abc import Callable, Sequence

import mlflow
from flask import Flask
from mlflow.deployments import get_deploy_client

from mlflow_fargate.aws.lease import S3Lease
from mlflow_fargate.aws.session import AwsSession
from mlflow_fargate.aws.topics import Topic
from mlflow_fargate.errors import InvalidOption
from mlflow_fargate.target import parse_target
from mlflow_fargate.webhook.control_loop.actor import Outcome
from mlflow_fargate.webhook.control_loop.model_registry import MlflowModelRegistry
from mlflow_fargate.webhook.control_loop.rules import RuleBook
from mlflow_fargate.webhook.control_loop.worker import Timing, Worker
from mlflow_fargate.webhook.http.access import Access
from mlflow_fargate.webhook.http.app import create_app
from mlflow_fargate.webhook.http.metrics import Metrics
from mlflow_fargate.webhook.http.server import Server
from mlflow_fargate.webhook.http.views import PageLinks
from mlflow_fargate.webhook.lease import LeaseKeeper
from mlflow_fargate.webhook.logs import set_up_logs
from mlflow_fargate.webhook.notify import Notifier, Send, slack_channel
from mlflow_fargate.webhook.settings import Settings

logger = logging.getLogger(__name__)

_GOODBYE_SECONDS = 5.0  # to release the lease and send the last notifications


def serve(settings: Settings) -> None:
    """Serves until SIGTERM or Ctrl-C; running rollouts then have `settings.stop_seconds` to finish."""
    as_json = settings.logs_as_json
    set_up_logs(as_json=not sys.stderr.isatty() if as_json is None else as_json)
    # The deployments client resolves models with MLflow's global settings.
    mlflow.set_tracking_uri(settings.tracking_uri)
    if settings.registry_uri:
        mlflow.set_registry_uri(settings.registry_uri)
    metrics, notifier = Metrics(), Notifier(_channels(settings))
    lease = _lease(settings)
    worker = _worker(settings, lease, [metrics.count_outcome, notifier.tell])
    keeper = LeaseKeeper(lease, settings.lease_seconds, worker.wake) if lease else None
    access = Access(settings.token, settings.is_public, settings.allowed_cidrs)
    app = create_app(worker, settings.secrets, access, PageLinks(settings.target, settings.mlflow_url), metrics)
    server = _listen(app, settings)
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    for part in (notifier, keeper, worker):
        if part is not None:
            part.start()
    place = f"http://{server.effective_host}:{server.effective_port}"
    logger.info("webhook service on %s for %s", place, settings.target)
    if not settings.secrets:
        logger.warning("no secret is set: events are refused, changes are found by polling")
    if not settings.token:
        closed = "retry is" if settings.is_public else "the page, /status, /metrics and retry are"
        logger.warning("no token is set (FARGATE_WEBHOOK_TOKEN): %s closed to everyone", closed)
    try:
        server.run()  # returns after SystemExit and KeyboardInterrupt
    finally:
        logger.info("stopping")
        if not worker.stop(settings.stop_seconds):
            logger.warning("a rollout has not finished; ECS continues it, and the next start checks it again")
        if keeper is not None:
            keeper.stop(_GOODBYE_SECONDS)
        notifier.stop(_GOODBYE_SECONDS)
        server.close()


def _worker(settings: Settings, lease: S3Lease | None, listeners: Sequence[Callable[[Outcome], None]]) -> Worker:
    return Worker(
        connect=functools.cache(lambda: get_deploy_client(settings.target)),
        registry=MlflowModelRegistry(settings.tracking_uri, settings.registry_uri),
        rules=_rules(settings),
        timing=Timing(settings.poll_seconds, settings.retry_seconds),
        listeners=listeners,
        may_act=lambda: lease is None or lease.is_held,
    )


def _channels(settings: Settings) -> dict[str, Send]:
    channels: dict[str, Send] = {}
    if settings.notify_url:
        channels["the notification address"] = slack_channel(settings.notify_url)
    if settings.notify_topic_arn:
        channels["the SNS topic"] = Topic(parse_target(settings.target), settings.notify_topic_arn).publish
    return channels


def _lease(settings: Settings) -> S3Lease | None:
    if settings.lease is None:
        return None
    # Identifies this process, and is never reused.
    holder = f"{socket.gethostname()}-{uuid.uuid4().hex[:8]}"
    return S3Lease(AwsSession(parse_target(settings.target)), settings.lease, holder, settings.lease_seconds)


def _listen(app: Flask, settings: Settings) -> Server:
    """Returns a server for the application; InvalidOption if the address is in use or invalid."""
    try:
        return Server(
            app,
            host=settings.host,
            port=settings.port,
            prefix=settings.prefix,
            is_behind_proxy=settings.is_behind_proxy,
        )
    except (OSError, ValueError) as error:  # waitress raises ValueError for an invalid host
        raise InvalidOption(
            f"The webhook service cannot listen on {settings.host}:{settings.port}: {error}.",
            hint="choose another --port (0 for a free one), or stop the process that uses it (to find it: ss -ltnp)",
        ) from error


def _rules(settings: Settings) -> RuleBook:
    """Returns the rules; InvalidOption if they are invalid at startup, with no valid ones to fall back to."""
    if settings.rules_file:
        return RuleBook(functools.partial(settings.rules_file.read_text, encoding="utf-8"), str(settings.rules_file))
    if settings.models:
        return RuleBook(lambda: f"models: {settings.models}", "FARGATE_WEBHOOK_MODELS")
    return RuleBook(by_tag=settings.rules_in_tags)

"""MLflow's own model registry store, which also tells MLflow's webhooks of stage changes.

    mlflow server --registry-store-uri fargate-postgresql://…      (with this package installed beside the server)

MLflow sends no event when a version changes its stage. With this store a transition that succeeded is told as a tag
event of key `mlflow.stage`, by MLflow's own delivery: its webhooks, secrets, signatures and retries. Opt-in by the URI;
whatever goes wrong in telling, the transition stands and the server works on. Found by MLflow as an entry point.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import Any

logger = logging.getLogger(__name__)

STAGE_KEY = "mlflow.stage"


def open_store(store_uri: str, tracking_uri: str | None = None) -> Any:
    """MLflow's store for `store_uri` without the `fargate-` before it, telling of stage changes."""
    # Only in a tracking server are these installed and loaded; others look for our entry points too.
    from mlflow.server.handlers import ModelRegistryStoreRegistryWrapper  # noqa: PLC0415

    # MLflow's own way to make one knows of workspaces and read replicas. One method of the instance is replaced,
    # because a class of ours would have to follow constructors that differ between MLflow's versions.
    store = ModelRegistryStoreRegistryWrapper._get_sqlalchemy_store(store_uri.removeprefix("fargate-"))
    store.transition_model_version_stage = functools.partial(_transition, store, store.transition_model_version_stage)
    return store


def _transition(store: Any, transition: Callable[..., Any], *told: Any, **named: Any) -> Any:
    version = transition(*told, **named)
    try:
        _tell(store, version)
    except Exception:  # the transition is done, and the service also looks by itself
        logger.exception("the stage change of '%s' version %s was not told", version.name, version.version)
    return version


def _tell(store: Any, version: Any) -> None:
    from mlflow.entities.webhook import WebhookAction, WebhookEntity, WebhookEvent  # noqa: PLC0415
    from mlflow.webhooks.delivery import deliver_webhook  # noqa: PLC0415

    event = WebhookEvent(WebhookEntity.MODEL_VERSION_TAG, WebhookAction.SET)
    payload = {
        "name": version.name,
        "version": str(version.version),
        "key": STAGE_KEY,
        "value": version.current_stage,
    }
    deliver_webhook(event=event, payload=payload, store=store)

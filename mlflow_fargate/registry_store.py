"""MLflow's model registry store, extended to send stage changes to MLflow's webhooks.

    mlflow server --registry-store-uri fargate-postgresql://…      (with this package installed on the server)

MLflow sends no event when a version changes its stage. With this store, a successful transition is sent as a tag event
with the key `mlflow.stage`, by MLflow's own delivery: its webhooks, secrets, signatures and retries. The URI opts in.
If sending fails, the transition remains and the server continues. MLflow finds this module as an entry point.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import Any

logger = logging.getLogger(__name__)

STAGE_KEY = "mlflow.stage"


def open_store(store_uri: str, tracking_uri: str | None = None) -> Any:
    """Returns MLflow's store for `store_uri` without its `fargate-` prefix, extended to send stage changes."""
    # Only a tracking server has these installed; other programs load the entry points too.
    from mlflow.server.handlers import ModelRegistryStoreRegistryWrapper  # noqa: PLC0415

    # MLflow's own factory handles workspaces and read replicas. One method of the instance is replaced, because a
    # subclass would have to match constructors that differ between MLflow's versions.
    store = ModelRegistryStoreRegistryWrapper._get_sqlalchemy_store(store_uri.removeprefix("fargate-"))
    store.transition_model_version_stage = functools.partial(_transition, store, store.transition_model_version_stage)
    return store


def _transition(store: Any, transition: Callable[..., Any], *told: Any, **named: Any) -> Any:
    version = transition(*told, **named)
    try:
        _tell(store, version)
    except Exception:  # the transition is done, and the webhook service also polls
        logger.exception("could not send the stage change of '%s' version %s", version.name, version.version)
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

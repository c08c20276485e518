"""Makes MLflow send its events here: one webhook on the tracking server, made or brought up to date, and tried."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from mlflow_fargate.errors import FargateError
from mlflow_fargate.resolved_model import without_credentials
from mlflow_fargate.webhook.control_loop.model_registry import all_pages

# Stages send none of their own; with registry_store.py they come as a tag.
EVENTS = (
    "model_version_alias.created",
    "model_version_alias.deleted",
    "model_version_tag.set",
    "model_version_tag.deleted",
)

T = TypeVar("T")


@dataclass(frozen=True)
class Registration:
    """The webhook as it is now."""

    webhook_id: str
    is_new: bool


def register(client: MlflowClient, url: str, secret: str, name: str) -> Registration:
    """The one webhook of this name, with this address and secret and our events; made where there is none.

    The same again changes nothing. FargateError says what MLflow refused.
    """
    events = list(EVENTS)
    listed = _refusing(lambda: list(all_pages(lambda token: client.list_webhooks(page_token=token))))
    found = next((one for one in listed if one.name == name), None)
    if found is None:
        made = _refusing(lambda: client.create_webhook(name, url, events, secret=secret))
        return Registration(made.webhook_id, is_new=True)
    # A secret cannot be read back, so it is always told again; that is how it is rotated, too.
    told = {"url": url, "events": events, "secret": secret, "status": "ACTIVE"}
    _refusing(lambda: client.update_webhook(found.webhook_id, **told))
    return Registration(found.webhook_id, is_new=False)


def send_test_event(client: MlflowClient, webhook_id: str) -> None:
    """MLflow's own test event, signed as all are, was taken by the service; FargateError when it was not."""
    result = _refusing(lambda: client.test_webhook(webhook_id))
    if result.success:
        return
    said = f"{result.response_status or ''} {result.error_message or result.response_body or ''}".strip()[:300]
    hints = {
        401: "the service's FARGATE_WEBHOOK_SECRET has to be the one that was registered",
        400: "do the clocks of both machines agree?",
        404: "the address ends with /events",
    }
    raise FargateError(
        f"MLflow's test event was not taken: {said}.",
        hint=hints.get(result.response_status, "does the service run, and can MLflow's server reach the address?"),
    )


def _refusing(ask: Callable[[], T]) -> T:
    try:
        return ask()
    except MlflowException as error:
        said = without_credentials(error.message).splitlines()[0][:300]
        raise FargateError(f"MLflow refused the webhook: {said}", hint=_hint(said)) from error


def _hint(said: str) -> str:
    lowered = said.lower()
    if "scheme" in lowered or "https" in lowered:
        return "MLflow sends to https addresses only, unless its server has MLFLOW_WEBHOOK_ALLOWED_SCHEMES=https,http"
    if "private" in lowered or "non-public" in lowered or "not allowed" in lowered:
        return "MLflow sends to no private address, unless its server has MLFLOW_WEBHOOK_ALLOW_PRIVATE_IPS=true"
    return "webhooks need an MLflow server with a database, and MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY set on it"

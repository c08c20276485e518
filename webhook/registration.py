"""Registers the service as one webhook on the tracking server: creates or updates it, and sends a test event."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from mlflow_fargate.errors import FargateError
from mlflow_fargate.resolved_model import without_credentials
from mlflow_fargate.webhook.control_loop.model_registry import all_pages

# Stage changes have no event of their own; registry_store.py sends them as a tag event.
EVENTS = (
    "model_version_alias.created",
    "model_version_alias.deleted",
    "model_version_tag.set",
    "model_version_tag.deleted",
)

T = TypeVar("T")


@dataclass(frozen=True)
class Registration:
    """The registered webhook."""

    webhook_id: str
    is_new: bool


def register(client: MlflowClient, url: str, secret: str, name: str) -> Registration:
    """Creates or updates the webhook of this name, with this URL, this secret and `EVENTS`; idempotent.

    Raises FargateError with MLflow's message if MLflow rejects it.
    """
    events = list(EVENTS)
    listed = _refusing(lambda: list(all_pages(lambda token: client.list_webhooks(page_token=token))))
    found = next((one for one in listed if one.name == name), None)
    if found is None:
        created = _refusing(lambda: client.create_webhook(name, url, events, secret=secret))
        return Registration(created.webhook_id, is_new=True)
    # A secret cannot be read back, so it is always sent; this is also how it is rotated.
    fields = {"url": url, "events": events, "secret": secret, "status": "ACTIVE"}
    _refusing(lambda: client.update_webhook(found.webhook_id, **fields))
    return Registration(found.webhook_id, is_new=False)


def send_test_event(client: MlflowClient, webhook_id: str) -> None:
    """Has MLflow send its signed test event; FargateError if the service does not accept it."""
    result = _refusing(lambda: client.test_webhook(webhook_id))
    if result.success:
        return
    said = f"{result.response_status or ''} {result.error_message or result.response_body or ''}".strip()[:300]
    hints = {
        401: "start the service with the FARGATE_WEBHOOK_SECRET that was registered",
        400: "check that the clocks of both machines agree",
        404: "the URL must end with /events",
    }
    raise FargateError(
        f"MLflow's test event was not accepted: {said}.",
        hint=hints.get(
            result.response_status, "check that the service is running and that the MLflow server can reach the URL"
        ),
    )


def _refusing(call: Callable[[], T]) -> T:
    try:
        return call()
    except MlflowException as error:
        said = without_credentials(error.message).splitlines()[0][:300]
        raise FargateError(f"MLflow rejected the webhook: {said}", hint=_hint(said)) from error


def _hint(said: str) -> str:
    lowered = said.lower()
    if "scheme" in lowered or "https" in lowered:
        return "use an https URL, or set MLFLOW_WEBHOOK_ALLOWED_SCHEMES=https,http on the MLflow server"
    if "private" in lowered or "non-public" in lowered or "not allowed" in lowered:
        return "use a public address, or set MLFLOW_WEBHOOK_ALLOW_PRIVATE_IPS=true on the MLflow server"
    return "webhooks require an MLflow server with a database and with MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY set"

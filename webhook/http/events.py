"""Turns signed events into hints: verifies the signature and takes only the model's name from them. No I/O here.

MLflow signs `id.timestamp.body`, so an old event cannot be replayed as a new one. Databricks signs only the body. For
both, an event only triggers a poll: what to deploy is read from the model registry.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mlflow_fargate.errors import FargateError

# MLflow's retries keep the first attempt's timestamp and end after ten seconds. The rest allows for clock skew.
MAX_AGE_SECONDS = 300
_MAX_ID_CHARACTERS = 200  # MLflow's are UUIDs; IDs are remembered and logged
_ENTITIES = {"registered_model", "model_version", "model_version_tag", "model_version_alias"}


@dataclass(frozen=True)
class Hint:
    """This registered model may have changed."""

    model_name: str
    delivery_id: str | None = None  # the same for each delivery attempt; Databricks sends none


class EventRefused(FargateError):
    """An event that is refused, and the HTTP status of the response."""

    error_code = "BAD_REQUEST"

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def parse_event(headers: Mapping[str, str], body: bytes, *, secrets: Sequence[str], now: float) -> Hint | None:
    """Returns the hint in a request, None for unrelated events; EventRefused if it cannot be trusted.

    `now`: seconds since 1970. An event is valid if it is signed with any of `secrets`.
    """
    named = {name.lower(): value for name, value in headers.items()}
    if "x-mlflow-signature" in named:
        _check_mlflow(named, body, secrets, now)
        return _mlflow_hint(_parse_json(body), named["x-mlflow-delivery-id"])
    if "x-databricks-signature" in named:
        _check_databricks(named, body, secrets)
        return _hint(_parse_json(body).get("model_name"))
    raise EventRefused(401, "The event is not signed.")


def _check_mlflow(headers: Mapping[str, str], body: bytes, secrets: Sequence[str], now: float) -> None:
    # https://mlflow.org/docs/latest/ml/webhooks/ : "v1," and the base64 of HMAC-SHA256.
    moment = headers.get("x-mlflow-timestamp", "")
    content = b".".join((_bytes(headers.get("x-mlflow-delivery-id", "")), _bytes(moment), body))
    valid = [b"v1," + base64.b64encode(_mac(secret, content).digest()) for secret in secrets]
    _check(headers["x-mlflow-signature"], valid)
    if not 0 < len(headers.get("x-mlflow-delivery-id", "")) <= _MAX_ID_CHARACTERS:
        raise EventRefused(400, "The event's delivery ID is missing or too long.")
    if not re.fullmatch(r"[0-9]{1,12}", moment) or abs(now - int(moment)) > MAX_AGE_SECONDS:
        raise EventRefused(400, "The event's timestamp is missing, too old, or too far in the future.")


def _check_databricks(headers: Mapping[str, str], body: bytes, secrets: Sequence[str]) -> None:
    # https://docs.databricks.com/en/mlflow/model-registry-webhooks.html : the hex of HMAC-SHA256.
    _check(headers["x-databricks-signature"], [_mac(secret, body).hexdigest().encode() for secret in secrets])


def _check(given: str, valid: Sequence[bytes]) -> None:
    if not any(hmac.compare_digest(_bytes(given.strip()), one) for one in valid):
        raise EventRefused(401, "Invalid signature.")


def _mac(secret: str, content: bytes) -> hmac.HMAC:
    return hmac.new(secret.encode(), content, hashlib.sha256)


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "replace")


def _parse_json(body: bytes) -> dict[str, Any]:
    try:
        event = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise EventRefused(400, "The event is not JSON.") from error
    if not isinstance(event, dict):
        raise EventRefused(400, "The event is not a JSON object.")
    return event


def _mlflow_hint(event: dict[str, Any], delivery_id: str) -> Hint | None:
    data, entity = event.get("data"), event.get("entity")
    if not isinstance(entity, str) or entity not in _ENTITIES or not isinstance(data, dict):
        return None
    return _hint(data.get("name"), delivery_id)


def _hint(name: object, delivery_id: str | None = None) -> Hint | None:
    return Hint(name, delivery_id) if isinstance(name, str) and name else None

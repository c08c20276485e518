"""Events as MLflow signs and sends them."""

from __future__ import annotations

import base64
import hashlib
import hmac
import itertools
import json
import time
from collections.abc import Mapping
from typing import Any

_delivery_ids = itertools.count()


def signed_event(name: str, *, secret: str = "new-secret", age_seconds: int = 0) -> Mapping[str, Any]:
    delivery_id = f"delivery-{next(_delivery_ids)}"
    body = json.dumps({"entity": "model_version_alias", "action": "created", "data": {"name": name}})
    moment = str(int(time.time()) - age_seconds)
    made = hmac.new(secret.encode(), f"{delivery_id}.{moment}.{body}".encode(), hashlib.sha256).digest()
    headers = {
        "X-MLflow-Signature": f"v1,{base64.b64encode(made).decode()}",
        "X-MLflow-Delivery-Id": delivery_id,
        "X-MLflow-Timestamp": moment,
    }
    return {"data": body, "headers": headers}

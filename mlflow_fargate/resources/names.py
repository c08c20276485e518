"""Names, tags and digests of the resources."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

MANAGED_BY = {"managed-by": "mlflow-fargate"}
ENDPOINT_TAG = "mlflow-fargate:endpoint"
DEPLOYMENT_TAG = "mlflow-fargate:deployment"
VARIANT_TAG = "mlflow-fargate:variant-of"  # of a variant's resources: the deployment whose requests it shares
CONTAINER = "model"
# The name of an endpoint's webhook service. Deployment names start with a letter.
WEBHOOK = "_webhook"
# Requests with this header and the value in a deployment's test rule are sent to the new tasks before other requests.
TEST_HEADER = "X-Mlflow-Fargate-Test"


def cluster_name(endpoint: str) -> str:
    """Returns the name of an endpoint's cluster and load balancer; at most 31 characters."""
    return f"mlflow-fargate-{endpoint}"


def log_group_name(endpoint: str, deployment: str) -> str:
    """Returns the name of the log group of a deployment's tasks."""
    return f"/mlflow-fargate/{endpoint}/{deployment}"


def short_digest(values: Mapping[str, object]) -> str:
    """Returns 16 hex digits of the SHA-256 of the values' canonical JSON."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


def tag_value(text: str) -> str:
    """Returns `text` with characters that tags do not allow replaced by '_'; at most 256 characters."""
    return "".join(letter if letter.isalnum() or letter in " +-=._:/@" else "_" for letter in text)[:256]

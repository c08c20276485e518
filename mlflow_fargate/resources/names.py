"""Words that stand on what we make: tags, names, digests."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

MANAGED_BY = {"managed-by": "mlflow-fargate"}
ENDPOINT_TAG = "mlflow-fargate:endpoint"
DEPLOYMENT_TAG = "mlflow-fargate:deployment"
CONTAINER = "model"
# The webhook service beside the deployments of an endpoint. No deployment's name begins so.
WEBHOOK = "_webhook"
# Requests that carry it, with the value that the test rule of a deployment names, go to the new tasks before others do.
TEST_HEADER = "X-Mlflow-Fargate-Test"


def cluster_name(endpoint: str) -> str:
    """The name of an endpoint's cluster and of its load balancer; 31 characters at most."""
    return f"mlflow-fargate-{endpoint}"


def log_group_name(endpoint: str, deployment: str) -> str:
    """Where a deployment's tasks write."""
    return f"/mlflow-fargate/{endpoint}/{deployment}"


def short_digest(values: Mapping[str, object]) -> str:
    """A short name for a set of values: 16 hex digits of their canonical JSON's SHA-256."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


def tag_value(text: str) -> str:
    """`text` with what AWS allows in no tag replaced by '_', 256 characters at most."""
    return "".join(letter if letter.isalnum() or letter in " +-=._:/@" else "_" for letter in text)[:256]

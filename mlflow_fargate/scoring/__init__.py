"""Asking a deployed model: `wait_until_ready`, then `score`. Knows HTTP and MLflow's protocol, nothing of AWS.

asking        the requests: where to, how long, how often
documents     what a caller has in hand → the document MLflow's protocol has for it
json_stream   a document → JSON, piece by piece, so that a large table is never there twice
testing       the new tasks of a deployment, before callers come to them
custom_routes which route of a BentoML service of the user's own is meant, by its OpenAPI document

pandas and NumPy objects are recognized by what they can do, so neither is imported here.
"""

from __future__ import annotations

from mlflow_fargate.scoring.asking import score, wait_until_ready
from mlflow_fargate.scoring.documents import make_document
from mlflow_fargate.scoring.json_stream import JsonStream
from mlflow_fargate.scoring.testing import test_service

__all__ = ["JsonStream", "make_document", "score", "test_service", "wait_until_ready"]

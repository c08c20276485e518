"""Calls a deployed model: `wait_until_ready`, then `score`. Knows HTTP and MLflow's protocol, nothing about AWS.

asking        the requests: URL, timeouts, retries
documents     the caller's inputs → a document of MLflow's protocol
events        a stream of events → the chunks of an answer
json_stream   a document → JSON in chunks, so that a large table is not in memory twice
testing       tests the new tasks of a deployment before they get traffic
custom_routes picks the route of a custom BentoML service, from its OpenAPI document

pandas and NumPy objects are recognized by their methods, so neither is imported here.
"""

from __future__ import annotations

from mlflow_fargate.scoring.asking import is_ready, make_http, score, score_stream, wait_until_ready
from mlflow_fargate.scoring.documents import document_in_frame, is_frame, make_document
from mlflow_fargate.scoring.json_stream import JsonStream
from mlflow_fargate.scoring.testing import test_service

__all__ = [
    "JsonStream",
    "document_in_frame",
    "is_frame",
    "is_ready",
    "make_document",
    "make_http",
    "score",
    "score_stream",
    "test_service",
    "wait_until_ready",
]

"""Metrics for Prometheus. Counters change as things happen; gauges are read from the worker at each scrape.

Source of names and units: https://prometheus.io/docs/practices/naming/
"""

from __future__ import annotations

from collections import Counter as Count
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, PlatformCollector, ProcessCollector
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

from mlflow_fargate.webhook.control_loop.actor import Outcome
from mlflow_fargate.webhook.control_loop.worker import Worker
from mlflow_fargate.webhook.http.page import state_of

_PREFIX = "mlflow_fargate_webhook"
# Rollouts take minutes; failing ones take up to an hour until ECS gives up.
_ROLLOUT_SECONDS = (10, 30, 60, 120, 180, 300, 600, 1200, 3600)

CONTENT_TYPE = CONTENT_TYPE_LATEST


class Metrics:
    """The metrics of one service, in their own registry."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        PlatformCollector(registry=self._registry)
        self._events = Counter(
            f"{_PREFIX}_events",
            "Events received, by result: accepted, duplicate, unwatched, refused.",
            ["result"],
            registry=self._registry,
        )
        for result in ("accepted", "duplicate", "unwatched", "refused"):
            self._events.labels(result)
        self._rollouts = Counter(
            f"{_PREFIX}_rollouts",
            "Changes to deployments, by kind and result: success, failure, rollback.",
            ["kind", "result"],
            registry=self._registry,
        )
        self._durations = Histogram(
            f"{_PREFIX}_rollout_duration_seconds",
            "Duration of changes to deployments, successful or not.",
            buckets=_ROLLOUT_SECONDS,
            registry=self._registry,
        )

    def count_event(self, result: str) -> None:
        """Counts one received event."""
        self._events.labels(result).inc()

    def count_outcome(self, outcome: Outcome) -> None:
        """Counts one finished change."""
        self._rollouts.labels(outcome.kind, outcome.result).inc()
        self._durations.observe(outcome.duration_seconds)

    def watch(self, worker: Worker) -> None:
        """Adds the gauges of this worker to each scrape."""
        self._registry.register(_OfWorker(worker))

    def exposition(self) -> bytes:
        """Returns all metrics in the Prometheus text format."""
        return generate_latest(self._registry)


class _OfWorker(Collector):
    def __init__(self, worker: Worker) -> None:
        self._worker = worker

    def collect(self) -> Iterator[GaugeMetricFamily]:
        worker, seen = self._worker, self._worker.seen().values()
        yield GaugeMetricFamily(
            f"{_PREFIX}_last_check_timestamp_seconds",
            "When AWS and the model registry were last read; 0: not yet.",
            worker.looked_at or 0,
        )
        yield GaugeMetricFamily(f"{_PREFIX}_check_failed", "1 if the last check failed.", worker.error is not None)
        yield GaugeMetricFamily(
            f"{_PREFIX}_rules_failed", "1 if the current rules are invalid.", worker.rules_error is not None
        )
        states = GaugeMetricFamily(f"{_PREFIX}_deployments", "Deployments by state, as on the page.", labels=["state"])
        for state, number in sorted(Count(state_of(one)[0] for one in seen).items()):
            states.add_metric([state], number)
        yield states
        behind = GaugeMetricFamily(
            f"{_PREFIX}_deployment_behind",
            "1 if the deployed version differs from the desired one.",
            labels=["deployment", "model"],
        )
        for one in seen:
            is_behind = one.action.version not in {None, one.deployed.model_version}
            behind.add_metric([one.deployed.key, one.deployed.model_name or ""], is_behind)
        yield behind

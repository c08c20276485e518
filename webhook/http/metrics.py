"""What Prometheus is told. Counts are made as things happen; all else is asked of the worker when somebody scrapes.

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
# Rollouts take minutes; those that ECS gives up on, up to an hour.
_ROLLOUT_SECONDS = (10, 30, 60, 120, 180, 300, 600, 1200, 3600)

CONTENT_TYPE = CONTENT_TYPE_LATEST


class Metrics:
    """One service's metrics, in a registry of their own."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        PlatformCollector(registry=self._registry)
        self._events = Counter(
            f"{_PREFIX}_events",
            "Events that came, by what became of them: taken, duplicate, unwatched, refused.",
            ["result"],
            registry=self._registry,
        )
        for result in ("taken", "duplicate", "unwatched", "refused"):
            self._events.labels(result)
        self._rollouts = Counter(
            f"{_PREFIX}_rollouts",
            "Changes to deployments, by kind and result: success, failure, rollback.",
            ["kind", "result"],
            registry=self._registry,
        )
        self._durations = Histogram(
            f"{_PREFIX}_rollout_duration_seconds",
            "How long changes to deployments took, whatever became of them.",
            buckets=_ROLLOUT_SECONDS,
            registry=self._registry,
        )

    def count_event(self, result: str) -> None:
        """One more event came."""
        self._events.labels(result).inc()

    def count_outcome(self, outcome: Outcome) -> None:
        """One more change is done."""
        self._rollouts.labels(outcome.kind, outcome.result).inc()
        self._durations.observe(outcome.duration_seconds)

    def watch(self, worker: Worker) -> None:
        """From now on a scrape also tells what this worker sees."""
        self._registry.register(_OfWorker(worker))

    def exposition(self) -> bytes:
        """All of them, as Prometheus reads them."""
        return generate_latest(self._registry)


class _OfWorker(Collector):
    def __init__(self, worker: Worker) -> None:
        self._worker = worker

    def collect(self) -> Iterator[GaugeMetricFamily]:
        worker, seen = self._worker, self._worker.seen().values()
        yield GaugeMetricFamily(
            f"{_PREFIX}_last_look_timestamp_seconds",
            "When both sides were last seen; 0: not yet.",
            worker.looked_at or 0,
        )
        yield GaugeMetricFamily(f"{_PREFIX}_look_failed", "1 when the last look failed.", worker.error is not None)
        yield GaugeMetricFamily(
            f"{_PREFIX}_rules_failed", "1 when the rules as written are wrong.", worker.rules_error is not None
        )
        states = GaugeMetricFamily(f"{_PREFIX}_deployments", "Deployments by state, as on the page.", labels=["state"])
        for state, number in sorted(Count(state_of(one)[0] for one in seen).items()):
            states.add_metric([state], number)
        yield states
        behind = GaugeMetricFamily(
            f"{_PREFIX}_deployment_behind",
            "1 when another version is deployed than the model registry names.",
            labels=["deployment", "model"],
        )
        for one in seen:
            is_behind = one.action.version not in {None, one.deployed.model_version}
            behind.add_metric([one.deployed.key, one.deployed.model_name or ""], is_behind)
        yield behind

"""The response of GET /status: the worker's last poll as JSON."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime, timezone
from typing import Any

from mlflow_fargate.webhook.control_loop.worker import Worker


def status_of(worker: Worker) -> dict[str, Any]:
    """Returns what was observed and decided at the last poll."""
    return {
        "looked_at": _iso_time(worker.looked_at),
        "error": worker.error,
        "rules_error": worker.rules_error,
        "deployments": [
            {
                **asdict(seen.deployed),
                "action": asdict(seen.action),
                "is_updating": seen.is_updating,
                "last_outcome": asdict(seen.last_outcome) if seen.last_outcome else None,
            }
            for seen in worker.seen().values()
        ],
    }


def _iso_time(moment: float | None) -> str | None:
    return datetime.fromtimestamp(moment, timezone.utc).isoformat(timespec="seconds") if moment else None

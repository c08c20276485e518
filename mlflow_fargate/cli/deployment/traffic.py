"""A small chart of a deployment's recent traffic: one line each for requests, latency and errors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlflow_fargate.deployment import Traffic


_BARS = "▁▂▃▄▅▆▇█"
_MINUTES = 5  # per bar of the chart


def traffic_lines(traffic: Sequence[Traffic]) -> list[str]:
    """Returns lines for a terminal; none without traffic data."""
    if not traffic:
        return []
    requests = [step.requests for step in traffic]
    errors = [step.errors for step in traffic]
    latencies = [step.p95_seconds for step in traffic]
    slowest = max((seconds for seconds in latencies if seconds is not None), default=None)
    busiest = max(requests) / _MINUTES
    return [
        f"last {len(traffic) * _MINUTES // 60} hours, one bar per {_MINUTES} minutes (CloudWatch)",
        f"  requests     {sparkline(requests)}  {sum(requests)} in total, up to {busiest:.3g} per minute",
        f"  p95 latency  {sparkline(latencies)}  {_latency(slowest)}",
        f"  5xx errors   {sparkline(errors)}  {sum(errors)} in total",
    ]


def sparkline(values: Sequence[float | None]) -> str:
    """Returns a bar per value, the largest at full height; None becomes a blank, 0 the lowest bar."""
    top = max((value for value in values if value is not None), default=0)
    return "".join(_bar(value, top) for value in values)


def _bar(value: float | None, top: float) -> str:
    if value is None:
        return " "
    return _BARS[round(value / top * (len(_BARS) - 1))] if top > 0 else _BARS[0]


def _latency(seconds: float | None) -> str:
    if seconds is None:
        return "unknown"
    return f"up to {seconds * 1000:.0f} ms" if seconds < 1 else f"up to {seconds:.1f} s"

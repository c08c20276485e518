"""A small chart of a deployment's recent traffic: one line each for requests, latency and errors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlflow_fargate.deployment import Traffic


_BARS = "▁▂▃▄▅▆▇█"


def traffic_lines(traffic: Sequence[Traffic]) -> list[str]:
    """Returns lines for a terminal; none without traffic data."""
    if not traffic:
        return []
    requests = [step.requests for step in traffic]
    errors = [step.errors for step in traffic]
    minutes = traffic[0].minutes
    hours = f"{len(traffic) * minutes // 60} hour{'s' if len(traffic) * minutes > 60 else ''}"
    busiest = max(requests) / minutes
    share = f" ({100 * sum(errors) / sum(requests):.2g}%)" if sum(errors) else ""
    return [
        f"last {hours}, one bar per {minutes} minutes (CloudWatch)",
        f"  requests     {sparkline(requests)}  {sum(requests)} in total, up to {busiest:.3g} per minute",
        _latencies("p50", [step.p50_seconds for step in traffic]),
        _latencies("p99", [step.p99_seconds for step in traffic]),
        f"  5xx errors   {sparkline(errors)}  {sum(errors)} in total{share}",
    ]


def _latencies(name: str, latencies: Sequence[float | None]) -> str:
    slowest = max((seconds for seconds in latencies if seconds is not None), default=None)
    return f"  {name} latency  {sparkline(latencies)}  {_latency(slowest)}"


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

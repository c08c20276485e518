"""Evaluates the alarms in moto that watch target groups, each time one of their periods ends.

Other alarms keep the state that they have, so that SetAlarmState can set it.
"""

from __future__ import annotations

import contextlib
import math
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any

from botocore.exceptions import ClientError

from mlflow_fargate.local.cloudwatch.evaluation import EXTRA_POINTS, next_state
from mlflow_fargate.local.cloudwatch.expression import NotSupported, Value
from mlflow_fargate.local.cloudwatch.metrics import period_of, read
from mlflow_fargate.local.load_balancer.counts import TrafficCounts
from mlflow_fargate.local.moto_client import MotoClient

_COMPARISONS: Mapping[str, tuple[Callable[[float, float], bool], str]] = {
    "GreaterThanThreshold": (operator.gt, "greater than"),
    "GreaterThanOrEqualToThreshold": (operator.ge, "greater than or equal to"),
    "LessThanThreshold": (operator.lt, "less than"),
    "LessThanOrEqualToThreshold": (operator.le, "less than or equal to"),
}
_PAUSE_SECONDS = 0.5


@dataclass(frozen=True)
class AlarmStates:
    """The alarms that are in ALARM, and how many minutes each one looks back."""

    ringing: frozenset[str] = frozenset()
    minutes: Mapping[str, float] = field(default_factory=dict)


class AlarmEvaluator:
    """`minute_seconds`: the length of a minute of an alarm's period; shorter in tests."""

    def __init__(self, aws: MotoClient, counts: TrafficCounts, minute_seconds: float) -> None:
        self._aws = aws
        self._counts = counts
        self._minute_seconds = minute_seconds
        self._evaluated: dict[str, float] = {}  # name → end of the newest period
        self._seen, self._seen_at = AlarmStates(), -math.inf

    def look(self, now: float) -> AlarmStates:
        """Returns the states of all alarms, after evaluating those of which a period has ended."""
        if now < self._seen_at + _PAUSE_SECONDS:
            return self._seen
        pages = self._aws.client("cloudwatch").get_paginator("describe_alarms").paginate()
        alarms = list(pages.search("MetricAlarms[]"))
        states = {alarm["AlarmName"]: self._evaluate(alarm, now) for alarm in alarms}
        ringing = frozenset(name for name, state in states.items() if state == "ALARM")
        minutes = {alarm["AlarmName"]: period_of(_queries(alarm)) * alarm["EvaluationPeriods"] / 60 for alarm in alarms}
        self._seen, self._seen_at = AlarmStates(ringing, minutes), now
        return self._seen

    def _evaluate(self, alarm: Mapping[str, Any], now: float) -> str:
        name, state = str(alarm["AlarmName"]), str(alarm["StateValue"])
        period = period_of(_queries(alarm)) * self._minute_seconds / 60
        end = now // period * period
        if self._evaluated.get(name) == end or alarm["ComparisonOperator"] not in _COMPARISONS:
            return state
        self._evaluated[name] = end
        needed = int(alarm["EvaluationPeriods"])
        try:
            values = list(self._values(alarm, end, period, needed + EXTRA_POINTS))
        except NotSupported:
            return state
        exceeds, words = _COMPARISONS[alarm["ComparisonOperator"]]
        points = [None if value is None else exceeds(value, alarm["Threshold"]) for value in values]
        to_alarm = int(alarm.get("DatapointsToAlarm") or needed)
        becomes = next_state(points, needed, to_alarm, alarm.get("TreatMissingData") or "missing") or state
        if becomes != state:
            recent = [value for value in values if value is not None][-needed:]
            breaching = sum(exceeds(value, alarm["Threshold"]) for value in recent)
            reason = _reason(recent, breaching, words, alarm["Threshold"], end)
            with contextlib.suppress(ClientError):  # it was deleted meanwhile
                self._aws.client("cloudwatch").set_alarm_state(AlarmName=name, StateValue=becomes, StateReason=reason)
        return becomes

    def _values(self, alarm: Mapping[str, Any], end: float, period: float, count: int) -> Iterator[Value]:
        queries = _queries(alarm)
        shown = next(query["Id"] for query in queries if query.get("ReturnData") is not False)
        for number in range(count, 0, -1):
            start = end - number * period
            yield read(self._counts, queries, start, start + period)[shown]


def _queries(alarm: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    """The queries of an alarm; one on a single metric has its own fields for it."""
    if alarm.get("Metrics"):
        return alarm["Metrics"]  # type: ignore[no-any-return]
    metric = {key: alarm.get(key) for key in ("Namespace", "MetricName", "Dimensions")}
    statistic = alarm.get("ExtendedStatistic") or alarm.get("Statistic")
    return [{"Id": "m1", "MetricStat": {"Metric": metric, "Stat": statistic, "Period": alarm.get("Period") or 60}}]


def _reason(recent: Sequence[float], breaching: int, words: str, threshold: float, end: float) -> str:
    """In CloudWatch's words."""
    at = f"{datetime.fromtimestamp(end, timezone.utc):%d/%m/%y %H:%M:%S}"
    if not recent:
        return f"Unchecked: no data points were received before {at}."
    shown = ", ".join(f"{value:.4g}" for value in reversed(recent))
    return (
        f"Threshold Crossed: {breaching} out of the last {len(recent)} datapoints [{shown}] before {at} were {words} "
        f"the threshold ({threshold:g})."
    )

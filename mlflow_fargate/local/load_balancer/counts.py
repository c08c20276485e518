"""What an ALB reports to CloudWatch about each target group: requests, response codes, response times.

Source: https://docs.aws.amazon.com/elasticloadbalancing/latest/application/load-balancer-cloudwatch-metrics.html
"""

from __future__ import annotations

import re
import threading
import time
from collections import Counter
from collections.abc import Callable

_KEPT_SECONDS = 3 * 3600 + 600
_CODES = re.compile(r"HTTPCode_Target_([2345])XX_Count")
_PERCENTILE = re.compile(r"p(\d{1,2}(?:\.\d+)?|100)")
_Key = tuple[int | None, float]  # status of the target's response (None: there was none), seconds until it began


class TrafficCounts:
    """Counts per second, for three hours. Threads can share it."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._groups: dict[str, dict[int, Counter[_Key]]] = {}
        self._lock = threading.Lock()

    def add(self, group: str, status: int | None, seconds: float) -> None:
        """Counts a request for which a target of the group was chosen."""
        now = int(self._clock())
        with self._lock:
            seconds_of_group = self._groups.setdefault(group, {})
            if now not in seconds_of_group:
                for old in [at for at in seconds_of_group if at < now - _KEPT_SECONDS]:
                    del seconds_of_group[old]
            # Rounded: what is kept depends on how many durations differ, not on the number of requests.
            seconds_of_group.setdefault(now, Counter())[status, round(seconds, 4 if seconds < 1 else 2)] += 1

    def value(self, metric: str, statistic: str, group: str, start: float, end: float) -> float | None:
        """Returns a statistic of [start, end); None where CloudWatch has no data point, also for unknown metrics."""
        found: Counter[_Key] = Counter()
        with self._lock:
            for at, counted in self._groups.get(group, {}).items():
                if start <= at < end:
                    found.update(counted)
        if metric == "RequestCount":
            return float(found.total()) or None
        if family := _CODES.fullmatch(metric):
            return float(sum(n for (status, _), n in found.items() if str(status)[0] == family[1])) or None
        if metric == "TargetResponseTime":
            times = sorted((seconds, n) for (status, seconds), n in found.items() if status)
            return _statistic(times, statistic) if times else None
        return None


def _statistic(times: list[tuple[float, int]], name: str) -> float | None:
    total = sum(count for _, count in times)
    if percentile := _PERCENTILE.fullmatch(name):
        rank, seen = float(percentile[1]) / 100 * total, 0
        for seconds, count in times:
            seen += count
            if seen >= rank:
                return seconds
    known = {
        "SampleCount": float(total),
        "Sum": sum(seconds * count for seconds, count in times),
        "Minimum": times[0][0],
        "Maximum": times[-1][0],
    }
    return known["Sum"] / total if name == "Average" else known.get(name)

"""The next state of an alarm: M of the last N data points, of which some can be missing. Pure.

Source: https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/alarms-and-missing-data.html
"""

from __future__ import annotations

from collections.abc import Sequence

# CloudWatch reads more points than it needs, in case some are missing; AWS's examples: 5 for an alarm that needs 3.
EXTRA_POINTS = 2


def next_state(points: Sequence[bool | None], needed: int, to_alarm: int, missing: str) -> str | None:
    """Returns the state; None: the alarm keeps the state that it has.

    `points`: of the evaluation range, oldest first: whether each is breaching, None for a missing one. `needed`:
    EvaluationPeriods. `to_alarm`: DatapointsToAlarm. `missing`: TreatMissingData.
    """
    real = [point for point in points if point is not None]
    breaching = sum(real[-needed:])
    if len(real) >= needed:
        return "ALARM" if breaching >= to_alarm else "OK"
    if missing == "breaching":
        breaching += needed - len(real)
    elif missing in ("missing", "ignore"):
        if not real:
            return "INSUFFICIENT_DATA" if missing == "missing" else None
        if breaching < to_alarm and _is_premature(points, real, to_alarm):
            return "ALARM" if missing == "missing" else None
    return "ALARM" if breaching >= to_alarm else "OK"


def _is_premature(points: Sequence[bool | None], real: Sequence[bool], to_alarm: int) -> bool:
    """Whether all real points are breaching, and the oldest is old enough to have been followed by others."""
    age = len(points) - next(number for number, point in enumerate(points) if point is not None)
    return all(real) and age >= to_alarm

"""Alarms of the local stack: CloudWatch's documented rules, its metric math, and what ECS does when one rings."""

from __future__ import annotations

import pytest

from mlflow_fargate.local.cloudwatch.evaluation import next_state
from mlflow_fargate.local.cloudwatch.expression import NotSupported, value_at
from mlflow_fargate.local.load_balancer.counts import TrafficCounts

KEEP, NONE = None, "INSUFFICIENT_DATA"
# The two tables of https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/alarms-and-missing-data.html: 0 is
# within the threshold, X breaches it, - is missing; the newest is on the right.
TREATMENTS = ("missing", "ignore", "breaching", "notBreaching")
THREE_OF_THREE = {
    "0 - X - X": ("OK", "OK", "OK", "OK"),
    "0 - - - -": ("OK", "OK", "OK", "OK"),
    "- - - - -": (NONE, KEEP, "ALARM", "OK"),
    "0 X X - X": ("ALARM", "ALARM", "ALARM", "ALARM"),
    "- - X - -": ("ALARM", KEEP, "ALARM", "OK"),
}
TWO_OF_THREE = {
    "0 - X - X": ("ALARM", "ALARM", "ALARM", "ALARM"),
    "0 0 X 0 X": ("ALARM", "ALARM", "ALARM", "ALARM"),
    "0 - X - -": ("OK", "OK", "ALARM", "OK"),
    "- - - - 0": ("OK", "OK", "ALARM", "OK"),
    "- - - X -": ("ALARM", KEEP, "ALARM", "OK"),
}


@pytest.mark.parametrize(
    ("to_alarm", "row", "states"),
    [(3, *item) for item in THREE_OF_THREE.items()] + [(2, *item) for item in TWO_OF_THREE.items()],
)
def test_an_alarm_goes_to_the_state_of_the_example_in_awss_documentation(
    to_alarm: int, row: str, states: tuple[str | None, ...]
) -> None:
    points = [{"0": False, "X": True, "-": None}[letter] for letter in row.split()]

    assert tuple(next_state(points, 3, to_alarm, missing) for missing in TREATMENTS) == states


@pytest.mark.parametrize(
    ("formula", "value"),
    [
        ("IF((FILL(r,0)+FILL(s,0))>=20,100*(FILL(f,0))/(FILL(r,0)+FILL(s,0)),0)", 12.5),
        ("IF(r>=100,1,MAX([r,f]))", 40.0),
        ("FILL(s,7)", 7.0),
        ("s+1", None),
        ("f/(r-40)", None),
        ("MAX([s])", None),
    ],
)
def test_metric_math_is_evaluated_with_missing_data(formula: str, value: float | None) -> None:
    assert value_at(formula, {"r": 40.0, "f": 5.0, "s": None}) == value


@pytest.mark.parametrize("formula", ["SEARCH('x', 'Sum')", "METRICS()", "__import__('os')", "(", "other+1", "r**2"])
def test_other_functions_are_refused(formula: str) -> None:
    with pytest.raises(NotSupported):
        value_at(formula, {"r": 1.0})


def test_requests_are_counted_as_an_alb_reports_them() -> None:
    now = [1000.0]
    counts = TrafficCounts(lambda: now[0])
    for number in range(100):
        counts.add("group", 500 if number < 5 else 200, (number + 1) / 100)
    counts.add("group", None, 0.1)  # the target refused the connection
    now[0] = 1061.0
    counts.add("group", 200, 9.0)

    def of(metric: str, statistic: str) -> float | None:
        return counts.value(metric, statistic, "group", 960, 1020)

    assert of("RequestCount", "Sum") == 101
    assert (of("HTTPCode_Target_5XX_Count", "Sum"), of("HTTPCode_Target_2XX_Count", "Sum")) == (5, 95)
    assert of("HTTPCode_Target_4XX_Count", "Sum") is None
    assert (of("TargetResponseTime", "p50"), of("TargetResponseTime", "p99")) == (0.5, 0.99)
    assert (of("TargetResponseTime", "Maximum"), of("TargetResponseTime", "SampleCount")) == (1.0, 100)
    assert counts.value("RequestCount", "Sum", "group", 1020, 1060) is None
    assert counts.value("RequestCount", "Sum", "other", 0, 2000) is None

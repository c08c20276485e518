"""The alarms of a deployment, in CloudWatch's metric math.

Versions alternate between two target groups if traffic is shifted, so a formula adds up both.
Source: https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/using-metric-math.html
"""

from __future__ import annotations

from mlflow_fargate.plan import Resource
from mlflow_fargate.resources.properties import AlarmProperties
from mlflow_fargate.resources.specs import ServiceSpec

# Suffix of the alarm's name → its option.
ALARMS = {"errors": "max_error_rate", "latency": "max_latency_p99_ms"}
_REQUESTS = ("RequestCount", "Sum")


def alarm_resources(spec: ServiceSpec) -> list[Resource[AlarmProperties]]:
    """Returns the alarm of each option; those whose option is not set should be absent."""
    limits = spec.config.alarm_limits
    return [
        Resource("alarm", f"{spec.family}.{kind}", _properties(spec, option), spec.tags, is_wanted=option in limits)
        for kind, option in ALARMS.items()
    ]


def alarm_names(spec: ServiceSpec) -> tuple[str, ...]:
    """Returns the names of all alarms that end a rollout: the user's, and those that are created."""
    limits = spec.config.alarm_limits
    created = (f"{spec.family}.{kind}" for kind, option in ALARMS.items() if option in limits)
    return tuple(sorted({*spec.config.alarms, *created}))


def _properties(spec: ServiceSpec, option: str) -> AlarmProperties:
    """Minutes with few requests yield 0; the formula of latencies converts seconds to milliseconds."""
    groups = ("1", "2") if spec.config.shifts_traffic else ("1",)
    requests, failed, slowest = (
        [f"FILL({prefix}{group},0)" for group in groups] for prefix in ("requests", "failed", "slowest")
    )
    total, threshold = "+".join(requests), spec.config.alarm_limits.get(option, 0.0)
    is_busy = f"({total})>={spec.config.alarm_min_requests}"
    if option == "max_error_rate":
        metrics = {"requests": _REQUESTS, "failed": ("HTTPCode_Target_5XX_Count", "Sum")}
        return AlarmProperties(threshold, f"IF({is_busy},100*({'+'.join(failed)})/({total}),0)", metrics)
    worst = slowest[0] if len(slowest) == 1 else f"MAX([{','.join(slowest)}])"
    metrics = {"requests": _REQUESTS, "slowest": ("TargetResponseTime", "p99")}
    return AlarmProperties(threshold, f"IF({is_busy},1000*{worst},0)", metrics)

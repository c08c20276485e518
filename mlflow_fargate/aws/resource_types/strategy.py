"""ECS: deployment strategies, converted between this package's options and a service's `deploymentConfiguration`.

The strategy is part of the service, not of the task definition, so ECS keeps it when it rolls back a revision. If ECS
(or an emulator) does not support a strategy, the service uses rolling updates, and two tags record the requested
strategy and the reason.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, cast

from mlflow_fargate.aws import tags
from mlflow_fargate.errors import AwsError
from mlflow_fargate.resources.names import tag_value
from mlflow_fargate.resources.properties import Strategy

WANTED_TAG = "mlflow-fargate:strategy"
REFUSAL_TAG = "mlflow-fargate:strategy-refused"
LIMITS_TAG = "mlflow-fargate:alarm-limits"
# Give up after three failed tasks; the default is half of the desired count, at least three, with growing pauses.
_COMMON = {
    "minimumHealthyPercent": 100,
    "maximumPercent": 200,
    "deploymentCircuitBreaker": {
        "enable": True,
        "rollback": True,
        "thresholdConfiguration": {"type": "COUNT", "value": 3},
    },
}
ROLLING: Strategy = {"strategy": "rolling"}
# Pauses once, with all traffic on the old tasks; PRE_PRODUCTION_TRAFFIC_SHIFT would pause before every step.
TEST_STAGE = "POST_TEST_TRAFFIC_SHIFT"
_UNKNOWN = re.compile(
    r"strategy|lifecycle ?hook|advancedConfiguration|alternateTargetGroup|(canary|linear)Configuration|PAUSE", re.I
)
_REFUSED = re.compile(
    r"unknown|unsupported|not supported|not available|not enabled|unrecognized|invalid \w* ?strategy", re.I
)


def deployment_configuration(wanted: Strategy, alarms: Sequence[str] = ()) -> dict[str, Any]:
    """Returns the request's `deploymentConfiguration` for the options of a strategy and the names of alarms."""
    strategy = wanted["strategy"]
    configuration: dict[str, Any] = {**_COMMON, "strategy": strategy.upper()}
    # Without this, an update would keep the alarms that were there: https://github.com/aws/copilot-cli/issues/4565
    configuration["alarms"] = {"alarmNames": list(alarms), "enable": bool(alarms), "rollback": bool(alarms)}
    if strategy == "rolling":
        return configuration
    configuration["bakeTimeInMinutes"] = wanted["bake_time_minutes"]
    if strategy == "canary":
        configuration["canaryConfiguration"] = {
            "canaryPercent": wanted["canary_percent"],
            "canaryBakeTimeInMinutes": wanted["canary_bake_time_minutes"],
        }
    if strategy == "linear":
        configuration["linearConfiguration"] = {
            "stepPercent": wanted["linear_step_percent"],
            "stepBakeTimeInMinutes": wanted["linear_step_bake_time_minutes"],
        }
    configuration["lifecycleHooks"] = [_pause(wanted["test_timeout_minutes"])] if wanted["test_green"] else []
    return configuration


def _pause(minutes: int) -> dict[str, Any]:
    timeout = {"timeoutInMinutes": minutes, "action": "ROLLBACK"}
    return {"targetType": "PAUSE", "lifecycleStages": [TEST_STAGE], "timeoutConfiguration": timeout}


def read_strategy(service: Mapping[str, Any]) -> Strategy:
    """Returns the strategy options of a described service; if they were refused, those that were requested."""
    configuration = service.get("deploymentConfiguration") or {}
    strategy = (configuration.get("strategy") or "ROLLING").lower()
    if strategy == "rolling":
        wanted = tags.read(service.get("tags")).get(WANTED_TAG)
        return _from_tag(wanted) if wanted else ROLLING
    read: Strategy = {"strategy": strategy, "bake_time_minutes": configuration.get("bakeTimeInMinutes", 0)}
    if strategy == "canary":
        canary = configuration.get("canaryConfiguration") or {}
        read["canary_percent"] = canary.get("canaryPercent", 5.0)
        read["canary_bake_time_minutes"] = canary.get("canaryBakeTimeInMinutes", 10)
    if strategy == "linear":
        linear = configuration.get("linearConfiguration") or {}
        read["linear_step_percent"] = linear.get("stepPercent", 10.0)
        read["linear_step_bake_time_minutes"] = linear.get("stepBakeTimeInMinutes", 6)
    hooks = [hook for hook in configuration.get("lifecycleHooks") or () if hook.get("targetType") == "PAUSE"]
    timeouts = [(hook.get("timeoutConfiguration") or {}).get("timeoutInMinutes", 1440) for hook in hooks]
    read["test_green"] = bool(hooks)
    if timeouts:
        read["test_timeout_minutes"] = timeouts[0]
    return read


def refusal_of(service: Mapping[str, Any]) -> str | None:
    """Returns why a described service does not use the requested strategy; None if it does."""
    their_tags = tags.read(service.get("tags"))
    shifts = (service.get("deploymentConfiguration") or {}).get("strategy", "ROLLING") != "ROLLING"
    if shifts or WANTED_TAG not in their_tags:
        return None
    wanted = _from_tag(their_tags[WANTED_TAG])["strategy"]
    if wanted == "rolling":
        return None
    return (
        f"ECS rejected strategy={wanted}, so the service uses rolling updates "
        f"({their_tags.get(REFUSAL_TAG, 'no reason given')})"
    )


def read_alarm_names(service: Mapping[str, Any]) -> tuple[str, ...]:
    """Returns the names of the alarms that end a described service's rollouts."""
    alarms = (service.get("deploymentConfiguration") or {}).get("alarms") or {}
    return tuple(sorted(alarms.get("alarmNames") or ())) if alarms.get("enable") else ()


def read_limits(service_tags: Mapping[str, str]) -> dict[str, float]:
    """Returns the options of the alarms that this package created, from the service's tags."""
    return _pairs(service_tags.get(LIMITS_TAG, "")) or {}


def write_pairs(options: Mapping[str, Any]) -> str:
    """Returns `KEY=VALUE KEY=VALUE`, in characters that tags allow."""
    return " ".join(f"{key}={json.dumps(value).strip(chr(34))}" for key, value in options.items())


def refusal_tags(wanted: Strategy, said: str) -> dict[str, str]:
    """Returns the tags of a service whose strategy was refused: options as `KEY=VALUE KEY=VALUE`, and ECS's message."""
    return {WANTED_TAG: write_pairs(wanted), REFUSAL_TAG: tag_value(said)}


def is_unknown(error: AwsError) -> bool:
    """Returns whether ECS (or an old botocore) does not support the strategy; for other errors there is no fallback."""
    code, said = error.code, error.message
    if code == "UnsupportedFeatureException":
        return True
    if code not in ("ClientException", "InvalidParameterException", "ParamValidationError", "ValidationException"):
        return False
    return bool(_UNKNOWN.search(said) and _REFUSED.search(said))


def _from_tag(text: str) -> Strategy:
    """The options in the tag; rolling if it was edited by hand so that it cannot be read."""
    read = _pairs(text)
    return cast(Strategy, read) if read and "strategy" in read else ROLLING


def _pairs(text: str) -> dict[str, Any] | None:
    pairs = [pair.partition("=") for pair in text.split()]
    try:
        return {key: value if key == "strategy" else json.loads(value) for key, _, value in pairs}
    except ValueError:
        return None

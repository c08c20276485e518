"""All options of a deployment, parsed once, from command lines, Python and files."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from pydantic import PrivateAttr, ValidationError, model_validator
from typing_extensions import Self

from mlflow_fargate.config.alarm_options import ALARM_MINUTES, AlarmOptions
from mlflow_fargate.config.call_options import CallOptions
from mlflow_fargate.config.endpoint_options import EndpointOptions
from mlflow_fargate.config.image_options import ImageOptions
from mlflow_fargate.config.inference_log_options import InferenceLogOptions
from mlflow_fargate.config.rollout_options import RolloutOptions, settings_for
from mlflow_fargate.config.scaling_options import ScalingOptions
from mlflow_fargate.config.service_options import ServiceOptions
from mlflow_fargate.config.serving_options import ServingOptions
from mlflow_fargate.config.task_options import TaskOptions
from mlflow_fargate.errors import InvalidOption

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

# Options of one command, not of the deployment: they are not kept for the next update.
OF_THE_CALL = frozenset(CallOptions.model_fields)
# Options of the service only: changing one does not require a new revision and does not start a rollout.
OF_THE_SERVICE = frozenset({"desired_count", "follow", *RolloutOptions.model_fields, *AlarmOptions.model_fields})
# Options that change the image.
OF_THE_IMAGE = frozenset({*ImageOptions.model_fields, *ServingOptions.model_fields, "architecture"})
_FILE_LIMIT_BYTES = 1 << 20
_LEAST_STOP_SECONDS = 10


# The last base class comes first in the help: the most frequent options.
class DeploymentConfig(
    CallOptions,
    EndpointOptions,
    ImageOptions,
    InferenceLogOptions,
    ServingOptions,
    ScalingOptions,
    AlarmOptions,
    RolloutOptions,
    ServiceOptions,
    TaskOptions,
):
    """The options of a deployment."""

    _unread: dict[str, Any] = PrivateAttr(default_factory=dict)  # see `read_config`

    @property
    def labels_file(self) -> str | None:
        """The labels file to look for; 'none' if the service does not use labels; None: any that is found."""
        return self.labels or (None if self.service in (None, "image_classifier") else "none")

    @model_validator(mode="after")
    def _check_shifting(self) -> Self:
        if self.host and self.domain:
            raise ValueError("domain implies host; use only one of them")
        if self.host and self.target_group_arn:
            raise ValueError(
                "host cannot be used with target_group_arn, because you define the rules of that target group yourself"
            )
        if self.shifts_traffic and self.target_group_arn:
            raise ValueError(
                f"target_group_arn cannot be used with strategy={self.strategy}, which creates two target groups"
            )
        if self.shifts_traffic and self.own_host:
            raise ValueError(
                f"{'host' if self.host else 'domain'} cannot be used with strategy={self.strategy}: ECS shifts the "
                "traffic of only one rule"
            )
        if self.shifts_traffic and self.target_requests_per_minute:
            raise ValueError(
                f"target_requests_per_minute cannot be used with strategy={self.strategy}: it counts requests to one "
                "target group, and versions alternate between two"
            )
        return self

    @model_validator(mode="after")
    def _check_time_for_the_log(self) -> Self:
        if self.inference_log and self.stop_timeout_seconds < _LEAST_STOP_SECONDS:
            raise ValueError(
                f"inference_log requires stop_timeout_seconds={_LEAST_STOP_SECONDS} or more: a task that stops answers "
                "its requests first, and then has to write their record"
            )
        return self

    @model_validator(mode="after")
    def _check_variant(self) -> Self:
        if self.traffic is not None and (self.variant_of is None or not self.wait):
            raise ValueError("traffic requires variant_of, and wait=true: it changes after the rollout")
        if self.variant_of and self.shifts_traffic:
            raise ValueError(
                f"variant_of cannot be used with strategy={self.strategy}: ECS would change the weights of the variants"
            )
        for name in ("host", "domain", "target_group_arn"):
            if self.variant_of and getattr(self, name):
                raise ValueError(f"{name} cannot be used with variant_of: a variant is at the URL of its deployment")
        return self

    @property
    def fewest_tasks(self) -> int:
        """The smallest number of tasks that autoscaling, its schedule or `desired_count` lead to."""
        scheduled = (counts.low for counts in self.scheduled_counts.values())
        return min(self.min_count if self.is_scaled else self.desired_count, *scheduled, 5000)

    @property
    def own_host(self) -> str | None:
        """The host name that is routed to this deployment only."""
        return self.host or self.domain

    @property
    def idle_timeout_seconds(self) -> int:
        """How long a load balancer must wait for an answer: longer than the service's own limit; 60 by default."""
        try:
            limit = float(self.environment.get("REQUEST_TIMEOUT_SECONDS", ""))
        except ValueError:
            return 60
        return 60 if not limit >= 60 else int(min(limit, 3990)) + 10  # ELB allows 4,000

    @property
    def rollout_seconds(self) -> float:
        """How long to wait for a rollout: `timeout_seconds`, plus the time for shifting traffic unless it was set.

        With alarms, a rolling update also takes the bake time that ECS computes from them.
        """
        is_named = "timeout_seconds" in self.model_fields_set
        is_watched = self.has_alarms and not self.shifts_traffic
        return self.timeout_seconds + (0 if is_named else (self.shift_minutes + is_watched * ALARM_MINUTES) * 60)

    def without(self, options: Iterable[str], *, unless: Callable[[str], bool]) -> Self:
        """Returns these options with those of `options` at their defaults for which `unless` is false."""
        fields = type(self).model_fields
        return self.model_copy(update={name: fields[name].default for name in options if not unless(name)})

    @property
    def named(self) -> dict[str, Any]:
        """The options that were set, as JSON-able values by their `-C` keys in alphabetical order."""
        named = self.model_dump(mode="json", by_alias=True, exclude_unset=True)
        return dict(sorted({**named, **self._unread}.items()))


@dataclass(frozen=True)
class NamedOptions:
    """The options that one call names; `over` combines them with those kept from an earlier call.

    `environment.A=1` sets one entry of a table; an empty string resets an option to its default.
    """

    given: Mapping[str, Any] = field(default_factory=dict, hash=False)
    file: Mapping[str, Any] = field(default_factory=dict, hash=False)  # from `config_file=…`; `given` overrides them

    @classmethod
    def parse(cls, options: Mapping[str, Any] | None) -> NamedOptions:
        """Parses options from a command line or Python; InvalidOption if their `config_file` cannot be read."""
        given = dict(options or {})
        file = given.pop("config_file", None)
        return cls(given, _read_file(file) if file else {})

    @property
    def keys(self) -> frozenset[str]:
        """The keys of the options, also those of the file; for an entry of a table, that of the table."""
        return frozenset(key.partition(".")[0] for key in (*self.given, *self.file))

    def names(self, key: str) -> bool:
        """Returns whether the call or its file sets this option."""
        return key in self.given or key in self.file

    def also(self, **options: object) -> NamedOptions:
        """Returns these options with `options` over them."""
        return replace(self, given={**self.given, **options})

    def below(self, defaults: Mapping[str, Any]) -> NamedOptions:
        """Returns these options, with `defaults` for what neither the call nor its file sets."""
        return replace(self, file={**defaults, **self.file})

    def over(self, kept: DeploymentConfig | None = None) -> DeploymentConfig:
        """Returns these over those `kept` from an earlier call; InvalidOption names an invalid key or value."""
        below = kept.named if kept else {}
        if self.given.get("max_count") == "":  # the other autoscaling options require it
            below = {key: value for key, value in below.items() if key not in ScalingOptions.model_fields}
        if self.given.get("inference_log") == "":
            below = {key: value for key, value in below.items() if key not in InferenceLogOptions.model_fields}
        if "strategy" in self.given:
            below = settings_for(self.given["strategy"] or "rolling", below)
        try:
            return DeploymentConfig.model_validate(_merge(_merge(below, self.file), self.given))
        except ValidationError as error:
            raise InvalidOption(_explain(error)) from error


def parse_config(options: Mapping[str, Any] | None, kept: DeploymentConfig | None = None) -> DeploymentConfig:
    """Returns the options of a call, over those `kept` from an earlier one; see `NamedOptions`."""
    return NamedOptions.parse(options).over(kept)


def read_config(settings: Mapping[str, Any]) -> DeploymentConfig:
    """Returns the options that were `named` when something was deployed, possibly by another release.

    Options that this release does not know have no effect, but are kept in `named`: an update has to reset them to
    their defaults, or is refused.
    """
    try:
        return DeploymentConfig.model_validate(settings)
    except ValidationError as error:
        unread = {str(part["loc"][0]) for part in error.errors() if part["loc"]} & settings.keys() or settings.keys()
    config = read_config({key: value for key, value in settings.items() if key not in unread})
    config._unread.update({key: settings[key] for key in unread})
    return config


def _merge(below: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """Returns `options` over those `below`; a dotted key keeps the table's other entries."""
    merged = dict(below)
    for key, value in options.items():
        table, dot, name = key.partition(".")
        if not dot and value == "":
            merged.pop(_key(key), None)
        elif not dot:
            merged[_key(key)] = value
        elif not isinstance(inner := merged.get(table, {}), Mapping):
            raise InvalidOption(f"Option {key}={value!r}: '{table}' is also set as a whole; use one or the other.")
        else:
            merged[table] = {**inner, name: value}
    return merged


def _key(name: str) -> str:
    """The `-C` key of an option; Python callers can use its field name: memory_mib for memory."""
    field = DeploymentConfig.model_fields.get(name)
    return field.alias or name if field else name


def _read_file(name: object) -> Mapping[str, Any]:
    path = Path(str(name)).expanduser()
    try:
        with path.open("rb") as file:
            text = file.read(_FILE_LIMIT_BYTES + 1)
        content = yaml.safe_load(text) if len(text) <= _FILE_LIMIT_BYTES else None  # JSON is YAML too
    except OSError as error:
        raise InvalidOption(
            f"Option config_file={name}: the file cannot be read: {error.strerror}.",
            hint="the path is relative to the current folder",
        ) from error
    except (yaml.YAMLError, ValueError) as error:
        raise InvalidOption(
            f"Option config_file={name}: not valid YAML or JSON{_place_of(error)}.", hint="for example: {cpu: 2048}"
        ) from error
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise InvalidOption(
            f"Option config_file={name}: the file must map option names to values.", hint="for example: {cpu: 2048}"
        )
    if "config_file" in content:
        raise InvalidOption(f"Option config_file={name}: the file itself sets config_file, which is not supported.")
    return content


def _place_of(error: Exception) -> str:
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None)
    where = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
    return f"{where}: {problem}" if problem else where


def _explain(error: ValidationError) -> str:
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        known = [field.alias or name for name, field in DeploymentConfig.model_fields.items()]
        close = difflib.get_close_matches(key, known, n=1)
        hint = f" Did you mean '{close[0]}'?" if close else " `mlflow deployments help -t fargate` lists them all."
        return f"Unknown option '{key}'.{hint}"
    message = first["msg"].removeprefix("Value error, ") if first["type"] == "value_error" else _requirement(first)
    # Greedy, because a password may be in text that is not a valid URL.
    shown = repr(first["input"])
    if "index_url" in key or "find_links" in key:
        shown = re.sub(r"(://|^['\"]).*@", r"\1", shown)
    return f"Option {key}={shown}: {message}." if key else f"{message}."


_REQUIREMENTS = {
    "int": "must be a whole number",
    "float": "must be a number",
    "finite": "must be a finite number",
    "bool": "must be true or false",
    "string_type": "must be text",
    "tuple": "must be a list",
}


def _requirement(error: ErrorDetails) -> str:
    """Returns what pydantic's `error` requires, in terms of the option: its type, limits, unit and an example."""
    key = str(error["loc"][0])
    name, field = next(item for item in DeploymentConfig.model_fields.items() if key in (item[0], item[1].alias))
    extra = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
    example = str(field.examples[0]) if field.examples else ""
    example = example if not example or "=" in example.partition(" ")[0] else f"{field.alias or name}={example}"
    kind = str(error["type"])
    if kind == "literal_error":
        return f"must be one of {error['ctx']['expected']}"
    if kind == "dict_type":
        return f"must be given as {key}.NAME=VALUE" + (f", such as {example}" if example else "")
    limits = error.get("ctx", {})
    if kind == "string_pattern_mismatch":
        required = f"must be {extra.get('allowed', 'valid')}"
    elif "ge" in limits:
        required = f"must be at least {limits['ge']:g}"
    elif "le" in limits:
        required = f"must be at most {limits['le']:g}"
    elif kind == "too_long":
        required = f"must have at most {limits['max_length']} entries"
    else:
        required = next((text for start, text in _REQUIREMENTS.items() if kind.startswith(start)), error["msg"])
    unit = f" ({extra['unit']})" if extra.get("unit") else ""
    return f"{required}{unit}" + (f", such as {example}" if example else "")

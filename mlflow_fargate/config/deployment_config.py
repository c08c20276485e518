"""All options of a deployment, parsed once: strings of a command line, values of Python, and a file of them."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml
from pydantic import PrivateAttr, ValidationError, model_validator
from typing_extensions import Self

from mlflow_fargate.config.call_options import CallOptions
from mlflow_fargate.config.endpoint_options import EndpointOptions
from mlflow_fargate.config.image_options import ImageOptions
from mlflow_fargate.config.rollout_options import RolloutOptions, settings_for
from mlflow_fargate.config.scaling_options import ScalingOptions
from mlflow_fargate.config.service_options import ServiceOptions
from mlflow_fargate.config.serving_options import ServingOptions
from mlflow_fargate.config.task_options import TaskOptions
from mlflow_fargate.errors import InvalidOption

# These say how one call behaves, not what the deployment is: they are not kept for the next update.
OF_THE_CALL = frozenset(CallOptions.model_fields)
# These stand on the service alone: changing one of them needs no new revision and starts no rollout.
OF_THE_SERVICE = frozenset({"desired_count", "follow", *RolloutOptions.model_fields})
# These shape the image: what they say is not in one that was built before.
OF_THE_IMAGE = frozenset({*ImageOptions.model_fields, *ServingOptions.model_fields, "architecture"})
_FILE_LIMIT_BYTES = 1 << 20


# The last base comes first in the help: what people set most.
class DeploymentConfig(
    CallOptions,
    EndpointOptions,
    ImageOptions,
    ServingOptions,
    ScalingOptions,
    RolloutOptions,
    ServiceOptions,
    TaskOptions,
):
    """The options of one deployment; unknown keys and impossible values are InvalidOption (see `parse_config`)."""

    _unread: dict[str, Any] = PrivateAttr(default_factory=dict)  # see `read_config`

    @property
    def labels_file(self) -> str | None:
        """The labels file to look for; 'none' where what serves has no use for labels, None: whatever is there."""
        return self.labels or (None if self.service in (None, "image_classifier") else "none")

    @model_validator(mode="after")
    def _check_shifting(self) -> Self:
        if self.host and self.target_group_arn:
            raise ValueError("host: with target_group_arn no rule is made here")
        if self.shifts_traffic and self.target_group_arn:
            raise ValueError(f"target_group_arn: strategy={self.strategy} shifts traffic between two groups, made here")
        if self.shifts_traffic and self.host:
            raise ValueError(
                f"host: its rule is a second one, and strategy={self.strategy} shifts that of the path only"
            )
        if self.shifts_traffic and self.target_requests_per_minute:
            raise ValueError(
                "target_requests_per_minute: it counts one target group, and with "
                f"strategy={self.strategy} versions take turns between two"
            )
        return self

    @property
    def rollout_seconds(self) -> float:
        """How long to wait for a rollout: what was named, or the usual time and what shifting takes by design."""
        is_named = "timeout_seconds" in self.model_fields_set
        return self.timeout_seconds + (0 if is_named else self.shift_minutes * 60)

    @property
    def named(self) -> dict[str, Any]:
        """The options that were given, as JSON-able values by their `-C` keys in alphabetical order."""
        named = self.model_dump(mode="json", by_alias=True, exclude_unset=True)
        return dict(sorted({**named, **self._unread}.items()))


@dataclass(frozen=True)
class NamedOptions:
    """The options that one call names. What they come to, only those show that are kept from an earlier call.

    `environment.A=1` sets one variable of a table, and an empty string puts an option back to its default.
    """

    given: Mapping[str, Any] = field(default_factory=dict, hash=False)
    file: Mapping[str, Any] = field(
        default_factory=dict, hash=False
    )  # those of `config_file=…`, which `given` overrides

    @classmethod
    def parse(cls, options: Mapping[str, Any] | None) -> NamedOptions:
        """The options of a command line or of Python; InvalidOption when the file they name cannot be read."""
        given = dict(options or {})
        file = given.pop("config_file", None)
        return cls(given, _read_file(file) if file else {})

    @property
    def keys(self) -> frozenset[str]:
        """What is named, a table where one of its entries is."""
        return frozenset(key.partition(".")[0] for key in self.given)

    def also(self, **options: object) -> NamedOptions:
        """These, and `options` over them."""
        return replace(self, given={**self.given, **options})

    def over(self, kept: DeploymentConfig | None = None) -> DeploymentConfig:
        """These over those `kept` from an earlier call; InvalidOption names the key that cannot be meant."""
        below = kept.named if kept else {}
        if self.given.get("max_count") == "":  # without it the others of autoscaling mean nothing
            below = {key: value for key, value in below.items() if key not in ScalingOptions.model_fields}
        if "strategy" in self.given:
            below = settings_for(self.given["strategy"] or "rolling", below)
        try:
            return DeploymentConfig.model_validate(_merge(_merge(below, self.file), self.given))
        except ValidationError as error:
            raise InvalidOption(_explain(error)) from error


def parse_config(options: Mapping[str, Any] | None, kept: DeploymentConfig | None = None) -> DeploymentConfig:
    """The options of a call, over those `kept` from an earlier one; see `NamedOptions`."""
    return NamedOptions.parse(options).over(kept)


def read_config(settings: Mapping[str, Any]) -> DeploymentConfig:
    """The options that were `named` when something was deployed, maybe by another release.

    Options that this release does not understand mean nothing here, but stay among the `named`: an update must put
    them back to their defaults, or is refused.
    """
    try:
        return DeploymentConfig.model_validate(settings)
    except ValidationError as error:
        unread = {str(part["loc"][0]) for part in error.errors() if part["loc"]} & settings.keys() or settings.keys()
    config = read_config({key: value for key, value in settings.items() if key not in unread})
    config._unread.update({key: settings[key] for key in unread})
    return config


def _merge(below: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """`options` over those `below`; a dotted key leaves the table's other entries alone."""
    merged = dict(below)
    for key, value in options.items():
        table, dot, name = key.partition(".")
        if not dot and value == "":
            merged.pop(_key(key), None)
        elif not dot:
            merged[_key(key)] = value
        elif not isinstance(inner := merged.get(table, {}), Mapping):
            raise InvalidOption(f"Option {key}={value!r}: '{table}' was given as a whole as well.")
        else:
            merged[table] = {**inner, name: value}
    return merged


def _key(name: str) -> str:
    """The `-C` key of an option, which Python callers may name by its field: memory_mib is memory."""
    field = DeploymentConfig.model_fields.get(name)
    return field.alias or name if field else name


def _read_file(name: object) -> Mapping[str, Any]:
    path = Path(str(name)).expanduser()
    try:
        with path.open("rb") as file:
            text = file.read(_FILE_LIMIT_BYTES + 1)
        content = yaml.safe_load(text) if len(text) <= _FILE_LIMIT_BYTES else None  # JSON is YAML too
    except (OSError, yaml.YAMLError, ValueError) as error:
        raise InvalidOption(f"Option config_file={name}: {error}.") from error
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise InvalidOption(
            f"Option config_file={name}: the file holds no table of options.", hint="for example: {cpu: 2048}"
        )
    if "config_file" in content:
        raise InvalidOption(f"Option config_file={name}: the file names another file, which is not read.")
    return content


def _explain(error: ValidationError) -> str:
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        known = [field.alias or name for name, field in DeploymentConfig.model_fields.items()]
        close = difflib.get_close_matches(key, known, n=1)
        hint = f" Did you mean '{close[0]}'?" if close else " `mlflow deployments help -t fargate` lists them all."
        return f"Unknown option '{key}'.{hint}"
    message = first["msg"].removeprefix("Value error, ")
    # Greedy, for a password that is not even a URL's.
    shown = re.sub(r"://.*@", "://", repr(first["input"])) if "index_url" in key else repr(first["input"])
    return f"Option {key}={shown}: {message}." if key else f"{message}."

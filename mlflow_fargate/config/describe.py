"""Texts generated from the options: the help of MLflow's command, the tables in the docs, the JSON schema."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from mlflow_fargate.config.alarm_options import AlarmOptions
from mlflow_fargate.config.call_options import CallOptions
from mlflow_fargate.config.deployment_config import DeploymentConfig
from mlflow_fargate.config.endpoint_options import EndpointOptions
from mlflow_fargate.config.image_options import ImageOptions
from mlflow_fargate.config.inference_log_options import InferenceLogOptions
from mlflow_fargate.config.option import OptionGroup
from mlflow_fargate.config.rollout_options import RolloutOptions
from mlflow_fargate.config.scaling_options import ScalingOptions
from mlflow_fargate.config.service_options import ServiceOptions
from mlflow_fargate.config.serving_options import ServingOptions
from mlflow_fargate.config.task_options import FARGATE_SIZES, TaskOptions, memory_sizes

_TYPES = {
    int: "whole number",
    float: "number",
    bool: "true or false",
    str: "text",
    tuple: "comma-separated list",
    dict: "map",
}
_NO_VALUE, _EMPTY = "not set", "empty"

# Headings of the page, in the order of the help.
_GROUPS: dict[str, type[OptionGroup]] = {
    "Task": TaskOptions,
    "Service": ServiceOptions,
    "Rollout": RolloutOptions,
    "Alarms": AlarmOptions,
    "Autoscaling": ScalingOptions,
    "Serving": ServingOptions,
    "Inference log": InferenceLogOptions,
    "Image": ImageOptions,
    "Endpoint and network": EndpointOptions,
    "Not kept for later updates": CallOptions,
}
_PAGE_HEAD = """\
# Options

Pass options on the command line as `-C KEY=VALUE`, from Python as `config={…}`, or in a YAML or JSON file with
`-C config_file=…`. An empty value (`-C base_image=`) resets an option to its default. Options you do not repeat keep
their values in an update, except those under [Not kept for later updates](#not-kept-for-later-updates).

`mlflow deployments delete` takes one option, which keeps part of the deployment: `-C retain=images`, `-C retain=logs`
or `-C retain=images,logs` ([deleting, and keeping](operating.md#deleting-and-keeping)).

`mlflow-fargate schema` prints these options as a JSON schema for editors, and `mlflow-fargate schema --markdown`
prints this page.
"""
_SIZES_HEAD = """\
## CPU and memory

Fargate runs tasks only in these sizes:

| cpu, units | memory, MiB |
|---|---|"""


@dataclass(frozen=True)
class Described:
    """The description of one option."""

    key: str
    type: str
    unit: str
    default: str
    limits: str
    example: str
    maps_to: str
    description: str


def described_options() -> Iterator[Described]:
    """Yields every option, in the order of the help."""
    for name, field in DeploymentConfig.model_fields.items():
        extra = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
        yield Described(
            key=field.alias or name,
            type=_type_of(field),
            unit=str(extra.get("unit", "")),
            default=_show(field.get_default(call_default_factory=True)),
            limits=str(extra.get("allowed", "")) or _limits_of(field),
            example=_example_of(field),
            maps_to=str(extra.get("maps_to", "")),
            description=field.description or "",
        )


def describe_options() -> str:
    """Returns one paragraph per option, for `mlflow deployments help -t fargate`."""
    lines = []
    for one in described_options():
        lines.append(f"  {one.key}: {one.description} [{_values(one)}; default: {one.default}]")
        lines.append(f"      e.g. {_assignment(one)}")
    return "\n".join(lines)


def options_tables() -> str:
    """Returns a Markdown table for each group of options; each option's name is an anchor."""
    described = {one.key: one for one in described_options()}
    sections = []
    for heading, group in _GROUPS.items():
        keys = [field.alias or name for name, field in group.model_fields.items()]
        rows = [
            "| option | default | values | what it does |",
            "|---|---|---|---|",
            *(_row(described[key]) for key in keys),
        ]
        sections.append(f"## {heading}\n\n" + "\n".join(rows))
    return "\n\n".join(sections)


def _row(one: Described) -> str:
    """One option's line in its table."""
    default = one.default if one.default in (_NO_VALUE, _EMPTY) else f"`{one.default}`"
    maps_to = "" if one.maps_to.startswith("(") else f"<br>*{one.maps_to}*"
    example = _assignment(one).replace(" or ", "` or `").replace(" and ", "` and `")
    what = f"{one.description}. Example: `{example}`.{maps_to}"
    cells = [f'<a id="{one.key}"></a>`{one.key}`', default, _values(one), what]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _assignment(one: Described) -> str:
    return one.example if "=" in one.example else f"{one.key}={one.example}"


def _values(one: Described) -> str:
    """Returns what one option accepts: its type, unit and limits."""
    kind = f"{one.type} ({one.unit})" if one.unit else one.type
    return kind if one.limits in ("", one.type) else f"{kind}: {one.limits}"


def options_page() -> str:
    """Returns the page docs/options.md: a table for each group, and the valid sizes of CPU and memory."""
    sizes = [f"| {cpu} | {memory_sizes(cpu)} |" for cpu in FARGATE_SIZES]
    return f"{_PAGE_HEAD}\n{options_tables()}\n\n{_SIZES_HEAD}\n" + "\n".join(sizes) + "\n"


def options_schema() -> dict[str, Any]:
    """Returns the options as a JSON schema (draft 2020-12), for editors and to validate a `config_file`."""
    schema = DeploymentConfig.model_json_schema(by_alias=True)
    for one in described_options():
        schema["properties"][one.key].setdefault("examples", [one.example])
    # A file cannot name another file.
    schema["properties"].pop("config_file")
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **schema,
        "title": "mlflow-fargate options",
        "allOf": [_memory_rule(cpu, sizes) for cpu, sizes in FARGATE_SIZES.items()],
    }


def _memory_rule(cpu: int, sizes: tuple[int, ...]) -> dict[str, Any]:
    return {
        "if": {"properties": {"cpu": {"const": cpu}}, "required": ["cpu"]},
        "then": {"properties": {"memory": {"enum": list(sizes)}}},
    }


def _type_of(field: FieldInfo) -> str:
    annotation: Any = field.annotation
    if get_origin(annotation) in (UnionType, Union):
        annotation = next(part for part in get_args(annotation) if part is not NoneType)
    if get_origin(annotation) is Literal:
        return " or ".join(map(str, get_args(annotation)))
    return _TYPES[get_origin(annotation) or annotation]


def _example_of(field: FieldInfo) -> str:
    """The first given example; for a choice of values, one that is not the default."""
    if field.examples:
        return str(field.examples[0])
    return next((value for value in _choices(field) if value != _show(field.default)), "")


def _choices(field: FieldInfo) -> tuple[str, ...]:
    kind = _type_of(field)
    return tuple(kind.split(" or ")) if " or " in kind else ()


def _limits_of(field: FieldInfo) -> str:
    if choices := _choices(field):
        return " or ".join(choices)
    least = next((limit.ge for limit in field.metadata if hasattr(limit, "ge")), None)
    most = next((limit.le for limit in field.metadata if hasattr(limit, "le")), None)
    if least is None and most is None:
        return ""
    return f"{least} to {most}" if most is not None else f"{least} or more"


def _show(value: Any) -> str:
    if value in (None, {}, ()):
        return _NO_VALUE if value is None else _EMPTY
    return str(value).lower() if isinstance(value, bool) else str(value)

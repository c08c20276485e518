"""How an option is declared, and the value types that JSON does not have.

Command lines pass strings, Python callers pass values; both are accepted.
"""

from __future__ import annotations

import json
import re
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer
from pydantic.config import JsonDict

from mlflow_fargate.resolved_model import without_credentials


def option(
    default: Any,
    description: str,
    *,
    maps_to: str,
    unit: str | None = None,
    key: str | None = None,
    examples: list[str] | None = None,
    allowed: str | None = None,
    **limits: Any,
) -> Any:
    """Returns the field of an option; its `-C` key is `key`, or else the field's name.

    `maps_to`: its name in AWS, OCI or MLflow. `limits` are pydantic's: ge, le, pattern, …; `allowed` describes the
    valid values otherwise. tests/test_config.py checks that every option is fully described.
    """
    texts = {"maps_to": maps_to, "unit": unit, "allowed": allowed}
    extra: JsonDict = {name: text for name, text in texts.items() if text}
    made = {"default_factory": default} if callable(default) else {"default": default}
    return Field(**made, alias=key, description=description, examples=examples, json_schema_extra=extra, **limits)


class OptionGroup(BaseModel):
    """Options that belong together; unknown keys and impossible values are errors."""

    # Numbers are accepted as strings: a YAML file has `environment: {OMP_NUM_THREADS: 1}`. Inputs can be passwords.
    model_config = ConfigDict(
        frozen=True, extra="forbid", populate_by_name=True, coerce_numbers_to_str=True, hide_input_in_errors=True
    )


def _split_commas(value: object) -> object:
    return [item.strip() for item in value.split(",") if item.strip()] if isinstance(value, str) else value


def _read_json(value: object) -> object:
    if not isinstance(value, str) or not value.startswith("{"):
        return value
    try:
        return json.loads(value)
    except ValueError as error:
        raise ValueError(f"is not valid JSON: {error}") from error


def _check_url(value: object) -> object:
    if value is not None and not (isinstance(value, str) and _URL.fullmatch(value)):
        raise ValueError("must be a URL like https://HOST/PATH")
    return value


def _write_urls(value: str | tuple[str, ...] | None) -> str | list[str] | None:
    if value is None or isinstance(value, str):
        return value and without_credentials(value)
    return [without_credentials(url) for url in value]


_URL = re.compile(r"https?://[^\s/]+(/\S*)?")
_NO_PASSWORDS = PlainSerializer(_write_urls, when_used="json")

IndexUrl = Annotated[str | None, BeforeValidator(_check_url), _NO_PASSWORDS]
IndexUrls = Annotated[
    tuple[Annotated[str, BeforeValidator(_check_url)], ...], BeforeValidator(_split_commas), _NO_PASSWORDS
]


def _check_package_names(names: tuple[str, ...]) -> tuple[str, ...]:
    for name in names:
        if not _PACKAGE.fullmatch(name):
            raise ValueError(f"'{name}' is not a valid name of a Debian package")
    return names


_PACKAGE = re.compile(r"[a-z0-9][a-z0-9+.-]+")
PackageNames = Annotated[tuple[str, ...], BeforeValidator(_split_commas), AfterValidator(_check_package_names)]


def _check_requirements(lines: tuple[str, ...]) -> tuple[str, ...]:
    for line in lines:
        if _NO_VERSION.fullmatch(line):
            raise ValueError(f"{line!r} is not a requirement, such as numpy==2.2.1 or only numpy")
    return lines


_NO_VERSION = re.compile(r"[\w.-]+\s*([=<>~!]+\s*|=[^=].*)")  # the second: as in conda; uv checks the rest


def _split_requirements(value: object) -> object:
    """Splits at commas, but not before another bound of a version, and not among extras."""
    if not isinstance(value, str):
        return value
    return [line.strip(" ,") for line in _NEXT_REQUIREMENT.split(value) if line.strip(" ,")]


_NEXT_REQUIREMENT = re.compile(r",(?![^\[]*\])(?=\s*[^<>=!~\s])")
RequirementLines = Annotated[
    tuple[str, ...],
    BeforeValidator(_split_requirements),
    AfterValidator(_check_requirements),
    PlainSerializer(lambda lines: [without_credentials(line) for line in lines], when_used="json"),
]


def _check_arn(value: str | None) -> str | None:
    if value is not None and not _ARN.fullmatch(value):
        raise ValueError("must be an ARN (arn:aws:…)")
    return value


_ARN = re.compile(r"(arn:\S+)?")  # empty: as if it were not set
Arn = Annotated[str | None, AfterValidator(_check_arn)]
Names = Annotated[tuple[str, ...], BeforeValidator(_split_commas)]
Table = Annotated[dict[str, str], BeforeValidator(_read_json)]
